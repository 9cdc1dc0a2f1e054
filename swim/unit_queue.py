"""Which units to piggyback next: the ones sent least often, each a bounded number of times.

Every packet that leaves has some room. New units ride in it, and after `4 * ceil(log10(n + 1))`
transmissions all but a vanishing share of `n` members has each of them (Das et al., SWIM, 2002);
anti-entropy finds the rest.
"""

import math
from collections import OrderedDict
from typing import Final

RETRANSMIT_FACTOR: Final = 4
MAX_QUEUED: Final = 4096
"""Units that wait for room; the one sent most often, then the oldest, makes room."""
MAX_SKIPPED: Final = 32
"""Units too large for the room that are passed over before the search ends."""


def max_transmissions(members: int) -> int:
    """Return how often one unit is sent in a cluster of so many members."""
    return RETRANSMIT_FACTOR * math.ceil(math.log10(max(members, 1) + 1))


class UnitQueue:
    """Units by how often they were sent.

    Args:
        max_queued: units that wait.
    """

    def __init__(self, max_queued: int = MAX_QUEUED) -> None:
        self.max_queued = max_queued
        self._by_count: list[OrderedDict[bytes, bytes]] = [OrderedDict()]
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def fresh(self) -> bool:
        """Whether a unit waits that was never sent."""
        return bool(self._by_count[0])

    def add(self, digest: bytes, unit: bytes) -> None:
        """Queue a new unit."""
        self.discard(digest)
        if len(self._counts) >= self.max_queued:
            most_sent = next(queue for queue in reversed(self._by_count) if queue)
            self.discard(next(iter(most_sent)))
        self._by_count[0][digest] = unit
        self._counts[digest] = 0

    def discard(self, digest: bytes) -> None:
        """Drop a unit, because a newer one took its place."""
        count = self._counts.pop(digest, None)
        if count is not None:
            del self._by_count[count][digest]

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
        limit = max_transmissions(members)
        chosen: list[tuple[bytes, bytes]] = []
        skipped = 0
        for queue in self._by_count:
            for digest, unit in queue.items():
                size = len(unit) + header_bytes
                if size <= room and (max_unit_bytes is None or size <= max_unit_bytes):
                    chosen.append((digest, unit))
                    room -= size
                else:
                    skipped += 1
                if skipped >= MAX_SKIPPED:
                    break
            if skipped >= MAX_SKIPPED:
                break
        for digest, unit in chosen:
            count = self._counts[digest] + 1
            self.discard(digest)
            if count < limit:
                while len(self._by_count) <= count:
                    self._by_count.append(OrderedDict())
                self._by_count[count][digest] = unit
                self._counts[digest] = count
        return [unit for _, unit in chosen]
