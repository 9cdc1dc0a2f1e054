"""How old what is known of each owner is, and how long what owners publish takes to get here.

A bucket carries the owner's wall time of signing it. When it arrives, the difference to the
receiver's clock, corrected by what is known of the owner's clock, is the delay of its propagation.
What was published before this node was up says nothing about the network and does not count;
neither does a time that lies further in the future than any sane clock could put it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_SAMPLES_PER_OWNER: Final = 32
MAX_SAMPLES: Final = 1024
"""Delays of all owners together from which the totals are made."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """What is known of an owner's buckets.

    Attributes:
        age_s: since the owner signed its newest bucket; None if that time is not known.
        arrivals: buckets whose delay was measured, ever.
        last_s: delay from the owner's signing the latest of them to its arrival here; None if there are none.
        p50_s: median delay of the last 32.
        p99_s: 99th percentile of the last 32.
    """

    age_s: float | None
    arrivals: int
    last_s: float | None
    p50_s: float | None
    p99_s: float | None


class Delays:
    """The last delays, in a ring.

    Args:
        capacity: how many are remembered.
    """

    __slots__ = ("_capacity", "_ring", "arrivals")

    def __init__(self, capacity: int) -> None:
        self.arrivals = 0
        self._capacity = capacity
        self._ring = array("f")

    def add(self, delay_s: float) -> None:
        """Remember a delay in the place of the oldest."""
        if len(self._ring) < self._capacity:
            self._ring.append(delay_s)
        else:
            self._ring[self.arrivals % self._capacity] = delay_s
        self.arrivals += 1

    def last_s(self) -> float | None:
        """Return the latest delay, None if there are none."""
        return self._ring[(self.arrivals - 1) % self._capacity] if self.arrivals else None

    def percentiles_s(self, shares: Sequence[float]) -> list[float | None]:
        """Return nearest-rank percentiles of those that are remembered; None if there are none."""
        ordered = sorted(self._ring)
        count = len(ordered)
        return [ordered[min(count - 1, int(share * count))] if count else None for share in shares]


class PropagationLog:
    """The delays of each owner's buckets and of all together. Owners are bounded by the maps' own bound."""

    def __init__(self) -> None:
        self.ignored = 0
        self._all = Delays(MAX_SAMPLES)
        self._by_owner: dict[str, Delays] = {}

    def arrived(self, owner: str, delay_s: float) -> None:
        """Take note of a bucket that has arrived, so long after it was signed."""
        delays = self._by_owner.get(owner)
        if delays is None:
            delays = self._by_owner[owner] = Delays(MAX_SAMPLES_PER_OWNER)
        delay_s = max(0.0, delay_s)
        delays.add(delay_s)
        self._all.add(delay_s)

    def forget(self, owner: str) -> None:
        """Drop what was measured of an owner that is gone."""
        self._by_owner.pop(owner, None)

    def of(self, owner: str, age_s: float | None) -> Propagation:
        """Return what is known of an owner whose newest bucket is so old."""
        delays = self._by_owner.get(owner, _NONE)
        p50_s, p99_s = delays.percentiles_s((0.5, 0.99))
        return Propagation(age_s, delays.arrivals, delays.last_s(), p50_s, p99_s)

    def statistics(self) -> dict[str, int]:
        """Count what was measured; delays in milliseconds, of the last 1,024 of all owners."""
        p50_s, p99_s, longest_s = self._all.percentiles_s((0.5, 0.99, 1.0))
        return {
            "propagation_arrivals": self._all.arrivals,
            "propagation_ignored": self.ignored,
            "propagation_p50_ms": round(1000 * (p50_s or 0.0)),
            "propagation_p99_ms": round(1000 * (p99_s or 0.0)),
            "propagation_max_ms": round(1000 * (longest_s or 0.0)),
        }


_NONE: Final = Delays(0)
