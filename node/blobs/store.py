"""What a node has of blobs: received in chunks that are durable as they come, read back in chunks.

A blob is known by the SHA-256 of its content. Whoever sends one says its size before, so its room is
reserved before its first byte; who breaks off goes on where the chunks end. A blob counts only once all of it
is here and has its digest. What nobody has used for a while is dropped, unless a message still needs it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw
import trio

from node.blobs import tables
from node.blobs.tables import CHUNK_BYTES, Row, chunk_count
from node.environment import Environment
from node.errors import BlobNotFound, ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.message import BLOB_LIMIT_BYTES
from node.storage.storage import Durability, Storage

FILE: Final = "blobs.db"
"""Name of the database file in the data directory."""
COUNT_LIMIT: Final = 10_000
"""Most blobs."""
SWEEP_S: Final = 60.0
"""How often what is unused is looked for, in seconds."""
ANEW_S: Final = 60.0
"""How long a part of a blob keeps its place before it makes way for one of the same digest and another size,
in seconds: only the whole tells which of them is the size, so a wrong one must not keep the right one out."""
SWEEP_BATCH: Final = 100
"""Most blobs that are looked at in one round."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Needed = Callable[[Sequence[str]], Awaitable[set[str]]]
"""Which of some blobs messages still need."""


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """How much is kept, and for how long.

    Args:
        total_bytes: Most bytes of all blobs, those that are still coming included.
        unused_s: Seconds without use after which a blob goes that no message needs.
    """

    total_bytes: int
    unused_s: float


