"""What the nodes tell each other of their spending: one entry of each node's own map, which only grows.

The entry holds the period and what its owner has spent in it. It is signed, as all entries are, so a node can
lie about itself alone; what is not well-formed is not believed, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cbor2

from node.cluster.registry import Maps
from node.environment import Clock
from node.llm.budget import Spent
from swim import strict_cbor
from swim.units import MAX_BUCKET_BYTES

KEY: Final = "llm/spent"
READ_S: Final = 1.0
"""How long the sum of the others is taken for what it was, in seconds."""
AMOUNT_LIMIT: Final = 10**18
"""Largest amount that is believed."""


class SharedSpending:
    """The counters of the cluster, as this node knows them.

    Args:
        maps: The replicated maps.
        node: This node's name.
        members: How many nodes there are, those out of sight included.
        flush: Called after a change of the own map.
        clock: Dates changes.
    """

    def __init__(
        self,
        maps: Maps,
        node: str,
        *,
        members: Callable[[], int],
        flush: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._maps, self._node, self._members, self._flush = maps, node, members, flush
        self._clock = clock
        self._read: tuple[int, float, Spent] | None = None
        self._malformed = 0

    def publish(self, period: int, spent: Spent) -> None:
        """Tell what this node has spent in a period."""
        value = cbor2.dumps([period, spent.tokens, spent.micros, spent.tool_calls])
        self._maps.put(KEY, value, self._clock.wall())
        self._flush()

    def others(self, period: int) -> Spent:
        """What the others have spent in a period, as far as is known; up to a second old."""
        now = self._clock.now()
        if self._read is not None and self._read[0] == period and now < self._read[1] + READ_S:
            return self._read[2]
        total = Spent()
        self._malformed = 0
        for owner in self._maps.owners():
            value = self._maps.get(owner, KEY) if owner != self._node else None
            if value is not None:
                total += self._decode(period, value)
        self._read = period, now, total
        return total

    def members(self) -> int:
        """Nodes of the cluster, this one and those out of sight included."""
        return max(1, self._members())

    def statistics(self) -> dict[str, int]:
        """Entries that were not believed when they were last read."""
        return {"malformed": self._malformed}

    def _decode(self, period: int, value: bytes) -> Spent:
        try:
            found = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
        except ValueError:
            found = None
        if (
            isinstance(found, list)
            and len(found) == 4
            and all(type(part) is int and 0 <= part <= AMOUNT_LIMIT for part in found)
        ):
            return Spent(*found[1:]) if found[0] == period else Spent()
        self._malformed += 1
        return Spent()
