"""Everything that is decided before the application sees a request, in one place.

In this order: is there such a route in the permission table, who calls, may they, does the request come
from this machine when it carries no credential, is there room, is the body within its limit and time.
Whatever goes wrong further in is answered from here as well, as one JSON object, never as a traceback.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.errors import CaxtonError, ResourceLimitExceeded, ValidationFailed
from node.http.errors import (
    ClientGone,
    InternalError,
    MethodNotAllowed,
    RequestTimedOut,
    RequestTooLarge,
    RouteNotFound,
    as_caxton,
    error_response,
)
from node.http.origin import all_headers, presented_token, require_local
from node.http.routes import API, DEPLOYMENTS, STREAMED, RouteTable
from node.http.services import NodeServices
from node.http.traffic import Traffic
from node.security.permissions import Permission, route_permission
from node.telemetry.tracing import Span, clean_traceparent

IN_FLIGHT_LIMIT: Final = 512
"""Most requests at once; more are answered 429."""
BODY_BYTES_LIMIT: Final = 64 * 1024 * 1024
"""Most bytes of request bodies held at once, over all requests."""
BODY_TIME_LIMIT_S: Final = 30.0
"""Longest time for one body to arrive, in seconds."""

_LOG: Final = logging.getLogger("caxton.http")
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


@dataclass(slots=True)
class _Reply:
    """The sending side of one request: adds our headers, and knows whether an answer has begun."""

    send: Send
    request_id: str
    status: int = 0
    last: bool = False
    """Whether the connection ends with this answer."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers}
            extra = _HEADERS | {"x-request-id": self.request_id}
            extra |= {"connection": "close"} if self.last else {}
            headers += [(k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in there]
            message = {**message, "headers": headers}
        await self.send(message)


class Gate:
    """The outermost layer of the admin API, an ASGI middleware.

    Args:
        app: The application behind it.
        services: The rooms of the node.
        traffic: What it counts.
        sockets: Serves WebSockets.
    """

    def __init__(self, app: ASGIApp, services: NodeServices, traffic: Traffic, sockets: ASGIApp) -> None:
        self._app = app
        self._services = services
        self._clock = services.environment.clock
        self._limit_bytes = services.config.server.request_limit_bytes
        self._deploy_limit_bytes = max(self._limit_bytes, services.config.server.deploy_limit_bytes)
        self._routes = RouteTable()
        self._sockets = sockets
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one connection's request pass, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
            return
        self._traffic.requests += 1
        reply = _Reply(send, self._services.environment.new_id())
        try:
            await self._pass(scope, receive, reply)
        except ClientGone:
            return
        except Exception as error:
            if reply.status:  # too late for another answer: the connection is all that can be ended
                _LOG.exception("request %s failed while it was being answered", reply.request_id)
                raise
            await self._answer(error, reply)

    async def _pass(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        headers = all_headers(scope["headers"])
        if "transfer-encoding" in headers and "content-length" in headers:
            reply.last = True
            raise ValidationFailed(
                "the request says twice how long it is",
                why="it has Content-Length and Transfer-Encoding, of which a proxy might believe the other",
                fix="Send one of them (RFC 9112, section 6.3).",
            )
        template = self._admit(scope, headers)
        if self._traffic.in_flight >= IN_FLIGHT_LIMIT:
            raise _full("the node answers as many requests as it can", f"limit {IN_FLIGHT_LIMIT}")
        self._traffic.in_flight += 1
        held = 0
        try:
            if (scope["method"], template) not in STREAMED:
                limit_bytes = self._limit_bytes
                if (scope["method"], template) in DEPLOYMENTS:
                    limit_bytes = self._deploy_limit_bytes
                body = await self._read(receive, headers, limit_bytes)
                held = len(body)
                receive = _replay(body, receive)
            if template == "/health":
                await self._app(scope, receive, reply)
                return
            with self._services.tracing.span(
                f"{scope['method']} {API}{template}",
                parent=clean_traceparent(headers.get("traceparent")),
                kind="server",
                attributes={"http.request.method": scope["method"], "http.route": API + template},
            ) as span:
                await self._traced(scope, receive, reply, span)
        finally:
            self._traffic.in_flight -= 1
            self._traffic.body_bytes -= held

    async def _traced(self, scope: Scope, receive: Receive, reply: _Reply, span: Span) -> None:
        scope.setdefault("state", {})["traceparent"] = span.traceparent
        try:
            await self._app(scope, receive, reply)
        except Exception as error:
            if reply.status:
                raise
            span.fail(error)
            await self._answer(error, reply)
        span.set("http.response.status_code", reply.status)
        if reply.status >= 500:
            span.fail(f"status {reply.status}")

    def _admit(self, scope: Scope, headers: dict[str, str]) -> str:
        found = self._routes.match(scope["path"])
        template, method = found.template, scope["method"]
        known = template is not None and method in found.methods
        needed = route_permission(method, template) if known and template is not None else None
        token = presented_token(headers)
        if needed is not Permission.PUBLIC:
            caller = self._services.tokens.authenticate(token)
            if token is None:
                require_local(scope, headers)
            if needed is not None:
                caller.require(needed)
            scope.setdefault("state", {})["caller"] = caller  # a route may need more for some of its answers
        if template is None:
            raise RouteNotFound(
                "there is no such route",
                why=f"the admin API is below {API}",
                fix=f"See {API}/docs for the routes there are.",
            )
        if not known:
            raise MethodNotAllowed(
                "this route does not have that method",
                why="it has " + ", ".join(found.methods),
                fix=f"See {API}/docs.",
                details={"allowed": list(found.methods)},
            )
        return template

    async def _read(self, receive: Receive, headers: dict[str, str], limit_bytes: int) -> bytes:
        """The whole body; counts it in the traffic, and the caller gives it back."""
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit_bytes:
            raise _too_large(limit_bytes)
        chunks: list[bytes] = []
        held, complete = 0, False
        with self._clock.move_on_after(BODY_TIME_LIMIT_S):
            try:
                while not complete:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise ClientGone
                    chunk = event.get("body", b"")
                    if held + len(chunk) > limit_bytes:
                        raise _too_large(limit_bytes)
                    if self._traffic.body_bytes + len(chunk) > BODY_BYTES_LIMIT:
                        raise _full(
                            "too many request bodies are under way", f"limit {BODY_BYTES_LIMIT} bytes"
                        )
                    held += len(chunk)
                    self._traffic.body_bytes += len(chunk)
                    chunks.append(chunk)
                    complete = not event.get("more_body", False)
            finally:
                if not complete:
                    self._traffic.body_bytes -= held
        if not complete:
            raise RequestTimedOut(
                "the body of the request did not arrive",
                why=f"it took longer than {BODY_TIME_LIMIT_S:.0f} s",
                fix="Send it again.",
            )
        return b"".join(chunks)

    async def _answer(self, error: Exception, reply: _Reply) -> None:
        known = as_caxton(error)
        if known is None:
            self._traffic.failed += 1
            _LOG.error("request %s met a bug", reply.request_id, exc_info=error)
            known = InternalError(
                "the node could not answer this request",
                why="an unexpected error, logged on the node under the request's id",
                fix=f"Report it with the log lines of request {reply.request_id}.",
            )
        else:
            self._traffic.refused += 1
        await send_error(known, reply, reply.request_id, self._clock.wall())


async def send_error(error: CaxtonError, send: Send, request_id: str, wall_s: float) -> None:
    """Answer a request with ``error``."""
    status, headers, body = error_response(error, request_id=request_id, wall_s=wall_s)
    pairs = [(k.encode(), v.encode()) for k, v in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(
        "the body of the request is too large",
        why=f"the limit is {limit_bytes} bytes",
        fix="Send less at once, or raise server.request_limit (of a deployment, server.deploy_limit).",
        details={"limit_bytes": limit_bytes},
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receiving side that gives the body at once, then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _full(what: str, why: str) -> ResourceLimitExceeded:
    return ResourceLimitExceeded(what, why=why, fix="Send it again later.", details={"retry_after_s": 1})
