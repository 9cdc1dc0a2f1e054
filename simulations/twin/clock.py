"""The time of a twin: the simulator's timeline, driven by the machine's clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from simulations.timeline import US_PER_S, Process, Timeline, no_earlier_us
from simulations.trace import Trace

IDLE_S: Final = 1.0
"""Longest sleep when nothing is planned."""


class RealTimeline(Timeline):
    """Happenings at real times; it stands still until :meth:`begin_at`, then :meth:`run` drives it.

    Args:
        seed: Chance follows from it; time does not.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.trace = Trace()
        self._origin_s: float | None = None
        self._planned = trio.Event()

    @property
    def now_us(self) -> int:
        """Microseconds since the run began."""
        return 0 if self._origin_s is None else round(self.of_monotonic(time.monotonic()) * US_PER_S)

    def begin_at(self, now_s: float) -> None:
        """Let it be so many seconds since the run began; nothing may be planned yet."""
        self._origin_s = time.monotonic() - now_s

    def of_monotonic(self, seconds: float) -> float:
        """A reading of the machine's monotonic clock, in seconds since the run began."""
        return seconds - (self._origin_s or 0.0)

    def at(self, time: float, callback: Callable[[], None]) -> None:
        """Call something at a time of the run; a time that has passed means now."""
        if time < math.inf:
            self.at_us(no_earlier_us(time), callback)

    def at_us(
        self, us: int, function: Callable[..., None], *args: Any, process: Process | None = None
    ) -> None:
        """Plan ``function(*args)`` for an instant; see :meth:`Timeline.at_us`."""
        super().at_us(us, function, *args, process=process)
        self._planned.set()

    def record(self, who: str, what: str) -> None:
        """Add a line to the trace: the first word of ``what`` is its verb."""
        self.trace.add(self.now_us, who, *what.split(" ", 1))

    async def run(self) -> None:
        """Let happen what is due, for ever."""
        while True:
            self._planned = trio.Event()
            due_us = self.due_us()
            if due_us is not None and due_us <= self.now_us:
                self.step()
                continue
            wait_s = IDLE_S if due_us is None else (due_us - self.now_us) / US_PER_S
            with trio.move_on_after(wait_s):
                await self._planned.wait()
