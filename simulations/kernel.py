"""The world a simulated cluster of whole nodes lives in: the timeline under Trio, and one trace.

Everything that happens to a node from outside (a packet arrives, a timer fires, a scope's deadline passes)
is a happening on a :class:`simulations.timeline.Timeline`. Trio's clock is a virtual one: whenever every task
is blocked it goes on to the next happening, and lets it happen there and then, between two passes of the
event loop. A process that crashed is fenced first: from that instant on nothing it still tries to do has an
effect.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable
from typing import TextIO, TypeVar

import apsw
import trio
import trio._core._run as trio_run

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
        self._now_s = 0.0
        self._void: set[int] = set()

    @property
    def now_us(self) -> int:
        """Virtual microseconds since the run began."""
        return round(self._now_s * US_PER_S)

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return self._now_s

    def record(self, who: str, what: str) -> None:
        """Add a line to the trace: the first word of ``what`` is its verb."""
        self.trace.add(self.now_us, who, *what.split(" ", 1))

    def at(self, time: float, callback: Callable[[], None], process: Process | None = None) -> int | None:
        """Run ``callback`` at ``time``; if ``process`` is paused then, when it is resumed.

        Returns:
            What :meth:`drop` takes, None for a time that never comes.
        """
        if time == math.inf:
            return None
        self.at_us(no_earlier_us(time), callback, process=process)
        return self._sequence - 1

    def drop(self, planned: int | None) -> None:
        """Drop what was planned and has not happened; once it has, do not ask."""
        if planned is not None:
            self._void.add(planned)

    def due_us(self) -> int | None:
        """When the next happening is planned that was not dropped, or None when nothing is."""
        while self._heap and self._heap[0][1] in self._void:
            self._void.discard(heapq.heappop(self._heap)[1])
        return super().due_us()

    def resume(self, process: Process) -> None:
        """Let a paused process go on, without what was dropped meanwhile."""
        held = self._held.get(process, [])
        self._void.difference_update(dropped := self._void.intersection(entry[1] for entry in held))
        held[:] = [entry for entry in held if entry[1] not in dropped]
        super().resume(process)

    def leap(self, to_us: int, skipped_us: int) -> None:
        """Set the clock ahead; what concerns processes happens as long after the leap as it would have.

        Args:
            to_us: The time after it.
            skipped_us: When everything else happens that was planned for the time between.
        """
        moved_us = to_us - self.now_us
        self._now_s = to_us / US_PER_S
        for number, (us, sequence, process, *what) in enumerate(self._heap):
            later_us = us + moved_us if process is not None else us
            if process is None and us < to_us:
                later_us = skipped_us
            self._heap[number] = (later_us, sequence, process, *what)  # type: ignore[assignment]
        heapq.heapify(self._heap)

    def go_on(self, deadline_s: float) -> None:
        """Set the clock to the next happening, or to an earlier deadline, and let happen what is due then."""
        due_us = self.due_us()
        next_s = deadline_s if due_us is None else min(deadline_s, due_us / US_PER_S)
        if next_s == math.inf:
            raise Stuck(f"seed {self.seed}: nothing is planned after {self._now_s} s")
        self._now_s = max(self._now_s, next_s)
        while (due_us := self.due_us()) is not None and due_us / US_PER_S <= self._now_s:
            self.step()


class WorldClock(trio.abc.Clock):
    """Trio's clock in a world: it stands while a task can run, and goes on when none can.

    Args:
        world: Whose time it tells.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._failure: BaseException | None = None
        self._failed: trio.Event | None = None

    def start_clock(self) -> None:
        """Nothing needs to be started."""

    def current_time(self) -> float:
        """Virtual seconds."""
        return self._world.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Sleep never; Trio asks when no task can run, and that is when time goes on."""
        try:
            self._world.go_on(deadline)
        except Exception as error:  # raised again in a task; here Trio itself would break
            self._failure = error
            if self._failed is None:
                raise
            self._failed.set()
        return 0.0

    async def watch(self) -> None:
        """Raise what a happening has raised."""
        self._failed = trio.Event()
        await self._failed.wait()
        raise self._failure or Stuck("a happening failed without an error")


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
    world = World(seed, disks, sink)
    clock = WorldClock(world)

    async def main() -> T:
        with trio.move_on_after(limit_s):  # noqa: TID251 - the simulator is the clock
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clock.watch)
                result = await scenario(world)
                nursery.cancel_scope.cancel()
            return result
        raise Stuck(f"seed {seed}: not done after {limit_s} s of virtual time")

    try:
        return trio.run(main, clock=clock)
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)
        disks.unregister()
        apsw.randomness(0)
