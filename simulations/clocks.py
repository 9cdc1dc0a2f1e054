"""The clocks of one simulated machine: they may run fast or slow, and be set wrong.

A machine has a monotonic clock, which starts at a number of its own and may drift, and a wall clock. Both
follow from the true time, which only the simulator knows.
"""

from __future__ import annotations

from simulations.timeline import EPOCH_S, US_PER_S, no_earlier_us


class MachineClock:
    """Monotonic and wall time of one machine.

    Args:
        start_s: What its monotonic clock shows when the run begins.
        rate: Monotonic seconds per true second.
        wall_offset_s: How far its wall clock is ahead.

    Attributes:
        rate: Monotonic seconds per true second.
        wall_offset_s: How far its wall clock is ahead.
    """

    __slots__ = ("_base_local_s", "_base_us", "rate", "wall_offset_s")

    def __init__(self, start_s: float = 0.0, rate: float = 1.0, wall_offset_s: float = 0.0) -> None:
        self._base_us = 0
        self._base_local_s = start_s
        self.rate = rate
        self.wall_offset_s = wall_offset_s

    def local(self, us: int) -> float:
        """What the monotonic clock shows at a true time, in seconds."""
        return self._base_local_s + (us - self._base_us) * self.rate / US_PER_S

    def true_us(self, local_s: float) -> int:
        """The first true microsecond at which the monotonic clock shows a time or a later one."""
        us = self._base_us + no_earlier_us((local_s - self._base_local_s) / self.rate)
        while self.local(us) < local_s:
            us += 1
        return us

    @property
    def is_drifting(self) -> bool:
        """Whether its monotonic clock does not run as its wall clock does."""
        return self.rate != 1.0

    def wall(self, us: int) -> float:
        """What the wall clock shows at a true time, in seconds since the epoch."""
        return EPOCH_S + us / US_PER_S + self.wall_offset_s

    def change(self, us: int, *, rate: float | None = None, wall_offset_s: float | None = None) -> None:
        """Run at another rate from now on, or set the wall clock.

        Args:
            us: The true time.
            rate: Monotonic seconds per true second.
            wall_offset_s: How far the wall clock is ahead from now on.
        """
        self._base_local_s, self._base_us = self.local(us), us
        if rate is not None:
            self.rate = rate
        if wall_offset_s is not None:
            self.wall_offset_s = wall_offset_s
