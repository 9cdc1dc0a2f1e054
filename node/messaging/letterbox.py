"""The dead letters of one node: buried when a message is given up, looked at, sent again, dropped.

A retry is a message of its own, with a new id, that enters by the ordinary acceptance. The write that makes
it durable also marks the letter with that id, so a crash at any instant leaves either both or neither, and
nobody sends a letter twice without saying so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import apsw
from msgspec.structs import replace

from node.environment import Environment
from node.errors import CaxtonError, MessageNotFound, StorageFailed, ValidationFailed
from node.message import Message
from node.messaging.dead_letters import DeadLetter
from node.messaging.history import RETRY_OF, MessageHistory
from node.messaging.letters import Letter
from node.messaging.receipt import Receipt
from node.storage import dead_letters as table
from node.storage import outbox as outbox_table
from node.storage.dead_letters import Choice, Totals
from node.storage.storage import Storage

SHOWN_LIMIT: Final = 1_000
"""Most dead letters shown at once."""
BULK_LIMIT: Final = 1_000
"""Most dead letters that one call retries or drops."""
REFUSALS_SHOWN: Final = 100
"""Most letters that could not be sent again that one call names; all are counted."""
RETRIED: Final = "retried"
"""The event by which a message that was given up tells which one repeats it."""


class DeadLetterNotFound(CaxtonError):
    """No dead letter of that message is kept here."""

    code = "DEAD_LETTER_NOT_FOUND"
    status: ClassVar[int] = 404


class DeadLetterRetried(CaxtonError):
    """The dead letter was sent again before."""

    code = "DEAD_LETTER_RETRIED"
    status: ClassVar[int] = 409


@dataclass(frozen=True, slots=True)
class Redirection:
    """What a retry changes; everything else is as the sender has said it.

    Args:
        receiver: Another receiver, in place of receiver or capability.
        capability: Another capability, in place of receiver or capability.
        ttl_s: Its life in seconds; the section's default otherwise.
    """

    receiver: str | None = None
    capability: str | None = None
    ttl_s: float | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether the message goes to somebody else than its sender wanted."""
        return self.receiver is not None or self.capability is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A letter that could not be sent again."""

    message_id: str
    error: CaxtonError


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of many letters.

    Args:
        receipts: (the letter's message, the new one).
        refusals: Of those that could not be sent, the first :data:`REFUSALS_SHOWN`.
        refused: How many could not.
        last_seq: The place of the last letter that was looked at, or None when there was none.
        more: Whether there are others after it.
        stopped_by: What kept the others from being tried, or None.
    """

    receipts: tuple[tuple[str, str], ...]
    refusals: tuple[Refusal, ...]
    refused: int
    last_seq: int | None
    more: bool
    stopped_by: CaxtonError | None


Insertion = Callable[[apsw.Connection, Letter], None]
"""Writes what belongs to a message in the transaction that makes it durable; what it raises undoes both."""


class Acceptance(Protocol):
    """How a message enters (``messaging.bus.Bus.accept``)."""

    async def __call__(
        self,
        message: Message,
        *,
        hops: int = 0,
        ttl_s: float | None = None,
        cause: str | None = None,
        together_with: Insertion | None = None,
    ) -> Receipt:
        """Take a message, and write something else in the same transaction."""
        ...


def bury(connection: apsw.Connection, letter: Letter, at_s: float) -> None:
    """Keep a message that was given up, with all that happened to it; part of the caller's job."""
    history = MessageHistory.load(connection, letter.message.id).as_json()
    table.add(connection, DeadLetter.of_letter(letter, at_s, history).as_row())


