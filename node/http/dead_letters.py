"""Routes of dead letters: look at what could not be delivered, send it again, drop it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from node.errors import AgentNotFound, Forbidden
from node.http.answers import ErrorBody
from node.http.message_answers import (
    DeadLettersBody,
    DeadLetterView,
    DroppedBody,
    RetriedBody,
    RetryReceiptBody,
)
from node.http.models import BulkDropBody, BulkRetryBody, DeadLetterQuery, RetryBody
from node.http.sending import receipt_json
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.message import Message
from node.messaging.letterbox import Redirection, Retried

_CONFLICT = {"model": ErrorBody, "description": "It was sent again before."}


def dead_letter_routes(services: NodeServices) -> APIRouter:
    """The routes of dead letters."""
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"], route_class=StrictRoute)
    letters, clock = services.bus.letters, services.environment.clock

    @router.get("", response_model=DeadLettersBody)
    async def page(query: Annotated[DeadLetterQuery, Query()]) -> Response:
        """What could not be delivered, each with its history, newest first.

        ``next`` is the ``before`` of the page that follows, null when there is none.
        """
        found = await letters.page(query.limit + 1, query.choice(clock.wall()))
        shown = found[: query.limit]
        held = letters.statistics()
        return JSONResponse(
            {
                "dead_letters": [letter.as_json() for letter in shown],
                "limit": query.limit,
                "next": shown[-1].seq if len(found) > query.limit else None,
                "count": held["count"],
                "bytes": held["bytes"],
            }
        )

    @router.get("/{message_id}", response_model=DeadLetterView)
    async def get(message_id: str) -> Response:
        """One dead letter, with its whole history."""
        return JSONResponse((await letters.get(message_id)).as_json())

    @router.delete("/{message_id}", status_code=204)
    async def drop(message_id: str) -> Response:
        """Forget one dead letter."""
        await letters.drop(message_id)
        return Response(status_code=204)

    @router.post("/drop", response_model=DroppedBody)
    async def drop_all(body: BulkDropBody) -> Response:
        """Forget the oldest dead letters of a choice, at most ``limit``."""
        dropped, more = await letters.drop_all(body.where.choice(clock.wall()), body.limit)
        return JSONResponse({"dropped": dropped, "more": more})

    _add_retries(router, services)
    return router


def _add_retries(router: APIRouter, services: NodeServices) -> None:
    letters, clock = services.bus.letters, services.environment.clock

    @router.post("/retry", response_model=RetriedBody)
    async def retry_all(body: BulkRetryBody) -> Response:
        """Send the oldest dead letters of a choice again, at most ``limit``, one after the other.

        It stops when the outbox or the disk is full, and says so in ``stopped_by``. ``last`` is the ``after``
        of the call that goes on.
        """
        change = _change(body)
        if change.is_elsewhere:
            raise Forbidden(
                "many letters cannot be sent elsewhere at once",
                why="each has a sender of its own, for whom the new receiver may not be meant",
                fix="Send them one by one, or leave receiver and capability out.",
            )
        choice = body.where.choice(clock.wall())
        return JSONResponse(_retried(await letters.retry_all(choice, body.limit, change, force=body.force)))

    @router.post(
        "/{message_id}/retry", status_code=202, response_model=RetryReceiptBody, responses={409: _CONFLICT}
    )
    async def retry(message_id: str, body: RetryBody | None = None) -> Response:
        """Send the message of a dead letter again, as a new message that names the old one.

        The body may name another receiver or capability, and how long the new message may live. The letter is
        marked with the new message's id; once that is so, only ``force`` sends it again.
        """
        body = body or RetryBody()
        change = _change(body)
        if change.is_elsewhere:
            _refuse_agents(services, await letters.message(message_id))
        receipt = await letters.retry(message_id, change, force=body.force)
        return JSONResponse(receipt_json(receipt) | {"retry_of": message_id}, 202)


def _change(body: RetryBody | BulkRetryBody) -> Redirection:
    return Redirection(body.receiver, body.capability, body.ttl_s)


def _refuse_agents(services: NodeServices, message: Message) -> None:
    """Let nobody send to others in the name of an agent of this node.

    Raises:
        Forbidden: the message is of one; agents decide by this name whom they listen to.
    """
    name = message.sender.partition("@")[0]
    try:
        services.supervisor.get(name)
    except AgentNotFound:
        return
    raise Forbidden(
        f"the message is of {name!r}, an agent of this node, and cannot be sent to somebody else",
        why="only an agent itself may say under its name who shall get a message",
        fix="Send it again as it is, or send its content under your own name.",
        details={"sender": message.sender},
    )


def _retried(found: Retried) -> dict[str, Any]:
    stopped = found.stopped_by
    return {
        "retried": len(found.receipts),
        "messages": [{"retry_of": old, "message_id": new} for old, new in found.receipts],
        "refused": found.refused,
        "refusals": [
            {"message_id": refusal.message_id, "code": refusal.error.code, "reason": str(refusal.error)[:500]}
            for refusal in found.refusals
        ],
        "last": found.last_seq,
        "more": found.more,
        "stopped_by": None if stopped is None else {"code": stopped.code, "reason": str(stopped)[:500]},
    }