class BlobStore:
    """The blobs of one node; the file is made by the first one.

    Args:
        environment: Workers and time.
        path: The database file.
        durability: As :class:`node.storage.storage.Storage` takes it.
        limits: How much is kept.
    """

    def __init__(
        self, *, environment: Environment, path: Path, durability: Durability, limits: BlobLimits
    ) -> None:
        self._environment, self._clock = environment, environment.clock
        self._path, self._durability, self._limits = path, durability, limits
        self._storage: Storage | None = None
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._closed = False
        self._held = (0, 0)
        self._counts = dict.fromkeys(("completed", "corrupt", "dropped"), 0)

    # For whoever sends a blob

    async def begin(self, digest: str, size: int) -> Row:
        """Make room for a blob; what is here of it already is kept.

        Args:
            digest: SHA-256 of its content, 64 hexadecimal digits in lower case.
            size: Of its content, in bytes.

        Raises:
            ValidationFailed: the digest or the size is none, or another size was given before: of a blob that
                is here as a whole, or was sent in part within the last :data:`ANEW_S`.
            ResourceLimitExceeded: there is no room.
            StorageFailed: the disk refuses.
        """
        check_digest(digest)
        if not 0 < size <= BLOB_LIMIT_BYTES:
            raise ValidationFailed(
                f"a blob has 1 to {BLOB_LIMIT_BYTES:,} bytes",
                why=f"this one has {size:,}",
                fix="Send it in several, or by other means.",
                details={"size_bytes": size, "limit_bytes": BLOB_LIMIT_BYTES},
            )
        storage, wall = await self._open(), self._clock.wall()

        def job(connection: apsw.Connection) -> tuple[Row, tuple[int, int]]:
            known = tables.find(connection, digest)
            if known is not None and known.size != size and tables.stalled(connection, digest, wall - ANEW_S):
                tables.drop(connection, digest)
                known = None
            if known is None:
                self._check_room(tables.reserved(connection), size)
            elif known.size != size:
                raise ValidationFailed(
                    f"the blob {digest[:12]}… was announced with {known.size:,} bytes",
                    why=f"now it has {size:,}",
                    fix="Content of another size has another SHA-256.",
                )
            return tables.begin(connection, digest, size, wall), tables.reserved(connection)

        row, self._held = await storage.write(job)
        return row

    async def append(self, row: Row, first: int, chunks: Sequence[bytes]) -> int:
        """Add chunks from number ``first`` on; returns how many are here now.

        Args:
            row: The blob, as :meth:`begin` gave it.
            first: Number of the first of these chunks; no later than what is here ends.
            chunks: Of :data:`CHUNK_BYTES` each, but for the blob's last.

        Raises:
            ValidationFailed: a chunk has another size than its place asks for.
            BlobNotFound: the blob has gone meanwhile.
            StorageFailed: the disk refuses.
        """
        for place, data in enumerate(chunks, start=first):
            wanted = min(CHUNK_BYTES, row.size - place * CHUNK_BYTES)
            if len(data) != wanted:
                raise ValidationFailed(
                    f"chunk {place} of the blob {row.digest[:12]}… has {len(data)} bytes",
                    why=f"{max(0, wanted)} were announced",
                )
        storage, wall = await self._open(), self._clock.wall()
        here = await storage.write(lambda c: tables.append(c, row.key, first, chunks, wall))
        if here is None:
            found = await self.find(row.digest)
            if found is None or not found.complete:
                raise not_here(row.digest)
            return chunk_count(row.size)  # another has brought it to its end
        return here

    async def finish(self, row: Row) -> None:
        """All of it is here: see whether it is what its digest says.

        Raises:
            ValidationFailed: it is not, and nothing of it is kept; or chunks are missing.
            StorageFailed: the disk refuses.
        """
        storage, wall = await self._open(), self._clock.wall()
        found = await self.find(row.digest)
        if found is None or found.complete:
            return
        digest, size = await storage.read(lambda connection: tables.digest_of(connection, found.key))
        if size < found.size:
            raise ValidationFailed(
                f"of the blob {row.digest[:12]}… {size:,} of {found.size:,} bytes are here",
                fix="Go on where they end.",
                details={"received_bytes": size, "size_bytes": found.size},
            )
        if digest != found.digest:
            self._counts["corrupt"] += 1
            await self._drop([found.digest])
            raise ValidationFailed(
                "the content has another SHA-256 than was announced",
                why=f"it is {digest}",
                fix="Compute it of the very bytes that are sent, and send them again.",
                details={"announced": found.digest, "found": digest},
            )
        await storage.write(lambda connection: tables.complete(connection, found.key, wall))
        self._counts["completed"] += 1

    # For whoever reads one

    async def find(self, digest: str) -> Row | None:
        """What is here of a blob, or None.

        Raises:
            StorageFailed: the disk refuses.
        """
        storage = await self._existing()
        if storage is None:
            return None
        return await storage.read(lambda connection: tables.find(connection, digest))

    async def whole(self, digest: str) -> Row | None:
        """A blob that is here as a whole, as one that is used now; otherwise None.

        Raises:
            StorageFailed: the disk refuses.
        """
        row = await self.find(digest)
        if row is None or not row.complete:
            return None
        await self.use([digest])
        return row

    async def use(self, digests: Iterable[str]) -> None:
        """These are needed now."""
        storage, wall, used = await self._existing(), self._clock.wall(), list(digests)
        if storage is not None:
            await storage.write(lambda connection: tables.touch(connection, used, wall))

    async def chunks(self, row: Row, first: int, count: int) -> list[bytes]:
        """So many chunks from number ``first`` on, as far as they are here.

        Raises:
            StorageFailed: the disk refuses.
        """
        storage = await self._open()
        return await storage.read(lambda connection: tables.read(connection, row.key, first, count))

    # As a room

    async def run(self, needed: Needed) -> None:
        """Drop what nobody uses or needs, until cancelled."""
        if self._path.exists():
            await self._open()
        await self._opened.wait()
        storage = await self._open()
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            while True:
                await self._clock.sleep(SWEEP_S)
                try:
                    await self.sweep(needed)
                except StorageFailed:
                    continue  # the next round finds the same

    async def sweep(self, needed: Needed) -> int:
        """One round of it; returns how many blobs went."""
        storage = await self._open()
        before_s = self._clock.wall() - self._limits.unused_s
        unused = await storage.read(lambda c: tables.idle(c, before_s, SWEEP_BATCH))
        if not unused:
            return 0
        kept = await needed(unused)
        if kept:
            await self.use(kept)
        gone = [digest for digest in unused if digest not in kept]
        await self._drop(gone)
        self._counts["dropped"] += len(gone)
        return len(gone)

    async def give_up(self, row: Row) -> None:
        """Keep no room for a blob of which nothing has come.

        Raises:
            StorageFailed: the disk refuses.
        """
        found = await self.find(row.digest)
        if found is not None and found.key == row.key and not found.chunks:
            await self._drop([row.digest])

    async def drop(self, digests: Sequence[str]) -> None:
        """Let go of these, whether or not they have been used lately.

        Raises:
            StorageFailed: the disk refuses.
        """
        if await self._existing() is not None:
            await self._drop(digests)

    def statistics(self) -> dict[str, Any]:
        """Counts and sizes."""
        blobs, size = self._held
        return {
            "blobs": blobs,
            "blobs_limit": COUNT_LIMIT,
            "blob_bytes": size,
            "blob_bytes_limit": self._limits.total_bytes,
            **self._counts,
        }

    def close(self) -> None:
        """Let the file go; doing it twice is harmless."""
        self._closed = True
        if self._storage is not None:
            self._storage.close()

    # Inside

    def _check_room(self, held: tuple[int, int], size: int) -> None:
        blobs, reserved = held
        if blobs < COUNT_LIMIT and reserved + size <= self._limits.total_bytes:
            return
        raise ResourceLimitExceeded(
            "there is no room for another blob",
            why=f"{blobs:,} of them take {reserved:,} of {self._limits.total_bytes:,} bytes",
            fix="Wait until messages that carry some have ended, or raise messaging.blobs_limit.",
            details={
                "retry_after_s": int(SWEEP_S),
                "bytes": reserved,
                "limit_bytes": self._limits.total_bytes,
            },
        )

    async def _drop(self, digests: Sequence[str]) -> None:
        storage = await self._open()
        for digest in digests:  # each by itself: a large one takes a while
            await storage.write(partial(_drop, digest=digest))
        await storage.write(tables.reclaim)
        self._held = await storage.read(tables.reserved)

    async def _existing(self) -> Storage | None:
        if self._storage is None and not self._path.exists():
            await trio.lowlevel.checkpoint()
            return None
        return await self._open()

    async def _open(self) -> Storage:
        async with self._opening:
            if self._closed:
                raise StorageFailed("the blobs were closed", why="the node is stopping")
            if self._storage is None:
                self._storage = await self._environment.workers.run("blobs", self._open_file)
                self._held = await self._storage.read(tables.reserved)
                self._opened.set()
            return self._storage

    def _open_file(self) -> Storage:
        return Storage.open(
            self._path, durability=self._durability, environment=self._environment, design=tables.BLOBS
        )


def _drop(connection: apsw.Connection, digest: str) -> None:
    tables.drop(connection, digest)


def check_digest(digest: str) -> None:
    """Refuse what is no SHA-256.

    Raises:
        ValidationFailed: it is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValidationFailed(
            f"{digest[:80]!r} is no SHA-256",
            why="a blob is known by 64 hexadecimal digits in lower case",
            fix="Write what sha256sum prints.",
        )


def not_here(digest: str) -> BlobNotFound:
    """The refusal of what needs a blob that is not here as a whole."""
    return BlobNotFound(
        f"the blob {digest[:12]}… is not here",
        why="it was never sent to this node as a whole, or nobody has used it for long",
        fix="Send it with PUT /blobs/SHA256.",
        details={"blob": digest},
    )
