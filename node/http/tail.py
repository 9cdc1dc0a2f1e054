"""The route that shows the messages of a node as they pass: one JSON object per line, without an end."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import trio
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.environment import Clock
from node.http.message_answers import TailEventView
from node.http.models import TailQuery
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.message import iso8601
from node.messaging.tail import Filter, Listener, Tail
from node.security.permissions import Permission

IDLE_S: Final = 10.0
"""After so many seconds without an event a line says that the node is there."""
NDJSON: Final = "application/x-ndjson"


def tail_routes(services: NodeServices) -> APIRouter:
    """The route of the tail; it must come before those of messages, one of which would match its path."""
    router = APIRouter(tags=["messages"], route_class=StrictRoute)

    @router.get(
        "/messages/tail",
        status_code=200,
        response_class=EventLines,
        responses={200: {"model": TailEventView, "description": "One event per line."}},
    )
    async def tail(request: Request, query: Annotated[TailQuery, Query()]) -> Response:
        """The messages of this node as they pass: one JSON object per line, until the caller hangs up.

        The first line, ``listening``, says that nothing is missed from there on. What a slow reader misses is
        told as a number (``missed``). The content is shown with ``content=true``, which needs ReadMessages.
        """
        if query.content:
            request.state.caller.require(Permission.READ_MESSAGES)
        return EventLines(services.bus.tail, query.filter(), services.environment.clock, query.seconds)

    return router


class EventLines(Response):
    """An answer that goes on while the caller reads.

    Args:
        tail: Tells the events.
        wanted: Which.
        clock: For the lines of an idle node.
        seconds: When the answer ends by itself, or None.
    """

    media_type = NDJSON

    def __init__(self, tail: Tail, wanted: Filter, clock: Clock, seconds: float | None) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._tail, self._wanted, self._clock, self._seconds = tail, wanted, clock, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the caller has gone.

        Raises:
            ResourceLimitExceeded: too many listen; nothing was answered yet.
        """
        del scope
        with self._tail.listen(self._wanted) as listener:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hang_up, receive, nursery.cancel_scope)
                with self._clock.move_on_after(float("inf") if self._seconds is None else self._seconds):
                    await self._tell(listener, send)
                nursery.cancel_scope.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _tell(self, listener: Listener, send: Send) -> None:
        await _send_lines(send, [self._now("listening")])
        while True:
            events = await listener.take(self._clock, IDLE_S)
            await _send_lines(send, events or [self._now("idle")])

    def _now(self, event: str) -> dict[str, Any]:
        return {"event": event, "at": iso8601(self._clock.wall())}


async def _hang_up(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_lines(send: Send, events: list[dict[str, Any]]) -> None:
    body = "".join(json.dumps(event) + "\n" for event in events).encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
