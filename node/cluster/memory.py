"""What a node remembers of its cluster over a restart: whom it knew, the maps it held, its own generation.

The members that were up are kept by their own signed words: a restarted node checks them as it would check
news, knows its members at once, and probes them. Addresses are kept of the others, too.

Nothing of it is needed to start: what cannot be read is dropped, counted and logged, and comes back from the
peers. Only the generation has to be on disk before anything is published under it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from node.environment import Address
from node.storage import snapshots
from node.storage.storage import Storage
from swim import strict_cbor
from swim.identity import is_name
from swim.protocol import Swim
from swim.replicated import Replicated
from swim.units import MAX_COUNTER

log = logging.getLogger(__name__)

SNAPSHOT_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of maps that are kept on disk; what goes beyond comes back from the peers."""


@dataclass(frozen=True, slots=True)
class Remembrance:
    """Whom a node knew in its last life.

    Args:
        words: The last words of the members that were up, signed by themselves: they prove who they are.
        book: Names and addresses of all that had not left, to be tried again.
        expected: The names of those that were members, whose maps still count.
    """

    words: tuple[bytes, ...]
    book: tuple[tuple[str, Address], ...]
    expected: tuple[str, ...]


class ClusterMemory:
    """The snapshot of one node.

    Args:
        storage: Where it lives.
        swim: Whose members are remembered.
        replicated: The maps that are remembered.
    """

    def __init__(self, storage: Storage, swim: Swim, replicated: Replicated) -> None:
        self._storage, self._swim, self._replicated = storage, swim, replicated
        self._saved: object = None
        self._writes = self._unreadable = self._left_out = 0

    async def load(self, wall: float) -> Remembrance:
        """Take back the maps of the last life; returns whom it knew."""
        keys = ("members", "member_names", "maps", "words")
        found = await self._storage.read(lambda c: [self._read(c, key) for key in keys])
        members, names, units, words = found
        expected = tuple(name for name in names if is_name(name))
        for name in expected:
            self._replicated.admit_owner(name, wall)
        self._replicated.load_units([unit for unit in units if type(unit) is bytes], wall)
        book = tuple(entry for entry in map(_book_entry, members) if entry is not None)
        return Remembrance(tuple(word for word in words if type(word) is bytes), book, expected)

    async def reserve_generation(self) -> int:
        """Write the counter of the coming generation to disk; returns the one before it.

        A counter that was used and then forgotten would look like a second process of this name.
        """
        found = await self._storage.read(lambda c: snapshots.get(c, "generation"))
        counter = int.from_bytes(found or b"", "big")
        if counter >= MAX_COUNTER:
            self._refuse("generation")
            counter = 0
        counter = self._replicated.next_counter(counter)
        await self._storage.write(lambda c: snapshots.put(c, "generation", counter.to_bytes(8, "big")))
        return counter - 1

    async def save(self, expected: list[str]) -> None:
        """Write what has changed since the last time.

        Args:
            expected: Members that may come back.
        """
        book, said = self._swim.address_book(), self._swim.words()
        generation = self._replicated.generation
        now = (book, said, expected, self._replicated.root(), generation)
        if now == self._saved:
            return
        members = strict_cbor.encode([[name, *address] for name, address in book])
        units = self._replicated.export()
        total = kept = 0
        for unit in units:
            total += len(unit)
            if total > SNAPSHOT_BYTES:
                break
            kept += 1
        self._left_out = len(units) - kept
        maps = strict_cbor.encode(units[:kept])
        names, words = strict_cbor.encode(expected), strict_cbor.encode(said)

        def job(connection: Any) -> None:
            snapshots.put(connection, "members", members)
            snapshots.put(connection, "member_names", names)
            snapshots.put(connection, "words", words)
            snapshots.put(connection, "maps", maps)
            if generation is not None:
                snapshots.put(connection, "generation", generation[0].to_bytes(8, "big"))

        await self._storage.write(job)
        self._saved = now
        self._writes += 1

    def statistics(self) -> dict[str, int]:
        """Counts of writes, of what could not be read, and of units too many for the disk."""
        return {"writes": self._writes, "unreadable": self._unreadable, "units_left_out": self._left_out}

    def _read(self, connection: Any, what: str) -> list[Any]:
        """Read a list; an empty one if there is none, or something else in its place."""
        data = snapshots.get(connection, what)
        if data is None:
            return []
        try:
            found = strict_cbor.decode(data, max_bytes=2 * SNAPSHOT_BYTES)
        except ValueError:
            found = None
        if type(found) is list:
            return found
        self._refuse(what)
        return []

    def _refuse(self, what: str) -> None:
        self._unreadable += 1
        log.warning("the %s of the last run cannot be read and are left out; the peers will tell them", what)


def _book_entry(entry: object) -> tuple[str, Address] | None:
    match entry:
        case [str(name), str(host), int(port)] if is_name(name) and host and 0 < port < 65_536:
            return name, (host, port)
    return None
