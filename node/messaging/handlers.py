"""The agents of this node: a mailbox and workers for each, and what becomes of what their handlers answer.

A worker takes a message, runs the handler, and writes its answers together with the settled mark. A handler
that raises a CaxtonError has answered: with FAILURE. One that raises anything else is tried again, in place,
so that order holds; after :data:`HANDLER_ATTEMPTS` runs the message has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import apsw
import trio

from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded, invariant
from node.message import Message, Performative
from node.messaging.decisions import NO_SUCH_AGENT
from node.messaging.delivery import DRAFT_LIMIT, Delivery, Draft, Handler, compose, failure_content
from node.messaging.inbox import STOPPED, Inbox
from node.messaging.letters import OPEN, Letter
from node.messaging.mailboxes import Entry, Mailbox
from node.messaging.outbox import Outbox
from node.messaging.ports import Tracer
from node.messaging.receiver import Handling
from node.messaging.recording import record_mailbox
from node.messaging.sealing import seal
from node.messaging.settings import HANDLER_ATTEMPTS, Timing
from node.recording.tape import Recorder

_log = logging.getLogger(__name__)

AGENT_LIMIT: Final = 10_000
"""Most agents attached, and most stopped ones remembered."""
PAUSE_S: Final = 0.1
"""Pause of a worker before a handler that raised is run again, and while the outbox is overfull."""


@dataclass(slots=True, eq=False)
class _Agent:
    name: str
    handler: Handler
    mailbox: Mailbox
    concurrency: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    arrivals: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    idle: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    draining: bool = False
    refilling: bool = False

    @property
    def busy(self) -> bool:
        return len(self.mailbox) > 0 or self.mailbox.running > 0


class Handlers:
    """All agents attached to this node's bus.

    Args:
        environment: Clock and ids.
        node: This node's name.
        outbox: Takes what they answer.
        tracing: Starts a span per handler run.
        settings: The section ``messaging``.
        timing: Times beside it.
        recorder: Writes down what goes into the mailboxes, if they are to be replayed.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        outbox: Outbox,
        tracing: Tracer,
        settings: MessagingConfig,
        timing: Timing,
        recorder: Recorder | None = None,
    ) -> None:
        self._environment = environment
        self._clock = environment.clock
        self._node = node
        self._outbox = outbox
        self._tracing = tracing
        self._settings = settings
        self._timing = timing
        self._recorder = recorder
        self._inbox: Inbox  # given by use_inbox: each of the two needs the other
        self._agents: dict[str, _Agent] = {}
        self._stopped: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None
        self._unclaimed_until = environment.clock.now() + timing.agent_wait_s
        self._counts = dict.fromkeys(("handled", "raised", "answers"), 0)

    def use_inbox(self, inbox: Inbox) -> None:
        """Give the inbox, which needs these handlers in turn."""
        self._inbox = inbox

    def attach(self, agent: str, handler: Handler, *, capacity: int, concurrency: int) -> None:
        """Deliver the agent's messages to ``handler`` from now on, those held for it first.

        Raises:
            ResourceLimitExceeded: too many agents.
        """
        invariant(agent not in self._agents, f"agent {agent} is attached already")
        invariant(capacity > 0 and concurrency > 0, "an agent needs room for at least one message")
        if len(self._agents) >= AGENT_LIMIT:
            raise ResourceLimitExceeded(
                "too many agents on this node", why=f"the limit is {AGENT_LIMIT}", fix="Stop some of them."
            )
        self._stopped.pop(agent, None)
        recorder = self._recorder
        mailbox = Mailbox(capacity) if recorder is None else record_mailbox(recorder, agent, capacity)
        attached = self._agents[agent] = _Agent(agent, handler, mailbox, concurrency)
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
        if agent in self._stopped:
            return STOPPED
        return "" if self._clock.now() < self._unclaimed_until else NO_SUCH_AGENT

    def offer(self, agent: str, entry: Entry) -> None:
        """Put a stored message into its agent's mailbox, if there is one."""
        found = self._agents.get(agent)
        if found is not None:
            found.mailbox.offer(entry)
            found.arrivals.unpark()

    def raise_epoch(self, agent: str, seq: int, epoch: int) -> None:
        """A held message was delivered again under a higher epoch."""
        found = self._agents.get(agent)
        if found is not None:
            found.mailbox.raise_epoch(seq, epoch)

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
            try:
                for agent in self._agents.values():
                    nursery.start_soon(self._run_agent, agent)
                task_status.started()
                await self._clock.sleep_until(self._unclaimed_until)
                await self._inbox.refuse_unclaimed(self._agents.__contains__)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "agents": len(self._agents),
            "agents_limit": AGENT_LIMIT,
            "mailboxes": sum(len(agent.mailbox) for agent in self._agents.values()),
            "running": sum(agent.mailbox.running for agent in self._agents.values()),
            **self._counts,
        }

    # Workers

    async def _run_agent(self, agent: _Agent) -> None:
        try:
            with agent.scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(agent.concurrency):
                        nursery.start_soon(self._work, agent)
        finally:
            agent.gone.set()

    async def _work(self, agent: _Agent) -> None:
        while True:
            entry = await self._next(agent)
            try:
                await self._handle(agent, entry)
            finally:
                agent.mailbox.done(entry)
                agent.arrivals.unpark()
                if not agent.busy:
                    agent.idle.set()

    async def _next(self, agent: _Agent) -> Entry:
        while True:
            entry = agent.mailbox.take()
            if entry is not None:
                return entry
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

    async def _handle(self, agent: _Agent, entry: Entry) -> None:
        while self._outbox.overfull:
            await self._clock.sleep(PAUSE_S)
        inbox = self._inbox
        while True:
            if self._clock.now() >= entry.deadline:
                await inbox.finish(
                    agent.name, entry, Handling.EXPIRED, "its time was up before it was handled"
                )
                return
            with self._tracing.span("message.handle", parent=entry.traceparent, kind="consumer") as span:
                drafts = await self._call(agent, entry, span.traceparent or entry.traceparent)
                if drafts is not None:
                    await self._settle(agent, entry, drafts, span.traceparent or entry.traceparent)
                    return
            if entry.attempts + 1 >= HANDLER_ATTEMPTS:
                reason = f"its handler raised {HANDLER_ATTEMPTS} times"
                await inbox.finish(agent.name, entry, Handling.EXHAUSTED, reason)
                return
            await inbox.count_attempt(entry)
            await self._clock.sleep(PAUSE_S)

    async def _call(self, agent: _Agent, entry: Entry, traceparent: str) -> Sequence[Draft] | None:
        """What the handler answers, or None when it raised."""
        deadline = entry.deadline
        delivery = Delivery(
            entry.message, entry.origin, traceparent, entry.attempts + 1, entry.hops, deadline
        )
        try:
            return list(await agent.handler(delivery))
        except CaxtonError as error:
            return [Draft(Performative.FAILURE, failure_content(error))]
        except Exception:  # an agent's bug is the agent's failure, never the node's end
            self._counts["raised"] += 1
            _log.exception("the handler of %s raised on message %s", agent.name, entry.message.id)
            return None

    async def _settle(self, agent: _Agent, entry: Entry, drafts: Sequence[Draft], traceparent: str) -> None:
        letters = self._letters(agent, entry, drafts, traceparent)
        replies = self._replies(entry, letters)
        for letter in replies:
            letter.answers = entry.seq

        def insert(connection: apsw.Connection) -> None:
            for letter in letters:
                self._outbox.insert(connection, letter)

        if await self._inbox.finish(
            agent.name,
            entry,
            Handling.SUCCEEDED,
            together_with=insert if letters else None,
            replies=[letter.message.id for letter in replies],
        ):
            self._counts["handled"] += 1
            self._counts["answers"] += len(letters)
            self._outbox.admit(letters)

    def _replies(self, entry: Entry, letters: Sequence[Letter]) -> list[Letter]:
        """The answers that go back to the node the message came from, if it is another one."""
        if entry.origin == self._node:
            return []
        back = f"@{entry.origin}"
        return [
            letter
            for letter in letters
            if letter.ended == OPEN and (letter.message.receiver or "").endswith(back)
        ]

    def _letters(
        self, agent: _Agent, entry: Entry, drafts: Sequence[Draft], traceparent: str
    ) -> list[Letter]:
        """The answers as messages; what cannot be sent becomes a FAILURE that says why."""
        letters = []
        for draft in drafts[:DRAFT_LIMIT]:
            message, sealed = self._seal(agent, entry, draft)
            letters.append(
                self._outbox.prepare(
                    message, sealed, traceparent=traceparent, hops=entry.hops + 1, ttl_s=None
                )
            )
        if len(drafts) > DRAFT_LIMIT:
            _log.warning("%s answered with %d messages; %d are sent", agent.name, len(drafts), DRAFT_LIMIT)
        return letters

    def _seal(self, agent: _Agent, entry: Entry, draft: Draft) -> tuple[Message, bytes]:
        try:
            message = self._compose(agent, entry, draft)
            return message, seal(message, self._settings.max_message_bytes)
        except CaxtonError as error:
            content = {"code": error.code, "reason": str(error)[:1_000], "fix": error.fix}
        except (TypeError, ValueError, AttributeError) as error:  # a draft of the wrong types
            content = {
                "code": CaxtonError.code,
                "reason": f"the agent's answer is no message: {error}"[:1_000],
            }
        message = self._compose(agent, entry, Draft(Performative.FAILURE, content))
        return message, message.seal()

    def _compose(self, agent: _Agent, entry: Entry, draft: Draft) -> Message:
        return compose(
            draft,
            entry.message,
            sender=f"{agent.name}@{self._node}",
            identifier=self._environment.new_id(),
            wall_s=self._clock.wall(),
        )
