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

**Places.** Buckets form a binary tree: the one for everything is 1, the halves of place p are 2p
and 2p + 1, so that the bits of a place behind the first are the prefix, and p >> 1 is what contains it.

**Strangers.** Only owners that the membership has admitted are accepted. Buckets of others wait in
a bounded quarantine, unchecked, until the membership makes up its mind; forgetting an owner drops
its map and whatever waits, so a reaped node's stale buckets cannot come back by hearsay.

**Memory.** A map and what it holds are never changed, only replaced. So instances in one process
may share them (`OwnerMaps.adopt`), and entries exist once, in the bucket that brought them.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from swim import units
from swim.hashtree import HashTree
from swim.units import Bucket, Generation

MAX_OWNERS: Final = 4096
MAX_BUCKETS: Final = 512
"""Buckets held of one owner; it may publish half of that, the rest is room for a changing layout."""
MAX_QUARANTINED: Final = 4096
"""Buckets of unknown owners that wait; the oldest make room. A newcomer's first stream brings all that the
cluster holds before the members have answered it: thirty nodes with two thousand agents each fit."""

Rank = tuple[Generation, int, bytes]
"""(generation, version, digest): which of two buckets is newer."""

Change = tuple[str, bytes | None]
"""A key and its new value, None for a deleted one."""


def place_of(depth: int, prefix: int) -> int:
    """Return the number of a bucket's place in the tree of buckets."""
    return 1 << depth | prefix


@dataclass(frozen=True, slots=True)
class Held:
    """A bucket that was checked and is held."""

    digest: bytes
    data: bytes
    rank: Rank
    place: int
    entries: Mapping[str, bytes]
    not_after: float

    @classmethod
    def of(cls, bucket: Bucket, data: bytes, digest: bytes, not_after: float) -> "Held":
        """Return what is kept of a bucket."""
        rank = (bucket.generation, bucket.version, digest)
        return cls(digest, data, rank, place_of(bucket.depth, bucket.prefix), bucket.entries, not_after)


