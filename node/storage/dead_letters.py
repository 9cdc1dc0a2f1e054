"""Messages that could not be delivered, each with its whole history; the oldest leave first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import apsw

from node.storage.query import rows

DEAD_LETTER_LIMIT: Final = 10_000
"""Most dead letters kept."""
DEAD_LETTER_BYTES_LIMIT: Final = 256 * 1024**2
"""Most bytes of dead letters kept: their messages and histories."""

_LISTED: Final = "seq, message_id, at_s, reason, history, capability, hops, bytes, retried_as, retried_s"


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """One dead letter.

    Args:
        message_id: The message.
        at_s: Unix seconds at which it was given up.
        reason: Why.
        history: CBOR of the message's history as JSON values.
        capability: What it asked for, or None when it was for an agent.
        hops: Messages that led to it.
        sealed: The sealed message, or None of a letter that an older version gave up.
        retried_as: The id of the message that repeats it, or None.
        retried_s: Unix seconds at which that was accepted.
        bytes: What it weighs; given by the table.
        seq: Its place; given by the table.
    """

    message_id: str
    at_s: float
    reason: str
    history: bytes
    capability: str | None = None
    hops: int = 0
    sealed: bytes | None = None
    retried_as: str | None = None
    retried_s: float | None = None
    bytes: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant; what is None leaves nothing out.

    Args:
        before: Those whose seq is lower.
        after: Those whose seq is higher.
        capability: Those that asked for exactly this.
        reason: Those whose reason has this in it.
        since_s: Those given up at or after this time, in Unix seconds.
        retried: Those that were retried, or those that were not.
    """

    before: int | None = None
    after: int | None = None
    capability: str | None = None
    reason: str | None = None
    since_s: float | None = None
    retried: bool | None = None

    def where(self) -> tuple[str, tuple[Any, ...]]:
        """The condition as SQL, and its bindings."""
        conditions: list[str] = ["1"]
        bindings: list[Any] = []
        for condition, value in (
            ("seq < ?", self.before),
            ("seq > ?", self.after),
            ("capability = ?", self.capability),
            ("instr(reason, ?) > 0", self.reason),
            ("at_s >= ?", self.since_s),
        ):
            if value is not None:
                conditions.append(condition)
                bindings.append(value)
        if self.retried is not None:
            conditions.append(f"retried_as IS {'NOT ' if self.retried else ''}NULL")
        return " AND ".join(conditions), tuple(bindings)


@dataclass(frozen=True, slots=True)
class Totals:
    """How many dead letters there are, and what they weigh in bytes."""

    count: int = 0
    bytes: int = 0


def add(connection: apsw.Connection, row: DeadLetterRow) -> None:
    """Keep a dead letter; the caller trims the table when it has added all it has to.

    Its number is above any that a webhook has read, also where those above are gone.
    """
    connection.execute(
        "INSERT INTO dead_letters (seq, message_id, at_s, reason, history, capability, hops, bytes, sealed)"
        " VALUES (1 + max((SELECT coalesce(max(seq), 0) FROM dead_letters),"
        " (SELECT coalesce(max(dead_seq), 0) FROM webhooks)), ?,?,?,?,?,?,?,?)",
        (
            row.message_id,
            row.at_s,
            row.reason,
            row.history,
            row.capability,
            row.hops,
            len(row.history) + len(row.sealed or b""),
            row.sealed,
        ),
    )


def trim(
    connection: apsw.Connection,
    *,
    limit: int = DEAD_LETTER_LIMIT,
    limit_bytes: int = DEAD_LETTER_BYTES_LIMIT,
) -> Totals:
    """Drop the oldest dead letters beyond the bounds; the newest one always stays."""
    held = totals(connection)
    if held.count <= limit and held.bytes <= limit_bytes:
        return held
    connection.execute(
        "DELETE FROM dead_letters WHERE seq IN (SELECT seq FROM (SELECT seq,"
        " row_number() OVER newest AS number, sum(bytes) OVER newest AS weight FROM dead_letters"
        " WINDOW newest AS (ORDER BY seq DESC)) WHERE number > 1 AND (number > ? OR weight > ?))",
        (limit, limit_bytes),
    )
    return totals(connection)


def totals(connection: apsw.Connection) -> Totals:
    """How many there are, and what they weigh."""
    count, weight = rows(connection, "SELECT count(*), coalesce(sum(bytes), 0) FROM dead_letters")[0]
    return Totals(int(count), int(weight))


def newest(connection: apsw.Connection, limit: int, choice: Choice | None = None) -> list[DeadLetterRow]:
    """The newest ``limit`` dead letters of a choice, newest first, without the messages themselves."""
    where, bindings = (choice or Choice()).where()
    query = f"SELECT {_LISTED}, NULL FROM dead_letters WHERE {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    return [_row(row) for row in rows(connection, query, (*bindings, limit))]


def oldest(connection: apsw.Connection, limit: int, choice: Choice) -> list[tuple[int, str]]:
    """Seq and message id of the oldest ``limit`` dead letters of a choice, oldest first."""
    where, bindings = choice.where()
    found = rows(
        connection,
        f"SELECT seq, message_id FROM dead_letters WHERE {where} ORDER BY seq LIMIT ?",  # noqa: S608
        (*bindings, limit),
    )
    return [(int(seq), str(message_id)) for seq, message_id in found]


def find(connection: apsw.Connection, message_id: str) -> DeadLetterRow | None:
    """The dead letter of that message, or None."""
    query = f"SELECT {_LISTED}, sealed FROM dead_letters WHERE message_id = ? ORDER BY seq DESC LIMIT 1"  # noqa: S608
    found = rows(connection, query, (message_id,))
    return _row(found[0]) if found else None


def mark_retried(
    connection: apsw.Connection, message_id: str, retried_as: str, at_s: float, *, again: bool
) -> bool:
    """Note by which message a dead letter is repeated.

    Returns:
        False when it is not there, or was repeated before and is not to be repeated ``again``.
    """
    connection.execute(
        "UPDATE dead_letters SET retried_as = ?, retried_s = ? WHERE message_id = ?"
        " AND (? OR retried_as IS NULL)",
        (retried_as, at_s, message_id, again),
    )
    return connection.changes() > 0


def drop(connection: apsw.Connection, message_id: str) -> bool:
    """Forget one dead letter; False when there is none of that message."""
    connection.execute("DELETE FROM dead_letters WHERE message_id = ?", (message_id,))
    return connection.changes() > 0


def drop_all(connection: apsw.Connection, limit: int, choice: Choice) -> int:
    """Forget the oldest ``limit`` dead letters of a choice; returns how many there were."""
    where, bindings = choice.where()
    chosen = f"SELECT seq FROM dead_letters WHERE {where} ORDER BY seq LIMIT ?"  # noqa: S608
    connection.execute(f"DELETE FROM dead_letters WHERE seq IN ({chosen})", (*bindings, limit))  # noqa: S608
    return connection.changes()


def forget(connection: apsw.Connection, before_s: float) -> int:
    """Drop dead letters older than ``before_s``; returns how many went."""
    connection.execute(
        "DELETE FROM dead_letters WHERE seq IN (SELECT seq FROM dead_letters ORDER BY seq LIMIT 1000)"
        " AND at_s < ?",
        (before_s,),
    )
    return connection.changes()


def _row(values: Any) -> DeadLetterRow:
    seq, message_id, at_s, reason, history, capability, hops, weight, retried_as, retried_s, sealed = values
    return DeadLetterRow(
        message_id, at_s, reason, history, capability, hops, sealed, retried_as, retried_s, weight, seq
    )
