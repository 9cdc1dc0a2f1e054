"""Who cannot reach whom: each node publishes whom it cannot reach directly, and all read what all publish.

A member that lives although no datagrams pass between it and this node is no dead member: the path is lost,
one way at least. Each node writes the names of those members into its own map, as one entry below a key of
its own; the view over the maps of all nodes that are up is the matrix. Nothing of it is kept twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cbor2

from node.environment import Clock
from node.message import iso8601
from swim import strict_cbor
from swim.identity import is_name
from swim.paths import LostPath
from swim.units import MAX_BUCKET_BYTES

KEY: Final = "reach/lost"
"""Where a node says in its own map whom it cannot reach directly."""
NAMES_LIMIT: Final = 32
"""Most names in one entry, as far as they fit it; the number of all is always told."""
PUBLISH_INTERVAL_S: Final = 1.0
"""Least time between two writes of the entry."""
_ENTRY_OVERHEAD_BYTES: Final = 32
"""Room for the key and for what is around the names."""
_NAME_OVERHEAD_BYTES: Final = 2


class Maps(Protocol):
    """The part of the replicated maps that this view needs (``swim.replicated.Replicated``)."""

    @property
    def max_value_bytes(self) -> int:
        """Bytes that key and value of an entry may take together."""
        ...

    def put(self, key: str, value: bytes, wall: float) -> None:
        """Set an entry of the own map; ``wall`` is when, in seconds since the epoch."""
        ...

    def delete(self, key: str, wall: float) -> None:
        """Remove an entry of the own map."""
        ...

    def get(self, owner: str, key: str) -> bytes | None:
        """An owner's value for a key."""
        ...

    def owners(self) -> Sequence[str]:
        """The nodes whose maps are held, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Unreached:
    """The members that one node cannot reach directly, as it says itself.

    Args:
        node: Who says so.
        members: Their names, in order; the first of them where they are too many to be told.
        count: How many they are.
    """

    node: str
    members: tuple[str, ...]
    count: int

    def as_json(self) -> dict[str, Any]:
        """The row as one JSON object."""
        return {"node": self.node, "cannot_reach": list(self.members), "count": self.count}


class Reachability:
    """The matrix of lost paths, and this node's row of it.

    Args:
        maps: The replicated maps.
        node: This node's name.
        is_up: Whether membership holds a node to be up.
        clock: Dates changes of the row.
    """

    def __init__(self, maps: Maps, node: str, *, is_up: Callable[[str], bool], clock: Clock) -> None:
        self._maps, self._node, self._is_up, self._clock = maps, node, is_up, clock
        self._published = b""
        self._writes = self._malformed = 0

    def publish(self, lost: Sequence[LostPath]) -> bool:
        """Tell the cluster whom this node cannot reach directly; says whether that is news."""
        value = self._encode([path.peer for path in lost])
        if value == self._published:
            return False
        if value:
            self._maps.put(KEY, value, self._clock.wall())
        else:
            self._maps.delete(KEY, self._clock.wall())
        self._published = value
        self._writes += 1
        return True

    def rows(self) -> list[Unreached]:
        """Who cannot reach whom, by the word of every node that is up, sorted by name."""
        found = []
        for owner in self._maps.owners():
            value = self._maps.get(owner, KEY) if self._is_up(owner) else None
            row = None if value is None else self._decode(owner, value)
            if row is not None:
                found.append(row)
        return found

    def statistics(self) -> dict[str, int]:
        """Counts of own writes, and of entries that were not believed."""
        return {"writes": self._writes, "malformed_entries": self._malformed}

    def _encode(self, names: Sequence[str]) -> bytes:
        """The entry: how many they are, and the first of their names in order; nothing for nobody."""
        if not names:
            return b""
        room = self._maps.max_value_bytes - _ENTRY_OVERHEAD_BYTES
        told: list[str] = []
        for name in sorted(names)[:NAMES_LIMIT]:
            room -= len(name.encode()) + _NAME_OVERHEAD_BYTES
            if room < 0:
                break
            told.append(name)
        return cbor2.dumps([len(names), told])

    def _decode(self, owner: str, value: bytes) -> Unreached | None:
        """Read an entry another node wrote: signed, so it is its word, but not therefore well-formed."""
        try:
            count, names = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
            if (
                type(count) is int
                and type(names) is list
                and len(names) <= min(count, NAMES_LIMIT)
                and count < 2**16
                and all(type(name) is str and is_name(name) for name in names)
            ):
                return Unreached(owner, tuple(sorted(names)), count)
        except (ValueError, TypeError):
            pass  # counted below, like what is out of range
        self._malformed += 1
        return None


def lost_path_as_json(path: LostPath, clock: Clock) -> dict[str, Any]:
    """A path that this node itself has lost: towards whom, since when, and how it is reached instead."""
    ago_s = max(0.0, clock.now() - path.since)
    return {
        "member": path.peer,
        "reached_by": path.by,
        "since": iso8601(clock.wall() - ago_s),
        "seconds_ago": round(ago_s, 3),
    }
