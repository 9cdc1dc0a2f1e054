"""Routes of the tool servers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.http.tool_answers import ToolServersBody


def tool_routes(services: NodeServices) -> APIRouter:
    """The routes of the tool servers."""
    router = APIRouter(prefix="/tools", tags=["tools"], route_class=StrictRoute)

    @router.get("", response_model=ToolServersBody)
    async def tools() -> Response:
        """The tool servers of the node and their tools."""
        return JSONResponse({"node": services.node} | services.tools.describe())

    return router
