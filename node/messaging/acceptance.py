"""The way into messaging: checked, routed and on disk before anybody is told that a message was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
from msgspec.structs import replace

from node.errors import (
    CaxtonError,
    DuplicateMessage,
    ResourceLimitExceeded,
    ValidationFailed,
    invariant,
)
from node.message import Message
from node.messaging.blobs import Blobs
from node.messaging.conversation_index import Conversations
from node.messaging.handover import Handed, Handover
from node.messaging.inbox import Inbox
from node.messaging.letterbox import Insertion
from node.messaging.letters import Letter
from node.messaging.outbox import Outbox
from node.messaging.ports import Tracer
from node.messaging.receipt import Receipt
from node.messaging.sealing import seal
from node.messaging.settings import HOP_LIMIT
from node.storage.storage import Storage

BATCH_LIMIT: Final = 1_000
"""Most messages accepted in one write."""

Lives = float | Sequence[float | None] | None
"""How long messages live, in seconds: all of them, or each."""


class Acceptance:
    """Takes messages of clients and agents of one node.

    Args:
        node: This node's name.
        storage: The node's database.
        outbox: Routes, writes and sends them.
        tracing: Starts spans.
        max_bytes: Largest sealed message.
        conversations: Says which take no messages.
        blobs: Knows the blobs that messages name.
    """

    def __init__(
        self,
        *,
        node: str,
        storage: Storage,
        outbox: Outbox,
        tracing: Tracer,
        max_bytes: int,
        conversations: Conversations,
        blobs: Blobs,
    ) -> None:
        self.node, self._storage, self._outbox = node, storage, outbox
        self._conversations, self._blobs = conversations, blobs
        self._tracing, self._max_bytes = tracing, max_bytes
        self._handover: Handover  # given by use_inbox: the inbox comes after what accepts

    def use_inbox(self, inbox: Inbox) -> None:
        """Give the inbox, where messages for this node's own agents go in the write that accepts them."""
        self._handover = Handover(node=self.node, inbox=inbox, outbox=self._outbox, storage=self._storage)

    def sender(self, message: Message) -> Message:
        """The message with the full address of its sender.

        Raises:
            ValidationFailed: the sender is of another node.
        """
        agent, at, node = message.sender.rpartition("@")
        if not at:
            return replace(message, sender=f"{message.sender}@{self.node}")
        if node == self.node and agent:
            return message
        raise ValidationFailed(
            f"the sender {message.sender!r} is not of this node",
            why=f"a message enters the cluster at its sender's node, and this is {self.node}",
            fix="Send it there, or leave the sender out.",
            details={"field": "sender"},
        )

    def check(self, message: Message, hops: int = 0) -> tuple[Message, bytes]:
        """The message with the full address of its sender, and its sealed form.

        Raises:
            ValidationFailed: a field breaks its rule.
            MessageTooLarge: it is.
            ResourceLimitExceeded: the chain of messages is too long.
        """
        message = self.sender(message)
        if hops > HOP_LIMIT:
            raise ResourceLimitExceeded(
                "the chain of messages is too long",
                why=f"agents asked each other more than {HOP_LIMIT} times",
                fix="Look for agents that ask each other in a circle.",
                details={"hops": hops, "limit": HOP_LIMIT},
            )
        return message, seal(message, self._max_bytes)

    async def accept_many(
        self,
        messages: Sequence[Message],
        *,
        traceparent: str,
        hops: int,
        ttl_s: Lives,
        cause: str | None = None,
        together_with: Insertion | None = None,
    ) -> list[Receipt | CaxtonError]:
        """Take messages in one write; each is accepted or refused by itself, in order.

        Args:
            messages: In the order in which they are accepted.
            traceparent: W3C Trace Context of what caused them.
            hops: Messages that led to them.
            ttl_s: Their life in seconds, or that of each; the section's default where it is None.
            cause: The id of the message that caused them.
            together_with: Written for each that is new; what it raises undoes the whole write.

        Raises:
            ResourceLimitExceeded: they are more than :data:`BATCH_LIMIT`; none was accepted.
            StorageFailed: the disk refused; none was accepted.
        """
        if len(messages) > BATCH_LIMIT:
            raise ResourceLimitExceeded(
                "too many messages at once", why=f"the limit is {BATCH_LIMIT}", fix="Send them in parts."
            )
        with self._tracing.span("message.accept", parent=traceparent, kind="producer") as span:
            trace = span.traceparent or traceparent
            prepared: list[Letter | CaxtonError] = []
            letters: list[Letter] = []
            size, moment = 0, self._outbox.moment()
            spare = self._outbox.spare_bytes(len(messages))
            closed = await self._conversations.refusals(messages, moment[1])
            for message, life_s in zip(messages, _each(ttl_s, len(messages)), strict=True):
                try:
                    if closed and message.conversation_id in closed:
                        raise closed[message.conversation_id]
                    if message.attachments and message.blobs:
                        message = await self._blobs.sized(message)  # noqa: PLW2901 - as it is sealed
                    message, sealed = self.check(message, hops)  # noqa: PLW2901 - with its full address
                    if size + len(sealed) > spare:
                        self._outbox.check_room(message, sealed, len(letters), size)
                    letter = self._outbox.prepare(
                        message, sealed, at=moment, traceparent=trace, hops=hops, ttl_s=life_s
                    )
                except CaxtonError as error:
                    prepared.append(error)
                    continue
                letter.cause = cause
                size += len(letter.sealed)
                prepared.append(letter)
                letters.append(letter)
            known: frozenset[int] = frozenset()
            with self._handover.take(letters) as handed:
                if letters:
                    known = await self._write(letters, handed, together_with)
                fresh = [letter for letter in letters if letter.seq not in known] if known else letters
                receipts = [
                    each if isinstance(each, CaxtonError) else _outcome(each, known) for each in prepared
                ]
                self._outbox.admit(fresh)
                handed.stored()
        return receipts

    async def _write(
        self, letters: Sequence[Letter], handed: Handed, together_with: Insertion | None
    ) -> frozenset[int]:
        """Write messages; returns the seqs of those that were known already."""
        known: frozenset[int] | None = None
        try:
            known = await self._storage.write(lambda c: self._insert(c, letters, handed, together_with))
        finally:
            if known is None or known:
                self._outbox.not_written([each for each in letters if known is None or each.seq in known])
        return known

    def _insert(
        self,
        connection: apsw.Connection,
        letters: Sequence[Letter],
        handed: Handed,
        together_with: Insertion | None,
    ) -> frozenset[int]:
        known = self._outbox.insert(connection, letters)
        handed.store(connection, known)
        if together_with is not None:
            for letter in letters:
                if letter.seq not in known:
                    together_with(connection, letter)
        return known


def _each(ttl_s: Lives, count: int) -> Sequence[float | None]:
    if not isinstance(ttl_s, Sequence):
        return [ttl_s] * count
    invariant(len(ttl_s) == count, "as many lives as messages")
    return ttl_s


def _outcome(letter: Letter, known: frozenset[int]) -> Receipt | CaxtonError:
    message = letter.message
    if letter.seq in known:
        return DuplicateMessage(
            f"a message {message.id!r} was accepted before",
            why="each id is accepted once, so that sending again after a lost answer does no harm",
            fix="Look the message up, or give every message an id of its own.",
            details={"field": "message_id", "message_id": message.id},
        )
    routed = tuple([f"{agent}@{node}" for agent, node in letter.routes])
    return Receipt(
        message.id,
        message.conversation_id,
        routed,
        message.routing_strategy._value_,
        "routed" if routed else "settled" if letter.ended == "settled" else "waiting",
        letter.accepted_s,
    )
