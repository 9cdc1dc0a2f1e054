"""The agents of this node: a mailbox and workers for each, and what becomes of what their handlers answer.

A worker takes a message, runs the handler (:mod:`node.messaging.runs`), and hands its answers to
:mod:`node.messaging.settlement`, which writes them together with the settled mark. Where the handler takes
several messages at once, a worker takes all that are ready, one of each lane, and those that something has to
be awaited for go their own way meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded, invariant
from node.messaging.blobs import Blobs
from node.messaging.client_mailboxes import ClientMailboxes
from node.messaging.decisions import NO_SUCH_AGENT
from node.messaging.delivery import BatchHandler, Handler, handler_of_one
from node.messaging.inbox import STOPPED, Inbox
from node.messaging.mailboxes import Entry, Mailbox
from node.messaging.outbox import Outbox
from node.messaging.partial_sources import PartialSources
from node.messaging.ports import Tracer
from node.messaging.protocols import is_plain
from node.messaging.recording import record_mailbox
from node.messaging.referee import Referee
from node.messaging.runs import PAUSE_S, Runs, goes_along
from node.messaging.settings import Timing
from node.messaging.settlement import Handled, Settlement
from node.messaging.tail import Tail
from node.recording.tape import Recorder
from node.storage.storage import Storage

_log = logging.getLogger(__name__)

AGENT_LIMIT: Final = 10_000
"""Most agents attached, and most stopped ones remembered."""
STREAK: Final = 64
"""Messages that one worker handles before it lets other tasks run."""


@dataclass(slots=True, eq=False)
class _Agent:
    name: str
    handler: Handler
    mailbox: Mailbox
    concurrency: int
    batches: BatchHandler | None = None
    alone: int = 0
    """Messages that are not handled in batches, and are being handled."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    arrivals: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    idle: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    draining: bool = False
    refilling: bool = False

    @property
    def busy(self) -> bool:
        return len(self.mailbox) > 0 or self.mailbox.running > 0 or self.mailbox.handled > 0


