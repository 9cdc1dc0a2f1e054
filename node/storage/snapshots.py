"""Small named blobs that are replaced as a whole: members, replicated registers, the generation counter."""

from __future__ import annotations

import apsw

from node.storage.query import rows


def put(connection: apsw.Connection, key: str, value: bytes) -> None:
    """Store ``value`` under ``key``, replacing what was there."""
    connection.execute(
        "INSERT INTO snapshots VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def get(connection: apsw.Connection, key: str) -> bytes | None:
    """What is stored under ``key``, or None."""
    found = rows(connection, "SELECT value FROM snapshots WHERE key = ?", (key,))
    return bytes(found[0][0]) if found else None


def delete(connection: apsw.Connection, key: str) -> bool:
    """Forget ``key``; says whether it was there."""
    connection.execute("DELETE FROM snapshots WHERE key = ?", (key,))
    return connection.changes() > 0
