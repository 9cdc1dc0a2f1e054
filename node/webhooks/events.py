"""What a webhook is told: read from the inbox and the dead letters, from where it has read before.

Nothing on the way of messages knows of webhooks. What has come in is read afterwards, in order, and what
concerns a webhook is queued in the same transaction that remembers how far it has read: so nothing is told
twice by a crash, and nothing is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import apsw

from node.message import Message, iso8601
from node.messaging.conversation_view import COMPLETED, Conversation, Limits
from node.messaging.receiver import ItemState
from node.storage import webhooks as table
from node.storage.query import number, rows
from node.storage.webhooks import DeliveryRow, WebhookRow

RESPONSE: Final = "message.response"
COMPLETE: Final = "conversation.complete"
DEAD: Final = "message.dead"
EVENTS: Final = (RESPONSE, COMPLETE, DEAD)
"""What a webhook may be told of: an answer came, a conversation is complete, a message was given up."""
FILTER_FIELDS: Final = ("conversation_id", "sender", "receiver", "performative", "capability")
"""Fields of the message by which a webhook may choose."""
SCAN: Final = 500
"""Most rows that one step reads."""
QUEUE_LIMIT: Final = 100
"""Most deliveries of one webhook that are queued; what comes then is read when there is room."""
WATCH_LIMIT: Final = 1_000
"""Most conversations that one webhook watches; of those beyond, nothing is told."""
WATCH_BATCH: Final = 20
"""Most watched conversations that one step looks at."""
WATCH_FIRST_S: Final = 0.5
WATCH_LAST_S: Final = 60.0
"""How long a conversation that is not complete is left alone, first and at most, in seconds."""
BODY_LIMIT: Final = 256 * 1024
"""Largest body in bytes; a message that would not fit goes without its content and attachments."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step has found.

    Args:
        row: The webhook, as far as it has read now.
        queued: How many deliveries were queued.
        finished: Whether there is nothing more to read now.
    """

    row: WebhookRow
    queued: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads for all webhooks of a node; its methods are part of the caller's job.

    Args:
        node: This node's name.
        new_id: Makes the ids of deliveries.
        limits: When conversations are closed.
    """

    node: str
    new_id: Callable[[], str]
    limits: Limits

    def has_news(self, connection: apsw.Connection, row: WebhookRow, wall: float) -> bool:
        """Whether there may be something to read, or a conversation to look at."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM inbox WHERE seq > ?)"
            " OR EXISTS (SELECT 1 FROM dead_letters WHERE seq > ?)"
        )
        if number(connection, query, (row.inbox_seq, row.dead_seq)):
            return True
        return bool(table.due(connection, row.id, "watched", wall, 1))

    def step(self, connection: apsw.Connection, row: WebhookRow, wall: float) -> Step:
        """Read on, as far as there is room for what is found."""
        if not table.is_there(connection, row.id):
            return Step(row, 0, finished=True)  # it was removed meanwhile
        counts = table.counts(connection, row.id)
        room = max(0, QUEUE_LIMIT - counts["queued"])
        before = room
        inbox_seq, missed, watching = row.inbox_seq, row.missed, counts["watched"]
        found = rows(
            connection,
            "SELECT seq, in_reply_to, state, sealed FROM inbox WHERE seq > ? ORDER BY seq LIMIT ?",
            (row.inbox_seq, SCAN),
        )
        seen = 0
        for seq, in_reply_to, state, sealed in found:
            if room <= 0:
                break
            missed += seq - inbox_seq - 1
            inbox_seq, seen = seq, seen + 1
            if in_reply_to is None or state in (ItemState.LATE, ItemState.REFUSED):
                continue
            message = Message.unseal(sealed)
            if not chosen(row.chosen, message):
                continue
            if RESPONSE in row.events:
                self._queue(
                    connection,
                    row,
                    wall,
                    event=RESPONSE,
                    about=message.id,
                    data={"message": message.as_json()},
                )
                room -= 1
            if COMPLETE in row.events and watching < WATCH_LIMIT:
                watching += self._watch(connection, row, message.conversation_id, wall)
        dead_seq, letters_queued = self._letters(connection, row, wall, room)
        room -= letters_queued
        finished = seen == len(found) < SCAN and room > 0
        if finished:  # what is not read yet may be of a conversation that is watched
            room -= self._watched(connection, row, wall, room)
        table.read_up_to(connection, row.id, inbox_seq, dead_seq, missed)
        read = replace(row, inbox_seq=inbox_seq, dead_seq=dead_seq, missed=missed)
        return Step(read, before - room, finished=finished)

    def _letters(
        self, connection: apsw.Connection, row: WebhookRow, wall: float, room: int
    ) -> tuple[int, int]:
        """Queue dead letters; returns the last one read, and how many were queued."""
        reached, queued = row.dead_seq, 0
        for seq, message_id, at_s, reason, capability, sealed in rows(
            connection,
            "SELECT seq, message_id, at_s, reason, capability, sealed FROM dead_letters"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            (row.dead_seq, room),
        ):
            reached = seq
            if DEAD not in row.events:
                continue
            message = None if sealed is None else Message.unseal(sealed)
            if row.chosen and (message is None or not chosen(row.chosen, message)):
                continue
            self._queue(
                connection,
                row,
                wall,
                event=DEAD,
                about=message_id,
                data={
                    "message_id": message_id,
                    "reason": reason,
                    "capability": capability,
                    "at": iso8601(at_s),
                    "message": None if message is None else message.as_json(),
                },
            )
            queued += 1
        return reached, queued

    def _watch(self, connection: apsw.Connection, row: WebhookRow, conversation_id: str, wall: float) -> int:
        """Look at a conversation from now on until it is complete; returns whether it is a new one."""
        if table.watches(connection, row.id, conversation_id):
            return 0
        watched = DeliveryRow(row.id, self.new_id(), COMPLETE, conversation_id, "watched", b"", wall, wall)
        table.queue(connection, watched)
        return 1

    def _watched(self, connection: apsw.Connection, row: WebhookRow, wall: float, room: int) -> int:
        """Queue what is complete of the conversations that are watched; returns how many."""
        queued = 0
        for watched in table.due(connection, row.id, "watched", wall, min(room, WATCH_BATCH)):
            found = Conversation.load(connection, watched.about, limits=self.limits, wall=wall)
            if found.said and found.status != COMPLETED:
                pause_s = min(WATCH_LAST_S, WATCH_FIRST_S * 2.0 ** min(watched.attempts, 16))
                table.watch_again(connection, watched.seq, wall + pause_s, watched.attempts + 1)
                continue
            table.done(connection, watched.seq)
            if not found.said:
                continue  # all of it was forgotten
            data = {
                "conversation_id": watched.about,
                "message_count": len(found.said),
                "participants": found.participants,
                "last_message_id": found.said[-1].message.id,
            }
            self._queue(connection, row, wall, event=COMPLETE, about=watched.about, data=data)
            queued += 1
        return queued

    def _queue(
        self,
        connection: apsw.Connection,
        row: WebhookRow,
        wall: float,
        *,
        event: str,
        about: str,
        data: Mapping[str, Any],
    ) -> None:
        identifier = self.new_id()
        told = {
            "id": identifier,
            "event": event,
            "webhook_id": row.id,
            "node": self.node,
            "created_at": iso8601(wall),
            "truncated": False,
            "data": data,
        }
        table.queue(
            connection, DeliveryRow(row.id, identifier, event, about, "queued", body(told), wall, wall)
        )


def chosen(wanted: Mapping[str, str], message: Message) -> bool:
    """Whether a message has all the values that a webhook wants; a name is met on every node."""
    for name, value in wanted.items():
        found = getattr(message, name)
        text = "" if found is None else str(getattr(found, "value", found))
        if text != value and not (name in ("sender", "receiver") and text.rpartition("@")[0] == value):
            return False
    return True


def body(told: Mapping[str, Any]) -> bytes:
    """What is sent, of at most :data:`BODY_LIMIT` bytes."""
    encoded = _encoded(told)
    if len(encoded) <= BODY_LIMIT:
        return encoded
    data = dict(told["data"])
    message = data.get("message")
    if isinstance(message, dict):
        data["message"] = message | {"content": None, "attachments": []}
    else:
        data["participants"] = []
    return _encoded({**told, "truncated": True, "data": data})


def _encoded(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
