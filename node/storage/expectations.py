"""Which messages of this node's agents want a reply by a certain time."""

from __future__ import annotations

from collections.abc import Iterable

import apsw

from node.storage.query import number, rows


def add(connection: apsw.Connection, seq: int, reply_by_s: float) -> None:
    """Expect a reply to an accepted message (its seq) until then (Unix seconds)."""
    connection.execute("INSERT OR IGNORE INTO expected_replies VALUES (?, ?)", (seq, reply_by_s))


def due(connection: apsw.Connection, wall_s: float, limit: int) -> list[int]:
    """The first ``limit`` messages (their seqs) whose time is up, in the order in which it was."""
    found = rows(
        connection,
        "SELECT e.seq FROM expected_replies e JOIN outbox o ON o.seq = e.seq"
        " WHERE e.reply_by_s <= ? AND o.ended_s IS NOT NULL ORDER BY e.reply_by_s, e.seq LIMIT ?",
        (wall_s, limit),
    )
    return [seq for (seq,) in found]


def soonest(connection: apsw.Connection) -> float | None:
    """Unix seconds at which the next one is due, or None when nothing is expected."""
    found = rows(connection, "SELECT min(reply_by_s) FROM expected_replies")
    return None if found[0][0] is None else float(found[0][0])


def drop(connection: apsw.Connection, seqs: Iterable[int]) -> None:
    """Expect nothing of these any more."""
    connection.executemany("DELETE FROM expected_replies WHERE seq = ?", [(seq,) for seq in seqs])


def count(connection: apsw.Connection) -> int:
    """How many replies are expected."""
    return number(connection, "SELECT count(*) FROM expected_replies")
