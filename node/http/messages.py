"""Routes of messages: send, send and wait, look up."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from node.errors import CaxtonError, NoReply
from node.http.answer_stream import AnswerStream
from node.http.answers import ErrorBody, HistoryBody, ReceiptBody
from node.http.event_streams import EventStream
from node.http.following import MessageEvents
from node.http.message_answers import HappenedView, PieceView
from node.http.models import STREAM_WAIT_S, MessageBody, MessageQuery
from node.http.sending import Sender, receipt_json, refuse_impostor
from node.http.services import NodeServices
from node.http.streams import Streams
from node.http.strict_json import StrictRoute
from node.http.traffic import Traffic
from node.message import Message, iso8601


def message_routes(services: NodeServices, traffic: Traffic, streams: Streams) -> APIRouter:
    """The routes of messages."""
    router = APIRouter(tags=["messages"], route_class=StrictRoute)
    bus = services.bus
    waiting = _Waiting(services, traffic)

    @router.post(
        "/messages",
        status_code=202,
        response_model=ReceiptBody,
        responses={
            200: {
                "model": ReceiptBody,
                "description": "The reply, when the request waited for it; events, with `stream`.",
                "content": {"text/event-stream": {"schema": PieceView.model_json_schema()}},
            },
            409: {
                "model": ErrorBody,
                "description": "A message of this id was accepted before, or the conversation takes no more.",
            },
            504: {"model": ErrorBody, "description": "No reply in the time that the request waited for it."},
        },
    )
    async def send(request: Request, body: MessageBody, query: Annotated[MessageQuery, Query()]) -> Response:
        """Send a message; with ``wait``, answer with its reply.

        Without ``wait`` the answer is 202 as soon as the message is on disk. With it, the answer is 200 with
        ``reply`` (``replies`` of a broadcast), or 504 when none came; the message goes on all the same, and
        ``GET /messages/{message_id}`` shows what became of it.

        With ``stream`` the answer is server-sent events: ``accepted``, then ``partial`` for each piece of the
        reply's text while it is made and ``restart`` where what was shown counts no more, and at the end
        ``reply`` or ``error``.
        """
        message = body.build(services.environment, services.node)
        refuse_impostor(Sender.of(services, request), message)
        traceparent = request.scope.get("state", {}).get("traceparent", "")
        wait_s = query.wait or body.wait_s
        if query.stream or body.stream:
            return AnswerStream(
                services,
                streams,
                traffic,
                message,
                wait_s=wait_s or STREAM_WAIT_S,
                ttl_s=body.ttl_s,
                traceparent=traceparent,
            )
        if wait_s is not None:
            return JSONResponse(await waiting.answer(message, wait_s, traceparent, body.ttl_s))
        receipt = await bus.accept(message, traceparent=traceparent, ttl_s=body.ttl_s)
        return JSONResponse(receipt_json(receipt), 202)

    @router.get("/messages/{message_id}", response_model=HistoryBody)
    async def get(message_id: str) -> Response:
        """A message with its history: where it was routed, attempted, settled."""
        return JSONResponse((await bus.history(message_id)).as_json())

    @router.get(
        "/messages/{message_id}/events",
        status_code=200,
        response_class=EventStream,
        responses={200: {"model": HappenedView, "description": "Events; the data of each."}},
    )
    async def events(message_id: str) -> Response:
        """What happened and happens to a message, as server-sent events, until it has ended.

        Each state is an event of its name; then ``reply``, where one comes, and ``end``.
        """
        await bus.history(message_id)
        return EventStream(streams, MessageEvents(services, message_id).run)

    return router


class _Waiting:
    """Requests that wait for a reply, and the bound on them."""

    def __init__(self, services: NodeServices, traffic: Traffic) -> None:
        self._services = services
        self._traffic = traffic

    async def answer(
        self, message: Message, wait_s: float, traceparent: str, ttl_s: float | None
    ) -> dict[str, Any]:
        """The receipt of ``message`` with its reply or replies."""
        try:
            with self._traffic.wait_for_reply():
                return await self._answer(message, wait_s, traceparent, ttl_s)
        except NoReply as error:
            error.details.setdefault("message_id", message.id)
            error.details.setdefault("conversation_id", message.conversation_id)
            raise

    async def _answer(
        self, message: Message, wait_s: float, traceparent: str, ttl_s: float | None
    ) -> dict[str, Any]:
        bus = self._services.bus
        found: dict[str, Any] = {
            "message_id": message.id,
            "conversation_id": message.conversation_id,
            "routed_to": [],
            "routing_strategy": message.routing_strategy.value,
            "status": "answered",
            "timestamp": iso8601(message.timestamp_s),
        }
        if message.goes_to_all:
            replies = await bus.gather(message, timeout_s=wait_s, traceparent=traceparent, ttl_s=ttl_s)
            found["replies"] = [reply.as_json() for reply in replies]
            senders = [reply.sender for reply in replies]
        else:
            reply = await bus.request(message, timeout_s=wait_s, traceparent=traceparent, ttl_s=ttl_s)
            found["reply"] = reply.as_json()
            senders = [reply.sender]
        found["routed_to"] = await self._routed_to(message.id) or senders
        return found

    async def _routed_to(self, message_id: str) -> list[str]:
        """Where the message went, as its history has it; a reply already here is never lost over this."""
        try:
            routed = (await self._services.bus.history(message_id)).as_json().get("routed_to")
        except CaxtonError:
            return []
        return [str(address) for address in routed] if isinstance(routed, list | tuple) else []
