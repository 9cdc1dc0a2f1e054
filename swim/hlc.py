"""Time for writes that several authors make: hybrid logical clocks, and who may trust its own.

A **stamp** is one integer: milliseconds since the epoch, shifted left by 16, plus a logical
counter. A node's next stamp is greater than every stamp it has seen or made, and otherwise follows
its wall clock, so "last writer wins" means what an operator expects as long as clocks are sane.
(Kulkarni et al., Logical Physical Clocks, 2014.)

Sane is what the median of the peers says. A stamp more than 60 s ahead of a receiver's estimate of
the time is refused, and a node whose clock is more than 60 s off the median may not author.
"""

import statistics
from collections import OrderedDict
from typing import Final

LOGICAL_BITS: Final = 16
MAX_STAMP: Final = 2**63 - 1
MAX_SKEW_S: Final = 60.0
"""How far a clock may be off the median before its stamps and its authorship are refused."""
MIN_PEERS: Final = 2
"""With fewer peers than this there is no median that could outvote the own clock."""
MAX_CLOCK_PEERS: Final = 256
"""Peers whose offset is remembered; the least recently observed one makes room."""


class ClockSkewError(Exception):
    """This node's clock is too far from its peers' for it to author cluster-wide writes.

    Args:
        offset_s: median of the peers' clocks minus the own clock, in seconds.
    """

    code = "clock_skewed"

    def __init__(self, offset_s: float) -> None:
        super().__init__(
            f"this node's clock is {offset_s:+.1f} s away from the median of its peers, "
            f"and at most {MAX_SKEW_S:.0f} s is allowed for a cluster-wide write: "
            "set the clock (for instance with NTP) and write again"
        )
        self.offset_s = offset_s


def stamp_at(wall: float) -> int:
    """Return the lowest stamp of wall time `wall`, in seconds since the epoch."""
    return min(max(int(wall * 1000), 0) << LOGICAL_BITS, MAX_STAMP)


def wall_of(stamp: int) -> float:
    """Return the wall time of a stamp, in seconds since the epoch."""
    return (stamp >> LOGICAL_BITS) / 1000


class HybridClock:
    """Makes stamps that only ever grow."""

    def __init__(self) -> None:
        self.last = 0

    def tick(self, wall: float) -> int:
        """Return a stamp for a write made at `wall`, above every stamp made or observed so far."""
        self.last = max(self.last + 1, stamp_at(wall))
        return self.last

    def observe(self, stamp: int) -> None:
        """Take note of a stamp that another node made."""
        self.last = max(self.last, stamp)


class ClockWatch:
    """Compares the own clock with those of the peers.

    Args:
        max_peers: peers whose offset is remembered.
    """

    def __init__(self, max_peers: int = MAX_CLOCK_PEERS) -> None:
        self._max_peers = max_peers
        self._offsets: OrderedDict[str, float] = OrderedDict()
        self._median: float | None = 0.0

    def observe(self, peer: str, offset_s: float) -> None:
        """Take note that the clock of `peer` is `offset_s` seconds ahead of the own one."""
        self._offsets[peer] = offset_s
        self._offsets.move_to_end(peer)
        self._median = None
        if len(self._offsets) > self._max_peers:
            self._offsets.popitem(last=False)

    def forget(self, peer: str) -> None:
        """Leave a peer that is gone out of the median."""
        self._offsets.pop(peer, None)
        self._median = None

    def offset_s(self) -> float:
        """Return the median of the peers' clocks minus the own, 0 while there are too few peers."""
        if self._median is None:
            enough = len(self._offsets) >= MIN_PEERS
            self._median = statistics.median(self._offsets.values()) if enough else 0.0
        return self._median

    def offset_of(self, peer: str) -> float:
        """Return how far the clock of a peer is ahead of the own, the median's if it is not known."""
        offset = self._offsets.get(peer)
        return self.offset_s() if offset is None else offset

    def require_sane(self) -> None:
        """Raise ClockSkewError if this node may not author."""
        offset = self.offset_s()
        if abs(offset) > MAX_SKEW_S:
            raise ClockSkewError(offset)

    def is_ahead(self, time_s: float, wall: float) -> bool:
        """Say whether a time lies further in the future than any sane clock could put it.

        Args:
            time_s: in question, in seconds since the epoch.
            wall: the own clock, in seconds since the epoch.
        """
        return time_s > wall + self.offset_s() + MAX_SKEW_S
