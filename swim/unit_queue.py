"""Which units to piggyback next: the ones sent least often, each a bounded number of times.

Every packet that leaves has some room. New units ride in it, and after `4 * ceil(log10(n + 1))`
transmissions all but a vanishing share of `n` members has each of them (Das et al., SWIM, 2002);
anti-entropy finds the rest.

**Feedback** (Demers et al., Epidemic Algorithms, 1987): a unit that is heard again from a peer while
it waits is known to others, so that counts as one of its transmissions. But with m random
transmissions by each of its holders, a share of e^-m of the members hears nothing, however large
the cluster; so each holder sends it `MIN_TRANSMISSIONS` times itself, whatever it hears. Nor can a
peer that repeats a unit to everybody keep it from spreading.
"""

import math
from collections import OrderedDict
from typing import Final

RETRANSMIT_FACTOR: Final = 4
MIN_TRANSMISSIONS: Final = 10
"""With a fifth of all packets lost this still leaves e^(-0.8 * 10), 0.03 % of the members, to repair."""
MAX_QUEUED: Final = 4096
"""Units that wait for room; the one sent most often, then the oldest, makes room."""
MAX_SKIPPED: Final = 32
"""Units too large for the room that are passed over before the search ends."""


def max_transmissions(members: int) -> int:
    """Return how often one unit is sent in a cluster of so many members."""
    return RETRANSMIT_FACTOR * math.ceil(math.log10(max(members, 1) + 1))


class _Waiting:
    """A unit, how often it was sent or heard, and how often of these it was heard."""

    __slots__ = ("count", "heard", "unit")

    def __init__(self, unit: bytes) -> None:
        self.unit = unit
        self.count = 0
        self.heard = 0


class UnitQueue:
    """Units by how often they were sent.

    Args:
        max_queued: units that wait.
    """

    def __init__(self, max_queued: int = MAX_QUEUED) -> None:
        self.max_queued = max_queued
        self.sent = 0
        """Transmissions of units, ever."""
        self.spared = 0
        """Transmissions that became needless because the unit was heard from a peer."""
        self._limit = RETRANSMIT_FACTOR
        self._by_count: list[OrderedDict[bytes, _Waiting]] = [OrderedDict()]
        self._waiting: dict[bytes, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def fresh(self) -> bool:
        """Whether a unit waits that was never sent."""
        return bool(self._by_count[0])

    def add(self, digest: bytes, unit: bytes) -> None:
        """Queue a new unit."""
        self.discard(digest)
        if len(self._waiting) >= self.max_queued:
            most_sent = next(queue for queue in reversed(self._by_count) if queue)
            self.discard(next(iter(most_sent)))
        self._waiting[digest] = self._by_count[0][digest] = _Waiting(unit)

    def discard(self, digest: bytes) -> None:
        """Drop a unit, because a newer one took its place."""
        waiting = self._waiting.pop(digest, None)
        if waiting is not None:
            del self._by_count[waiting.count][digest]

    def heard(self, digest: bytes) -> None:
        """Take note that a peer has sent a unit; if it waits, that spares a transmission, or not."""
        waiting = self._waiting.get(digest)
        if waiting is not None and waiting.heard < self._limit - MIN_TRANSMISSIONS:
            waiting.heard += 1
            self.spared += 1
            self._count(digest, waiting)

    def take(
        self, room: int, members: int, header_bytes: int, *, max_unit_bytes: int | None = None
    ) -> list[bytes]:
        """Return units that fit into `room` bytes, and count each as sent once more.

        Args:
            room: bytes for units and their headers.
            members: size of the cluster.
            header_bytes: what each unit costs beside its own length.
            max_unit_bytes: longer units, header included, do not fit; None for as long as the room.
        """
        if not self._waiting:
            return []
        self._limit = max_transmissions(members)
        chosen: list[tuple[bytes, _Waiting]] = []
        longest = room if max_unit_bytes is None else min(room, max_unit_bytes)
        skipped = 0
        for queue in self._by_count:
            for digest, waiting in queue.items():
                size = len(waiting.unit) + header_bytes
                if size <= longest:
                    chosen.append((digest, waiting))
                    room -= size
                    longest = min(longest, room)
                else:
                    skipped += 1
                    if skipped >= MAX_SKIPPED:
                        break
            if skipped >= MAX_SKIPPED:
                break
        for digest, waiting in chosen:
            self._count(digest, waiting)
        self.sent += len(chosen)
        return [waiting.unit for _, waiting in chosen]

    def _count(self, digest: bytes, waiting: _Waiting) -> None:
        """Count a unit as sent once more; drop it when that is enough."""
        del self._by_count[waiting.count][digest]
        waiting.count += 1
        if waiting.count >= self._limit:
            del self._waiting[digest]
            return
        if waiting.count == len(self._by_count):
            self._by_count.append(OrderedDict())
        self._by_count[waiting.count][digest] = waiting

    def statistics(self) -> dict[str, int]:
        """Count what waits, what was sent, and what need not be sent."""
        return {"queued": len(self._waiting), "units_sent": self.sent, "units_spared": self.spared}
