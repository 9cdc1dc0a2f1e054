"""Named mailboxes of clients, as they must come back after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from node.storage.query import rows


@dataclass(frozen=True, slots=True)
class MailboxRow:
    """One mailbox.

    Args:
        name: Its name, unique on this node.
        owner: Name of the token that made it.
        created_s: Unix seconds.
        used_s: Unix seconds at which a client last used it; up to a minute behind.
        idle_s: Seconds without use after which it goes.
        topics: (pattern, group) of the topics it subscribes to; the group is empty for none.
    """

    name: str
    owner: str
    created_s: float
    used_s: float
    idle_s: float
    topics: tuple[tuple[str, str], ...] = ()


def save(connection: apsw.Connection, row: MailboxRow) -> None:
    """Store a mailbox, or what has changed about it."""
    connection.execute(
        "INSERT INTO mailboxes (name, owner, created_s, used_s, idle_s, topics) VALUES (?,?,?,?,?,?)"
        " ON CONFLICT (name) DO UPDATE"
        " SET used_s = excluded.used_s, idle_s = excluded.idle_s, topics = excluded.topics",
        (row.name, row.owner, row.created_s, row.used_s, row.idle_s, json.dumps(row.topics)),
    )


def touch(connection: apsw.Connection, used: Iterable[tuple[str, float]]) -> None:
    """Note when mailboxes were used last: their names, and Unix seconds."""
    for name, used_s in used:
        connection.execute("UPDATE mailboxes SET used_s = ? WHERE name = ?", (used_s, name))


def load(connection: apsw.Connection, limit: int) -> list[MailboxRow]:
    """All mailboxes, by name."""
    found = rows(
        connection,
        "SELECT name, owner, created_s, used_s, idle_s, topics FROM mailboxes ORDER BY name LIMIT ?",
        (limit,),
    )
    return [
        MailboxRow(
            name, owner, created_s, used_s, idle_s, tuple((p, group) for p, group in json.loads(topics))
        )
        for name, owner, created_s, used_s, idle_s, topics in found
    ]


def delete(connection: apsw.Connection, name: str) -> None:
    """Forget a mailbox."""
    connection.execute("DELETE FROM mailboxes WHERE name = ?", (name,))
