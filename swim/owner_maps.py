"""One map per node, written by that node only, held by all.

**Buckets.** An owner's map is cut into buckets by the leading bits of the SHA-256 of the key. A
bucket that would outgrow its frame is split in two by the next bit. Each bucket is a signed unit
that carries all entries of its range, so what a newer bucket does not mention is deleted, and
there are no tombstones.

**Order.** Every bucket that an owner signs has a rank (generation, version) of its own, and the
newest bucket that covers a key decides about that key. A bucket all of whose range is covered by
newer ones is dropped. Both rules depend on the set of buckets seen and not on the order of their
arrival, so any two nodes that have seen the same buckets hold the same ones:

- A late bucket from before a split covers a range that newer halves cover too: it loses wherever
  they have arrived, and still serves where they have not.
- A restarted owner begins with one bucket that covers everything. If splits reach a receiver
  first, what they do not cover yet is still answered by the old generation. So a half-arrived
  generation never looks like a deletion, and a signed table of contents, the rejected alternative,
  is not needed.

**Strangers.** Only owners that the membership has admitted are accepted. Buckets of others wait in
a bounded quarantine, unchecked, until the membership makes up its mind; forgetting an owner drops
its map and whatever waits, so a reaped node's stale buckets cannot come back by hearsay.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from swim import units
from swim.hashtree import HashTree
from swim.units import Bucket, Generation

MAX_OWNERS: Final = 4096
MAX_BUCKETS: Final = 256
"""Buckets held of one owner; it may publish half of that, the rest is room for a changing layout."""
MAX_QUARANTINED: Final = 1024
"""Buckets of unknown owners that wait; the oldest make room."""

Rank = tuple[Generation, int, bytes]
"""(generation, version, digest): which of two buckets is newer."""


@dataclass(frozen=True, slots=True)
class Held:
    """A bucket that was checked and is held."""

    digest: bytes
    data: bytes
    bucket: Bucket
    rank: Rank
    not_after: float


@dataclass(slots=True)
class OwnerMap:
    """What is held of one owner: its buckets by (depth, prefix), and the entries that count."""

    held: dict[tuple[int, int], Held] = field(default_factory=dict)
    entries: dict[str, bytes] = field(default_factory=dict)
    generation: Generation = (0, b"")
    depths: dict[int, int] = field(default_factory=dict)  # depth -> buckets of that depth

    def deciding(self, key: str) -> Held | None:
        """Return the newest bucket that covers a key."""
        ranks = [
            held
            for depth in self.depths
            if (held := self.held.get((depth, units.prefix_of(key, depth)))) is not None
        ]
        return max(ranks, key=lambda held: held.rank, default=None)

    def is_covered(self, depth: int, prefix: int, rank: Rank) -> bool:
        """Say whether buckets newer than `rank` cover all of a range."""
        for above in self.depths:
            if above <= depth:
                held = self.held.get((above, prefix >> (depth - above)))
                if held is not None and held.rank > rank:
                    return True
        if depth >= max(self.depths, default=0):
            return False
        return self.is_covered(depth + 1, prefix * 2, rank) and self.is_covered(
            depth + 1, prefix * 2 + 1, rank
        )

    def would_replace(self, bucket: Bucket) -> bool:
        """Say whether a bucket takes the place of at least one that is held."""
        return any(
            held.bucket.depth >= bucket.depth
            and (held.bucket.generation, held.bucket.version) < (bucket.generation, bucket.version)
            for held in self.overlapping(bucket.depth, bucket.prefix)
        )

    def overlapping(self, depth: int, prefix: int) -> list[Held]:
        """Return the buckets that share keys with a range."""
        return [
            held
            for (other, at), held in self.held.items()
            if (at >> (other - depth) == prefix if other >= depth else prefix >> (depth - other) == at)
        ]


class OwnerMaps:
    """The maps of all owners.

    Args:
        tree: the hash tree that learns of every bucket.
        max_owners: owners that are held; more are refused.
        max_buckets: buckets that are held of one owner.
        max_quarantined: buckets of unknown owners that wait.
    """

    def __init__(
        self,
        tree: HashTree,
        *,
        max_owners: int = MAX_OWNERS,
        max_buckets: int = MAX_BUCKETS,
        max_quarantined: int = MAX_QUARANTINED,
    ) -> None:
        self.max_owners = max_owners
        self.max_buckets = max_buckets
        self.max_quarantined = max_quarantined
        self.bytes_held = 0
        self._tree = tree
        self._owners: dict[str, OwnerMap] = {}
        self._quarantine: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()
        self.by_digest: dict[bytes, Held] = {}

    def __contains__(self, owner: str) -> bool:
        return owner in self._owners

    def names(self) -> list[str]:
        """Return the owners of which something is held, in order."""
        return sorted(self._owners)

    def get(self, owner: str, key: str) -> bytes | None:
        """Return an owner's value for a key."""
        found = self._owners.get(owner)
        return found.entries.get(key) if found else None

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """Yield (owner, key, value), in order, of the keys that begin with `prefix`."""
        for owner in self.names():
            entries = self._owners[owner].entries
            for key in sorted(entries):
                if key.startswith(prefix):
                    yield owner, key, entries[key]

    def generation(self, owner: str) -> Generation:
        """Return the newest generation seen of an owner, (0, b"") if nothing is held."""
        found = self._owners.get(owner)
        return found.generation if found else (0, b"")

    def refusal(self, owner: str, bucket: Bucket, digest: bytes) -> str | None:
        """Say, before its signature is checked, why a bucket is of no use, or None if it is."""
        found = self._owners.get(owner)
        if found is None:
            return "too_many_owners" if len(self._owners) >= self.max_owners else None
        if found.is_covered(bucket.depth, bucket.prefix, _rank(bucket, digest)):
            return "stale"
        if len(found.held) >= self.max_buckets and not found.would_replace(bucket):
            return "too_many_buckets"
        return None

    def accept(
        self, owner: str, bucket: Bucket, data: bytes, digest: bytes, not_after: float
    ) -> tuple[list[tuple[str, bytes | None]], list[bytes]]:
        """Hold a checked bucket that `refusal` had nothing against.

        Returns:
            The entries that changed, None for a deleted one, in order of their keys; and the
            digests of the buckets that are no longer held.
        """
        found = self._owners.setdefault(owner, OwnerMap())
        held = Held(digest, data, bucket, _rank(bucket, digest), not_after)
        touched = {
            key
            for other in found.overlapping(bucket.depth, bucket.prefix)
            for key in other.bucket.entries
            if units.prefix_of(key, bucket.depth) == bucket.prefix
        }
        touched.update(bucket.entries)
        found.generation = max(found.generation, bucket.generation)
        dropped = []
        replaced = found.held.get((bucket.depth, bucket.prefix))
        if replaced is not None:
            dropped.append(self._drop(found, replaced))
        self._hold(found, held)
        dropped += [
            self._drop(found, other)
            for other in found.overlapping(bucket.depth, bucket.prefix)
            if other.rank < held.rank
            and found.is_covered(other.bucket.depth, other.bucket.prefix, other.rank)
        ]
        changes = [change for key in sorted(touched) for change in _settle(found, key)]
        return changes, dropped

    def expired(self, wall: float) -> list[str]:
        """Return the owners all of whose buckets carry a credential that ended before `wall`."""
        return sorted(
            owner
            for owner, found in self._owners.items()
            if all(held.not_after < wall for held in found.held.values())
        )

    def forget(self, owner: str) -> tuple[list[str], list[bytes]]:
        """Drop an owner's map and what waits of it; return the keys and digests that went."""
        for digest in [at for at, (name, _) in self._quarantine.items() if name == owner]:
            del self._quarantine[digest]
        found = self._owners.pop(owner, None)
        if found is None:
            return [], []
        dropped = [self._drop(found, held) for held in list(found.held.values())]
        return sorted(found.entries), dropped

    def quarantine(self, owner: str, data: bytes, digest: bytes) -> None:
        """Let a bucket of an unknown owner wait."""
        self._quarantine[digest] = (owner, data)
        if len(self._quarantine) > self.max_quarantined:
            self._quarantine.popitem(last=False)

    def release(self, owner: str) -> list[bytes]:
        """Return, and no longer keep, the buckets that waited for an owner to be admitted."""
        waiting = [(at, data) for at, (name, data) in self._quarantine.items() if name == owner]
        for digest, _ in waiting:
            del self._quarantine[digest]
        return [data for _, data in waiting]

    def is_waiting(self, digest: bytes) -> bool:
        """Say whether a bucket is in quarantine."""
        return digest in self._quarantine

    def statistics(self) -> dict[str, int]:
        """Count what is held."""
        return {
            "owners": len(self._owners),
            "buckets": len(self.by_digest),
            "bucket_bytes": self.bytes_held,
            "entries": sum(len(found.entries) for found in self._owners.values()),
            "quarantined": len(self._quarantine),
        }

    def _hold(self, found: OwnerMap, held: Held) -> None:
        bucket = held.bucket
        found.held[bucket.depth, bucket.prefix] = held
        found.depths[bucket.depth] = found.depths.get(bucket.depth, 0) + 1
        self.by_digest[held.digest] = held
        self.bytes_held += len(held.data)
        self._tree.add(held.digest)

    def _drop(self, found: OwnerMap, held: Held) -> bytes:
        bucket = held.bucket
        del found.held[bucket.depth, bucket.prefix]
        found.depths[bucket.depth] -= 1
        if not found.depths[bucket.depth]:
            del found.depths[bucket.depth]
        del self.by_digest[held.digest]
        self.bytes_held -= len(held.data)
        self._tree.remove(held.digest)
        return held.digest


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
        for depth in range(units.MAX_DEPTH + 1):
            place = (depth, units.prefix_of(key, depth))
            if place in self.buckets:
                return place
        raise AssertionError("the buckets cover every key")


def _rank(bucket: Bucket, digest: bytes) -> Rank:
    return bucket.generation, bucket.version, digest


def _settle(found: OwnerMap, key: str) -> list[tuple[str, bytes | None]]:
    """Make the entry of a key what the newest bucket says, and return the change, if it is one."""
    deciding = found.deciding(key)
    value = deciding.bucket.entries.get(key) if deciding else None
    if found.entries.get(key) == value:
        return []
    if value is None:
        del found.entries[key]
    else:
        found.entries[key] = value
    return [(key, value)]
