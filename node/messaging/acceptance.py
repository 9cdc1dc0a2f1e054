"""The way into messaging: checked, routed and on disk before anybody is told that a message was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
from msgspec.structs import replace

from node.errors import CaxtonError, ResourceLimitExceeded, ValidationFailed
from node.message import Message
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


class Acceptance:
    """Takes messages of clients and agents of one node.

    Args:
        node: This node's name.
        storage: The node's database.
        outbox: Routes, writes and sends them.
        tracing: Starts spans.
        max_bytes: Largest sealed message.
    """

    def __init__(
        self, *, node: str, storage: Storage, outbox: Outbox, tracing: Tracer, max_bytes: int
    ) -> None:
        self._node, self._storage, self._outbox = node, storage, outbox
        self._tracing, self._max_bytes = tracing, max_bytes

    def sender(self, message: Message) -> Message:
        """The message with the full address of its sender.

        Raises:
            ValidationFailed: the sender is of another node.
        """
        agent, at, node = message.sender.rpartition("@")
        if not at:
            return replace(message, sender=f"{message.sender}@{self._node}")
        if node == self._node and agent:
            return message
        raise ValidationFailed(
            f"the sender {message.sender!r} is not of this node",
            why=f"a message enters the cluster at its sender's node, and this is {self._node}",
            fix="Send it there, or leave the sender out.",
            details={"field": "sender"},
        )

    async def accept_many(
        self,
        messages: Sequence[Message],
        *,
        traceparent: str,
        hops: int,
        ttl_s: float | None,
        cause: str | None = None,
        together_with: Insertion | None = None,
    ) -> list[Receipt | CaxtonError]:
        """Take messages in one write; each is accepted or refused by itself, in order.

        Args:
            messages: In the order in which they are accepted.
            traceparent: W3C Trace Context of what caused them.
            hops: Messages that led to them.
            ttl_s: Their life in seconds.
            cause: The id of the message that caused them.
            together_with: Written for each that is new; what it raises undoes the whole write.

        Raises:
            StorageFailed: the disk refused; none was accepted.
        """
        with self._tracing.span("message.accept", parent=traceparent, kind="producer") as span:
            trace = span.traceparent or traceparent
            prepared: list[Letter | CaxtonError] = []
            letters: list[Letter] = []
            size, moment = 0, self._outbox.moment()
            for message in messages:
                try:
                    message, sealed = self._checked(message, hops)  # noqa: PLW2901 - with its full address
                    self._outbox.check_room(len(letters) + 1, size + len(sealed))
                    letter = self._outbox.prepare(
                        message, sealed, at=moment, traceparent=trace, hops=hops, ttl_s=ttl_s
                    )
                except CaxtonError as error:
                    prepared.append(error)
                    continue
                letter.cause = cause
                size += len(letter.sealed)
                prepared.append(letter)
                letters.append(letter)
            known: frozenset[int] = frozenset()
            if letters:
                known = await self._storage.write(lambda c: self._insert(c, letters, together_with))
            fresh = [letter for letter in letters if letter.seq not in known] if known else letters
            receipts = [each if isinstance(each, CaxtonError) else _outcome(each, known) for each in prepared]
            self._outbox.admit(fresh)
        return receipts

    def _insert(
        self, connection: apsw.Connection, letters: Sequence[Letter], together_with: Insertion | None
    ) -> frozenset[int]:
        known = self._outbox.insert(connection, letters)
        if together_with is not None:
            for letter in letters:
                if letter.seq not in known:
                    together_with(connection, letter)
        return known

    def _checked(self, message: Message, hops: int) -> tuple[Message, bytes]:
        message = self.sender(message)
        if hops > HOP_LIMIT:
            raise ResourceLimitExceeded(
                "the chain of messages is too long",
                why=f"agents asked each other more than {HOP_LIMIT} times",
                fix="Look for agents that ask each other in a circle.",
                details={"hops": hops, "limit": HOP_LIMIT},
            )
        return message, seal(message, self._max_bytes)


def _outcome(letter: Letter, known: frozenset[int]) -> Receipt | CaxtonError:
    message = letter.message
    if letter.seq in known:
        return ValidationFailed(
            f"a message {message.id!r} was accepted before",
            fix="Give every message an id of its own.",
            details={"field": "message_id"},
        )
    routed = tuple([f"{agent}@{node}" for agent, node in letter.routes])
    return Receipt(
        message.id,
        message.conversation_id,
        routed,
        message.routing_strategy.value,
        "routed" if routed else "waiting",
        letter.accepted_s,
    )
