"""Calls for proposals of this node, for as long as bids may come whose maker waits for a decision."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from node.storage.query import rows


class CallRow(NamedTuple):
    """One call.

    Args:
        message_id: The ``cfp``.
        sender: Who has called, ``name@node``.
        reply_with: What bids quote.
        at_s: Unix seconds.
    """

    message_id: str
    sender: str
    reply_with: str
    at_s: float


def add(connection: apsw.Connection, row: CallRow, *, before_s: float, limit: int) -> None:
    """Remember a call, and forget those that began before ``before_s`` or are beyond the newest ``limit``."""
    connection.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?)", row)
    connection.execute("DELETE FROM calls WHERE at_s < ?", (before_s,))
    connection.execute(
        "DELETE FROM calls WHERE message_id IN"
        " (SELECT message_id FROM calls ORDER BY at_s DESC, message_id DESC LIMIT -1 OFFSET ?)",
        (limit,),
    )


def load(connection: apsw.Connection) -> list[CallRow]:
    """All that are remembered, oldest first."""
    found = rows(
        connection, "SELECT message_id, sender, reply_with, at_s FROM calls ORDER BY at_s, message_id"
    )
    return [CallRow(*row) for row in found]
