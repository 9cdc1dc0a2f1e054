"""A WebAssembly agent: its messages and timers become calls of a sandboxed guest, and what comes out is sent.

A call ends by its fuel (the same instruction count everywhere) or, should a host be slow or an instruction
dear, by the wall clock. Values it stored are durable before any of its answers leaves. An agent that fails
too often is quarantined: it answers FAILURE without being called until an operator starts it again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from node.agents.deployed import AgentBus, Store
from node.agents.journal import Journal
from node.agents.wasm.calls import Call, Outcome, Sandboxes
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import COUNTERS_LIMIT, SEED_BYTES, SEEDS_AT_ONCE, Moment, Phase
from node.agents.wasm.messages import is_reply
from node.agents.wasm.policy import QUARANTINE_WINDOW_S, WasmPolicy
from node.agents.wasm.rate import Rate
from node.agents.wasm.state import AgentState, StateChanges
from node.agents.wasm.timers import Timers
from node.agents.wasm.watch import Watch
from node.environment import Environment
from node.errors import CaxtonError, InvalidWasm, ValidationFailed
from node.message import Message, check_capability
from node.messaging.delivery import Answer, Delivery, Draft
from node.storage.agent_state import write_agent_state
from node.telemetry.tracing import Span, Tracing
from node.tools.spans import child_span
from node.vocabulary import Performative

if TYPE_CHECKING:
    from node.agents.wasm.sandbox import Sandbox

Failed = Callable[[str], None]


class WasmAgent:
    """See the module's docstring; made by :meth:`node.agents.wasm.runtime.WasmRuntime.load`."""

    def __init__(
        self,
        sandboxes: Sequence[Sandbox],
        *,
        agent: str,
        node: str,
        environment: Environment,
        tracing: Tracing,
        journal: Journal,
        policy: WasmPolicy,
        state: AgentState,
        store: Store | None,
        bus: AgentBus | None,
        watch: Watch,
        on_quarantine: Failed,
    ) -> None:
        self._agent, self._node = agent, node
        self._environment = environment
        self._clock = environment.clock
        self._tracing = tracing
        self._journal = journal
        self._policy = policy
        self._state = state
        self._store = store
        self._bus = bus
        self._on_quarantine = on_quarantine
        self._sandboxes = sandboxes
        self._watch = watch
        self._calls = Sandboxes(sandboxes)
        self._rate = Rate(policy.messages_per_s)
        self._timers = Timers()
        self._counts: dict[str, float] = {}
        self._seeds: list[bytes] = []  # drawn, and not used
        self._timers_changed = trio.Event()
        self._timers_scope = trio.CancelScope()
        self._failures: deque[float] = deque(maxlen=policy.quarantine_after)
        self._quarantined = ""

    def begin(self, outcome: Outcome, moment: Moment) -> None:
        """Take over what came of the start of an instance at a moment.

        Raises:
            InvalidWasm: it does not start within its limits.
        """
        self._hear(outcome)
        if outcome.failure is not None:
            raise InvalidWasm(
                "the WebAssembly module does not start",
                why=outcome.failure.reason,
                details=_traced(outcome.failure),
            )
        self._change_timers(outcome, moment)

    async def capabilities(self) -> tuple[str, ...]:
        """What the module says it offers.

        Raises:
            InvalidWasm: it says nothing, or nothing that can be read.
        """
        if not self._sandboxes[0].tells_capabilities:
            raise InvalidWasm(
                "the WebAssembly module names no capabilities",
                why="it does not export get_capabilities",
                fix="Export it, or deploy the module with an agent file that names them.",
            )
        moment = moment_of(self._environment)
        raw = await self._watch.run(lambda progress: self._sandboxes[0].capabilities(progress, moment))
        try:
            names = json.loads(raw) if isinstance(raw, bytes) else None
            if not isinstance(names, list) or not names:
                raise InvalidWasm("the module's capabilities cannot be read", why=str(raw)[:200])
            return tuple(check_capability(name) for name in names)
        except (ValueError, RecursionError, ValidationFailed):
            raise InvalidWasm("the module's capabilities cannot be read", why=str(raw)[:200]) from None

    @property
    def instances(self) -> int:
        """How many batches can be made at once."""
        return self._policy.instances

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message; whatever the guest does, the answer is drafts or one FAILURE.

        Raises:
            Exception: the node itself failed.
        """
        [answer] = await self.handle_many((delivery,))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def handle_many(self, deliveries: Sequence[Delivery]) -> list[Answer]:
        """Answer the first so many of several messages in one hop to a worker: each for itself, in order."""
        if self._quarantined:
            failure = GuestFailed("quarantine", self._quarantined)
            return [[_failure(failure, delivery.message)] for delivery in deliveries]
        with ExitStack() as stack:
            spans = [self._span(stack, delivery) for delivery in deliveries]
            calls = self._messages(deliveries, spans)
            async with self._calls.one() as sandbox:
                await self._make(sandbox, calls)
            answers: list[Answer] = []
            for call, delivery, span in zip(calls, deliveries, spans, strict=True):
                if call.outcome is None:  # the batch has ended before it
                    break
                answer = self._answer(call.outcome, delivery.message)
                answers.append(answer)
                if span is not None and _is_failure(answer):
                    span.fail("the guest failed")
        return answers

    def _messages(self, deliveries: Sequence[Delivery], spans: Sequence[Span | None]) -> list[Call]:
        now_us = int(self._clock.wall() * 1_000_000)
        return [
            Call(
                Phase.MESSAGE,
                Moment(now_us, self._seed()),
                delivery.message,
                traceparent="" if span is None else span.traceparent,
            )
            for delivery, span in zip(deliveries, spans, strict=True)
        ]

    def _seed(self) -> bytes:
        if not self._seeds:
            drawn = self._environment.randomness.token(SEED_BYTES * SEEDS_AT_ONCE)
            self._seeds = [drawn[at : at + SEED_BYTES] for at in range(0, len(drawn), SEED_BYTES)]
        return self._seeds.pop()

    def _span(self, stack: ExitStack, delivery: Delivery) -> Span | None:
        if not delivery.traceparent:  # not even a span that records nothing
            return None
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": self._agent,
            "gen_ai.conversation.id": delivery.message.conversation_id,
        }
        return stack.enter_context(
            child_span(self._tracing, "agent.handle", delivery.traceparent, attributes)
        )

    async def run_timers(self) -> None:
        """Call the guest's timers when they are due, until the agent is closed."""
        with self._timers_scope:
            await self._run_timers()

    async def _run_timers(self) -> None:
        while True:
            due_us = self._timers.next_us()
            self._timers_changed = trio.Event()
            if due_us is None:
                await self._timers_changed.wait()
                continue
            with self._clock.move_on_after(max(0.0, due_us / 1_000_000 - self._clock.wall())):
                await self._timers_changed.wait()
                continue
            for timer, at_us in self._timers.take_due(int(self._clock.wall() * 1_000_000)):
                await self._fire(timer, at_us)

    async def aclose(self) -> None:
        """Let the guest shut down, within its limits, and throw its instances away."""
        self._timers_scope.cancel()
        moment = moment_of(self._environment)
        for sandbox in self._sandboxes:
            self._hear(await self._watch.run(partial(sandbox.shut_down, moment=moment)))

    def statistics(self) -> dict[str, Any]:
        """Its state, timers and waiting calls."""
        return {
            "state": self._state.statistics(),
            "timers": len(self._timers),
            "counters": dict(sorted(self._counts.items())),
            "waiting": self._calls.waiting,
            "instances_started": sum(sandbox.instances for sandbox in self._sandboxes),
            "quarantined": self._quarantined,
        }

    async def _make(self, sandbox: Sandbox, batch: list[Call]) -> None:
        """Make the calls of a batch, and carry out what they asked for."""
        changes = StateChanges(self._state)
        timers = self._timers.running
        await self._watch.run_with_others(
            lambda progress: sandbox.make(batch, progress, changes, timers), len(batch)
        )
        made = [call for call in batch if call.outcome is not None]
        self._watch.took(
            max((call.outcome.fuel_used for call in made if call.outcome is not None), default=0)
        )
        try:
            await self._keep(changes)
        except CaxtonError as error:
            for call in made:
                call.outcome = Outcome(error=error)
            return
        except BaseException:  # cancelled before it was written: no answer may leave
            for call in made:
                call.outcome = None
            raise
        slept_us = 0
        for call in made:
            assert call.outcome is not None
            self._hear(call.outcome)
            for name, value in call.outcome.counts.items():
                if name in self._counts or len(self._counts) < COUNTERS_LIMIT:
                    self._counts[name] = self._counts.get(name, 0.0) + value
            self._change_timers(call.outcome, call.moment)
            slept_us += call.outcome.slept_us
        if slept_us:
            await self._clock.sleep(slept_us / 1_000_000)

    async def _keep(self, changes: StateChanges) -> None:
        written = dict(changes.written)
        if not written:
            return
        if self._store is not None:
            await self._store.write(lambda connection: write_agent_state(connection, self._agent, written))
        self._state.apply(written)

    async def _fire(self, timer: int, at_us: int) -> None:
        if self._quarantined:
            return
        now = moment_of(self._environment)
        moment = Moment(at_us, now.seed) if self._policy.deterministic else now
        call = Call(Phase.TIMER, moment, timer=timer)
        async with self._calls.one() as sandbox:
            await self._make(sandbox, [call])
        outcome = call.outcome
        assert outcome is not None  # the first call of a batch is made
        if outcome.error is not None:
            self._journal.log("error", f"timer {timer}: {outcome.error}")
            return
        failure = outcome.failure or self._over_rate(outcome.drafts)
        if failure is not None:
            self._journal.log("error", f"timer {timer}: {failure.reason}", **_traced(failure))
            self._count_failure(failure)
            return
        for draft in outcome.drafts:
            try:
                await self._send(draft)
            except CaxtonError as error:
                self._journal.log("error", f"timer {timer}: {error}", code=error.code)

    async def _send(self, draft: Draft) -> None:
        identifier = self._environment.new_id()
        message = Message(
            id=identifier,
            performative=draft.performative,
            sender=f"{self._agent}@{self._node}",
            receiver=draft.receiver,
            capability=draft.capability,
            topic=draft.topic,
            content=draft.content,
            conversation_id=self._environment.new_id(),
            reply_with=identifier,
            protocol=draft.protocol,
            routing_strategy=draft.routing_strategy,
            timestamp_s=self._clock.wall(),
        )
        if self._bus is not None:
            await self._bus.accept(message)

    def _hear(self, outcome: Outcome) -> None:
        for level, text in outcome.console:
            self._journal.log(level, text)

    def _change_timers(self, outcome: Outcome, moment: Moment) -> None:
        if outcome.timers:
            self._timers.change(outcome.timers, moment.now_us)
            self._timers_changed.set()

    def _over_rate(self, drafts: Sequence[Draft]) -> GuestFailed | None:
        others = sum(not is_reply(draft) for draft in drafts)
        if not others or self._rate.take(others, self._clock.now()):
            return None
        return GuestFailed("rate", f"more than {self._policy.messages_per_s} messages to others in a second")

    def _count_failure(self, failure: GuestFailed) -> None:
        now = self._clock.now()
        self._failures.append(now)
        full = len(self._failures) == self._policy.quarantine_after
        if full and now - self._failures[0] <= QUARANTINE_WINDOW_S and not self._quarantined:
            self._quarantined = (
                f"quarantined after {len(self._failures)} failures within {QUARANTINE_WINDOW_S:.0f} s,"
                f" the last: {failure.reason}"
            )
            self._journal.log("error", self._quarantined)
            self._on_quarantine(self._quarantined)

    def _answer(self, outcome: Outcome, message: Message) -> Answer:
        if outcome.error is not None:
            return outcome.error
        failure = outcome.failure or self._over_rate(outcome.drafts)
        if failure is None and not outcome.drafts and message.expects_reply:
            failure = GuestFailed("answer", "the module sent no answer")
        if failure is None:
            self._journal.log("info", f"answered with {len(outcome.drafts)} messages")
            return outcome.drafts
        self._journal.log("error", failure.reason, message_id=message.id, **_traced(failure))
        if failure.limit != "answer":
            self._count_failure(failure)
        return [_failure(failure, message)]


def moment_of(environment: Environment) -> Moment:
    """The world as a call sees it that is made now."""
    return Moment(int(environment.clock.wall() * 1_000_000), environment.randomness.token(SEED_BYTES))


def _traced(failure: GuestFailed) -> dict[str, Any]:
    """The functions in which it happened, innermost first, as a field of a log record."""
    return {"backtrace": list(failure.frames)} if failure.frames else {}


def _failure(failure: GuestFailed, message: Message) -> Draft:
    return Draft(Performative.FAILURE, failure.content(), protocol=message.protocol)


def _is_failure(answer: Answer) -> bool:
    return isinstance(answer, Exception) or any(d.performative is Performative.FAILURE for d in answer)
