"""Runs guest code on a worker, and ends each call in it by the wall clock at the latest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from node.agents.grants import Grant
from node.agents.wasm.calls import Progress
from node.agents.wasm.hops import CHECKS, Expectation, Hops
from node.agents.wasm.policy import WasmPolicy
from node.environment import Environment

T = TypeVar("T")

_WAITS: Final = frozenset((Grant.MEMORY, Grant.TOOLS))
"""With these a guest may wait for the event loop: in a lane of its own, or all others would wait, too."""
DETERMINISTIC_TIMEOUT_S: Final = 30.0
"""Wall time for one message in deterministic mode, where only instructions are meant to count."""


class Watch:
    """See the module's docstring.

    Args:
        environment: Clock and workers.
        tick: Has every guest that runs asked whether it must end.
        policy: How long a call may take.
        hops: Takes short turns to a worker together with those of other guests.
    """

    def __init__(
        self, environment: Environment, tick: Callable[[], None], policy: WasmPolicy, hops: Hops | None = None
    ) -> None:
        self._environment = environment
        self._clock = environment.clock
        self._tick = tick
        self._lane = "wasm_waiting" if _WAITS & policy.grants else "wasm"
        self._hops = hops if self._lane == "wasm" else None
        self._expectation = Expectation()
        self._timeout_s = policy.timeout_s
        if policy.deterministic:
            self._timeout_s = max(policy.timeout_s, DETERMINISTIC_TIMEOUT_S)

    async def run_with_others(self, job: Callable[[Progress], T], calls: int) -> T:
        """The same as :meth:`run` for so many calls, in a hop with other guests if they are likely short."""
        if self._hops is None or not self._expectation.is_short:
            return await self.run(job)
        found: T = await self._hops.run(job, calls, self._timeout_s, self._expectation)
        return found

    def took(self, fuel: int) -> None:
        """The longest call of a job took so many instructions, which tells what to expect of the next."""
        self._expectation.took(fuel)

    async def run(self, job: Callable[[Progress], T]) -> T:
        """Run guest code; ``job`` says in its :class:`Progress` which call it is making."""
        progress, raised = Progress(), list[Exception]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, progress)
            try:
                return await self._environment.workers.run(self._lane, job, progress)
            except Exception as error:  # as it is, not in the nursery's group
                raised.append(error)
            finally:
                nursery.cancel_scope.cancel()
        raise raised[0]

    def _own_s(self, progress: Progress, since: float) -> float:
        """Seconds of a call that began at ``since``, without those that it waited."""
        now = self._clock.now()
        return now - since - progress.waited(now)

    async def _watch(self, progress: Progress) -> None:
        """End each call when its time is up, counted from when it has a worker, not from when it waits."""
        timeout_s = self._timeout_s
        seen, since = -1, 0.0
        try:
            while True:
                await self._clock.sleep(timeout_s / CHECKS)
                if progress.call != seen:
                    seen, since = progress.call, self._clock.now()
                elif seen >= 0 and self._own_s(progress, since) >= timeout_s * (1 - 1 / CHECKS):
                    progress.expired = seen
                    self._tick()
        finally:  # a caller that goes away ends the guest too
            progress.cancelled = True
            self._tick()
