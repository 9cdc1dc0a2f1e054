"""Routes of the tool servers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.http.tool_answers import ToolsApprovedBody, ToolServersBody
from node.http.tool_models import ApproveBody


def tool_routes(services: NodeServices) -> APIRouter:
    """The routes of the tool servers."""
    router = APIRouter(prefix="/tools", tags=["tools"], route_class=StrictRoute)

    @router.get("", response_model=ToolServersBody)
    async def tools() -> Response:
        """The tool servers of the node, their tools, and what waits for approval."""
        return JSONResponse({"node": services.node} | services.tools.describe())

    @router.post("/{server}/approve", response_model=ToolsApprovedBody)
    async def approve(server: str, body: ApproveBody) -> Response:
        """Approve tools of another program's server that are new, or not what was approved.

        With the hash that was looked at, nothing else is approved; a tool that has changed meanwhile is a
        conflict.
        """
        approved = await services.tools.approve(server, body.tools)
        return JSONResponse({"node": services.node, "server": server, "approved": approved})

    return router
