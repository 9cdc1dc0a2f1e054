"""Routes of conversations: find them, look at one, close them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from node.http.answers import ArchivedBody, ConversationBody, ConversationsBody
from node.http.conversation_models import ArchiveBody, ConversationQuery, FollowQuery
from node.http.event_streams import EventStream
from node.http.following import ConversationEvents
from node.http.services import NodeServices
from node.http.streams import Streams
from node.http.strict_json import StrictRoute


def conversation_routes(services: NodeServices, streams: Streams) -> APIRouter:
    """The routes of conversations."""
    router = APIRouter(prefix="/conversations", tags=["conversations"], route_class=StrictRoute)
    conversations, clock = services.bus.conversations, services.environment.clock

    @router.get("", response_model=ConversationsBody)
    async def page(query: Annotated[ConversationQuery, Query()]) -> Response:
        """The conversations that this node has seen, the one with the latest message first.

        ``next`` is the ``before`` of the page that follows, null when there is none. A page looks at a
        bounded number of messages: of a rare selection it may be short, even empty, and have a ``next``.
        """
        found = await conversations.page(query.limit, query.selection(clock.wall()), query.before)
        return JSONResponse(
            {
                "conversations": [each.summary() for each in found.conversations],
                "limit": query.limit,
                "next": found.next,
            }
        )

    @router.get("/{conversation_id}", response_model=ConversationBody)
    async def get(conversation_id: str, query: Annotated[FollowQuery, Query()]) -> Response:
        """One conversation with its messages, as this node has seen it, and what answers what.

        With ``follow``, its messages and those that are still to come, as server-sent events.
        """
        if query.follow:
            return EventStream(streams, ConversationEvents(services, conversation_id).run)
        return JSONResponse((await conversations.get(conversation_id)).as_json())

    @router.post("/archive", response_model=ArchivedBody)
    async def archive(body: ArchiveBody) -> Response:
        """Close conversations, those named or those in which nobody has said anything for so long.

        No message is accepted into a closed conversation on this node; what has been accepted is delivered
        and answered. One call closes at most 500; ``next`` is the ``after`` of the call that goes on.
        """
        if body.conversations is not None:
            found = await conversations.archive_these(body.conversations)
        else:
            found = await conversations.archive(
                older_than_s=body.older_than_s(), status=body.status, after=body.after
            )
        done = list(found.conversations)
        return JSONResponse({"archived": len(done), "conversations": done, "next": found.next})

    return router
