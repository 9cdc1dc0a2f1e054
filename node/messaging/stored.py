"""Messages and routes as they were on disk, back in memory."""

from __future__ import annotations

from node.message import Message
from node.messaging.letters import Letter, Route
from node.messaging.origin import RouteState
from node.messaging.settings import TTL_LIMIT_S
from node.storage import outbox as table


def stored_letter(row: table.OutboxRow, now: float, wall: float) -> Letter:
    """A message as it was on disk."""
    return Letter(
        row.seq,
        Message.unseal(row.sealed),
        row.sealed,
        row.traceparent,
        row.hops,
        row.accepted_s,
        row.expires_s,
        now + min(row.expires_s - wall, TTL_LIMIT_S),  # the wall clock may have gone back
        answers=row.answers,
        cause=row.cause,
    )


def stored_route(letter: Letter, stored: table.RouteRow, answered_by: str | None) -> Route:
    """A route as it was on disk."""
    route = Route(
        letter, (stored.agent, stored.node), stored.epoch, stored.routed_s, None,
        RouteState(stored.state), stored.attempts, 0, 0.0, stored.sent_s, stored.received_s,
        stored.ended_s, stored.reason,
    )  # fmt: skip
    route.answered = answered_by == "@".join(route.target)
    letter.give(route)
    letter.epoch = max(letter.epoch, route.epoch)
    return route