class DeadLetters:
    """The dead letters of one node; see the module's docstring.

    Args:
        environment: Clock and ids.
        storage: The node's database.
        accept: Takes a message.
    """

    def __init__(self, *, environment: Environment, storage: Storage, accept: Acceptance) -> None:
        self._environment, self._storage, self._accept = environment, storage, accept
        self._totals = Totals()
        self._retried = self._dropped = 0

    async def load(self) -> None:
        """Learn how many there are."""
        self._totals = await self._storage.read(table.totals)

    def note(self, totals: Totals) -> None:
        """Letters came or went."""
        self._totals = totals

    async def page(self, limit: int, choice: Choice | None = None) -> list[DeadLetter]:
        """The newest letters of a choice, newest first; the seq of the last is where the next page begins."""
        shown = max(0, min(limit, SHOWN_LIMIT))
        rows = await self._storage.read(lambda connection: table.newest(connection, shown, choice))
        return [DeadLetter.of_row(row) for row in rows]

    async def get(self, message_id: str) -> DeadLetter:
        """The letter of one message.

        Raises:
            DeadLetterNotFound: there is none.
        """
        return DeadLetter.of_row(await self._row(message_id))

    async def message(self, message_id: str) -> Message:
        """The message of a letter, as its sender sealed it.

        Raises:
            DeadLetterNotFound: there is none.
            MessageNotFound: an older version gave it up, and has not kept the message itself.
        """
        return _sealed(await self._row(message_id))

    async def retry(
        self, message_id: str, change: Redirection | None = None, *, force: bool = False
    ) -> Receipt:
        """Send the message of a letter again, as a new message.

        Args:
            message_id: The message that was given up.
            change: What is different this time.
            force: Send it although it was sent again before.

        Raises:
            DeadLetterNotFound: there is no such letter (any more).
            DeadLetterRetried: it was sent again before.
            CaxtonError: whatever the acceptance refuses.
        """
        change = change or Redirection()
        row = await self._row(message_id)
        if row.retried_as is not None and not force:
            raise _retried(row.message_id, row.retried_as)
        identifier, wall = self._environment.new_id(), self._environment.clock.wall()
        message = _again(_sealed(row), change, identifier, wall)

        def mark(connection: apsw.Connection, letter: Letter) -> None:
            if not table.mark_retried(connection, message_id, identifier, wall, again=force):
                raise _gone_meanwhile(connection, message_id)
            repeats = outbox_table.EventRow(letter.accepted_s, RETRY_OF, message_id)
            outbox_table.add_event(connection, letter.seq, repeats)
            earlier = outbox_table.find(connection, message_id)
            if earlier is not None:
                event = outbox_table.EventRow(wall, RETRIED, f"as {identifier}")
                outbox_table.add_event(connection, earlier.seq, event)

        receipt = await self._accept(
            message, hops=row.hops, ttl_s=change.ttl_s, cause=message_id, together_with=mark
        )
        self._retried += 1
        return receipt

    async def retry_all(
        self, choice: Choice, limit: int, change: Redirection | None = None, *, force: bool = False
    ) -> Retried:
        """Send the messages of the oldest letters of a choice again, one after the other.

        Args:
            choice: Which; without ``force`` those that were sent again before are left out.
            limit: Most letters, at most :data:`BULK_LIMIT`.
            change: What is different this time.
            force: Send also what was sent again before.
        """
        if not force:
            choice = dataclasses.replace(choice, retried=False)
        limit = min(limit, BULK_LIMIT)
        chosen = await self._storage.read(lambda connection: table.oldest(connection, limit + 1, choice))
        receipts: list[tuple[str, str]] = []
        refusals: list[Refusal] = []
        refused, last_seq = 0, None
        stopped_by: CaxtonError | None = None
        for seq, message_id in chosen[:limit]:
            try:
                receipt = await self.retry(message_id, change, force=force)
            except CaxtonError as error:
                if _concerns_all(error):
                    stopped_by = error
                    break
                refused += 1
                refusals.append(Refusal(message_id, error))
            else:
                receipts.append((message_id, receipt.message_id))
            last_seq = seq
        more = stopped_by is not None or len(chosen) > limit
        shown = tuple(refusals[:REFUSALS_SHOWN])
        return Retried(tuple(receipts), shown, refused, last_seq, more, stopped_by)

    async def drop(self, message_id: str) -> None:
        """Forget a letter.

        Raises:
            DeadLetterNotFound: there is none.
        """

        def job(connection: apsw.Connection) -> Totals:
            if not table.drop(connection, message_id):
                raise _not_found(message_id)
            return table.totals(connection)

        self._totals = await self._storage.write(job)
        self._dropped += 1

    async def drop_all(self, choice: Choice, limit: int) -> tuple[int, bool]:
        """Forget the oldest letters of a choice, at most :data:`BULK_LIMIT`.

        Returns:
            How many, and whether there are more of the choice.
        """
        limit = min(limit, BULK_LIMIT)

        def job(connection: apsw.Connection) -> tuple[int, bool, Totals]:
            gone = table.drop_all(connection, limit, choice)
            return gone, bool(table.oldest(connection, 1, choice)), table.totals(connection)

        dropped, more, self._totals = await self._storage.write(job)
        self._dropped += dropped
        return dropped, more

    def statistics(self) -> dict[str, int]:
        """How many there are and what they weigh, with the bounds; and what was done here since the start."""
        return {
            "count": self._totals.count,
            "count_limit": table.DEAD_LETTER_LIMIT,
            "bytes": self._totals.bytes,
            "bytes_limit": table.DEAD_LETTER_BYTES_LIMIT,
            "retried": self._retried,
            "dropped": self._dropped,
        }

    async def _row(self, message_id: str) -> table.DeadLetterRow:
        row = await self._storage.read(lambda connection: table.find(connection, message_id))
        if row is None:
            raise _not_found(message_id)
        return row


