"""How a parked turn is shown to operators, and the errors and endings that callers and operators are told."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final

from node.agents.turn import ParkedTurn
from node.errors import CaxtonError
from node.message import iso8601
from node.storage.approvals import ENDED, ApprovalRow


class ApprovalNotFound(CaxtonError):
    """No approval of that id is known on this node (any more)."""

    code = "APPROVAL_NOT_FOUND"
    status = 404


class ApprovalDecided(CaxtonError):
    """An approval is decided once; it is, or its turn has ended without."""

    code = "APPROVAL_DECIDED"
    status = 409


class ApprovalEnded(CaxtonError):
    """A turn that waited for an operator, or went on after one, was given up: ``details["ending"]``."""

    code = "APPROVAL_ENDED"
    status = 409


class Ending(StrEnum):
    """Why a parked turn was given up."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REMOVED = "removed"
    REPLACED = "replaced"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"


_WHY: Final = {
    Ending.EXPIRED: ("it was not decided and taken up in time", "Ask again, and have somebody look at it."),
    Ending.CANCELLED: ("its sender has cancelled it", ""),
    Ending.REMOVED: ("the agent was removed", "Ask another agent."),
    Ending.REPLACED: ("the agent was replaced by another version", "Ask again: the new version answers."),
    Ending.UNREADABLE: ("another version of Caxton has parked it", "Ask again."),
    Ending.UNKNOWN: (
        "the node died while an approved call was being made; whether it was made is not known",
        "Look at what the tool works on before you ask again.",
    ),
}


def given_up(row: ApprovalRow, ending: Ending) -> ApprovalEnded:
    """The error for the caller of a turn that is given up."""
    why, fix = _WHY[ending]
    return ApprovalEnded(
        f"the call of {row.server}/{row.tool} needed an operator's approval, and the work on it has ended",
        why=why,
        fix=fix,
        details={"approval": row.id, "ending": ending.value},
    )


def not_found(approval: str) -> ApprovalNotFound:
    """The error for an id that is not known."""
    return ApprovalNotFound(
        f"there is no approval {approval[:80]!r} on this node",
        why="it is another node's, or it ended long ago",
        fix="See `caxton approvals list --all`.",
        details={"approval": approval[:80]},
    )


def already_decided(row: ApprovalRow, wall_s: float) -> ApprovalDecided:
    """The error for a second decision, and for one that comes too late."""
    if row.verdict:
        why = f"{row.decided_by} has {row.verdict} it at {iso8601(row.decided_s)}"
    elif row.state == ENDED:
        why = f"its turn has ended: {row.outcome}"
    else:
        why = f"it expired {wall_s - row.expires_s:.0f} s ago"
    return ApprovalDecided(
        f"the approval {row.id} cannot be decided any more",
        why=why,
        details={"approval": row.id, "state": row.state, "verdict": row.verdict or None},
    )


def shown(row: ApprovalRow, wall_s: float) -> dict[str, Any]:
    """An approval as the public API lists it."""
    return {
        "approval_id": row.id,
        "agent": row.agent,
        "tool": f"{row.server}/{row.tool}",
        "arguments_preview": row.arguments[:200],
        "state": row.state,
        "verdict": row.verdict or None,
        "reason": row.reason,
        "decided_by": row.decided_by or None,
        "decided_at": _at(row.decided_s),
        "caller": row.caller,
        "conversation_id": row.conversation_id,
        "message_id": row.message_id,
        "created_at": _at(row.created_s),
        "age_s": round(max(0.0, wall_s - row.created_s), 3),
        "expires_at": _at(row.expires_s),
        "ended_at": _at(row.ended_s),
        "outcome": row.outcome or None,
    }


def shown_whole(row: ApprovalRow, turn: ParkedTurn | None, wall_s: float) -> dict[str, Any]:
    """An approval with its exact arguments, and what else was asked for together with it."""
    binding = json.loads(row.binding)
    found = shown(row, wall_s) | {
        "arguments": json.loads(row.arguments),
        "arguments_sha256": binding["arguments"],
        "tool_sha256": binding["described"],
        "calls": [],
    }
    if turn is not None:
        pairs = zip(turn.said[-1].tool_calls, turn.results, strict=True)
        found["calls"] = [
            {"tool": call.name, "status": _status(turn, place, result is not None)}
            for place, (call, result) in enumerate(pairs)
        ]
    return found


def _status(turn: ParkedTurn, place: int, called: bool) -> str:
    if called:
        return "done"
    return "this one" if place == turn.asked else "waits for an approval of its own"


def _at(unix_s: float) -> str | None:
    return iso8601(unix_s) if unix_s else None