class OwnerMap:
    """What is held of one owner: its buckets by place. It is never changed.

    Args:
        held: the buckets.
        depths: a bit for each depth at which there is one.
        generation: the newest that was seen.
        published_ms: the latest time of publishing that was seen, in milliseconds since the epoch.
    """

    __slots__ = ("depths", "generation", "held", "published_ms")

    def __init__(
        self,
        held: Mapping[int, Held],
        depths: int,
        generation: Generation = (0, b""),
        published_ms: int = 0,
    ) -> None:
        self.held = held
        self.depths = depths
        self.generation = generation
        self.published_ms = published_ms

    def deciding(self, key: str) -> Held | None:
        """Return the newest bucket that covers a key."""
        if self.depths == 1:
            return self.held[1]
        leaf = place_of(units.MAX_DEPTH, units.prefix_of(key, units.MAX_DEPTH))
        return max(self._containing(leaf), key=_by_rank, default=None)

    def get(self, key: str) -> bytes | None:
        """Return the value of a key."""
        deciding = self.deciding(key)
        return None if deciding is None else deciding.entries.get(key)

    def entries(self) -> Mapping[str, bytes]:
        """Return all entries that count, in no order."""
        if self.depths == 1:
            return self.held[1].entries
        above = {place >> up for place in self.held for up in range(1, place.bit_length())}
        found: dict[str, bytes] = {}
        for place, held in self.held.items():
            if place in above:
                found.update(item for item in held.entries.items() if self.deciding(item[0]) is held)
            elif max(self._containing(place), key=_by_rank) is held:
                found.update(held.entries)
        return found

    def is_covered(self, place: int, rank: Rank) -> bool:
        """Say whether buckets newer than `rank` cover all of a place."""
        if self.depths == 1:
            return self.held[1].rank > rank
        for held in self._containing(place):
            if held.rank > rank:
                return True
        return self._are_halves_covered(place, rank)

    def would_replace(self, place: int, rank: Rank) -> bool:
        """Say whether a bucket takes the place of at least one that is held."""
        return any(
            held.place.bit_length() >= place.bit_length() and held.rank[:2] < rank[:2]
            for held in self.overlapping(place)
        )

    def overlapping(self, place: int) -> list[Held]:
        """Return the buckets that share keys with a place."""
        depth = place.bit_length()
        found = list(self._containing(place))
        if self.depths >> depth:
            found += [
                held
                for at, held in self.held.items()
                if (below := at.bit_length() - depth) > 0 and at >> below == place
            ]
        return found

    def _containing(self, place: int) -> Iterator[Held]:
        """Yield the buckets at a place and above it."""
        depths = self.depths
        depth = place.bit_length() - 1
        while place:
            if depths >> depth & 1 and (held := self.held.get(place)) is not None:
                yield held
            place >>= 1
            depth -= 1

    def _are_halves_covered(self, place: int, rank: Rank) -> bool:
        if not self.depths >> place.bit_length():
            return False
        for half in (place * 2, place * 2 + 1):
            held = self.held.get(half)
            if (held is None or held.rank <= rank) and not self._are_halves_covered(half, rank):
                return False
        return True


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
        self.by_digest: dict[bytes, Held] = {}
        self._tree = tree
        self._owners: dict[str, OwnerMap] = {}
        self._quarantine: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()
        self._strangers: dict[str, dict[bytes, None]] = {}  # owner -> digests in quarantine
        self._none_expires_before = float("inf")

    def __contains__(self, owner: str) -> bool:
        return owner in self._owners

    def names(self) -> list[str]:
        """Return the owners of which something is held, in order."""
        return sorted(self._owners)

    def of(self, owner: str) -> OwnerMap:
        """Return what is held of an owner; an empty map if that is nothing."""
        return self._owners.get(owner, _NOTHING)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """Yield (owner, key, value), in order, of the keys that begin with `prefix`."""
        for owner in self.names():
            entries = self._owners[owner].entries()
            for key in sorted(entries):
                if key.startswith(prefix):
                    yield owner, key, entries[key]

    def refusal(self, owner: str, bucket: Bucket, digest: bytes) -> str | None:
        """Say, before its signature is checked, why a bucket is of no use, or None if it is."""
        found = self._owners.get(owner)
        if found is None:
            return "too_many_owners" if len(self._owners) >= self.max_owners else None
        place, rank = place_of(bucket.depth, bucket.prefix), (bucket.generation, bucket.version, digest)
        if found.is_covered(place, rank):
            return "stale"
        if len(found.held) >= self.max_buckets and not found.would_replace(place, rank):
            return "too_many_buckets"
        return None

    def accept(
        self, owner: str, bucket: Bucket, data: bytes, digest: bytes, not_after: float
    ) -> tuple[list[Change], list[bytes]]:
        """Hold a checked bucket that `refusal` had nothing against.

        Returns:
            The entries that changed, in order of their keys; and the digests of the buckets that
            are no longer held.
        """
        before = self._owners.get(owner, _NOTHING)
        new = Held.of(bucket, data, digest, not_after)
        place, rank = new.place, new.rank
        held = {**before.held, place: new}
        generation = max(before.generation, bucket.generation)
        published_ms = max(before.published_ms, bucket.published_ms)
        after = OwnerMap(held, before.depths | 1 << bucket.depth, generation, published_ms)
        overlapping = before.overlapping(place)
        dropped = [
            other
            for other in overlapping
            if other.place == place or (other.rank < rank and after.is_covered(other.place, other.rank))
        ]
        if any(other.place != place for other in overlapping):
            dropped_places = {other.place: None for other in dropped if other.place != place}
            if dropped_places:
                held = {at: kept for at, kept in held.items() if at not in dropped_places}
                after = OwnerMap(held, _depths_of(held), generation, published_ms)
            changes = _changes(before, after, new, overlapping)
        else:
            changes = _differences(dropped[0].entries if dropped else {}, new.entries)
        self._owners[owner] = after
        for other in dropped:
            self._no_longer(other)
        self._holds(new)
        return changes, [other.digest for other in dropped]

    def expired(self, wall: float) -> list[str]:
        """Return the owners all of whose buckets carry a credential that ended before `wall`."""
        if wall <= self._none_expires_before:
            return []
        ends = [held.not_after for held in self.by_digest.values() if held.not_after >= wall]
        self._none_expires_before = min(ends, default=float("inf"))
        return sorted(
            owner
            for owner, found in self._owners.items()
            if all(held.not_after < wall for held in found.held.values())
        )

    def forget(self, owner: str) -> tuple[list[str], list[bytes]]:
        """Drop an owner's map and what waits of it; return the keys and digests that went."""
        self.release(owner)
        found = self._owners.pop(owner, _NOTHING)
        for held in found.held.values():
            self._no_longer(held)
        return sorted(found.entries()), [held.digest for held in found.held.values()]

    def quarantine(self, owner: str, data: bytes, digest: bytes) -> None:
        """Let a bucket of an unknown owner wait."""
        self._quarantine[digest] = (owner, data)
        self._strangers.setdefault(owner, {})[digest] = None
        if len(self._quarantine) > self.max_quarantined:
            oldest, (name, _) = self._quarantine.popitem(last=False)
            del self._strangers[name][oldest]
            if not self._strangers[name]:
                del self._strangers[name]

    def release(self, owner: str) -> list[bytes]:
        """Return, and no longer keep, the buckets that waited for an owner to be admitted, in their order."""
        return [self._quarantine.pop(digest)[1] for digest in self._strangers.pop(owner, {})]

    def is_waiting(self, digest: bytes) -> bool:
        """Say whether a bucket is in quarantine."""
        return digest in self._quarantine

    def adopt(self, other: "OwnerMaps", own: str) -> None:
        """Hold what another instance holds, sharing all of it, but for the map of the owner `own`.

        The tree must already have become the other's.
        """
        mine, theirs = self.of(own), other.of(own)
        self._owners = dict(other._owners)  # noqa: SLF001 - its own kind
        self.by_digest = dict(other.by_digest)
        self.bytes_held = other.bytes_held
        self._none_expires_before = other._none_expires_before  # noqa: SLF001 - its own kind
        self._owners.pop(own, None)
        kept = dict.fromkeys(held.digest for held in mine.held.values())
        for held in theirs.held.values():
            if held.digest not in kept:
                self._no_longer(held)
        for held in mine.held.values():
            if held.digest not in self.by_digest:
                self._holds(held)
            self.by_digest[held.digest] = held
            self._owners[own] = mine

    def statistics(self) -> dict[str, int]:
        """Count what is held."""
        return {
            "owners": len(self._owners),
            "buckets": len(self.by_digest),
            "bucket_bytes": self.bytes_held,
            "entries": sum(len(found.entries()) for found in self._owners.values()),
            "quarantined": len(self._quarantine),
        }

    def _holds(self, held: Held) -> None:
        self.by_digest[held.digest] = held
        self.bytes_held += len(held.data)
        self._none_expires_before = min(self._none_expires_before, held.not_after)
        self._tree.add(held.digest)

    def _no_longer(self, held: Held) -> None:
        del self.by_digest[held.digest]
        self.bytes_held -= len(held.data)
        self._tree.remove(held.digest)


