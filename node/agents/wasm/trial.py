"""A WebAssembly agent outside of any node: what ``caxton wasm run`` does.

The module runs in the sandbox in which a node would run it, with the same grants and limits. What it keeps
lives as long as the trial; what it sends goes nowhere but into the result. What lies beyond the sandbox is
that of the trial, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from node.agents.wasm.agent import moment_of
from node.agents.wasm.calls import Call, Outcome, Progress
from node.agents.wasm.component import COMPONENT_LIMIT_BYTES
from node.agents.wasm.engine import GuestModule, WasmEngine, binary_of, guest_module
from node.agents.wasm.host import Moment, Phase
from node.agents.wasm.interface import check_size
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.sandbox import Sandbox
from node.agents.wasm.state import AgentState, StateChanges
from node.agents.wasm.timers import Timers
from node.agents.wasm.watch import Watch
from node.environment import Environment
from node.message import Message

NODE: Final = "trial"
"""Where an agent seems to run that runs nowhere."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one call, and how long it took on its worker, in seconds."""

    outcome: Outcome
    took_s: float


class Trial:
    """See the module's docstring; made by :func:`load_trial`.

    Args:
        module: The compiled and checked module.
        policy: What it may do.
        environment: Clock, chance, workers.
        compiled_s: How long compiling took, in seconds.
        outside: What lies beyond the sandbox; None for nothing.
    """

    def __init__(
        self,
        module: GuestModule,
        policy: WasmPolicy,
        environment: Environment,
        compiled_s: float,
        outside: Outside | None = None,
    ) -> None:
        self.compiled_s = compiled_s
        self._environment = environment
        self._sandbox = Sandbox(module, policy, NODE, outside)
        self._watch = Watch(environment, module.engine.tick, policy)
        self._state = AgentState({})
        self._timers = Timers()

    async def start(self) -> Step:
        """Start an instance, so that what it costs is not counted with the first message."""
        moment = moment_of(self._environment)
        return self._noted(await self._timed(lambda p: self._sandbox.start(p, moment)), moment)

    async def ask(self, message: Message) -> Step:
        """Have one message handled."""
        call = Call(Phase.MESSAGE, moment_of(self._environment), message)
        changes = StateChanges(self._state)
        timers = self._timers.running

        def make(progress: Progress) -> Outcome:
            self._sandbox.make([call], progress, changes, timers)
            return call.outcome or Outcome()

        step = self._noted(await self._timed(make), call.moment)
        self._state.apply(dict(changes.written))
        return step

    async def _timed(self, job: Callable[[Progress], Outcome]) -> Step:
        clock = self._environment.clock

        def timed(progress: Progress) -> Step:
            begun = clock.wall()  # a worker may not ask for the event loop's time
            outcome = job(progress)
            return Step(outcome, clock.wall() - begun)

        return await self._watch.run(timed)

    def _noted(self, step: Step, moment: Moment) -> Step:
        if step.outcome.error is not None:
            raise step.outcome.error
        self._timers.change(step.outcome.timers, moment.now_us)
        step.outcome.console = list(step.outcome.console)  # the next call goes on with the list of a start
        return step


async def load_trial(
    source: bytes,
    policy: WasmPolicy,
    environment: Environment,
    *,
    optimised: bool = True,
    outside: Outside | None = None,
) -> Trial:
    """Compile a module, as a node would but on every core, and make it ready.

    Args:
        source: WebAssembly, binary or text.
        policy: What it may do.
        environment: Clock, chance, workers.
        optimised: Whether its code is as fast as in a node, for which a large component takes its time.
        outside: What lies beyond its sandbox; None for nothing.

    Raises:
        InvalidWasm: it does not compile, or cannot be an agent with these grants.
    """
    begun = environment.clock.now()
    module = await environment.workers.run("wasm", partial(_module, source, policy, optimised))
    return Trial(module, policy, environment, environment.clock.now() - begun, outside)


def _module(source: bytes, policy: WasmPolicy, optimised: bool) -> GuestModule:
    binary = binary_of(source)
    check_size(binary, COMPONENT_LIMIT_BYTES)
    engine = WasmEngine(parallel=True, optimised=optimised)
    return guest_module(engine, engine.compile(binary), policy.grants)
