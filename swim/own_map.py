"""The map that this node writes: which buckets it is cut into, and what is in them."""

from swim import units


class OwnMap:
    """The own map, as its owner keeps it: which buckets there are, and what is in them.

    Args:
        capacity: bytes of entries that one bucket may hold.
        max_buckets: buckets the map may be cut into.
    """

    def __init__(self, capacity: int, max_buckets: int) -> None:
        self.capacity = capacity
        self.max_buckets = max_buckets
        self.buckets: dict[tuple[int, int], dict[str, bytes]] = {(0, 0): {}}

    def put(self, key: str, value: bytes) -> list[tuple[int, int]]:
        """Set an entry; return the (depth, prefix) of the buckets that have to be signed anew.

        Raises:
            ValueError: if the entry or the map is too large; nothing has changed then.
        """
        if units.entries_bytes({key: value}) > self.capacity:
            raise ValueError(f"an entry takes at most {self.capacity} bytes, key included")
        place = self._place(key)
        if self.buckets[place].get(key) == value:
            return []
        split = {place: {**self.buckets[place], key: value}}
        while True:
            full = [at for at, held in split.items() if units.entries_bytes(held) > self.capacity]
            if not full:
                break
            for depth, prefix in full:
                if depth == units.MAX_DEPTH or len(self.buckets) + len(split) > self.max_buckets:
                    raise ValueError(f"the map is full: {self.max_buckets} buckets are in use")
                whole = split.pop((depth, prefix))
                for half in (prefix * 2, prefix * 2 + 1):
                    split[depth + 1, half] = {
                        name: held for name, held in whole.items() if units.prefix_of(name, depth + 1) == half
                    }
        del self.buckets[place]
        self.buckets.update(split)
        return sorted(split)

    def delete(self, key: str) -> list[tuple[int, int]]:
        """Remove an entry; return the buckets that have to be signed anew."""
        place = self._place(key)
        if key not in self.buckets[place]:
            return []
        del self.buckets[place][key]
        return [place]

    def _place(self, key: str) -> tuple[int, int]:
        leaf = units.prefix_of(key, units.MAX_DEPTH)
        for depth in range(units.MAX_DEPTH + 1):
            place = (depth, leaf >> units.MAX_DEPTH - depth)
            if place in self.buckets:
                return place
        raise AssertionError("the buckets cover every key")
