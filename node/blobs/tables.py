"""The tables of blobs, in a database file of their own: what is here of each, in chunks of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import apsw

from node.errors import invariant
from node.storage.query import each, number, rows
from node.storage.storage import Design

CHUNK_BYTES: Final = 65_536
"""Size of every chunk but the last; a chunk travels in one answer of a peer link."""
CHUNKS_SHIFT: Final = 20
"""A chunk's row is its blob's key, shifted by so much, and its number."""

_TABLES: Final = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (
    key INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,     -- SHA-256 of the whole content, hexadecimal
    size INTEGER NOT NULL,
    chunks INTEGER NOT NULL DEFAULT 0,  -- how many of the first are here
    complete INTEGER NOT NULL DEFAULT 0,
    used_s REAL NOT NULL
);
CREATE INDEX blobs_used ON blobs (used_s);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,          -- key << {CHUNKS_SHIFT} | number
    data BLOB NOT NULL
);
"""


def _reclaiming(connection: apsw.Connection) -> None:
    """Space that is freed can be given back; this has an effect before the file's first table only."""
    if not connection.readonly("main"):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


BLOBS: Final = Design(
    steps=(_TABLES,),
    on_connect=_reclaiming,
    lock="blobs.lock",
    write_lane="blobs",
    read_lane="blobs",
    cache_kib=2_048,
)
"""The file of blobs: written and read on a thread, since a chunk is large."""


class Row(NamedTuple):
    """What is here of a blob.

    Args:
        key: Its number in the file.
        digest: SHA-256 of the whole content, hexadecimal.
        size: Of the whole content, in bytes.
        chunks: How many of its first chunks are here.
        complete: Whether all are, and have the digest.
    """

    key: int
    digest: str
    size: int
    chunks: int
    complete: bool

    @property
    def received(self) -> int:
        """Bytes that are here."""
        return min(self.size, self.chunks * CHUNK_BYTES)


def chunk_count(size: int) -> int:
    """How many chunks content of ``size`` bytes has."""
    return -(-size // CHUNK_BYTES)


def find(connection: apsw.Connection, digest: str) -> Row | None:
    """What is here of a blob, or None."""
    found = rows(
        connection, "SELECT key, digest, size, chunks, complete FROM blobs WHERE digest = ?", (digest,)
    )
    if not found:
        return None
    key, known, size, chunks, is_complete = found[0]
    return Row(key, known, size, chunks, bool(is_complete))


def begin(connection: apsw.Connection, digest: str, size: int, wall: float) -> Row:
    """Know of a blob from now on, as of one that is used; returns what is here of it."""
    connection.execute(
        "INSERT INTO blobs (digest, size, used_s) VALUES (?1, ?2, ?3)"
        " ON CONFLICT (digest) DO UPDATE SET used_s = ?3",
        (digest, size, wall),
    )
    found = find(connection, digest)
    invariant(found is not None, "a row that was just written is there")
    return found  # type: ignore[return-value]


def stalled(connection: apsw.Connection, digest: str, before_s: float) -> bool:
    """Whether a blob is here in part only, and nobody has added to it, or asked for it, since then."""
    sql = "SELECT count(*) FROM blobs WHERE digest = ? AND complete = 0 AND used_s <= ?"
    return number(connection, sql, (digest, before_s)) > 0


def append(
    connection: apsw.Connection, key: int, first: int, chunks: Sequence[bytes], wall: float
) -> int | None:
    """Add chunks from number ``first`` on; returns how many are here, None when the blob is gone.

    Chunks that are here already are left as they are; nothing is added after a gap.
    """
    known = rows(connection, "SELECT chunks FROM blobs WHERE key = ? AND complete = 0", (key,))
    if not known:
        return None
    here = int(known[0][0])
    if first > here:
        return here
    fresh = chunks[here - first :]
    connection.executemany(
        "INSERT INTO chunks (id, data) VALUES (?, ?)",
        [(key << CHUNKS_SHIFT | here + place, data) for place, data in enumerate(fresh)],
    )
    connection.execute(
        "UPDATE blobs SET chunks = ?, used_s = ? WHERE key = ?", (here + len(fresh), wall, key)
    )
    return here + len(fresh)


def digest_of(connection: apsw.Connection, key: int) -> tuple[str, int]:
    """SHA-256 and size of the chunks that are here."""
    hashed, size = hashlib.sha256(), 0
    for (data,) in each(
        connection,
        "SELECT data FROM chunks WHERE id >= ? AND id < ? ORDER BY id",
        (key << CHUNKS_SHIFT, key + 1 << CHUNKS_SHIFT),
    ):
        hashed.update(data)
        size += len(data)
    return hashed.hexdigest(), size


def complete(connection: apsw.Connection, key: int, wall: float) -> None:
    """All chunks are here, and they are what the digest says."""
    connection.execute("UPDATE blobs SET complete = 1, used_s = ? WHERE key = ?", (wall, key))


def read(connection: apsw.Connection, key: int, first: int, count: int) -> list[bytes]:
    """So many chunks from number ``first`` on, as far as they are here."""
    found = rows(
        connection,
        "SELECT data FROM chunks WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (key << CHUNKS_SHIFT | first, key + 1 << CHUNKS_SHIFT, count),
    )
    return [data for (data,) in found]


def touch(connection: apsw.Connection, digests: Iterable[str], wall: float) -> None:
    """These are used now."""
    connection.executemany(
        "UPDATE blobs SET used_s = ? WHERE digest = ?", [(wall, digest) for digest in digests]
    )


def idle(connection: apsw.Connection, before_s: float, limit: int) -> list[str]:
    """Digests of blobs that nobody has used since then, the longest unused first."""
    found = rows(
        connection,
        "SELECT digest FROM blobs WHERE used_s < ? ORDER BY used_s LIMIT ?",
        (before_s, limit),
    )
    return [digest for (digest,) in found]


def drop(connection: apsw.Connection, digest: str) -> None:
    """Forget a blob; :func:`reclaim` gives its space back to the file system."""
    row = find(connection, digest)
    if row is None:
        return
    low, high = row.key << CHUNKS_SHIFT, row.key + 1 << CHUNKS_SHIFT
    connection.execute("DELETE FROM chunks WHERE id >= ? AND id < ?", (low, high))
    connection.execute("DELETE FROM blobs WHERE key = ?", (row.key,))


def reclaim(connection: apsw.Connection) -> None:
    """Give the file system back what the file does not need."""
    connection.execute("PRAGMA incremental_vacuum").fetchall()


def reserved(connection: apsw.Connection) -> tuple[int, int]:
    """How many blobs there are, and the bytes that they have, or will have."""
    return (
        number(connection, "SELECT count(*) FROM blobs"),
        number(connection, "SELECT coalesce(sum(size), 0) FROM blobs"),
    )
