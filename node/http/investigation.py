"""Routes that tell what became of a message: its way across the nodes, and why it went there."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.http.message_answers import ExplanationBody, TraceBody
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute


def investigation_routes(services: NodeServices) -> APIRouter:
    """The routes of traces and explanations."""
    router = APIRouter(prefix="/messages/{message_id}", tags=["messages"], route_class=StrictRoute)
    investigation = services.bus.investigation

    @router.get("/trace", response_model=TraceBody)
    async def trace(message_id: str) -> Response:
        """The way of a message and of all that it caused, step by step, without any content.

        The nodes concerned are asked; those that do not answer are named in ``away``.
        """
        return JSONResponse((await investigation.trace(message_id)).as_json())

    @router.get("/explain", response_model=ExplanationBody)
    async def explain(message_id: str) -> Response:
        """Every decision about a message that this node accepted: candidates, scores, reasons."""
        return JSONResponse((await investigation.explain(message_id)).as_json())

    return router
