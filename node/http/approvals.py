"""Routes of calls that wait for an operator: look at them, approve or deny."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from node.http.answers import ErrorBody
from node.http.approval_models import (
    ApprovalsBody,
    ApprovalsQuery,
    ApprovalView,
    DecisionBody,
    WholeApprovalBody,
)
from node.http.sending import caller_of
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.storage.approvals import ENDED, STATES

_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorBody, "description": "It is decided, or has ended."}
}


def approval_routes(services: NodeServices) -> APIRouter:
    """The routes of approvals."""
    router = APIRouter(prefix="/approvals", tags=["approvals"], route_class=StrictRoute)
    approvals = services.supervisor.approvals

    async def decide(request: Request, approval_id: str, verdict: str, body: DecisionBody | None) -> Response:
        reason, by = (body or DecisionBody()).reason, caller_of(request).name
        return JSONResponse(await approvals.decide(approval_id, verdict, reason=reason, by=by))

    @router.get("", response_model=ApprovalsBody)
    async def page(query: Annotated[ApprovalsQuery, Query()]) -> Response:
        """Calls of this node's agents that need an operator's approval, the newest first.

        Without ``all``, those whose turn has not ended. ``next`` is the ``before`` of the page that follows.
        """
        states = () if query.all else [state for state in STATES if state != ENDED]
        found = await approvals.page(
            query.limit + 1, states=states, agent=query.agent or "", before=query.before or ""
        )
        shown = found[: query.limit]
        following = shown[-1]["approval_id"] if len(found) > query.limit else None
        return JSONResponse({"node": services.node, "approvals": shown, "next": following})

    @router.get("/{approval_id}", response_model=WholeApprovalBody)
    async def get(approval_id: str) -> Response:
        """One call, with its exact arguments and what the model asked for together with it."""
        return JSONResponse(await approvals.get(approval_id))

    @router.post("/{approval_id}/approve", response_model=ApprovalView, responses=_CONFLICT)
    async def approve(request: Request, approval_id: str, body: DecisionBody | None = None) -> Response:
        """Have a call made as it is shown, once, and its turn go on."""
        return await decide(request, approval_id, "approved", body)

    @router.post("/{approval_id}/deny", response_model=ApprovalView, responses=_CONFLICT)
    async def deny(request: Request, approval_id: str, body: DecisionBody | None = None) -> Response:
        """Have a call not made; the model is told why, and its turn goes on."""
        return await decide(request, approval_id, "denied", body)

    return router
