"""Routes that take many messages at once, or none: batches, and checks without sending."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import SkipValidation
from starlette.responses import JSONResponse, Response

from node.errors import CaxtonError, DuplicateMessage, MessageNotFound
from node.http.answers import BatchAnswer
from node.http.errors import facts
from node.http.message_answers import CheckedBody, LineView
from node.http.message_stream import MessageStream
from node.http.models import BatchBody, ItemBody, MessageQuery
from node.http.sending import Item, Sender, accept_items, read_item, read_items, result_json
from node.http.services import NodeServices
from node.http.streams import JsonLines, Streams
from node.http.strict_json import StrictRoute
from node.message import Message

LINE: Final = {"type": "string", "description": "Lines, each a message as in POST /messages/batch."}


def batch_routes(services: NodeServices, streams: Streams) -> APIRouter:
    """The routes of batches, streams of messages, and checks."""
    router = APIRouter(prefix="/messages", tags=["messages"], route_class=StrictRoute)

    @router.post("/batch", status_code=207, response_model=BatchAnswer)
    async def batch(request: Request, body: BatchBody) -> Response:
        """Send up to 1,000 messages in one durable write, each accepted or refused by itself.

        Messages of one conversation keep their order. Each ``message_id`` is accepted once: a batch whose
        answer was lost may be sent again, and what was accepted then is told as ``duplicate``.
        """
        sender = Sender.of(services, request)
        read = read_items(sender, body.messages)
        found = await accept_items(sender, read)
        messages = [item.message if isinstance(item, Item) else None for item in read]
        errors = [result for result in found if isinstance(result, CaxtonError)]
        duplicates = sum(isinstance(error, DuplicateMessage) for error in errors)
        return JSONResponse(
            {
                "batch_id": body.batch_id,
                "accepted": len(found) - len(errors),
                "duplicates": duplicates,
                "refused": len(errors) - duplicates,
                "results": [
                    {"index": n, **result_json(messages[n], result)} for n, result in enumerate(found)
                ],
            },
            207,
        )

    @router.post(
        "/stream",
        status_code=200,
        response_class=JsonLines,
        responses={200: {"model": LineView, "description": "Lines, each an object."}},
        openapi_extra={
            "requestBody": {"required": True, "content": {JsonLines.media_type: {"schema": LINE}}}
        },
    )
    async def stream(request: Request, query: Annotated[MessageQuery, Query()]) -> Response:
        """Send messages, one JSON object a line, and read what became of each, one a line, in order.

        Lines are accepted as they arrive and told as soon as they are on disk. With ``wait``, the reply to
        each message that expects one comes as a further line. Read while you send: the stream takes no more
        lines than it can tell of.
        """
        produce = MessageStream(Sender.of(services, request), query.wait).run
        return JsonLines(streams, produce, reads=True)

    @router.post("/validate", response_model=CheckedBody)
    async def validate(request: Request, body: Annotated[ItemBody, SkipValidation]) -> Response:
        """Check a message without sending it: what is wrong with it, and who would get it now.

        Whether there is room for it is not checked: that is another matter when it is sent.
        """
        message: Message | None = None
        routing: dict[str, Any] | None = None
        errors: list[CaxtonError] = []
        try:
            message = read_item(Sender.of(services, request), body).message
            decision = services.bus.preview(message)
            routing = {
                "strategy": decision.strategy,
                "reason": decision.reason,
                "routed_to": ["@".join(target) for target in decision.targets],
                "candidates": [candidate.as_json() for candidate in decision.candidates],
            }
            await services.bus.history(message.id)
            errors.append(DuplicateMessage(f"a message {message.id!r} is known", fix="Give it another id."))
        except MessageNotFound:
            pass
        except CaxtonError as error:
            errors.append(error)
        return JSONResponse(
            {
                "valid": not errors,
                "errors": [facts(error) for error in errors],
                "message": None if message is None else message.as_json(),
                "routing": routing,
            }
        )

    return router
