"""What one node knows of one message, as it tells others: the answer to the question ``trace``.

Never the content: whoever follows a message's way need not read it. The answer is MessagePack of the types
below; what a peer sends is checked against them, and keys of later versions are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import apsw
import msgspec
from msgspec import Meta
from msgspec.structs import replace

from node.message import Counter, Message, Note
from node.messaging.explanation import decision
from node.storage import accepted, inbox, outbox
from node.transport.frames import MAX_ANSWER_BYTES

CAUSED_LIMIT: Final = 32
"""Most messages caused by one message that a node names."""
COPIES_LIMIT: Final = 32
"""Most copies of one message for agents of a node that it names."""
DETAIL_LIMIT: Final = 200
"""Most characters of a reason or detail."""

Moment = Annotated[float, Meta(ge=0.0, le=1e11)]
"""Unix seconds."""


class Described(msgspec.Struct, frozen=True, gc=False):
    """A message without its content."""

    message_id: Note
    performative: Note
    sender: Note
    receiver: Note | None
    capability: Note | None
    conversation_id: Note
    in_reply_to: Note | None
    topic: Note | None = None

    @classmethod
    def of(cls, message: Message) -> Described:
        """Describe a message."""
        return cls(
            message_id=message.id,
            performative=message.performative.value,
            sender=message.sender,
            receiver=message.receiver,
            capability=message.capability,
            conversation_id=message.conversation_id,
            in_reply_to=message.in_reply_to,
            topic=message.topic,
        )


class Way(msgspec.Struct, frozen=True, gc=False):
    """One provider that a message was given to; times in Unix seconds of the origin."""

    agent: Note
    node: Note
    epoch: Counter
    state: Note
    attempts: Counter
    why: Note
    reason: Note
    routed_s: Moment
    sent_s: Moment | None
    received_s: Moment | None
    ended_s: Moment | None


class Happening(msgspec.Struct, frozen=True, gc=False):
    """A wait, a move, a late outcome, a retry."""

    at_s: Moment
    event: Note
    detail: Note


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A message as its origin knows it."""

    message: Described
    cause: Note | None
    accepted_s: Moment
    expires_s: Moment
    ended_s: Moment | None
    state: Note
    reason: Note
    ways: Annotated[tuple[Way, ...], Meta(max_length=COPIES_LIMIT)]
    happenings: Annotated[tuple[Happening, ...], Meta(max_length=outbox.EVENT_LIMIT)]


class Copy(msgspec.Struct, frozen=True, gc=False):
    """A message as the node of an agent has received it; times in Unix seconds of that node."""

    agent: Note
    origin: Note
    state: Note
    epoch: Counter
    failed_runs: Counter
    received_s: Moment
    started_s: Moment | None
    ended_s: Moment | None
    reason: Note


class Side(msgspec.Struct, frozen=True, gc=False):
    """All that one node knows of a message.

    Attributes:
        message: The message; None where the node knows only what it caused.
        accepted: How this node accepted it, if it did.
        copies: What this node has received of it.
        caused: Messages that were accepted here because of it.
        more: Whether there are more copies or caused messages than are named.
    """

    message: Described | None
    accepted: Accepted | None
    copies: Annotated[tuple[Copy, ...], Meta(max_length=COPIES_LIMIT)]
    caused: Annotated[tuple[Accepted, ...], Meta(max_length=CAUSED_LIMIT)]
    more: bool

    @property
    def is_empty(self) -> bool:
        """Whether the node knows nothing at all."""
        return self.message is None and not self.caused

    def encode(self) -> bytes:
        """The side as it travels, with as many of its parts as fit."""
        shown = self
        while True:
            encoded = _ENCODER.encode(shown)
            if len(encoded) <= MAX_ANSWER_BYTES:
                return encoded
            if shown.caused:
                shown = replace(shown, caused=shown.caused[: len(shown.caused) // 2], more=True)
            elif shown.copies:
                shown = replace(shown, copies=shown.copies[: len(shown.copies) // 2], more=True)
            else:  # ways and happenings of the longest texts
                shown = replace(shown, accepted=None, more=True)

    @classmethod
    def decode(cls, encoded: bytes) -> Side | None:
        """A side that a peer has sent; None if it is none."""
        try:
            return _DECODER.decode(encoded)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Side)

Running = Callable[[str, str], float | None]
"""Agent and message id -> when the handler run began that the message is in."""


def load(connection: apsw.Connection, message_id: str, running_since: Running) -> Side:
    """What this node knows of a message; empty when that is nothing."""
    row = accepted.find(connection, message_id)
    copies = inbox.find(connection, message_id, COPIES_LIMIT + 1)
    caused = accepted.caused(connection, message_id, CAUSED_LIMIT + 1)
    sealed = row.sealed if row is not None else copies[0].sealed if copies else None
    return Side(
        message=None if sealed is None else Described.of(Message.unseal(sealed)),
        accepted=None if row is None else _accepted(connection, row),
        copies=tuple(_copy(copy, running_since) for copy in copies[:COPIES_LIMIT]),
        caused=tuple(_accepted(connection, each) for each in caused[:CAUSED_LIMIT]),
        more=len(copies) > COPIES_LIMIT or len(caused) > CAUSED_LIMIT,
    )


def _accepted(connection: apsw.Connection, row: outbox.OutboxRow) -> Accepted:
    return Accepted(
        message=Described.of(Message.unseal(row.sealed)),
        cause=row.cause,
        accepted_s=row.accepted_s,
        expires_s=row.expires_s,
        ended_s=row.ended_s,
        state=row.state,
        reason=row.reason[:DETAIL_LIMIT],
        ways=tuple(_way(route) for route in outbox.routes(connection, row.seq)[-COPIES_LIMIT:]),
        happenings=tuple(
            Happening(at_s=event.at_s, event=event.event, detail=event.detail[:DETAIL_LIMIT])
            for event in outbox.events(connection, row.seq)
        ),
    )


def _way(route: outbox.RouteRow) -> Way:
    return Way(
        agent=route.agent,
        node=route.node,
        epoch=max(0, route.epoch),
        state=route.state,
        attempts=route.attempts,
        why="" if route.decision is None else decision(route.decision).reason[:DETAIL_LIMIT],
        reason=route.reason[:DETAIL_LIMIT],
        routed_s=route.routed_s,
        sent_s=route.sent_s,
        received_s=route.received_s,
        ended_s=route.ended_s,
    )


def _copy(row: inbox.InboxRow, running_since: Running) -> Copy:
    running_s = running_since(row.target, row.message_id) if row.ended_s is None else None
    return Copy(
        agent=row.target,
        origin=row.origin,
        state="running" if running_s is not None else row.state,
        epoch=row.epoch,
        failed_runs=row.attempts,
        received_s=row.received_s,
        started_s=running_s if running_s is not None else row.started_s,
        ended_s=row.ended_s,
        reason=row.reason[:DETAIL_LIMIT],
    )
