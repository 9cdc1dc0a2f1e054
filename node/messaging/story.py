"""What an investigation has found out, in the form of the public API: a message's way, and its reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from node.message import iso8601
from node.messaging.explanation import Decision
from node.messaging.sides import Accepted, Copy, Described, Way

_STILL: Final = ("held", "running")
"""States of a copy that has not ended."""

_ENDED: Final = {("settled", True): "handled", ("settled", False): "kept"}
"""How the good end of a copy is told: an agent has handled it, or it is kept for a client."""


@dataclass(slots=True)
class Told:
    """One message with what each node concerned says of it.

    Args:
        message: The message, without its content.
        origin: The node that accepted it.
        accepted: How, or None when that node has not said.
        copies: By node, what was received of it there.
        away: Nodes concerned that have not said what they know.
        caused: The messages it caused, in order of their acceptance.
    """

    message: Described
    origin: str
    accepted: Accepted | None
    copies: dict[str, tuple[Copy, ...]]
    away: tuple[str, ...]
    caused: list[Told] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The message, its steps in the order of cause and effect, and what it caused."""
        message, accepted = self.message, self.accepted
        ended_s = None if accepted is None else accepted.ended_s
        return {
            "message_id": message.message_id,
            "performative": message.performative,
            "sender": message.sender,
            "to": message.receiver or message.capability or message.topic,
            "capability": message.capability,
            "conversation_id": message.conversation_id,
            "in_reply_to": message.in_reply_to,
            "cause": None if accepted is None else accepted.cause,
            "origin": self.origin,
            "status": self._status(),
            "reason": "" if accepted is None else accepted.reason,
            "ms": None if accepted is None or ended_s is None else _ms(ended_s, accepted.accepted_s),
            "steps": self._steps(),
            "away": list(self.away),
            "caused": [each.as_json() for each in self.caused],
        }

    def _status(self) -> str:
        if self.accepted is not None:
            return self.accepted.state
        states = [copy.state for copies in self.copies.values() for copy in copies]
        return states[0] if states else "unknown"

    def _steps(self) -> list[dict[str, Any]]:
        """The origin's steps in order of its clock; each provider's after the one that brought it there."""
        accepted = self.accepted
        if accepted is None:
            return [step for node, copies in self.copies.items() for step in _copy_steps(node, copies)]
        start_s = accepted.accepted_s
        moments: list[tuple[float, int, str, str, str]] = [(start_s, 0, "accepted", "", "")]
        for way in accepted.ways:
            moments += _way_moments(way)
        for happening in accepted.happenings:
            moments.append((happening.at_s, 1, happening.event, happening.detail, ""))
        if accepted.ended_s is not None:
            moments.append((accepted.ended_s, 9, accepted.state, accepted.reason, ""))
        moments.sort(key=lambda moment: moment[:2])
        # A provider's steps stand behind the last transmission to its node.
        last = {node: place for place, (_, _, _, _, node) in enumerate(moments) if node}
        found: list[dict[str, Any]] = []
        told: dict[str, None] = {}
        for place, (at_s, _, event, detail, node) in enumerate(moments):
            found.append(_step(self.origin, at_s, event, detail, start_s))
            if node and last[node] == place:
                told[node] = None
                found += _copy_steps(node, self.copies.get(node, ()))
        for node, copies in self.copies.items():
            if node not in told:
                found += _copy_steps(node, copies)
        return found


def _way_moments(way: Way) -> list[tuple[float, int, str, str, str]]:
    """(when, rank among equal times, event, detail, the node it brought the message to)."""
    target = f"{way.agent}@{way.node}"
    why = f"{target}: {way.why}" if way.why else target
    # Without a transmission on record (a node takes its own messages) the choice itself stands for it.
    found = [(way.routed_s, 2, "routed", why, way.node if way.sent_s is None else "")]
    if way.sent_s is not None:
        again = "" if way.attempts < 2 else f", attempt {way.attempts}"
        found.append((way.sent_s, 3, "sent", f"to {way.node}{again}", way.node))
    if way.received_s is not None:
        found.append((way.received_s, 4, "acknowledged", f"by {way.node}", ""))
    if way.ended_s is not None and way.state != "settled":
        found.append((way.ended_s, 5, way.state, f"{target}: {way.reason}".rstrip(": "), ""))
    return found


def _copy_steps(node: str, copies: tuple[Copy, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for copy in copies:
        start_s = copy.received_s
        found.append(_step(node, start_s, "received", f"for {copy.agent}", start_s))
        if copy.started_s is not None:
            runs = copy.failed_runs + (copy.state != "failed")
            again = f", attempt {runs}" if runs > 1 else ""
            found.append(_step(node, copy.started_s, "started", f"{copy.agent}{again}", start_s))
        if copy.ended_s is not None and copy.state not in _STILL:
            event = _ENDED.get((copy.state, copy.started_s is not None), copy.state)
            detail = f"{copy.agent}: {copy.reason}" if copy.reason else copy.agent
            found.append(_step(node, copy.ended_s, event, detail, start_s))
    return found


def _step(node: str, at_s: float, event: str, detail: str, since_s: float) -> dict[str, Any]:
    return {
        "node": node,
        "at": iso8601(at_s),
        "ms": _ms(at_s, since_s),
        "event": event,
        "detail": detail,
    }


def _ms(at_s: float, since_s: float) -> float:
    return round(1000 * (at_s - since_s), 3)


@dataclass(frozen=True, slots=True)
class Trace:
    """The way of a message across the cluster.

    Args:
        node: Who has put it together.
        told: The message, and what it caused.
        away: Nodes that have not said what they know.
        complete: Whether nothing is missing.
        questions: How many were asked of other nodes.
    """

    node: str
    told: Told
    away: tuple[str, ...]
    complete: bool
    questions: int

    def as_json(self) -> dict[str, Any]:
        """The trace as the public API shows it."""
        return {
            "node": self.node,
            "message_id": self.told.message.message_id,
            "complete": self.complete,
            "away": list(self.away),
            "questions": self.questions,
            "trace": self.told.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a message went where it went.

    Args:
        node: The node that accepted it and decided.
        accepted: The message and its ways.
        decisions: (epoch, Unix seconds, decision), in order.
    """

    node: str
    accepted: Accepted
    decisions: list[tuple[int, float, Decision]]

    def as_json(self) -> dict[str, Any]:
        """The explanation as the public API shows it."""
        message = self.accepted.message
        return {
            "node": self.node,
            "message_id": message.message_id,
            "wanted": message.receiver or message.capability or message.topic,
            "status": self.accepted.state,
            "reason": self.accepted.reason,
            "decisions": [
                {"epoch": epoch, "at": iso8601(at_s)} | decision.as_json() | self._targets(epoch, decision)
                for epoch, at_s, decision in self.decisions
            ],
        }

    def _targets(self, epoch: int, decision: Decision) -> dict[str, list[str]]:
        """The providers of a broadcast, which only its routes tell."""
        if decision.targets:
            return {}
        return {"targets": [f"{way.agent}@{way.node}" for way in self.accepted.ways if way.epoch == epoch]}
