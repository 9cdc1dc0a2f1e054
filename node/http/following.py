"""What happens to one message, and what is said in one conversation, as events.

Both are asked of the database, a few times a second while something happens and once a second otherwise:
nothing on the way of messages has to know who follows them.
"""

from __future__ import annotations

from typing import Final

from starlette.types import Receive

from node.errors import CaxtonError, MessageNotFound
from node.http.event_streams import Events
from node.http.services import NodeServices
from node.http.streams import Write
from node.messaging.conversation_cursor import ConversationCursor
from node.vocabulary import EXPECTS_REPLY

REPLY_GRACE_S: Final = 5.0
"""How long the reply to a message that has been settled may take to be here, in seconds."""


class MessageEvents:
    """The events of one message, from its acceptance to its end.

    Args:
        services: The rooms of the node.
        message_id: The message.
    """

    def __init__(self, services: NodeServices, message_id: str) -> None:
        self._services, self._message_id = services, message_id
        self._clock = services.environment.clock
        self._told: dict[tuple[str, ...], None] = {}
        self._settled_at: float | None = None

    async def run(self, write: Write, receive: Receive) -> None:
        """Tell what has happened and happens, until the message has ended."""
        del receive
        events = Events(write, self._clock)
        try:
            while not await self._tell(events):
                await events.pause()
        except CaxtonError as error:  # the disk refuses, or the message has aged out
            await events.send("error", error.as_json())

    async def _tell(self, events: Events) -> bool:
        """Tell what is new; returns whether that was the end."""
        found = (await self._services.bus.history(self._message_id)).as_json()
        for state in found["states"]:
            if self._is_new(state["state"], state["at"], state["detail"]):
                await events.send(state["state"], {"message_id": self._message_id, **state})
        for reply in found["replies"]:
            if self._is_new("reply", reply["message_id"]):
                shown = await self._reply(reply)
                await events.send("reply", {"message_id": self._message_id, "reply": shown})
        if not self._has_ended(found):
            return False
        await events.send("end", {"message_id": self._message_id, "status": found["status"]})
        return True

    def _is_new(self, *key: str) -> bool:
        """Whether this has not been told; it counts as told from now on."""
        known = key in self._told
        self._told[key] = None
        return not known

    async def _reply(self, reply: dict[str, str]) -> object:
        try:
            shown = await self._services.bus.history(reply["message_id"])
        except MessageNotFound:
            return reply
        return shown.as_json()["message"]

    def _has_ended(self, found: dict[str, object]) -> bool:
        """Whether there is nothing more to come."""
        if "outcome" not in found:  # received here, accepted elsewhere
            copies = found["received"]
            return isinstance(copies, list) and all("ended_at" in copy for copy in copies)
        if found["outcome"] is None:
            return False
        if found["outcome"] != "settled" or found["replies"] or not _expects_reply(found["message"]):
            return True
        now = self._clock.now()
        if self._settled_at is None:
            self._settled_at = now
        return now - self._settled_at >= REPLY_GRACE_S


class ConversationEvents:
    """The messages of one conversation as this node sees them, those there are first.

    Args:
        services: The rooms of the node.
        conversation_id: The conversation.
    """

    def __init__(self, services: NodeServices, conversation_id: str) -> None:
        self._services = services
        self._cursor = ConversationCursor(conversation_id)

    async def run(self, write: Write, receive: Receive) -> None:
        """Tell until the other end goes."""
        del receive
        events = Events(write, self._services.environment.clock)
        try:
            while True:
                found = await self._services.bus.conversations.follow(self._cursor)
                for message, status in found:
                    await events.send("message", message.as_json() | {"status": status})
                if not found:
                    await events.pause()
        except CaxtonError as error:
            await events.send("error", error.as_json())


def _expects_reply(message: object) -> bool:
    return isinstance(message, dict) and message.get("performative") in EXPECTS_REPLY
