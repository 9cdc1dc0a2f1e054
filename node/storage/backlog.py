"""Accepted messages that nobody can be given for now, beyond those that the outbox holds in memory.

A row moves to the outbox, under its seq, when its turn has come. So the outbox has what is under way or has
ended, a start reads nothing of the backlog but its sums, and a million rows here cost no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

from node.storage.outbox import OutboxRow
from node.storage.query import number, rows

_COLUMNS: Final = (
    "seq, message_id, conversation_id, reply_with, accepted_s, expires_s, hops, traceparent, sealed, "
    "answers, cause"
)


class Parked(NamedTuple):
    """A message of the backlog: its row as the outbox would have it, and what it is for."""

    wanted: str
    row: OutboxRow


class Sum(NamedTuple):
    """How much there is for one capability or receiver."""

    wanted: str
    messages: int
    size: int


def insert(connection: apsw.Connection, parked: Sequence[Parked]) -> frozenset[int]:
    """Store messages; returns the seqs of those whose id was known already, which are not stored."""
    stored = connection.executemany(
        f"INSERT INTO backlog (wanted, size, {_COLUMNS})"  # noqa: S608
        " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13"
        " WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE message_id = ?4)"
        " ON CONFLICT (message_id) DO NOTHING RETURNING seq",
        [(each.wanted, len(each.row.sealed), *_values(each.row)) for each in parked],
    ).fetchall()
    return frozenset(each.row.seq for each in parked).difference(seq for (seq,) in stored)


def known(connection: apsw.Connection, message_ids: Sequence[str]) -> set[str]:
    """Those of some ids that messages of the backlog have."""
    return {
        message_id
        for message_id in message_ids
        if rows(connection, "SELECT 1 FROM backlog WHERE message_id = ?", (message_id,))
    }


def remove(connection: apsw.Connection, seqs: Sequence[int]) -> None:
    """Drop messages that are in the outbox now."""
    connection.executemany("DELETE FROM backlog WHERE seq = ?", [(seq,) for seq in seqs])


def sums(connection: apsw.Connection) -> list[Sum]:
    """How much there is for whom."""
    found = rows(connection, "SELECT wanted, count(*), sum(size) FROM backlog GROUP BY wanted")
    return [Sum(*row) for row in found]


def first(connection: apsw.Connection, wanted: str, limit: int, size: int) -> list[Parked]:
    """The oldest messages for ``wanted``: at most ``limit``, of at most ``size`` bytes but for the first."""
    last, total = 0, 0
    places = rows(
        connection, "SELECT seq, size FROM backlog WHERE wanted = ? ORDER BY seq LIMIT ?", (wanted, limit)
    )
    for seq, found in places:
        total += found
        if last and total > size:
            break
        last = seq
    return _read(connection, "wanted = ? AND seq <= ? ORDER BY seq", (wanted, last))


def expired(connection: apsw.Connection, wall_s: float, limit: int) -> list[Parked]:
    """The first messages whose time was up at ``wall_s``."""
    return _read(connection, "expires_s <= ? ORDER BY expires_s LIMIT ?", (wall_s, limit))


def find(connection: apsw.Connection, message_id: str) -> OutboxRow | None:
    """The message of that id."""
    found = _read(connection, "message_id = ?", (message_id,))
    return found[0].row if found else None


def conversation(connection: apsw.Connection, conversation_id: str, limit: int) -> list[OutboxRow]:
    """The newest ``limit`` messages of a conversation, the newest first."""
    found = _read(connection, "conversation_id = ? ORDER BY seq DESC LIMIT ?", (conversation_id, limit))
    return [each.row for each in found]


def conversation_after(
    connection: apsw.Connection, conversation_id: str, after: int, limit: int
) -> list[OutboxRow]:
    """The next messages of a conversation, oldest first."""
    found = _read(
        connection, "conversation_id = ? AND seq > ? ORDER BY seq LIMIT ?", (conversation_id, after, limit)
    )
    return [each.row for each in found]


def caused(connection: apsw.Connection, message_id: str, limit: int) -> list[OutboxRow]:
    """The first ``limit`` messages that were accepted because of another one."""
    return [each.row for each in _read(connection, "cause = ? ORDER BY seq LIMIT ?", (message_id, limit))]


def last_seq(connection: apsw.Connection) -> int:
    """The highest seq here."""
    return number(connection, "SELECT coalesce(max(seq), 0) FROM backlog")


def _read(connection: apsw.Connection, which: str, bindings: tuple[Any, ...]) -> list[Parked]:
    found = rows(connection, f"SELECT wanted, {_COLUMNS} FROM backlog WHERE {which}", bindings)  # noqa: S608
    return [Parked(row[0], _row(row[1:])) for row in found]


def _values(row: OutboxRow) -> tuple[Any, ...]:
    return (
        row.seq, row.message_id, row.conversation_id, row.reply_with, row.accepted_s, row.expires_s,
        row.hops, row.traceparent, row.sealed, row.answers, row.cause,
    )  # fmt: skip


def _row(values: tuple[Any, ...]) -> OutboxRow:
    seq, message_id, conversation_id, reply_with, *rest, answers, cause = values
    accepted_s, expires_s, hops, trace, sealed = rest
    return OutboxRow(
        seq, message_id, conversation_id, reply_with, "open", False, accepted_s, expires_s, hops, trace,
        sealed, answers=answers, cause=cause,
    )  # fmt: skip