def _again(message: Message, change: Redirection, identifier: str, wall_s: float) -> Message:
    """The message that repeats another one: what belonged to the first attempt alone is new."""
    if change.receiver is not None and change.capability is not None:
        raise ValidationFailed(
            "a retry goes to a receiver or to a capability, not to both",
            fix="Give one of them.",
            details={"field": "receiver"},
        )
    again = replace(
        message,
        id=identifier,
        reply_with=identifier if message.reply_with == message.id else message.reply_with,
        reply_by_s=None,  # the sender's own time is up; how long this one may live says ttl_s
        timestamp_s=wall_s,
    )
    if change.is_elsewhere:
        again = replace(again, receiver=change.receiver, capability=change.capability, topic=None)
    return again


def _sealed(row: table.DeadLetterRow) -> Message:
    if row.sealed is None:
        raise MessageNotFound(
            f"the message {row.message_id[:80]!r} is not kept with its dead letter",
            why="an older version of Caxton has given it up",
            fix="Its content is in the letter's history; send it anew.",
        )
    return Message.unseal(row.sealed)


def _concerns_all(error: CaxtonError) -> bool:
    """Whether the next letter would fare no better: the disk, or the room in the outbox."""
    return isinstance(error, StorageFailed) or "capacity" in error.details


def _gone_meanwhile(connection: apsw.Connection, message_id: str) -> CaxtonError:
    row = table.find(connection, message_id)
    if row is None or row.retried_as is None:
        return _not_found(message_id)
    return _retried(message_id, row.retried_as)


def _not_found(message_id: str) -> DeadLetterNotFound:
    return DeadLetterNotFound(
        f"no dead letter of a message {message_id[:80]!r} is kept on this node",
        why="it was not given up here, was dropped, or has aged out",
        fix="`caxton dead-letters list` shows those there are; a letter is where its message was accepted.",
    )


def _retried(message_id: str, retried_as: str) -> DeadLetterRetried:
    return DeadLetterRetried(
        f"the dead letter of {message_id[:80]!r} was sent again before",
        why=f"that was message {retried_as}",
        fix="Look what became of that one first; force sends it once more.",
        details={"retried_as": retried_as},
    )
