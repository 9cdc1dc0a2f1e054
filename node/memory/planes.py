"""The signs of all vectors of one space in memory: a hundred thousand are compared in half a millisecond.

Theory of operation. SQLite has the vectors, and this is a copy of their signs that can be made anew from
them at any time. It belongs to the reader, which has one thread, and is brought up to date inside the
reader's transaction, before every search: new rows are those with a higher key than the highest that was
seen, and all others that have changed stand in the table ``changes``, which triggers fill. So a search
compares exactly what its snapshot has: nothing that was not committed, and everything that was acknowledged
before it. Where the copy would take more memory than it may have, it is dropped, and the signs in the file
are searched instead.

Signs lie in planes of 64 numbers each: plane ``w`` has the bits 64 w to 64 w + 63 of every vector, one after
the other. An XOR and a count of bits go through each plane with the width of the machine. (Row by row it
takes five times as long, since the sum over six words of a row is no work for vector instructions.) numpy
lets go of Python's lock meanwhile.

Only :mod:`node.memory.scopes` asks, with the numbers of the scopes that may be seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

import apsw
import numpy as np
from numpy.typing import NDArray

from node.errors import invariant
from node.memory.records import PLANES_BYTES
from node.memory.vectors import Packed
from node.storage.query import each, number, rows

PAGE: Final = 4_096
"""Vectors that are read at once."""
WIDER: Final = 4
"""How many times as many vectors are weighed as are answered."""
CHUNK: Final = 32_768
"""Vectors that are compared at once: what fits into the processor's cache."""
SUMMED: Final = 3
"""Planes whose differing signs are summed in 8 bits: 64 each, 255 at most."""
SAMPLED_EVERY: Final = 64
"""One of so many distances is looked at to know where the nearest about end."""
GROWTH: Final = 1.25
"""By how much there is more room than vectors whenever it has run out."""
GONE_SHARE: Final = 0.25
"""Share of places without a vector beyond which the rest moves together."""
FEW_REALMS: Final = 8
"""Scopes that are compared one by one: each goes through all vectors in a few microseconds."""

_Row: TypeAlias = tuple[int, int, int, bytes | None]
"""Key, realm, whether it ended, vector."""


class _Signs(NamedTuple):
    """Some vectors: their keys, realms (minus that, when they ended) and signs, a row for each."""

    keys: NDArray[np.int64]
    realms: NDArray[np.int32]
    bits: NDArray[np.uint64]


