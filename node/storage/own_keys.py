"""Secrets that a node makes for itself and never shows; its database, which is private, holds them."""

from __future__ import annotations

import apsw

from node.storage.query import rows


def own_key(connection: apsw.Connection, purpose: str, fresh: bytes) -> bytes:
    """The key for a purpose; ``fresh`` becomes it when there is none yet."""
    name = f"key:{purpose}"
    connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, fresh))
    return bytes(rows(connection, "SELECT value FROM meta WHERE key = ?", (name,))[0][0])
