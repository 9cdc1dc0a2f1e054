"""The end of what handlers did: answers and settled marks, many in one write.

A worker hands over what its handler answered and goes on with the next message. One task makes messages of
the answers, writes them together with the settled marks of what they answer, and only then sends and tells.
Until then a message stands in its mailbox as handled, so that it is not read from disk again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import apsw
import msgspec
import trio

from node.environment import Environment
from node.errors import CaxtonError
from node.message import Message
from node.messaging.arrivals import Ended
from node.messaging.delivery import DRAFT_LIMIT, Draft, compose
from node.messaging.durably import durably
from node.messaging.handover import Handed, Handover
from node.messaging.inbox import Inbox
from node.messaging.letters import OPEN, Letter
from node.messaging.mailboxes import Entry
from node.messaging.outbox import Outbox
from node.messaging.receiver import ENDINGS, Handling, ItemState, end
from node.messaging.sealing import seal
from node.messaging.tail import Tail
from node.storage import outbox as table
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey
from node.vocabulary import Performative

_log = logging.getLogger(__name__)

BATCH: Final = 1_000
"""Most messages settled in one write."""
BACKLOG_LIMIT: Final = 4_000
"""Handled messages that wait to be settled; workers pause beyond it."""


_WRITTEN: Final = {
    handling: (end(ItemState.HELD, handling).value, int(handling is Handling.EXHAUSTED))
    for handling in Handling
}
"""The state of a message that ends, and how many runs of its handler failed that were not counted before."""


class Handled(msgspec.Struct, eq=False, gc=False):
    """One message that its handler is done with.

    Args:
        agent: Whose handler.
        entry: The message.
        handling: How it went.
        reason: Why it failed.
        drafts: What it answered.
        traceparent: W3C Trace Context of the handler's run.
        ended: Whether it has ended by this; false where it had ended before. Storage says so.
    """

    agent: str
    entry: Entry
    handling: Handling
    reason: str = ""
    drafts: Sequence[Draft] = ()
    traceparent: str = ""
    ended: bool = False


class Settlement:
    """See the module's docstring.

    Args:
        environment: Clock and ids.
        node: This node's name.
        storage: The node's database.
        inbox: Where the settled marks go.
        outbox: Where the answers go.
        max_bytes: Largest sealed message.
        on_settled: Told what is durable, or was settled before.
        tail: Told what happens to messages, while somebody listens.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        inbox: Inbox,
        outbox: Outbox,
        max_bytes: int,
        on_settled: Callable[[Sequence[Handled]], None],
        tail: Tail,
    ) -> None:
        self._environment, self._clock = environment, environment.clock
        self._node, self._storage = node, storage
        self._inbox, self._outbox = inbox, outbox
        self._handover = Handover(node=node, inbox=inbox, outbox=outbox, storage=storage)
        self._max_bytes, self._on_settled = max_bytes, on_settled
        self._tail = tail
        self._backlog: list[Handled] = []
        self._arrived = trio.Event()
        self._room = trio.Event()
        self._counts = dict.fromkeys(("handled", "answers"), 0)

    def add(self, handled: Handled) -> None:
        """Take a message that was handled."""
        if not self._backlog:
            self._arrived.set()
        self._backlog.append(handled)

    @property
    def full(self) -> bool:
        """Whether workers have to wait for :meth:`room`."""
        return len(self._backlog) >= BACKLOG_LIMIT

    async def room(self) -> None:
        """Wait until fewer messages wait to be settled."""
        while self.full:
            await self._room.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Settle what was handled until cancelled."""
        task_status.started()
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._backlog:
                batch, self._backlog = self._backlog[:BATCH], self._backlog[BATCH:]
                if not self.full:
                    self._room.set()
                    self._room = trio.Event()
                await self._settle(batch)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {"settling": len(self._backlog), "settling_limit": BACKLOG_LIMIT, **self._counts}

    async def _settle(self, batch: Sequence[Handled]) -> None:
        with self._inbox.ending() as wall:
            moment = self._outbox.moment()
            answers = {each.entry.seq: self._letters(each, moment) for each in batch if each.drafts}
            with self._handover.take([each for several in answers.values() for each in several]) as handed:
                done = await self._end(batch, answers, handed, wall)
                letters = self._tell(batch, answers, done)
                if letters:
                    self._counts["answers"] += len(letters)
                    self._outbox.admit(letters)
                handed.stored()
        self._on_settled(batch)

    async def _end(
        self, batch: Sequence[Handled], answers: dict[int, list[Letter]], handed: Handed, wall: float
    ) -> set[int]:
        """Write down how messages ended, and their answers; returns the rows of those that ended by this."""
        ends = []
        for each in batch:
            entry = each.entry
            state, uncounted = _WRITTEN[each.handling]
            ends.append((state, wall, each.reason, entry.started_s, uncounted, entry.seq))
        settling = self._settling(batch) if self._handover.is_worth_it(len(batch)) else {}

        def job(connection: apsw.Connection) -> set[int]:
            done = set(self._inbox.finish(connection, ends))
            letters = [letter for seq, several in answers.items() if seq in done for letter in several]
            withdrawn = {each.seq for seq, several in answers.items() if seq not in done for each in several}
            if letters:
                self._outbox.insert(connection, letters)
            handed.store(connection, withdrawn)
            settled = [row for seq, (_, row) in settling.items() if seq in done]
            if settled:
                table.finish_with_route(connection, settled)
            return done

        done = await durably(self._storage, self._clock, job)
        self._outbox.end_is_written([name for seq, (name, _) in settling.items() if seq in done])
        self._outbox.not_settled([name for seq, (name, _) in settling.items() if seq not in done])
        return done

    def _settling(self, batch: Sequence[Handled]) -> dict[int, tuple[str, table.EndWithRoute]]:
        """This very node's messages that were handled, by row, and how that is written at their origin."""
        mine = {
            each.entry.message.id: each
            for each in batch
            if each.entry.origin == self._node and end(ItemState.HELD, each.handling) is ItemState.SETTLED
        }
        keys = [DeliveryKey(name, each.agent, each.entry.epoch) for name, each in mine.items()]
        rows = self._outbox.settling(keys) if keys else {}
        return {mine[name].entry.seq: (name, row) for name, row in rows.items()}

    def _tell(
        self, batch: Sequence[Handled], answers: dict[int, list[Letter]], done: set[int]
    ) -> list[Letter]:
        """Tell what has ended by this; returns the answers to it, which are to be sent."""
        ended: list[tuple[Ended, Sequence[str]]] = []
        letters: list[Letter] = []
        watched = bool(self._tail.listeners)
        for handled in batch:
            entry = handled.entry
            caused = answers.get(entry.seq, ())
            if entry.seq not in done:  # it had ended before: nothing of it was written
                self._outbox.not_written(caused)
                continue
            handled.ended = True
            letters += caused
            key = DeliveryKey(entry.message.id, handled.agent, entry.epoch)
            state = ENDINGS[handled.handling]
            replies = [letter.message.id for letter in caused if letter.answers is not None] if caused else ()
            ended.append((Ended(entry.origin, key, state, handled.reason), replies))
            self._counts["handled"] += handled.handling is Handling.SUCCEEDED
            if watched:
                self._tail.handled(entry.message, handled.agent, state, handled.reason)
        self._inbox.ended(ended)
        return letters

    def _letters(self, handled: Handled, moment: tuple[float, float]) -> list[Letter]:
        """The answers as messages; what cannot be sent becomes a FAILURE that says why."""
        entry, drafts = handled.entry, handled.drafts
        letters = []
        for draft in drafts[:DRAFT_LIMIT]:
            message, sealed = self._seal(handled, draft, moment[1])
            letter = self._outbox.prepare(
                message,
                sealed,
                at=moment,
                traceparent=handled.traceparent,
                hops=entry.hops + 1,
                ttl_s=None,
            )
            letter.cause = entry.message.id
            if self._goes_back(letter, entry):
                letter.answers = entry.seq
            letters.append(letter)
        if len(drafts) > DRAFT_LIMIT:
            _log.warning("%s answered with %d messages; %d are sent", handled.agent, len(drafts), DRAFT_LIMIT)
        return letters

    def _goes_back(self, letter: Letter, entry: Entry) -> bool:
        """Whether an answer goes to the node its message came from, which is another one."""
        if entry.origin == self._node or letter.ended != OPEN:
            return False
        return (letter.message.receiver or "").endswith(f"@{entry.origin}")

    def _seal(self, handled: Handled, draft: Draft, wall_s: float) -> tuple[Message, bytes]:
        try:
            message = self._compose(handled, draft, wall_s)
            return message, seal(message, self._max_bytes)
        except CaxtonError as error:
            content = {"code": error.code, "reason": str(error)[:1_000], "fix": error.fix}
        except (TypeError, ValueError, AttributeError) as error:  # a draft of the wrong types
            content = {
                "code": CaxtonError.code,
                "reason": f"the agent's answer is no message: {error}"[:1_000],
            }
        message = self._compose(handled, Draft(Performative.FAILURE, content), wall_s)
        return message, message.seal()

    def _compose(self, handled: Handled, draft: Draft, wall_s: float) -> Message:
        return compose(
            draft,
            handled.entry.message,
            sender=f"{handled.agent}@{self._node}",
            identifier=self._environment.new_id(),
            wall_s=wall_s,
        )
