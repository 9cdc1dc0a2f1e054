"""What became of a message, as this node knows it: from its outbox rows, its inbox rows, or both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from node.errors import MessageNotFound
from node.message import Message, iso8601
from node.messaging.explanation import decision
from node.messaging.receiver import ItemState, reported
from node.storage import accepted, inbox, outbox

COPIES_LIMIT: Final = 64
"""Most received copies and replies shown with a message."""
RETRY_OF: Final = "retry_of"
"""The event by which a message tells which dead letter it repeats."""


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """One message with all that happened to it.

    Args:
        message: The message.
        row: How this node accepted it, or None when it only received it.
        routes: The providers it was given to.
        events: Waits, moves and late outcomes.
        received: Copies that arrived at agents of this node.
        replies: Messages that answer it and arrived here.
    """

    message: Message
    row: outbox.OutboxRow | None
    routes: list[outbox.RouteRow] = field(default_factory=list)
    events: list[outbox.EventRow] = field(default_factory=list)
    received: list[inbox.InboxRow] = field(default_factory=list)
    replies: list[inbox.InboxRow] = field(default_factory=list)

    @classmethod
    def load(cls, connection: apsw.Connection, message_id: str) -> MessageHistory:
        """Read it from the database.

        Raises:
            MessageNotFound: this node knows no such message (any more).
        """
        row = accepted.find(connection, message_id)
        received = inbox.find(connection, message_id, COPIES_LIMIT)
        if row is None and not received:
            raise MessageNotFound(
                f"no message {message_id[:80]!r} is known on this node",
                why="it was never accepted or received here, or has aged out",
                fix="Ask the node that accepted it.",
            )
        if row is None:
            message = Message.unseal(received[0].sealed)
            return cls(message, None, received=received)
        message = Message.unseal(row.sealed)
        return cls(
            message,
            row,
            outbox.routes(connection, row.seq),
            outbox.events(connection, row.seq),
            received,
            inbox.replies(connection, message.reply_with, COPIES_LIMIT),
        )

    def as_json(self) -> dict[str, Any]:
        """The history as the public API shows it."""
        found: dict[str, Any] = {
            "message": self.message.as_json(),
            "message_id": self.message.id,
            "conversation_id": self.message.conversation_id,
            "status": self._status(),
            "routed_to": [f"{r.agent}@{r.node}" for r in self._current_routes()],
            "states": self._states(),
            "routes": [_route_as_json(route) for route in self.routes],
            "events": [_event_as_json(event) for event in self.events],
            "received": [_copy_as_json(copy) for copy in self.received],
            "replies": [
                {"message_id": r.message_id, "from": Message.unseal(r.sealed).sender, "state": r.state}
                for r in self.replies
            ],
        }
        if self.row is not None:
            found["attempts"] = sum(route.attempts for route in self.routes)
            found["answered_by"] = self.row.answered_by
            found["outcome"] = None if self.row.ended_s is None else self.row.state
            found["reason"] = self.row.reason
            found["expires_at"] = iso8601(self.row.expires_s)
            found["cause"] = self.row.cause
            found["retry_of"] = next((e.detail for e in self.events if e.event == RETRY_OF), None)
        return found

    def _status(self) -> str:
        if self.row is not None and self.row.ended_s is not None:
            return self.row.state
        if self.row is None:
            return reported(ItemState(self.received[0].state))
        states = [route.state for route in self._current_routes()]
        return states[0] if states else "waiting"

    def _current_routes(self) -> list[outbox.RouteRow]:
        newest = max((route.epoch for route in self.routes), default=0)
        gone = ("moved", "refused")
        return [route for route in self.routes if route.epoch == newest and route.state not in gone]

    def _states(self) -> list[dict[str, Any]]:
        """Every change of state with its time, in order."""
        moments: list[tuple[float, str, str]] = []
        if self.row is not None:
            moments.append((self.row.accepted_s, "accepted", ""))
            if self.row.ended_s is not None:
                moments.append((self.row.ended_s, self.row.state, self.row.reason))
        for route in self.routes:
            target = f"{route.agent}@{route.node}"
            steps = (("routed", route.routed_s), ("sent", route.sent_s), ("received", route.received_s))
            moments += [(at_s, state, target) for state, at_s in steps if at_s is not None]
            if route.ended_s is not None and route.state != "settled":
                moments.append((route.ended_s, route.state, f"{target}: {route.reason}".rstrip(": ")))
        moments += [(event.at_s, event.event, event.detail) for event in self.events]
        order = ("accepted", "waiting", "routed", "sent", "received", "refused", "moved")
        ranks = {state: rank for rank, state in enumerate(order)}
        moments.sort(key=lambda moment: (moment[0], ranks.get(moment[1], len(ranks))))
        return [{"state": state, "at": iso8601(at_s), "detail": detail} for at_s, state, detail in moments]


def _route_as_json(route: outbox.RouteRow) -> dict[str, Any]:
    found: dict[str, Any] = {
        "to": f"{route.agent}@{route.node}",
        "epoch": route.epoch,
        "state": route.state,
        "attempts": route.attempts,
        "reason": route.reason,
    }
    if route.decision is not None:
        found["decision"] = decision(route.decision).as_json()
    return found


def _event_as_json(event: outbox.EventRow) -> dict[str, Any]:
    return {"at": iso8601(event.at_s), "event": event.event, "detail": event.detail}


def _copy_as_json(copy: inbox.InboxRow) -> dict[str, Any]:
    found: dict[str, Any] = {
        "from_node": copy.origin,
        "target": copy.target,
        "state": copy.state,
        "epoch": copy.epoch,
        "failed_attempts": copy.attempts,
        "reason": copy.reason,
        "at": iso8601(copy.received_s),
    }
    if copy.ended_s is not None:
        found["ended_at"] = iso8601(copy.ended_s)
    return found
