"""Makes the calls of a batch on a worker, with one instance that is kept or fresh as the policy says.

After any failure the instance is thrown away and the next message gets a fresh one, so that nothing a
guest left half done is ever seen again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from node.agents.wasm.calls import BATCH_FUEL, Call, Outcome, Progress
from node.agents.wasm.engine import Guest, GuestModule
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import Moment, Phase, Said
from node.agents.wasm.messages import Sending, guest_message
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.state import StateChanges

_Job = Callable[[Guest, Outcome], None]


class Sandbox:
    """See the module's docstring; used by one worker at a time.

    Args:
        module: What its instances are of.
        policy: Their bounds.
        node: The name of this node.
        outside: What lies beyond it; None for nothing.
    """

    def __init__(
        self, module: GuestModule, policy: WasmPolicy, node: str, outside: Outside | None = None
    ) -> None:
        self._module = module
        self._policy = policy
        self._node = node
        self._outside = outside
        self._instance: Guest | None = None
        self._timers: frozenset[int] = frozenset()
        self._progress = Progress()
        self.instances = 0

    def make(
        self, batch: list[Call], progress: Progress, changes: StateChanges, timers: frozenset[int]
    ) -> None:
        """Make the calls in order; those that are left when the batch ends early have no outcome."""
        self._progress = progress
        self._timers = timers
        used = 0
        for index, call in enumerate(batch):
            progress.call = index
            outcome = self._make(call, changes)
            if progress.cancelled:
                changes.drop()
                return
            call.outcome = outcome
            if outcome.failure is None and outcome.error is None:
                changes.keep()
                self._timers = (self._timers - set(outcome.timers)) | {
                    timer for timer, delay in outcome.timers.items() if delay is not None
                }
            else:
                changes.drop()
            used += self._policy.fuel if self._instance is None else outcome.fuel_used
            if self._policy.fresh:
                self._instance = None
            if used > BATCH_FUEL or outcome.slept_us or progress.waited_s:
                return

    @property
    def tells_capabilities(self) -> bool:
        """Whether the module says what it offers."""
        return "get_capabilities" in self._module.has

    def start(self, progress: Progress, moment: Moment) -> Outcome:
        """Have an instance, so that a module that does not start is known at its deployment."""
        self._progress = progress
        progress.call = 0

        def begin(instance: Guest, outcome: Outcome) -> None:
            outcome.console, outcome.timers = instance.said.console, instance.said.timers
            instance.host.said = Said()

        return self._guarded(moment, begin)

    def capabilities(self, progress: Progress, moment: Moment) -> bytes | GuestFailed:
        """What the module says it offers."""
        self._progress = progress
        progress.call = 0
        try:
            return self._started(moment).capabilities(moment)
        except GuestFailed as error:
            self._instance = None
            return error

    def shut_down(self, progress: Progress, moment: Moment) -> Outcome:
        """Let the guest shut down, within its limits, and throw the instance away."""
        self._progress = progress
        progress.call = 0
        if self._instance is None:
            return Outcome()
        outcome = self._guarded(moment, lambda instance, outcome: instance.shut_down(moment))
        self._instance = None
        return outcome

    def is_stopped(self) -> bool:
        """Whether the call being made must end."""
        return self._progress.is_stopped()

    def _make(self, call: Call, changes: StateChanges) -> Outcome:
        data = b"" if call.message is None else guest_message(call.message)
        moment = call.moment
        if self._policy.deterministic:
            seed = hashlib.blake2b(data or f"{call.timer} {moment.now_us}".encode(), digest_size=16).digest()
            now_us = moment.now_us if call.message is None else int(call.message.timestamp_s * 1_000_000)
            moment = Moment(now_us, seed)

        def exchange(instance: Guest, outcome: Outcome) -> None:
            if self._outside is not None:
                instance.host.errands = self._outside.errands(call, self._progress)
            if call.phase is Phase.TIMER:
                said = instance.handle_timer(call.timer, moment, changes, self._timers)
            else:
                said = instance.handle(data, moment, changes, self._timers)
            sending = Sending(self._node, self._policy, call.phase)
            outcome.drafts = [sending.draft(way, sent) for way, sent in said.sent]
            outcome.timers, outcome.slept_us = said.timers, said.slept_us
            outcome.counts = said.counts

        return self._guarded(moment, exchange)

    def _guarded(self, moment: Moment, job: _Job) -> Outcome:
        outcome = Outcome()
        try:
            job(self._started(moment), outcome)
        except GuestFailed as error:
            outcome.failure, outcome.console = error, error.console
        except Exception as error:  # a bug of the host fails this call, not those beside it in the batch
            outcome.error = error
        finally:
            if self._instance is not None:
                outcome.console = outcome.console or self._instance.host.end()
                outcome.fuel_used = self._instance.fuel_used
                outcome.memory_bytes = self._instance.memory_bytes
        if outcome.failure is not None or outcome.error is not None:
            self._instance = None
            outcome.drafts, outcome.timers = [], {}
        return outcome

    def _started(self, moment: Moment) -> Guest:
        if self._instance is None:
            self.instances += 1
            self._instance = self._module.instance(self._policy, moment, self.is_stopped)
        return self._instance