class Handlers:
    """All agents attached to this node's bus.

    Args:
        environment: Clock and ids.
        node: This node's name.
        storage: The node's database.
        outbox: Takes what they answer.
        tracing: Starts a span per handler run.
        settings: The section ``messaging``.
        timing: Times beside it.
        tail: Told what happens to messages, while somebody listens.
        clients: Mailboxes that no agent but clients read.
        blobs: Has the content of large attachments, and takes it.
        sources: Shows answers while they are made.
        recorder: Writes down what goes into the mailboxes, if they are to be replayed.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        outbox: Outbox,
        tracing: Tracer,
        settings: MessagingConfig,
        timing: Timing,
        tail: Tail,
        clients: ClientMailboxes,
        blobs: Blobs,
        sources: PartialSources,
        recorder: Recorder | None = None,
    ) -> None:
        self._clients, self._blobs, self._sources = clients, blobs, sources
        self._environment = environment
        self._clock = environment.clock
        self._node = node
        self._storage = storage
        self._outbox = outbox
        self._tracing = tracing
        self._settings = settings
        self._timing = timing
        self._tail = tail
        self._recorder = recorder
        self._inbox: Inbox  # given by use_inbox: each of the two needs the other
        self._settlement: Settlement
        self._runs: Runs
        self._agents: dict[str, _Agent] = {}
        self._referee = Referee(node=node, storage=storage)
        self._stopped: dict[str, None] = {}
        self._ruled_out: dict[int, None] = {}  # rows of clients' mailboxes that wait to be settled
        self._nursery: trio.Nursery | None = None
        self._unclaimed_until = environment.clock.now() + timing.agent_wait_s

    def use_inbox(self, inbox: Inbox) -> None:
        """Give the inbox, which needs these handlers in turn."""
        self._inbox = inbox
        self._runs = Runs(
            environment=self._environment,
            referee=self._referee,
            outbox=self._outbox,
            tracing=self._tracing,
            blobs=self._blobs,
            sources=self._sources,
            inbox=inbox,
        )
        self._settlement = Settlement(
            environment=self._environment,
            node=self._node,
            storage=self._storage,
            inbox=inbox,
            outbox=self._outbox,
            max_bytes=self._settings.max_message_bytes,
            on_settled=self._settled,
            tail=self._tail,
        )

    def attach(self, agent: str, handler: Handler | BatchHandler, *, capacity: int, concurrency: int) -> None:
        """Deliver the agent's messages to ``handler`` from now on, those held for it first.

        Raises:
            ResourceLimitExceeded: too many agents.
        """
        invariant(agent not in self._agents, f"agent {agent} is attached already")
        invariant(not self._clients.knows(agent), f"{agent} is the mailbox of a client")
        invariant(capacity > 0 and concurrency > 0, "an agent needs room for at least one message")
        if len(self._agents) >= AGENT_LIMIT:
            raise ResourceLimitExceeded(
                "too many agents on this node", why=f"the limit is {AGENT_LIMIT}", fix="Stop some of them."
            )
        self._stopped.pop(agent, None)
        recorder = self._recorder
        mailbox = Mailbox(capacity) if recorder is None else record_mailbox(recorder, agent, capacity)
        batches = handler if isinstance(handler, BatchHandler) else None
        attached = self._agents[agent] = _Agent(agent, handler_of_one(handler), mailbox, concurrency, batches)
        if self._nursery is not None:
            self._nursery.start_soon(self._run_agent, attached)

    async def detach(self, agent: str, *, drain_s: float) -> None:
        """Stop delivering: what waits is handled for ``drain_s`` at most, the rest goes back."""
        found = self._agents.get(agent)
        if found is None:
            return
        found.draining = True
        if self._nursery is not None:
            with self._clock.move_on_after(drain_s):
                while found.busy:
                    found.idle = trio.Event()
                    await found.idle.wait()
            found.scope.cancel(reason="the agent is detached")
            await found.gone.wait()
            while found.mailbox.handled:  # what was handled is written: nobody else may be given it
                found.idle = trio.Event()
                await found.idle.wait()
        if self._agents.get(agent) is found:
            del self._agents[agent]
        self._stopped[agent] = None
        if len(self._stopped) > AGENT_LIMIT:
            del self._stopped[next(iter(self._stopped))]
        await self._inbox.refuse_held(agent, STOPPED)

    def refusal(self, agent: str) -> str:
        """Why an agent takes no messages; the empty string when it does, or may still come."""
        found = self._agents.get(agent)
        if found is not None:
            return STOPPED if found.draining else ""
        if self._clients.knows(agent):
            return self._clients.refusal(agent)
        if agent in self._stopped:
            return STOPPED
        return "" if self._clock.now() < self._unclaimed_until else NO_SUCH_AGENT

    def capacity(self, agent: str) -> int:
        """Most messages that are to wait for an agent, be it one that has not come yet."""
        found = self._agents.get(agent)
        if found is not None:
            return found.mailbox.capacity
        if self._clients.knows(agent):
            return self._clients.capacity
        return self._settings.mailbox_capacity

    def offer(self, agent: str, entries: Sequence[Entry]) -> None:
        """Put stored messages into their agent's mailbox, if there is one, and wake workers.

        As many are woken as take all of them at once where handlers end without waiting; who finds more
        than it takes wakes the next (:meth:`_next`).
        """
        found = self._agents.get(agent)
        if found is not None:
            offer = found.mailbox.offer
            for entry in entries:
                offer(entry)
            found.arrivals.unpark(count=1 + len(entries) // STREAK)
        elif self._clients.knows(agent):
            for entry in entries:
                self._clients.arrived(agent, entry)

    async def in_protocol(self, client: str, entries: Sequence[Entry]) -> list[Entry]:
        """Those messages of a client's mailbox that the client may be given; the others are answered."""
        found = []
        for entry in entries:
            if is_plain(entry.message):
                found.append(entry)
                continue
            while self._outbox.overfull:
                await self._clock.sleep(PAUSE_S)
            ruled_out = await self._runs.judged(client, entry)
            if ruled_out is None:
                found.append(entry)
                continue
            if entry.seq not in self._ruled_out:  # another client of the mailbox may have come to it before
                self._ruled_out[entry.seq] = None
                self._settlement.add(ruled_out)
            if self._settlement.full:
                await self._settlement.room()
        return found

    def raise_epoch(self, agent: str, seq: int, epoch: int) -> None:
        """A held message was delivered again under a higher epoch."""
        found = self._agents.get(agent)
        if found is not None:
            found.mailbox.raise_epoch(seq, epoch)

    def running_since(self, agent: str, message_id: str) -> float | None:
        """Unix seconds at which the handler run began in which a message is now; None when it is in none."""
        return self._runs.running_since(agent, message_id)

    def load(self) -> float:
        """How busy the agents are, 0.0 to 1.0: half workers, half mailboxes."""
        workers = sum(agent.concurrency for agent in self._agents.values())
        room = sum(agent.mailbox.capacity for agent in self._agents.values())
        if not workers:
            return 0.0
        running = sum(agent.mailbox.running for agent in self._agents.values())
        waiting = sum(len(agent.mailbox) for agent in self._agents.values())
        return min(1.0, 0.5 * running / workers + 0.5 * waiting / room)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the workers of all agents until cancelled."""
        self._unclaimed_until = self._clock.now() + self._timing.agent_wait_s
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._settlement.run)
            try:
                for agent in self._agents.values():
                    nursery.start_soon(self._run_agent, agent)
                task_status.started()
                await self._clock.sleep_until(self._unclaimed_until)
                await self._inbox.refuse_unclaimed(lambda n: n in self._agents or self._clients.knows(n))
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def statistics(self) -> dict[str, int | dict[str, int]]:
        """Counts and sizes."""
        return {
            "agents": len(self._agents),
            "agents_limit": AGENT_LIMIT,
            "mailboxes": sum(len(agent.mailbox) for agent in self._agents.values()),
            "running": sum(agent.mailbox.running for agent in self._agents.values()),
            **self._runs.statistics(),
            **self._settlement.statistics(),
            "protocol": self._referee.statistics(),
        }

    # Workers

    async def _run_agent(self, agent: _Agent) -> None:
        try:
            with agent.scope:
                async with trio.open_nursery() as nursery:
                    if agent.batches is not None:
                        for _ in range(agent.batches.runs):
                            nursery.start_soon(self._work_batches, agent, agent.batches, nursery)
                        return
                    for _ in range(agent.concurrency):
                        nursery.start_soon(self._work, agent)
        finally:
            agent.gone.set()

    async def _work(self, agent: _Agent) -> None:
        streak, answered = 0, True
        while True:
            entry = agent.mailbox.take()
            if entry is None:
                entry, answered = await self._next(agent), True
            handled: Handled | None = None
            try:
                if answered:  # else there is as much room as before, for all that this worker knows
                    await self._runs.room()
                handled = await self._runs.one(agent.name, agent.handler, entry)
            finally:
                self._done(agent, entry, handled)
            answered = bool(handled.drafts)
            streak += 1
            if self._settlement.full:
                await self._settlement.room()
            elif streak >= STREAK:
                streak = 0
                await trio.lowlevel.checkpoint()

    def _done(self, agent: _Agent, entry: Entry, handled: Handled | None) -> None:
        """A message was handled, or left as it was; its lane is open, and what follows is the worker's."""
        agent.mailbox.done(entry)
        if handled is None:
            agent.mailbox.forget(entry)
            self._see_whether_idle(agent)
        else:
            self._settlement.add(handled)

    async def _work_batches(self, agent: _Agent, batches: BatchHandler, nursery: trio.Nursery) -> None:
        batch: list[Entry] = []
        try:
            while True:
                await self._fill(agent, batch, batches.limit, nursery)
                ran = await self._runs.several(agent.name, batches, batch)
                taken = {handled.entry.seq for handled in ran.handled}
                taken.update(entry.seq for entry in ran.raised)
                batch = [entry for entry in batch if entry.seq not in taken]
                for handled in ran.handled:
                    agent.mailbox.done(handled.entry)
                    self._settlement.add(handled)
                for entry in ran.raised:
                    self._start_alone(agent, entry, nursery, again=True)
                if self._settlement.full:
                    await self._settlement.room()
                else:
                    await trio.lowlevel.checkpoint()
        finally:
            for entry in batch:  # they stay as they were in storage
                agent.mailbox.done(entry)
                agent.mailbox.forget(entry)
            self._see_whether_idle(agent)

    async def _fill(self, agent: _Agent, batch: list[Entry], limit: int, nursery: trio.Nursery) -> None:
        """Add what is ready to what a batch has left; waits until there is something."""
        while True:
            while len(batch) < limit and agent.alone < agent.concurrency:
                entry = agent.mailbox.take()
                if entry is None:
                    break
                if goes_along(entry):
                    batch.append(entry)
                else:
                    self._start_alone(agent, entry, nursery)
            if batch:
                if agent.mailbox.has_ready:
                    agent.arrivals.unpark()
                return
            await self._wait(agent)

    def _start_alone(
        self, agent: _Agent, entry: Entry, nursery: trio.Nursery, *, again: bool = False
    ) -> None:
        """Handle a message beside the batches."""
        agent.alone += 1
        nursery.start_soon(self._alone, agent, entry, again)

    async def _alone(self, agent: _Agent, entry: Entry, again: bool) -> None:
        handled: Handled | None = None
        try:
            if again:
                await self._runs.count_attempt(entry)
            await self._runs.room()
            handled = await self._runs.one(agent.name, agent.handler, entry)
        finally:
            self._done(agent, entry, handled)
            agent.alone -= 1
            agent.arrivals.unpark()  # its lane is open, and there is a place for another

    def _settled(self, batch: Sequence[Handled]) -> None:
        """What was handled is durable: it needs its place no more."""
        settled: dict[str, _Agent] = {}
        for handled in batch:
            agent = settled.get(handled.agent) or self._agents.get(handled.agent)
            if agent is not None:
                settled[handled.agent] = agent
                agent.mailbox.forget(handled.entry)
            if handled.entry.seq in self._ruled_out:
                del self._ruled_out[handled.entry.seq]
                if handled.ended:
                    self._clients.ruled_out(handled.agent, handled.entry.seq)
        for agent in settled.values():
            self._see_whether_idle(agent)

    def _see_whether_idle(self, agent: _Agent) -> None:
        if agent.arrivals and agent.mailbox.spilled:
            agent.arrivals.unpark()  # there is room to look for more
        if not agent.busy or (agent.gone.is_set() and not agent.mailbox.handled):
            agent.idle.set()

    async def _next(self, agent: _Agent) -> Entry:
        """Wait for a message; another worker is woken when there are more."""
        while True:
            await self._wait(agent)
            entry = agent.mailbox.take()
            if entry is not None:
                if agent.mailbox.has_ready:
                    agent.arrivals.unpark()
                return entry

    async def _wait(self, agent: _Agent) -> None:
        """Wait for messages, or look for those that had no place in the mailbox."""
        if agent.mailbox.spilled and not agent.refilling and agent.mailbox.room and not agent.draining:
            agent.refilling = True
            try:
                await self._refill(agent)
            finally:
                agent.refilling = False
        else:
            await agent.arrivals.park()

    async def _refill(self, agent: _Agent) -> None:
        mailbox = agent.mailbox
        try:
            found, exhausted = await self._inbox.read_held(agent.name, mailbox.room, mailbox.knows)
        except CaxtonError as error:
            _log.warning("the mailbox of %s cannot be refilled: %s", agent.name, error)
            await self._clock.sleep(PAUSE_S)
            return
        mailbox.refill(found, exhausted=exhausted)
        agent.arrivals.unpark_all()
