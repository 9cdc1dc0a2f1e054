"""Reading rows: SQLite's values are as the schema made them, which a type checker cannot know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw


def rows(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
    """All rows of a query whose result is bounded, each a tuple."""
    return connection.execute(sql, bindings).fetchall()


def each(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The rows of a query one by one, each a tuple; the caller may stop early."""
    yield from connection.execute(sql, bindings)


def number(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> int:
    """The one whole number that a query answers."""
    return int(rows(connection, sql, bindings)[0][0])


class Forgotten(NamedTuple):
    """What one step of retention did.

    Args:
        gone: Rows dropped.
        reached: The last row looked at; the next step goes on after it.
        finished: Whether no later row can be old enough.
    """

    gone: int
    reached: int
    finished: bool
