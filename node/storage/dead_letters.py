"""Messages that could not be delivered, each with its whole history; the oldest leave first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from node.storage.query import rows

DEAD_LETTER_LIMIT: Final = 10_000
"""Most dead letters kept."""


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """One dead letter; ``history`` is CBOR of the message's history as JSON values."""

    message_id: str
    at_s: float
    reason: str
    history: bytes


def add(connection: apsw.Connection, row: DeadLetterRow, *, limit: int = DEAD_LETTER_LIMIT) -> None:
    """Keep a dead letter, and at most ``limit`` of them."""
    connection.execute(
        "INSERT INTO dead_letters (message_id, at_s, reason, history) VALUES (?, ?, ?, ?)",
        (row.message_id, row.at_s, row.reason, row.history),
    )
    connection.execute("DELETE FROM dead_letters WHERE seq <= ?", (connection.last_insert_rowid() - limit,))


def newest(connection: apsw.Connection, limit: int) -> list[DeadLetterRow]:
    """The newest ``limit`` dead letters, newest first."""
    found = rows(
        connection,
        "SELECT message_id, at_s, reason, history FROM dead_letters ORDER BY seq DESC LIMIT ?",
        (limit,),
    )
    return [DeadLetterRow(*row) for row in found]


def forget(connection: apsw.Connection, before_s: float) -> int:
    """Drop dead letters older than ``before_s``; returns how many went."""
    connection.execute(
        "DELETE FROM dead_letters WHERE seq IN (SELECT seq FROM dead_letters ORDER BY seq LIMIT 1000)"
        " AND at_s < ?",
        (before_s,),
    )
    return connection.changes()
