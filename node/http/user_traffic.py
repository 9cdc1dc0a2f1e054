"""Routes of user events and queries: announce something to all nodes, and ask them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from node.http.cluster_answers import QueryBody, UserEventBody, UserEventsBody
from node.http.models import FireBody, QuestionBody
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute


def user_traffic_routes(services: NodeServices) -> APIRouter:
    """The routes of user events and queries."""
    router = APIRouter(prefix="/cluster", tags=["cluster"], route_class=StrictRoute)
    traffic = services.membership.traffic

    @router.get("/events", response_model=UserEventsBody)
    async def recent() -> Response:
        """The last 256 user events that this node has fired or heard, oldest first."""
        return JSONResponse({"node": services.node, "events": list(traffic.recent_events())})

    @router.post("/events", status_code=202, response_model=UserEventBody)
    async def fire(body: FireBody) -> Response:
        """Announce something to every node."""
        return JSONResponse(dict(traffic.fire(body.name, body.payload)), 202)

    @router.post("/queries", response_model=QueryBody)
    async def ask(body: QuestionBody) -> Response:
        """Ask every node, or some; answers when all who are named have answered, or the time is up."""
        found = await traffic.ask(body.name, body.payload, nodes=body.nodes, timeout_s=body.timeout_s)
        return JSONResponse({"node": services.node} | dict(found))

    return router
