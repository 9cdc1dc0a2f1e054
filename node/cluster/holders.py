"""Which nodes hold something of the shared memory: one entry of each node's own map, set once.

Where nobody has stored anything there is no entry, and no node asks another for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from node.cluster.registry import Maps
from node.environment import Clock
from swim import strict_cbor

KEY: Final = "memory/replica"
VERSION: Final = 1
"""Of what holders tell each other."""


class MemoryHolders:
    """The holders, as this node knows them.

    Args:
        maps: The replicated maps.
        node: This node's name.
        is_up: Whether a node is up.
        flush: Called after a change of the own map.
        clock: Dates changes.
    """

    def __init__(
        self,
        maps: Maps,
        node: str,
        *,
        is_up: Callable[[str], bool],
        flush: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._maps, self._node, self._is_up, self._flush = maps, node, is_up, flush
        self._clock = clock
        self._announced = False

    def announce(self) -> None:
        """Tell that this node holds something; doing it twice is harmless."""
        if not self._announced:
            self._announced = True
            self._maps.put(KEY, strict_cbor.encode(VERSION), self._clock.wall())
            self._flush()

    def others(self) -> list[str]:
        """The other nodes that hold something and are up, sorted; those of another version are left alone."""
        wanted = strict_cbor.encode(VERSION)
        return sorted(
            owner
            for owner in self._maps.owners()
            if owner != self._node and self._maps.get(owner, KEY) == wanted and self._is_up(owner)
        )
