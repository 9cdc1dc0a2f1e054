"""The application of the admin API: routes, the gate before them, and its own description."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from node.errors import CaxtonError, ValidationFailed
from node.http.agents import agent_routes
from node.http.answers import ErrorBody
from node.http.approvals import approval_routes
from node.http.batches import batch_routes
from node.http.blobs import blob_routes
from node.http.cluster import cluster_routes
from node.http.conversations import conversation_routes
from node.http.dead_letters import dead_letter_routes
from node.http.deployments import deployment_routes
from node.http.docs_page import PAGE_POLICY, docs_page
from node.http.errors import RouteNotFound, UnsupportedMediaType, validation_failed
from node.http.gate import Gate
from node.http.investigation import investigation_routes
from node.http.keys import key_routes
from node.http.mailboxes import mailbox_routes, reading_routes
from node.http.memory import memory_routes
from node.http.memory_upkeep import memory_upkeep_routes
from node.http.messages import message_routes
from node.http.revocations import revocation_routes
from node.http.routes import API
from node.http.services import NodeServices
from node.http.sockets import Sockets
from node.http.streams import Streams
from node.http.tail import tail_routes
from node.http.tasks import task_routes
from node.http.tools import tool_routes
from node.http.traffic import Traffic
from node.http.user_traffic import user_traffic_routes
from node.http.validation import validation_routes
from node.http.webhooks import webhook_routes
from node.security.permissions import ROUTES, Permission
from node.telemetry.version import software_version

_DESCRIPTION: Final = (
    "One node of a Caxton cluster. Send Authorization: Bearer TOKEN with everything but the health check "
    "and this description; every refusal has a code, what happened, why, and how to fix it."
)
_REFUSAL: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_NO_TELEMETRY: Final = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own telemetry reaches for global providers; the gate makes our spans."""


def create_app(services: NodeServices) -> FastAPI:
    """Build the admin API of one node.

    Args:
        services: The rooms of the node.
    """
    options: dict[str, Any] = {"telemetry": _NO_TELEMETRY}
    app = FastAPI(
        title="Caxton",
        description=_DESCRIPTION,
        version=software_version(),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ErrorBody, "description": "A refusal."}},
        exception_handlers={
            RequestValidationError: _raise_invalid,
            HTTPException: _raise_http,
            CaxtonError: _raise,
        },
        **options,
    )
    traffic, streams = Traffic(), Streams()
    sockets = Sockets(services, streams)
    app.state.streams, app.state.sockets = streams, sockets
    app.state.frame_limit_bytes = services.config.server.request_limit_bytes
    routers = [
        cluster_routes(services, lambda: traffic.statistics() | streams.statistics() | sockets.statistics()),
        key_routes(services),
        revocation_routes(services),
        user_traffic_routes(services),
    ]
    routers += [
        tail_routes(services),
        batch_routes(services, streams),
        message_routes(services, traffic, streams),
        task_routes(services, traffic),
        conversation_routes(services, streams),
    ]
    routers += [deployment_routes(services)]
    routers += [investigation_routes(services), dead_letter_routes(services)]
    routers += [mailbox_routes(services), reading_routes(services, streams), webhook_routes(services)]
    routers += [memory_routes(services), tool_routes(services), blob_routes(services, streams)]
    routers += [memory_upkeep_routes(services, streams), approval_routes(services)]
    for router in routers:
        app.include_router(router, prefix=API)
    app.include_router(validation_routes(services, "/validate", "/config"), prefix=API)
    for prefix in ("/agents", "/config-agents"):
        app.include_router(validation_routes(services, prefix, "/validate"), prefix=API)
        app.include_router(agent_routes(services, prefix), prefix=API)
    _describe(app)
    gate: dict[str, Any] = {"services": services, "traffic": traffic, "sockets": sockets}
    app.add_middleware(Gate, **gate)
    return app


def _describe(app: FastAPI) -> None:
    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = FastAPI.openapi(app)
            found["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Caxton-Token"},
            }
            for path, methods in found["paths"].items():
                for method, operation in methods.items():
                    needed = ROUTES[(method.upper(), path.removeprefix(API))]
                    public = needed is Permission.PUBLIC
                    operation["security"] = [] if public else [{"bearer": []}, {"header": []}]
                    operation["x-permission"] = needed.value
                    for media in operation["responses"].get("200", {}).get("content", {}).values():
                        if "$ref" in media["schema"]:  # FastAPI takes a line of a stream for text as well
                            media["schema"].pop("type", None)
                    operation["responses"] |= refusals(path, operation, public=public)
                    operation["responses"]["default"]["content"] = _REFUSAL
                    operation["responses"] = dict(sorted(operation["responses"].items()))
        return app.openapi_schema or found

    async def openapi_json(request: Request) -> Response:
        del request
        return JSONResponse(description())

    async def docs(request: Request) -> Response:
        del request
        return HTMLResponse(docs_page(description()), headers={"content-security-policy": PAGE_POLICY})

    app.add_route(f"{API}/openapi.json", openapi_json, include_in_schema=False)
    app.add_route(f"{API}/docs", docs, include_in_schema=False)


def refusals(path: str, operation: dict[str, Any], *, public: bool) -> dict[str, Any]:
    """The refusals that every route of a kind has; others are under ``default``."""
    statuses = [400, 429]
    statuses += [] if public else [401, 403]
    statuses += [404] if "{" in path else []
    statuses += [408, 413, 415] if "requestBody" in operation else []
    return {str(s): {"description": f"{HTTPStatus(s).phrase}.", "content": _REFUSAL} for s in statuses}


async def _raise(request: Request, error: Exception) -> Response:
    """Hand an error on to the gate, which answers all of them."""
    del request
    raise error


async def _raise_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problems = error.errors()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = isinstance(error.body, bytes) and error.body
    if sent and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            "the body of the request is not declared as JSON",
            why=f"its Content-Type is {kind[:80]!r}" if kind else "it has no Content-Type",
            fix="Send Content-Type: application/json.",
        )
    raise validation_failed(problems, error.body)


async def _raise_http(request: Request, error: Exception) -> Response:
    del request
    status = getattr(error, "status_code", 500)
    if status == 404:
        raise RouteNotFound("there is no such route", fix=f"See {API}/docs.")
    if status in (400, 422):
        raise ValidationFailed("the request cannot be read", why=str(getattr(error, "detail", ""))[:200])
    raise error
