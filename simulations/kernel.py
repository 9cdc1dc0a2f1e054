"""The world a simulated cluster of whole nodes lives in: the timeline under Trio, and one trace.

Everything that happens to a node from outside (a packet arrives, a timer fires, a scope's deadline passes)
is a happening on a :class:`simulations.timeline.Timeline`, run by one Trio task under a
:class:`trio.testing.MockClock` that jumps to the next deadline as soon as every task is blocked. A process
that crashed is fenced first: from that instant on nothing it still tries to do has an effect.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TextIO, TypeVar

import apsw
import trio
import trio._core._run as trio_run
import trio.testing

from node.errors import invariant
from simulations.disk import DiskLayer
from simulations.timeline import EPOCH_S, US_PER_S, Process, Timeline, no_earlier_us
from simulations.trace import Trace

__all__ = ["EPOCH_S", "Process", "Stuck", "World", "run"]

T = TypeVar("T")

TRACE_LIMIT = 2_000_000
"""Last lines a trace keeps; the hash covers all."""


class World(Timeline):
    """The timeline, the trace and the source of chance of one run under Trio.

    Args:
        seed: Everything random follows from it.
        disks: SQLite's files, on the disks that are plugged in.
        sink: Where the trace is written.
    """

    def __init__(self, seed: int, disks: DiskLayer, sink: TextIO | None = None) -> None:
        super().__init__(seed)
        self.disks = disks
        self.trace = Trace(TRACE_LIMIT, sink)
        self._earlier = trio.Event()

    @property
    def now_us(self) -> int:
        """Virtual microseconds since the run began, as Trio's clock says."""
        return round(self.now() * US_PER_S)

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return trio.current_time()  # noqa: TID251 - the simulator is the clock

    def record(self, who: str, what: str) -> None:
        """Add a line to the trace: the first word of ``what`` is its verb."""
        self.trace.add(self.now_us, who, *what.split(" ", 1))

    def at(self, time: float, callback: Callable[[], None], process: Process | None = None) -> None:
        """Run ``callback`` at ``time``; if ``process`` is paused then, when it is resumed."""
        if time < math.inf:
            self.at_us(no_earlier_us(time), callback, process=process)

    def at_us(
        self, us: int, function: Callable[..., None], *args: Any, process: Process | None = None
    ) -> None:
        """Plan a happening, and look at the clock again if it is the next one."""
        super().at_us(us, function, *args, process=process)
        if self._heap[0][1] == self._sequence - 1:
            self._earlier.set()

    async def run(self) -> None:
        """Let things happen, until cancelled."""
        while True:
            self._earlier = trio.Event()
            due_us = self.due_us()
            if due_us is None:
                await self._earlier.wait()
                continue
            with trio.move_on_at(due_us / US_PER_S):
                await self._earlier.wait()
            while (due_us := self.due_us()) is not None and due_us / US_PER_S <= self.now():
                self.step()


class Stuck(Exception):
    """The scenario did not end within its limit of virtual time."""


def run(
    scenario: Callable[[World], Awaitable[T]],
    seed: int,
    *,
    limit_s: float = 86_400.0,
    sink: TextIO | None = None,
) -> T:
    """Run ``scenario`` in a new world, deterministically.

    Args:
        scenario: What to do.
        seed: Everything random follows from it.
        limit_s: Virtual seconds after which it is given up.
        sink: Where the trace is written, too.

    Raises:
        Stuck: the limit was reached; without one a world in which nothing more happens would wait for ever.

    Trio draws the order of ready tasks from a private generator and lets it be seeded only when told so;
    both are private names of the pinned Trio, and ``tests/simulations`` has a canary for them.
    """
    invariant(hasattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "this Trio schedules in another way")
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    disks = DiskLayer(seed)
    apsw.randomness(0)

    async def main() -> T:
        world = World(seed, disks, sink)
        with trio.move_on_after(limit_s):  # noqa: TID251 - the simulator is the clock
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.run)
                result = await scenario(world)
                nursery.cancel_scope.cancel()
            return result
        raise Stuck(f"seed {seed}: not done after {limit_s} s of virtual time")

    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)
        disks.unregister()
        apsw.randomness(0)