class Planes:
    """See the module's docstring.

    Args:
        limit_bytes: Memory that the signs may have; 0 for none, so that the signs in the file are searched.
    """

    _space: int | None
    """Number of the model whose signs are here; None while there are none."""
    _dimension: int
    _count: int
    """Places that are taken, by key."""
    _gone: int
    """How many of them have no vector any more: their realm is 0."""
    _change: int
    """The last change that was taken over."""
    _last: int
    """The highest key that was there then."""
    _keys: NDArray[np.int64]
    _realms: NDArray[np.int32]
    _planes: NDArray[np.uint64]
    _distances: NDArray[np.uint16]

    def __init__(self, limit_bytes: int = PLANES_BYTES) -> None:
        self._limit = limit_bytes
        self._counts = {"loads": 0, "added": 0, "changed": 0, "searches": 0, "too_large": 0}
        self._drop()

    def follow(self, connection: apsw.Connection, space: int, dimension: int, observations: int) -> bool:
        """Bring the copy in step with what a reader sees; says whether it can be searched.

        Args:
            connection: The reader, inside a transaction.
            space: Number of the model.
            dimension: Of its vectors.
            observations: How many there are at most.
        """
        if self.bytes_for(observations, dimension) > self._limit:
            self._counts["too_large"] += 1
            self._drop()
            return False
        try:
            if (space, dimension) != (self._space, self._dimension) or not self._catch_up(connection):
                self._load(connection, space, dimension, observations)
        except BaseException:  # what is half in step is in step with nothing
            self._drop()
            raise
        return True

    def nearest(self, sought: Packed, realms: Sequence[int] | None, count: int, *, past: bool) -> list[int]:
        """Keys of vectors that are near by their signs, the oldest first.

        The nearest by the number of signs that differ are put in order by the signs weighed by the question's
        numbers, in which a sign of a large number counts more than one of a small: half as many candidates
        then hold as many of the nearest.

        Args:
            sought: The question's vector, as it would be stored.
            realms: Numbers of the scopes that may be seen, or None for all.
            count: How many at most; of those that are equally far the newest are taken.
            past: Whether those that ended are looked at, too.
        """
        invariant(self._space is not None, "signs are searched that were not loaded")
        self._counts["searches"] += 1
        far = 64 * len(self._planes) + 1
        distances = self._compare(_words(sought.bits, len(self._planes)))
        np.copyto(distances, far, where=~self._seen(realms, past))
        wide = WIDER * count
        reached = np.cumsum(np.bincount(_likely(distances, wide), minlength=far + 1)[:far])
        if not reached[-1]:
            return []
        border = int(np.searchsorted(reached, min(wide, int(reached[-1]))))
        places = np.flatnonzero(distances <= border)
        if len(places) > wide:
            at_border = distances[places] == border
            ties = np.flatnonzero(at_border)
            at_border[ties[len(places) - wide :]] = False
            places = places[~at_border]
        if len(places) > count:
            places = self._weighed(places, sought, count)
        found: list[int] = self._keys[places].tolist()
        return found

    def visible(self, keys: str, realms: Sequence[int] | None) -> int | None:
        """How many of these observations are in scopes that may be seen, as far as this copy was brought.

        Args:
            keys: Of observations, at least one, those that ended included; with commas between them.
            realms: Numbers of the scopes, or None for all.

        Returns:
            Their number; None where one of them has no vector here, so that it cannot be told.
        """
        places, known = self._places(np.fromstring(keys, np.int64, sep=","))
        found = self._realms[places] if known.all() else np.zeros(1, np.int32)
        return int(np.count_nonzero(self._among(found, realms, past=True))) if found.all() else None

    def statistics(self) -> dict[str, int]:
        """Vectors and bytes in memory, the limit, and counts since the start."""
        held = self._keys.nbytes + self._realms.nbytes + self._planes.nbytes + self._distances.nbytes
        return {
            "vectors": self._count - self._gone,
            "bytes": held,
            "limit_bytes": self._limit,
            **self._counts,
        }

    @staticmethod
    def bytes_for(vectors: int, dimension: int) -> int:
        """Memory that so many vectors need at least."""
        return vectors * (8 * _width(dimension) + 8 + 4 + 2)

    # In step with the file

    def _catch_up(self, connection: apsw.Connection) -> bool:
        """Take over what has changed; says whether that could be told."""
        newest, oldest = _changes(connection)
        if oldest > self._change + 1:
            return False  # some of them are not there any more
        last = number(connection, "SELECT coalesce(max(key), 0) FROM observations")
        if newest > self._change:
            found = rows(connection, "SELECT DISTINCT key FROM changes WHERE change > ?", (self._change,))
            self._replace(connection, sorted(key for (key,) in found if key <= self._last))
        if last > self._last:
            self._add(self._read(connection, "o.key > ?", self._last))
        elif last < self._last:  # what was the last is gone, and the next row will have its key
            self._count = int(np.searchsorted(self._keys[: self._count], last, side="right"))
            self._gone = self._count - int(np.count_nonzero(self._realms[: self._count]))
        self._change, self._last = newest, last
        return True

    def _load(self, connection: apsw.Connection, space: int, dimension: int, observations: int) -> None:
        """Read all vectors of a space: about two seconds for a million."""
        self._drop()
        self._space, self._dimension = space, dimension
        self._counts["loads"] += 1
        self._change = _changes(connection)[0]
        self._last = number(connection, "SELECT coalesce(max(key), 0) FROM observations")
        self._make_room(observations)
        self._add(self._read(connection, "o.key > ?", 0))

    def _read(self, connection: apsw.Connection, where: str, binding: Any) -> Iterator[_Signs]:
        """Vectors of the space, by key, a page at a time."""
        found: Iterator[_Row] = each(
            connection,
            "SELECT o.key, o.realm, o.ended, o.vector FROM observations o"  # noqa: S608 - conditions of our own
            f" WHERE o.model = ? AND {where} ORDER BY o.key",
            (self._space, binding),
        )
        while page := list(islice(found, PAGE)):
            yield self._signs(page)

    def _signs(self, page: Sequence[_Row]) -> _Signs:
        whole = [row for row in page if row[3] is not None and len(row[3]) == self._dimension]
        numbers = np.frombuffer(b"".join(row[3] or b"" for row in whole), np.int8)
        bits = np.packbits(numbers.reshape(len(whole), self._dimension) > 0, axis=1, bitorder="little")
        padded = np.zeros((len(whole), 8 * len(self._planes)), np.uint8)
        padded[:, : bits.shape[1]] = bits
        return _Signs(
            np.array([row[0] for row in whole], np.int64),
            np.array([-row[1] if row[2] else row[1] for row in whole], np.int32),
            padded.view(np.uint64),
        )

    def _add(self, pages: Iterable[_Signs]) -> None:
        """Put vectors behind those that are there; their keys are higher."""
        for page in pages:
            first, end = self._count, self._count + len(page.keys)
            if end > len(self._keys):
                most = self._limit // self.bytes_for(1, self._dimension)
                self._make_room(max(end, min(int(end * GROWTH), most)))
            self._keys[first:end] = page.keys
            self._realms[first:end] = page.realms
            self._planes[:, first:end] = page.bits.T
            self._count = end
            self._counts["added"] += end - first

    def _replace(self, connection: apsw.Connection, keys: Sequence[int]) -> None:
        """Take over what rows are now that were seen before."""
        if not keys:
            return
        changed = np.array(keys, np.int64)
        places, known = self._places(changed)
        self._gone += int(np.count_nonzero(self._realms[places[known]]))
        self._realms[places[known]] = 0
        late = []
        for page in self._read(connection, "o.key IN (SELECT value FROM json_each(?))", json.dumps(keys)):
            places, known = self._places(page.keys)
            there = places[known]
            self._realms[there] = page.realms[known]
            self._planes[:, there] = page.bits[known].T
            self._gone -= len(there)
            late.append(_Signs(page.keys[~known], page.realms[~known], page.bits[~known]))
        self._counts["changed"] += len(keys)
        if any(len(page.keys) for page in late) or self._gone > GONE_SHARE * self._count:
            self._put_in_order(late)

    def _put_in_order(self, late: Sequence[_Signs]) -> None:
        """Take in vectors of rows that had none when they were stored, and leave those out that are gone."""
        self._add(late)
        order = np.flatnonzero(self._realms[: self._count])
        order = order[np.argsort(self._keys[order], kind="stable")]
        end = len(order)
        self._keys[:end] = self._keys[order]
        self._realms[:end] = self._realms[order]
        for plane in self._planes:
            plane[:end] = plane[order]
        self._count, self._gone = end, 0

    def _places(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where keys are, and which of them there are."""
        there = self._keys[: self._count]
        if not len(there):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        if there[-1] - there[0] == len(there) - 1:  # one after the other, as most are stored
            places = np.clip(keys - there[0], 0, len(there) - 1)
        else:
            places = np.searchsorted(there, keys).astype(np.int64)
        return places, there.take(places, mode="clip") == keys

    def _make_room(self, vectors: int) -> None:
        """Make the arrays as long as that."""
        keys, realms, planes, count = self._keys, self._realms, self._planes, self._count
        self._keys = np.zeros(vectors, np.int64)
        self._realms = np.zeros(vectors, np.int32)
        self._planes = np.zeros((_width(self._dimension), vectors), np.uint64)
        self._distances = np.zeros(vectors, np.uint16)
        self._keys[:count], self._realms[:count] = keys[:count], realms[:count]
        if count:
            self._planes[:, :count] = planes[:, :count]

    def _drop(self) -> None:
        self._space = None
        self._dimension = self._count = self._gone = self._change = self._last = 0
        self._keys = np.zeros(0, np.int64)
        self._realms = np.zeros(0, np.int32)
        self._planes = np.zeros((0, 0), np.uint64)
        self._distances = np.zeros(0, np.uint16)

    # Comparing

    def _compare(self, question: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """In how many signs each vector differs from the question."""
        differing = np.empty(CHUNK, np.uint64)
        counted, summed = np.empty(CHUNK, np.uint8), np.empty(CHUNK, np.uint8)
        for first in range(0, self._count, CHUNK):
            end = min(first + CHUNK, self._count)
            distances, size = self._distances[first:end], end - first
            distances[:] = 0
            for start in range(0, len(self._planes), SUMMED):
                summed[:size] = 0
                for place in range(start, min(start + SUMMED, len(self._planes))):
                    np.bitwise_xor(self._planes[place, first:end], question[place], out=differing[:size])
                    np.bitwise_count(differing[:size], out=counted[:size])
                    np.add(summed[:size], counted[:size], out=summed[:size])
                np.add(distances, summed[:size], out=distances)
        return self._distances[: self._count]

    def _weighed(self, places: NDArray[np.int64], sought: Packed, count: int) -> NDArray[np.int64]:
        """Of some places those whose signs, weighed by the question's numbers, are nearest."""
        bits = np.ascontiguousarray(self._planes[:, places].T).view(np.uint8)
        signs = np.unpackbits(bits, axis=1, count=self._dimension, bitorder="little").astype(np.float32)
        # Whole numbers, whose sums float32 has exactly: equal signs are equally near.
        weights = signs @ np.frombuffer(sought.stored, np.int8).astype(np.float32)
        best: NDArray[np.int64] = np.sort(places[np.lexsort((-places, -weights))[:count]])
        return best

    def _seen(self, realms: Sequence[int] | None, past: bool) -> NDArray[np.bool_]:
        """Which vectors are in scopes that may be seen."""
        return self._among(self._realms[: self._count], realms, past=past)

    @staticmethod
    def _among(there: NDArray[np.int32], realms: Sequence[int] | None, *, past: bool) -> NDArray[np.bool_]:
        """Which of some places are of scopes that may be seen."""
        if realms is None:
            return there != 0 if past else there > 0
        wanted = np.array([*realms, *(-realm for realm in realms if past)], np.int32)
        if len(wanted) > FEW_REALMS:
            return np.isin(there, wanted)
        seen = np.zeros(len(there), np.bool_)
        for realm in wanted:
            seen |= there == realm
        return seen


def _likely(distances: NDArray[np.uint16], wide: int) -> NDArray[np.uint16]:
    """Distances among which the ``wide`` least are: those up to one that a sample tells, else all.

    A histogram of them all takes a fourth of the time that it takes to compare the signs.
    """
    sample = np.sort(distances[::SAMPLED_EVERY])
    if not len(sample):
        return distances
    border = sample[min(2 * wide // SAMPLED_EVERY + 8, len(sample) - 1)]
    near = distances[distances <= border]
    return near if len(near) >= wide else distances


def _changes(connection: apsw.Connection) -> tuple[int, int]:
    """Numbers of the newest change that was put down, and of the oldest that still is; 0 for none."""
    newest = number(connection, "SELECT coalesce(max(change), 0) FROM changes")
    return newest, number(connection, "SELECT coalesce(min(change), 0) FROM changes")


def _width(dimension: int) -> int:
    return -(-dimension // 64)


def _words(signs: bytes, width: int) -> NDArray[np.uint64]:
    """Signs as words of 64, the last filled with zeros."""
    return np.frombuffer(signs.ljust(8 * width, b"\0"), np.uint64)
