"""The messages this node accepted, wherever they are: in the outbox, or in its backlog."""

from __future__ import annotations

import apsw

from node.storage import backlog, outbox
from node.storage.outbox import OutboxRow


def find(connection: apsw.Connection, message_id: str) -> OutboxRow | None:
    """The accepted message of that id, or None."""
    return outbox.find(connection, message_id) or backlog.find(connection, message_id)


def conversation(connection: apsw.Connection, conversation_id: str, limit: int) -> list[OutboxRow]:
    """The newest ``limit`` accepted messages of a conversation, oldest first."""
    found = outbox.conversation(connection, conversation_id, limit)
    found += backlog.conversation(connection, conversation_id, limit)
    return sorted(found, key=lambda row: row.seq)[-limit:]


def conversation_after(
    connection: apsw.Connection, conversation_id: str, after: int, limit: int
) -> list[OutboxRow]:
    """The next ``limit`` accepted messages of a conversation, oldest first."""
    found = outbox.conversation_after(connection, conversation_id, after, limit)
    found += backlog.conversation_after(connection, conversation_id, after, limit)
    return sorted(found, key=lambda row: row.seq)[:limit]


def caused(connection: apsw.Connection, message_id: str, limit: int) -> list[OutboxRow]:
    """The first ``limit`` messages that were accepted here because of another one."""
    found = outbox.caused(connection, message_id, limit) + backlog.caused(connection, message_id, limit)
    return sorted(found, key=lambda row: row.seq)[:limit]


def last_seq(connection: apsw.Connection) -> int:
    """The highest seq ever given and still here."""
    return max(outbox.last_seq(connection), backlog.last_seq(connection))
