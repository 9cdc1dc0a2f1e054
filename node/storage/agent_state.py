"""What WebAssembly agents keep between messages: keys and values, per agent."""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from node.storage.query import rows


def load_agent_state(connection: apsw.Connection, agent_id: str) -> dict[bytes, bytes]:
    """All keys and values of an agent, by key."""
    found = rows(connection, "SELECT key, value FROM agent_state WHERE agent = ? ORDER BY key", (agent_id,))
    return {bytes(key): bytes(value) for key, value in found}


def write_agent_state(
    connection: apsw.Connection, agent_id: str, changes: Mapping[bytes, bytes | None]
) -> None:
    """Store changed values; None removes a key."""
    connection.executemany(
        "DELETE FROM agent_state WHERE agent = ? AND key = ?",
        [(agent_id, key) for key, value in changes.items() if value is None],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO agent_state (agent, key, value) VALUES (?, ?, ?)",
        [(agent_id, key, value) for key, value in changes.items() if value is not None],
    )


def delete_agent_state(connection: apsw.Connection, agent_id: str) -> None:
    """Forget everything an agent kept."""
    connection.execute("DELETE FROM agent_state WHERE agent = ?", (agent_id,))
