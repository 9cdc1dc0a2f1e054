"""The map that this node writes: which buckets it is cut into, and what is in them."""

from collections.abc import Iterator, Mapping

from swim import units

Place = tuple[int, int]
"""(depth, prefix) of a bucket."""
Changes = Mapping[str, bytes | None]
"""Values by key; None removes the entry."""


class OwnMap:
    """The own map, as its owner keeps it: which buckets there are, and what is in them.

    Args:
        capacity: bytes of entries that one bucket may hold.
        max_buckets: buckets the map may be cut into.
    """

    def __init__(self, capacity: int, max_buckets: int) -> None:
        self.capacity = capacity
        self.max_buckets = max_buckets
        self.buckets: dict[Place, dict[str, bytes]] = {(0, 0): {}}

    def put(self, key: str, value: bytes) -> list[Place]:
        """Set an entry; see `change`."""
        return self.change({key: value})

    def delete(self, key: str) -> list[Place]:
        """Remove an entry; return the buckets that have to be signed anew."""
        return self.change({key: None})

    def change(self, changes: Changes) -> list[Place]:
        """Set many entries, and remove those whose value is None, all or nothing.

        Returns:
            The buckets that have to be signed anew, in order, each once however many of its entries changed.

        Raises:
            ValueError: if an entry or the map is too large; nothing has changed then.
        """
        after, replaced = self._planned(changes)
        for place in replaced:
            del self.buckets[place]
        self.buckets.update(after)
        return sorted(after)

    def check(self, changes: Changes) -> None:
        """Raise what `change` would raise, and change nothing."""
        self._planned(changes)

    def _planned(self, changes: Changes) -> tuple[dict[Place, dict[str, bytes]], list[Place]]:
        """Return the new buckets of a change, and the places of those that they replace."""
        touched: dict[Place, dict[str, bytes]] = {}
        for key, value in changes.items():
            if value is not None and _entry_bytes(key, value) + 1 > self.capacity:
                raise ValueError(f"an entry takes at most {self.capacity} bytes, key included")
            place = self._place(key)
            if self.buckets[place].get(key) == value:
                continue
            entries = touched.get(place)
            if entries is None:
                entries = touched[place] = dict(self.buckets[place])
            if value is None:
                del entries[key]
            else:
                entries[key] = value
        after: dict[Place, dict[str, bytes]] = {}
        count = len(self.buckets) - len(touched)
        for place, entries in touched.items():
            for at, part in self._cut(place, entries):
                after[at] = part
                count += 1
                if count > self.max_buckets:
                    raise ValueError(_full(self.max_buckets))
        return after, list(touched)

    def _cut(self, place: Place, entries: dict[str, bytes]) -> Iterator[tuple[Place, dict[str, bytes]]]:
        """Yield the buckets that hold the entries of one place: that one, or what it is split into.

        Raises:
            ValueError: if keys whose hashes begin alike are too many for one bucket.
        """
        sizes = {key: _entry_bytes(key, value) for key, value in entries.items()}
        waiting = [(place, list(entries))]
        leaves: dict[str, int] = {}
        while waiting:
            (depth, prefix), keys = waiting.pop()
            if units.header_bytes(len(keys)) + sum(sizes[key] for key in keys) <= self.capacity:
                yield (depth, prefix), {key: entries[key] for key in keys}
                continue
            if depth == units.MAX_DEPTH:
                raise ValueError(_full(self.max_buckets))
            if not leaves:
                leaves = {key: units.prefix_of(key, units.MAX_DEPTH) for key in keys}
            halves: tuple[list[str], list[str]] = ([], [])
            for key in keys:
                halves[leaves[key] >> units.MAX_DEPTH - depth - 1 & 1].append(key)
            waiting += [((depth + 1, prefix * 2 + side), half) for side, half in enumerate(halves)]

    def _place(self, key: str) -> Place:
        leaf = units.prefix_of(key, units.MAX_DEPTH)
        for depth in range(units.MAX_DEPTH + 1):
            place = (depth, leaf >> units.MAX_DEPTH - depth)
            if place in self.buckets:
                return place
        raise AssertionError("the buckets cover every key")


def _entry_bytes(key: str, value: bytes) -> int:
    """Return what an entry takes in its bucket on the wire."""
    length = len(key.encode())
    return units.header_bytes(length) + length + units.header_bytes(len(value)) + len(value)


def _full(max_buckets: int) -> str:
    return f"the map is full: {max_buckets} buckets are in use"
