"""Tells agents which answers have not come by the time that they named.

Theory of operation. A message of an agent that wants an answer and names a ``reply_by`` leaves a row beside
it, in the transaction that accepts it. At its time the tables say who of those asked has answered: whoever
has promised to (``agree``) has not. If somebody is missing, one transaction drops the row, declares further
answers late, and accepts a FAILURE with the code ``REPLY_TIMEOUT`` for the sender; so it is told once,
whatever crashes. A message that was not even handled by then has ended by itself, and its sender is told by
that end (:func:`node.messaging.dead_letters.undelivered`); here only its answers become late.

Messages without ``reply_by`` cost one look at a field. Clients wait for themselves, over HTTP: they are not
told. A subscription stands until it is cancelled: its ``reply_by`` ends nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import trio

from node.environment import Environment
from node.errors import StorageFailed
from node.message import Message
from node.messaging import dead_letters
from node.messaging.durably import durably
from node.messaging.letters import Letter
from node.messaging.outbox import Outbox
from node.messaging.receiver import ItemState
from node.messaging.settings import HOP_LIMIT
from node.storage import expectations as table
from node.storage import inbox, outbox
from node.storage.storage import Storage
from node.vocabulary import Performative

_log = logging.getLogger(__name__)

EXPECTED_LIMIT: Final = 50_000
"""Most replies waited for at once; a message beyond it is accepted, and its ``reply_by`` is not watched."""
BATCH: Final = 200
"""Most messages that are looked at in one read."""
ANSWER_LIMIT: Final = 1_000
"""Most answers to one message that are looked through."""
LOOK_S: Final = 5.0
"""Longest pause between two looks at the clock: it may have been set, or a message taken back from disk."""
AGAIN_S: Final = 0.5
"""Pause where the disk has refused, or the end of a message is still to be written."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A message that somebody has not answered.

    Args:
        row: It, as it is stored.
        message: The same, decoded.
        missing: Who was asked and has not answered, ``agent@node``; nobody where nobody was asked.
        promised: Those of them who had agreed to.
    """

    row: outbox.OutboxRow
    message: Message
    missing: list[str]
    promised: list[str]


class Expectations:
    """See the module's docstring.

    Args:
        environment: Clock and ids.
        node: This node's name.
        storage: The node's database.
        outbox: Takes what tells the senders.
    """

    def __init__(self, *, environment: Environment, node: str, storage: Storage, outbox: Outbox) -> None:
        self._environment, self._clock = environment, environment.clock
        self._node, self._storage, self._outbox = node, storage, outbox
        self._expected = 0
        self._soonest = math.inf
        self._attention = trio.Event()
        self._counts = dict.fromkeys(("reply_timeouts", "unwatched"), 0)

    async def load(self) -> None:
        """Learn what is expected from before the start."""
        self._expected = await self._storage.read(table.count)
        await self._find_soonest()

    def write(self, connection: apsw.Connection, letters: Iterable[Letter]) -> None:
        """Write what is expected of messages that are accepted; part of the caller's job."""
        if not self._is_full:
            for letter in letters:
                reply_by_s = letter.message.reply_by_s or 0.0
                table.add(connection, letter.seq, reply_by_s)
                self._soonest = min(self._soonest, reply_by_s)  # of those, too, that come back from disk

    def written(self, letters: Sequence[Letter]) -> None:
        """What :meth:`write` was given is durable."""
        if self._is_full:
            self._counts["unwatched"] += len(letters)
            return
        self._expected += len(letters)
        self._attention.set()  # one of them may be due before all others

    @property
    def _is_full(self) -> bool:
        """Whether no more is watched: such messages stay on disk until their time."""
        return self._expected >= EXPECTED_LIMIT or self._outbox.kept.sent_is_full

    async def run(self) -> None:
        """Tell who waits in vain until cancelled."""
        while True:
            pause_s = min(self._soonest - self._clock.wall(), LOOK_S)
            with self._clock.move_on_after(max(0.0, pause_s)):
                await self._attention.wait()
            self._attention = trio.Event()
            if self._clock.wall() < self._soonest:
                continue
            try:
                found = await self._due()
                if found:
                    await self._end(found)
                await self._find_soonest()
                if self._soonest > self._clock.wall():
                    continue
            except StorageFailed as error:
                _log.warning("who has not answered in time cannot be read yet: %s", error)
            await self._clock.sleep(AGAIN_S)  # what is due is still open: it ends within a sweep

    async def give_up(self, message_id: str) -> None:
        """Who has asked waits no more: what answers from now on is late, unless an answer is here.

        Where the disk refuses, that holds until the next start only (``node.messaging.conversations``).
        """

        def job(connection: apsw.Connection) -> None:
            row = outbox.find(connection, message_id)
            if row is None:
                return
            table.drop(connection, [row.seq])
            if _silence(connection, row) is not None:
                outbox.no_more_answers(connection, row.seq, self._node)

        try:
            await self._storage.write(job)
            self._expected = await self._storage.read(table.count)
        except StorageFailed as error:
            _log.warning("that nobody waits for a reply to %s is not on disk: %s", message_id, error)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {"expected": self._expected, "expected_limit": EXPECTED_LIMIT, **self._counts}

    async def _due(self) -> list[outbox.OutboxRow]:
        wall = self._clock.wall()

        def query(connection: apsw.Connection) -> list[outbox.OutboxRow]:
            found = (outbox.get(connection, seq) for seq in table.due(connection, wall, BATCH))
            return [row for row in found if row is not None]

        return await self._storage.read(query)

    async def _end(self, due: Sequence[outbox.OutboxRow]) -> None:
        """Tell the senders of these who has not answered, and declare late what comes after this."""
        told: list[Letter] = []

        def job(connection: apsw.Connection) -> None:
            told.clear()  # the disk may have refused the time before
            for row in due:
                silence = _silence(connection, row)
                if silence is not None:
                    outbox.no_more_answers(connection, row.seq, self._node)
                    if not _is_told_by_its_end(silence):
                        told.append(letters[row.seq])
            table.drop(connection, [row.seq for row in due])
            if told:
                self._outbox.insert(connection, told)

        letters = await self._storage.read(
            lambda connection: {
                row.seq: self._letter(silence) for row in due if (silence := _silence(connection, row))
            }
        )
        await durably(self._storage, self._clock, job)
        self._counts["reply_timeouts"] += len(told)
        self._outbox.admit(told)
        self._expected = await self._storage.read(table.count)

    def _letter(self, silence: Silence) -> Letter:
        """The FAILURE for the sender of a message, numbered and routed, and not accepted yet."""
        row, at = silence.row, self._outbox.moment()
        error = dead_letters.no_reply_in_time(
            silence.message, missing=silence.missing, promised=silence.promised
        )
        message = dead_letters.failure(
            silence.message,
            error,
            node=self._node,
            identifier=self._environment.new_id(),
            wall_s=at[1],
        )
        letter = self._outbox.prepare(
            message,
            message.seal(),
            at=at,
            traceparent=row.traceparent,
            hops=min(row.hops, HOP_LIMIT),
            ttl_s=None,
        )
        letter.cause = row.message_id
        return letter

    async def _find_soonest(self) -> None:
        found = await self._storage.read(table.soonest)
        self._soonest = math.inf if found is None else found


def _is_told_by_its_end(silence: Silence) -> bool:
    """Whether the sender has been told already, because the message itself was given up."""
    return silence.row.state != "settled" and dead_letters.sender_is_told(silence.message)


def _silence(connection: apsw.Connection, row: outbox.OutboxRow) -> Silence | None:
    """Who has not answered a message that has ended; None when everybody has who is expected to."""
    message = Message.unseal(row.sealed)
    asker = message.sender.partition("@")[0]
    asked = [f"{route.agent}@{route.node}" for route in outbox.routes(connection, row.seq)]
    answered: dict[str, None] = {}
    agreed: dict[str, None] = {}
    for reply in inbox.answers(connection, message.reply_with, asker, (0, 1 << 62), ANSWER_LIMIT):
        if reply.state in (ItemState.REFUSED, ItemState.LATE):
            continue
        answer = Message.unseal(reply.sealed)
        (agreed if answer.performative is Performative.AGREE else answered)[answer.sender] = None
    missing = [address for address in asked if address not in answered]
    if answered and not (row.broadcast and missing):
        return None
    return Silence(row, message, missing, [address for address in missing if address in agreed])
