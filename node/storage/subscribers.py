"""Who has subscribed to what agents of this node offer, by the ``subscribe`` that began it."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from node.storage.query import rows


class SubscriberRow(NamedTuple):
    """One subscription.

    Args:
        agent: Whose.
        label: What informs quote: the ``reply_with`` of the ``subscribe``.
        subscriber: Who is informed, ``name@node``.
        conversation_id: Its conversation.
        protocol: Its protocol, or None.
        since_s: Unix seconds.
        failures: Informs in a row that could not be delivered.
    """

    agent: str
    label: str
    subscriber: str
    conversation_id: str
    protocol: str | None
    since_s: float
    failures: int = 0


def save(connection: apsw.Connection, row: SubscriberRow) -> None:
    """Store a subscription, or what has become of it."""
    connection.execute("INSERT OR REPLACE INTO subscribers VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def drop(connection: apsw.Connection, agent: str, label: str) -> None:
    """Forget a subscription."""
    connection.execute("DELETE FROM subscribers WHERE agent = ? AND label = ?", (agent, label))


def load(connection: apsw.Connection) -> list[SubscriberRow]:
    """All of them, oldest first."""
    columns = "agent, label, subscriber, conversation_id, protocol, since_s, failures"
    found = rows(connection, f"SELECT {columns} FROM subscribers ORDER BY since_s, agent, label")  # noqa: S608
    return [SubscriberRow(*row) for row in found]
