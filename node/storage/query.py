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


def of_conversation(table: str, columns: str, *, further: str = "", newest_first: bool = False) -> str:
    """SQL for the first ``?2`` messages of the conversation ``?1`` in a table, in order.

    A message that begins a conversation under its own id, as most do, and most of these alone, is found by
    its id: the index of conversations has all others.

    Args:
        table: ``outbox``, ``backlog`` or ``inbox``.
        columns: What is read; ``seq`` is among it.
        further: A condition on the message, as ``seq > ?3``.
        newest_first: The order.
    """
    which, order = f" AND {further}" if further else "", " DESC" if newest_first else ""
    return (
        f"SELECT {columns} FROM (SELECT * FROM (SELECT {columns} FROM {table} WHERE conversation_id = ?1"  # noqa: S608
        f" AND conversation_id <> message_id{which} ORDER BY seq{order} LIMIT ?2) UNION ALL"
        f" SELECT {columns} FROM {table} WHERE message_id = ?1 AND conversation_id = ?1{which})"
        f" ORDER BY seq{order} LIMIT ?2"
    )


class Forgotten(NamedTuple):
    """What one step of retention did.

    Args:
        gone: Rows dropped.
        reached: The last row looked at; the next step goes on after it.
        finished: Whether no later row has to go.
        weight: What they weighed, in bytes (:mod:`node.storage.weight`).
    """

    gone: int
    reached: int
    finished: bool
    weight: int = 0
