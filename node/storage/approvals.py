"""Turns of agents that are parked until an operator has decided about a call; see ``node.agents.approvals``.

A row is one call of a tool that waits, with the whole turn it belongs to. Rows that have ended stay for a
while without their turn, so that it can be seen who decided what.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import apsw

from node.storage.query import number, rows

WAITING: Final = "waiting"
"""Nobody has decided."""
DECIDED: Final = "decided"
"""It is decided, and the turn has not gone on."""
CALLING: Final = "calling"
"""The approved call is being made, or was when the node died."""
RESUMING: Final = "resuming"
"""The call has its result, and the turn goes on with it."""
ENDED: Final = "ended"
"""The turn has ended, or waits for another approval."""
STATES: Final = (WAITING, DECIDED, CALLING, RESUMING, ENDED)

_COLUMNS: Final = (
    "id, turn_id, agent, fingerprint, origin, message_id, conversation_id, caller, server, tool, arguments,"
    " binding, state, verdict, reason, decided_by, decided_s, created_s, expires_s, ended_s, outcome"
)
_BRIEF: Final = _COLUMNS.replace("arguments", "substr(arguments, 1, 200)")


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """One call that needs an operator's approval.

    Args:
        id: Of the approval.
        turn_id: Of the turn; the id of the message that ends it.
        agent: Whose turn it is.
        fingerprint: Hash of the agent file that the turn began with.
        origin: The node its message came from.
        message_id: The message that is answered.
        conversation_id: Its conversation.
        caller: Its sender.
        server: Name of the tool's server.
        tool: Name of the tool there.
        arguments: What it is called with, as JSON.
        binding: What exactly is approved (``node.tools.approval.Binding``), as JSON.
        state: One of :data:`STATES`.
        verdict: ``approved`` or ``denied``; empty before.
        reason: Why, in the operator's words.
        decided_by: The name of the operator's token.
        decided_s: Unix seconds; 0 before.
        created_s: Unix seconds.
        expires_s: Unix seconds after which nobody waits.
        ended_s: Unix seconds; 0 before.
        outcome: What became of it, in words; empty before.
    """

    id: str
    turn_id: str
    agent: str
    fingerprint: str
    origin: str
    message_id: str
    conversation_id: str
    caller: str
    server: str
    tool: str
    arguments: str
    binding: str
    state: str
    verdict: str
    reason: str
    decided_by: str
    decided_s: float
    created_s: float
    expires_s: float
    ended_s: float
    outcome: str


def insert(connection: apsw.Connection, row: ApprovalRow, turn: bytes) -> None:
    """Park a turn."""
    values = [getattr(row, name) for name in ApprovalRow.__slots__]
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(f"INSERT INTO approvals ({_COLUMNS}, turn) VALUES ({marks})", (*values, turn))  # noqa: S608


def find(connection: apsw.Connection, approval: str) -> ApprovalRow | None:
    """One of them."""
    found = rows(connection, f"SELECT {_COLUMNS} FROM approvals WHERE id = ?", (approval,))  # noqa: S608
    return ApprovalRow(*found[0]) if found else None


def turn(connection: apsw.Connection, approval: str) -> bytes:
    """The parked turn of one that has not ended."""
    return bytes(rows(connection, "SELECT turn FROM approvals WHERE id = ?", (approval,))[0][0])


def page(
    connection: apsw.Connection,
    limit: int,
    *,
    states: Collection[str] = (),
    agent: str = "",
    before: str = "",
) -> list[ApprovalRow]:
    """The newest first, with the beginning of their arguments.

    Args:
        connection: Reads.
        limit: Most of them.
        states: Only in these states; without any, in all.
        agent: Only of this agent.
        before: Only older ones than this one.
    """
    where, values = ["1"], list[str]()
    if states:
        where.append(f"state IN ({', '.join('?' * len(states))})")
        values += states
    if agent:
        where.append("agent = ?")
        values.append(agent)
    if before:
        where.append("(created_s, id) < (SELECT created_s, id FROM approvals WHERE id = ?)")
        values.append(before)
    found = rows(
        connection,
        f"SELECT {_BRIEF} FROM approvals WHERE {' AND '.join(where)}"  # noqa: S608
        " ORDER BY created_s DESC, id DESC LIMIT ?",
        (*values, limit),
    )
    return [ApprovalRow(*row) for row in found]


def unended(connection: apsw.Connection, limit: int) -> list[ApprovalRow]:
    """Those that have not ended, the oldest first, without their arguments."""
    found = rows(
        connection,
        f"SELECT {_BRIEF} FROM approvals WHERE state != ? ORDER BY created_s, id LIMIT ?",  # noqa: S608
        (ENDED, limit),
    )
    return [ApprovalRow(*row) for row in found]


def open_counts(connection: apsw.Connection, agent: str) -> tuple[int, int]:
    """How many have not ended, of all agents and of this one."""
    found = rows(
        connection,
        "SELECT count(*), coalesce(sum(agent = ?), 0) FROM approvals WHERE state != ?",
        (agent, ENDED),
    )
    return int(found[0][0]), int(found[0][1])


def of_message(connection: apsw.Connection, agent: str, origin: str, message_id: str) -> ApprovalRow | None:
    """The latest one of the turn that answers a message."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM approvals WHERE message_id = ? AND agent = ? AND origin = ?"  # noqa: S608
        " ORDER BY created_s DESC, id DESC LIMIT 1",
        (message_id, agent, origin),
    )
    return ApprovalRow(*found[0]) if found else None


