"""What the messages in the tables of both sides weigh on the disk."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import apsw

from node.storage.query import number, rows

ROW_BYTES: Final = 400
"""What a row, and what indexes have of it, takes beside the sealed message, as measured."""
STEP_ROWS: Final = 1_000
"""Rows that are weighed in one step."""
STEP_BYTES: Final = 8 * 1024**2
"""Bytes after which a step of retention drops nothing more: SQLite reads all pages of what it drops."""
WEIGHT: Final = f"length(sealed) + {ROW_BYTES}"
"""SQL for the weight of a row. It is known from the row's first page, however long the message is."""

Table = Literal["outbox", "inbox"]


class Weighed(NamedTuple):
    """What some rows weigh.

    Args:
        weight: In bytes.
        reached: The last of them; the next step goes on after it.
        finished: Whether there are no more.
    """

    weight: int
    reached: int
    finished: bool


def weigh(connection: apsw.Connection, table: Table, after: int, last: int) -> Weighed:
    """The weight of the next :data:`STEP_ROWS` rows after ``after`` and up to ``last``."""
    [(found, reached, weight)] = rows(
        connection,
        f"SELECT count(*), max(seq), sum(weight) FROM (SELECT seq, {WEIGHT} AS weight FROM {table}"  # noqa: S608
        " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)",
        (after, last, STEP_ROWS),
    )
    if not found:
        return Weighed(0, after, finished=True)
    return Weighed(weight, reached, found < STEP_ROWS)


def last_seq(connection: apsw.Connection, table: Table) -> int:
    """The last row of a table."""
    return number(connection, f"SELECT coalesce(max(seq), 0) FROM {table}")  # noqa: S608
