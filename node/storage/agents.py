"""The agents deployed on this node, as they must come back after a restart."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from node.storage.agent_state import delete_agent_state
from node.storage.query import rows

_COLUMNS = "id, name, version, kind, content, artifacts, workspace, status, deployed_at_s, deployment"


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One deployed agent.

    Args:
        id: Agent id, unique on this node.
        name: The name its definition gives it.
        version: Semantic version of the definition.
        kind: ``configured`` or ``wasm``.
        content: The definition as it was deployed.
        artifacts: CBOR; what belongs to it beside the definition (a module's bytes).
        workspace: The workspace it was deployed to.
        status: As the API shows it: starting, running, waiting, stopped, error.
        deployed_at_s: Unix seconds.
        deployment: SHA-256 of what a deployment of the cluster runs, if it is a replica of one.
    """

    id: str
    name: str
    version: str
    kind: str
    content: bytes
    artifacts: bytes
    workspace: str
    status: str
    deployed_at_s: float
    deployment: str = ""


def save_agent(connection: apsw.Connection, row: AgentRow) -> None:
    """Store an agent, replacing one of the same id."""
    connection.execute(
        f"INSERT OR REPLACE INTO agents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            row.id,
            row.name,
            row.version,
            row.kind,
            row.content,
            row.artifacts,
            row.workspace,
            row.status,
            row.deployed_at_s,
            row.deployment,
        ),
    )


def load_agents(connection: apsw.Connection) -> list[AgentRow]:
    """All agents, by id."""
    found = rows(connection, f"SELECT {_COLUMNS} FROM agents ORDER BY id")  # noqa: S608
    return [AgentRow(*row) for row in found]


def set_agent_status(connection: apsw.Connection, agent_id: str, status: str) -> bool:
    """Note a status; says whether the agent is there."""
    connection.execute("UPDATE agents SET status = ? WHERE id = ?", (status, agent_id))
    return connection.changes() > 0


def delete_agent(connection: apsw.Connection, agent_id: str) -> bool:
    """Forget an agent and what it kept; says whether it was there."""
    delete_agent_state(connection, agent_id)
    connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,))
    return connection.changes() > 0