_NOTHING: Final = OwnerMap({}, 0)


def _depths_of(held: Mapping[int, Held]) -> int:
    depths = 0
    for place in held:
        depths |= 1 << place.bit_length() - 1
    return depths


def _by_rank(held: Held) -> Rank:
    return held.rank


def _differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[Change]:
    """Return what became of entries, in order of their keys."""
    changes: list[Change] = [(key, value) for key, value in after.items() if before.get(key) != value]
    changes += [(key, None) for key in before if key not in after]
    changes.sort(key=_by_key)
    return changes


def _changes(before: OwnerMap, after: OwnerMap, new: Held, overlapping: list[Held]) -> list[Change]:
    """Return what became of the entries in the range of a new bucket, in order of their keys."""
    depth = new.place.bit_length() - 1
    touched = dict.fromkeys(new.entries)
    for other in overlapping:
        is_inside = other.place.bit_length() > depth
        for key in other.entries:
            if is_inside or place_of(depth, units.prefix_of(key, depth)) == new.place:
                touched[key] = None
    if all(other.rank < new.rank for other in overlapping):  # it decides about all of its range
        if not any(other.entries for other in overlapping):
            return sorted(new.entries.items())
        return [(key, value) for key in sorted(touched) if (value := new.entries.get(key)) != before.get(key)]
    return [(key, value) for key in sorted(touched) if (value := after.get(key)) != before.get(key)]


def _by_key(change: Change) -> str:
    return change[0]