def in_conversation(
    connection: apsw.Connection, agent: str, caller: str, conversation_id: str
) -> list[ApprovalRow]:
    """Those of one caller in a conversation that have not ended."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM approvals WHERE agent = ? AND caller = ? AND conversation_id = ?"  # noqa: S608
        " AND state != ? ORDER BY created_s, id",
        (agent, caller, conversation_id, ENDED),
    )
    return [ApprovalRow(*row) for row in found]


def decide(connection: apsw.Connection, approval: str, decision: tuple[str, str, str, float]) -> bool:
    """Write (verdict, reason, who, Unix seconds) of one that waits; says whether it did."""
    connection.execute(
        "UPDATE approvals SET state = ?, verdict = ?, reason = ?, decided_by = ?, decided_s = ?"
        " WHERE id = ? AND state = ?",
        (DECIDED, *decision, approval, WAITING),
    )
    return connection.changes() > 0


def advance(
    connection: apsw.Connection, approval: str, state: str, to: str, body: bytes | None = None
) -> bool:
    """Take one from a state to another, with its turn as it is then; says whether it was in that state."""
    connection.execute(
        "UPDATE approvals SET state = ?, turn = coalesce(?, turn) WHERE id = ? AND state = ?",
        (to, body, approval, state),
    )
    return connection.changes() > 0


def end(connection: apsw.Connection, row: ApprovalRow, outcome: str, at_s: float, keep: int) -> bool:
    """End one that is still in the state of ``row``, and forget all that ended but the last ``keep``.

    Returns:
        Whether it was in that state.
    """
    connection.execute(
        "UPDATE approvals SET state = ?, outcome = ?, ended_s = ?, turn = x'' WHERE id = ? AND state = ?",
        (ENDED, outcome, at_s, row.id, row.state),
    )
    if not connection.changes():
        return False
    connection.execute(
        "DELETE FROM approvals WHERE id IN (SELECT id FROM approvals WHERE state = ?"
        " ORDER BY ended_s DESC, id DESC LIMIT -1 OFFSET ?)",
        (ENDED, keep),
    )
    return True


def begun(connection: apsw.Connection, limit: int) -> tuple[list[tuple[str, str, str]], int]:
    """(agent, origin, message) of the latest turns, the oldest first, and how many have not ended."""
    found = rows(
        connection,
        "SELECT agent, origin, message_id FROM approvals ORDER BY created_s DESC, id DESC LIMIT ?",
        (limit,),
    )
    in_all = number(connection, "SELECT count(*) FROM approvals WHERE state != 'ended'")
    return [(str(agent), str(origin), str(message)) for agent, origin, message in reversed(found)], in_all
