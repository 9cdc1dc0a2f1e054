"""A conversation as an object: who takes part, since when, whether it is over, and what answers what.

It is put together at the time of reading, from the messages that this node has accepted and received; the
nodes at its other end may know others. A conversation is *active* while a message of it is under way here, or
waits for an answer that may still come; otherwise it is *completed*. Apart from that it may be **closed**: by
an operator, by its age, or because nobody has said anything for too long. Into a closed one no message is
accepted; what has been accepted before is delivered and answered all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import apsw

from node.message import Message, iso8601
from node.messaging.receiver import ItemState, reported
from node.storage import accepted, inbox
from node.storage import conversations as table

SHOWN_LIMIT: Final = 500
"""Most messages shown of one conversation, the latest ones."""

ACTIVE: Final = "active"
COMPLETED: Final = "completed"
Status = Literal["active", "completed"]
Closure = Literal["archived", "inactive", "lifetime"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long conversations may go on.

    Args:
        inactive_s: Seconds of silence after which one is closed.
        lifetime_s: Seconds after its first message at which it is closed.
    """

    inactive_s: float
    lifetime_s: float

    def closure(self, span: table.Span, wall: float) -> Closure | None:
        """Why a conversation takes no messages at ``wall``; None when it does."""
        if span.archived_s is not None:
            return "archived"
        if wall >= span.created_s + self.lifetime_s:
            return "lifetime"
        return "inactive" if wall >= span.last_s + self.inactive_s else None

    def open_until(self, span: table.Span) -> float:
        """Unix seconds until which one that is open stays so, whether or not somebody speaks."""
        return min(span.created_s + self.lifetime_s, span.last_s + self.inactive_s)


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation.

    Args:
        message: The message.
        state: Where it stands here.
        at_s: Unix seconds at which it was accepted or received here.
        is_open: Whether it has not ended here.
    """

    message: Message
    state: str
    at_s: float
    is_open: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of one conversation that this node has seen, in order of time.

    Args:
        conversation_id: Its id.
        said: Its messages, the latest :data:`SHOWN_LIMIT` of them at most.
        truncated: Whether there are earlier ones.
        span: Its life; None when it is not known.
        closure: Why it takes no messages, or None.
        wall: Unix seconds of this view.
        kin: How it and others belong together.
    """

    conversation_id: str
    said: Sequence[Said]
    truncated: bool
    span: table.Span | None
    closure: Closure | None
    wall: float
    kin: Sequence[table.Kin] = field(default=())

    @classmethod
    def load(
        cls,
        connection: apsw.Connection,
        conversation_id: str,
        *,
        limits: Limits,
        wall: float,
        limit: int = SHOWN_LIMIT,
    ) -> Conversation:
        """Read it from the database; an unknown one is empty.

        Args:
            connection: A reading connection.
            conversation_id: Its id.
            limits: When conversations are closed.
            wall: Unix seconds now.
            limit: Most messages to look at.
        """
        found: dict[str, Said] = {}
        sent = accepted.conversation(connection, conversation_id, limit)
        got = inbox.conversation(connection, conversation_id, limit)
        for row in sent:
            message = Message.unseal(row.sealed)
            found[row.message_id] = Said(message, row.state, row.accepted_s, row.ended_s is None)
        for copy in got:
            if copy.message_id in found:
                continue
            shown = reported(ItemState(copy.state)) if copy.state != ItemState.LATE else copy.state
            message = Message.unseal(copy.sealed)
            found[copy.message_id] = Said(message, shown, copy.received_s, copy.ended_s is None)
        ordered = sorted(found.values(), key=lambda said: (said.at_s, said.message.id))
        span = table.span(connection, conversation_id)
        return cls(
            conversation_id,
            ordered[-limit:],
            truncated=len(sent) == limit or len(got) == limit,
            span=span,
            closure=None if span is None else limits.closure(span, wall),
            wall=wall,
            kin=table.kin(connection, conversation_id),
        )

    @property
    def participants(self) -> list[str]:
        """Whoever has sent a message or was named as its receiver, in order of appearance."""
        found: dict[str, None] = {}
        for said in self.said:
            found[said.message.sender] = None
            if said.message.receiver:
                found[said.message.receiver] = None
        return list(found)

    @property
    def status(self) -> Status:
        """Whether anything is under way or awaited in it."""
        answered = {said.message.in_reply_to for said in self.said}
        for said in self.said:
            message = said.message
            if said.is_open:
                return ACTIVE
            awaited = message.expects_reply and message.reply_with not in answered
            in_time = message.reply_by_s is None or self.wall < message.reply_by_s
            if awaited and in_time and self.closure is None and said.state == "settled":
                return ACTIVE
        return COMPLETED

    def chain(self) -> list[dict[str, Any]]:
        """What answers what: every message below the one it answers, the earliest first.

        Returns:
            In the order of a walk through the tree, each with ``answers`` (the id of the message that it
            answers, or None where it begins something) and ``depth``.
        """
        by_label: dict[str, str] = {}
        for said in self.said:
            by_label.setdefault(said.message.reply_with, said.message.id)
        below: dict[str, list[Message]] = {}
        begins: list[Message] = []
        for said in self.said:
            quoted = by_label.get(said.message.in_reply_to or "")
            (begins if quoted is None else below.setdefault(quoted, [])).append(said.message)
        found: dict[str, dict[str, Any]] = {}
        rest = [said.message for said in self.said]  # whoever quotes in a circle hangs on nobody
        for first in begins + rest:
            waiting: list[tuple[Message, str | None, int]] = [(first, None, 0)]
            while waiting:
                message, answers, depth = waiting.pop()
                if message.id in found:
                    continue
                found[message.id] = {
                    "message_id": message.id,
                    "performative": message.performative.value,
                    "answers": answers,
                    "depth": depth,
                }
                waiting += [(reply, message.id, depth + 1) for reply in reversed(below.get(message.id, []))]
        return list(found.values())

    def summary(self) -> dict[str, Any]:
        """The conversation in a list."""
        span = self.span
        return {
            "id": self.conversation_id,
            "conversation_id": self.conversation_id,
            "created_at": None if span is None else iso8601(span.created_s),
            "last_activity": None if span is None else iso8601(span.last_s),
            "participants": self.participants,
            "message_count": len(self.said),
            "truncated": self.truncated,
            "status": self.status,
            "closed": self.closure,
            "archived_at": None if span is None or span.archived_s is None else iso8601(span.archived_s),
        }

    def as_json(self) -> dict[str, Any]:
        """The conversation as the public API shows it."""
        own = self.conversation_id
        return self.summary() | {
            "parent_conversation": next(
                (k.other for k in self.kin if (k.conversation_id, k.kind) == (own, table.BRANCH)), None
            ),
            "branches": [k.conversation_id for k in self.kin if (k.other, k.kind) == (own, table.BRANCH)],
            "merge_conversations": [
                k.other for k in self.kin if (k.conversation_id, k.kind) == (own, table.MERGE)
            ],
            "merged_into": [k.conversation_id for k in self.kin if (k.other, k.kind) == (own, table.MERGE)],
            "message_chain": self.chain(),
            "messages": [said.message.as_json() | {"status": said.state} for said in self.said],
        }


def kin_of(message: Message) -> list[table.Kin]:
    """What a message says of how its conversation and others belong together."""
    own, parent = message.conversation_id, message.parent_conversation
    found = [] if parent is None else [table.Kin(own, table.BRANCH, parent)]
    return found + [table.Kin(own, table.MERGE, other) for other in message.merge_conversations]
