"""Virtual time: one heap of happenings, ordered by (time, sequence number), and one source of chance.

Time is an integer of microseconds, so that it is the same on every machine and prints without rounding.
Whatever happens to a process from outside (a packet arrives, a timer fires) is a happening. Those that were
planned for one instant happen in the order in which they were planned.

A happening may concern a process. While that process is **paused** its happenings wait, and they happen, in
order, when it is resumed; those of a **fenced** (crashed) process never happen. What concerns no process, a
packet on the wire or the kernel of a machine, goes on meanwhile.

Chance is split into one stream per (seed, node, purpose), so that a new draw in one place shifts no other.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from simulations.garbage import rare_collections

EPOCH_S: Final = 1_800_000_000.0
"""Unix time at which every simulation starts."""
US_PER_S: Final = 1_000_000
MAX_HAPPENINGS: Final = 20_000_000
"""Most happenings that wait at once; more mean that something plans without end."""

Happening = tuple[int, int, "Process | None", Callable[..., None], tuple[Any, ...]]


def no_earlier_us(seconds: float) -> int:
    """The first microsecond that is not before a time in seconds, after rounding both ways."""
    us = math.ceil(seconds * US_PER_S)
    while us / US_PER_S < seconds:  # a product that was rounded down would be early for ever
        us += 1
    return us


class Process(Protocol):
    """What a happening may concern: something that can be paused or fenced."""

    name: str
    paused: bool
    fenced: bool


class Overflow(Exception):
    """More happenings wait than :data:`MAX_HAPPENINGS`."""


class Timeline:
    """The clock, the heap and the source of chance of one run.

    Args:
        seed: Everything random follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._now_us = 0
        self._heap: list[Happening] = []
        self._held: dict[Process, list[Happening]] = {}
        self._sequence = 0
        self._stopped = False
        self._happened = 0

    @property
    def now_us(self) -> int:
        """Microseconds since the run began."""
        return self._now_us

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return self.now_us / US_PER_S

    def stream(self, *purpose: str) -> random.Random:
        """A generator for one purpose."""
        return random.Random("/".join((str(self.seed), *purpose)))

    def at_us(
        self, us: int, function: Callable[..., None], *args: Any, process: Process | None = None
    ) -> None:
        """Plan ``function(*args)`` for an instant; one that has passed means now.

        Args:
            us: Microseconds since the run began.
            function: What happens.
            *args: What it is given.
            process: Whom it concerns.

        Raises:
            Overflow: too much is planned.
        """
        now_us = self.now_us
        heap = self._heap
        heapq.heappush(heap, (max(now_us, us), self._sequence, process, function, args))
        self._sequence += 1
        if len(heap) > MAX_HAPPENINGS:
            raise Overflow(f"{len(heap)} happenings wait at {now_us} us")

    def after_us(
        self, us: int, function: Callable[..., None], *args: Any, process: Process | None = None
    ) -> None:
        """Plan ``function(*args)`` for ``us`` microseconds from now."""
        self.at_us(self.now_us + us, function, *args, process=process)

    def due_us(self) -> int | None:
        """When the next happening is planned, or None when nothing is."""
        return self._heap[0][0] if self._heap else None

    def resume(self, process: Process) -> None:
        """Let a paused process go on: what waited for it happens now, in order, after what is due already."""
        process.paused = False
        for _, _, owner, function, args in self._held.pop(process, ()):
            self.at_us(self.now_us, function, *args, process=owner)

    def forget(self, process: Process) -> None:
        """Drop what waits for a process that will not be resumed."""
        self._held.pop(process, None)

    def step(self) -> None:
        """Let the next happening happen, or wait for its process."""
        self._let(heapq.heappop(self._heap))

    def _let(self, happening: Happening) -> None:
        process = happening[2]
        if process is not None:
            if process.fenced:
                return
            if process.paused:
                self._held.setdefault(process, []).append(happening)
                return
        self._happened += 1
        happening[3](*happening[4])

    def run_until(self, end_us: int) -> bool:
        """Let everything happen up to and including an instant, or until :meth:`stop`.

        Args:
            end_us: Microseconds since the run began.

        Returns:
            Whether the end was reached; False when a happening has stopped the run, at its own instant.
        """
        self._stopped = False
        with rare_collections():
            self._run_until(end_us)
        if not self._stopped:
            self._now_us = max(self._now_us, end_us)
        return not self._stopped

    def _run_until(self, end_us: int) -> None:
        heap, heappop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end_us and not self._stopped:
            happening = heappop(heap)
            self._now_us, _, process, function, args = happening
            if process is None:  # as in `_let`, which would cost a call for each
                self._happened += 1
                function(*args)
            else:
                self._let(happening)

    def stop(self) -> None:
        """End :meth:`run_until` after the present happening."""
        self._stopped = True

    def leap(self, to_us: int, skipped_us: int) -> None:
        """Set the clock ahead.

        Args:
            to_us: The time after it, not before now.
            skipped_us: When everything happens that was planned for the time between, not before ``to_us``.
        """
        self._now_us = max(self._now_us, to_us)
        moved = [(skipped_us if us < self._now_us else us, *rest) for us, *rest in self._heap]
        self._heap[:] = moved  # type: ignore[assignment] # mypy loses the element types of a starred tuple
        heapq.heapify(self._heap)

    def statistics(self) -> dict[str, int]:
        """Count what waits and what has happened."""
        return {
            "happened": self._happened,
            "planned": len(self._heap),
            "held": sum(len(held) for held in self._held.values()),
        }
