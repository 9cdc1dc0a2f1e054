"""The route of tasks: a call for proposals, its award and its result in one request."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from node.http.message_answers import OutcomeBody
from node.http.sending import Sender, refuse_impostor
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.http.task_models import TaskBody
from node.http.traffic import Traffic


def task_routes(services: NodeServices, traffic: Traffic) -> APIRouter:
    """The route of tasks."""
    router = APIRouter(tags=["messages"], route_class=StrictRoute)

    @router.post("/tasks", response_model=OutcomeBody)
    async def call(request: Request, body: TaskBody) -> Response:
        """Call for proposals, award the task to the best bid, and answer with the result.

        The answer is 200 whatever becomes of the task: ``status`` says whether it is ``done``. A request that
        is broken off rejects all bids that are not awarded yet.
        """
        message, award = body.build(services.environment, services.node), body.award.rule()
        sender = Sender.of(services, request)
        refuse_impostor(sender, message)
        with traffic.wait_for_reply():
            outcome = await services.bus.call_for_proposals(
                message,
                deadline_s=body.deadline_s,
                result_s=body.result_s,
                award=award,
                traceparent=sender.traceparent,
            )
        return JSONResponse(outcome.as_json())

    return router
