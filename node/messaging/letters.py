"""An accepted message that has not ended, and its routes: what the outbox holds in memory."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Final

import msgspec

from node.cluster.versions import with_version
from node.message import Message
from node.messaging.explanation import Target
from node.messaging.origin import ACTIVE, RouteEvent, RouteState, step
from node.storage import outbox as table

OPEN: Final = "open"
_NOBODY: Final[Mapping[Target, float]] = MappingProxyType({})


class Route(msgspec.Struct, eq=False):
    """One message on its way to one provider.

    Args:
        letter: The message.
        target: Agent and node.
        epoch: Grows with every re-routing of the message.
        routed_s: Unix seconds at which the provider was chosen.
        decision: The encoded decision, until it is stored.
        state: Where the route stands.
        attempts: Transmissions.
        timeouts: Transmissions that were not acknowledged in time.
        due: Moment on the monotonic clock at which an acknowledgement is overdue.
        sent_s: Unix seconds of the last transmission.
        received_s: Unix seconds of the acknowledgement.
        ended_s: Unix seconds of the end.
        reason: Why it ended as it did.
        counted: Whether it takes a place in its lane's window.
        waits: Whether it stands in its lane's line.
        answered: Whether a reply of its provider is here: then it has been handled there.
    """

    letter: Letter
    target: Target
    epoch: int
    routed_s: float
    decision: bytes | None
    state: RouteState = RouteState.QUEUED
    attempts: int = 0
    timeouts: int = 0
    due: float = 0.0
    sent_s: float | None = None
    received_s: float | None = None
    ended_s: float | None = None
    reason: str = ""
    counted: bool = False
    waits: bool = False
    answered: bool = False
    own: bool = False
    """Whether it is stored in the row of its message."""
    lane: Lane | None = None
    """Where it stands in line, or takes a place in the window; set when it is queued."""

    @property
    def settled(self) -> bool:
        """Whether its provider has handled the message."""
        return self.state is RouteState.SETTLED

    @property
    def active(self) -> bool:
        """Whether its provider is expected to do something."""
        return self.state in ACTIVE

    @property
    def exposed(self) -> bool:
        """Whether its provider may have a message that nobody else may be given any more."""
        return self.letter.message.once and self.attempts > 0 and self.active

    def assign(self, epoch: int, routed_s: float, decision: bytes) -> None:
        """The message is given to this provider again."""
        self.state, _ = step(self.state, RouteEvent.ASSIGNED)
        self.epoch, self.routed_s, self.decision, self.reason = epoch, routed_s, decision, ""
        self.attempts = self.timeouts = 0
        self.sent_s = self.received_s = self.ended_s = None

    def row(self) -> table.RouteRow:
        """The route as it is stored now."""
        return table.RouteRow(
            self.letter.seq,
            self.target[0],
            self.target[1],
            self.epoch,
            self.state._value_,
            self.attempts,
            self.routed_s,
            self.sent_s,
            self.received_s,
            self.ended_s,
            self.reason,
            self.decision,
        )


class Letter(msgspec.Struct, eq=False):
    """One accepted message that has not ended.

    Args:
        seq: Order of acceptance.
        message: The message.
        sealed: Its one encoding.
        traceparent: W3C Trace Context of its acceptance.
        hops: Messages that led to it.
        accepted_s: Unix seconds.
        expires_s: Unix seconds at which it is given up.
        deadline: The same on the monotonic clock.
        routes: By target.
        epoch: The highest epoch used.
        placements: How often it was given to a provider.
        waiting_since: Moment since which it has had no provider, or None.
        retry_at: Moment before which no other provider is looked for.
        excluded: Providers that refused it, until when.
        ended: How it ended, or ``open``.
        reason: Why it ended as it did.
        answers: The inbox row that it goes back for, or None.
        cause: The message whose handling caused it, or that it repeats, or None.
        wait: The encoded decision that found nobody, until it is stored.
    """

    seq: int
    message: Message
    sealed: bytes
    traceparent: str
    hops: int
    accepted_s: float
    expires_s: float
    deadline: float
    routes: dict[Target, Route] = msgspec.field(default_factory=dict)
    epoch: int = -1
    placements: int = 0
    waiting_since: float | None = None
    retry_at: float = 0.0
    excluded: Mapping[Target, float] = _NOBODY
    ended: str = OPEN
    reason: str = ""
    answers: int | None = None
    slot: int | None = None
    """Its place in the calendar; set by it."""
    own: Route | None = None
    """The route that is stored in its row; set by :meth:`give`."""
    broadcast: bool = False
    """Whether every provider gets it, or every subscriber of a topic."""
    address: Target | None = None
    """The one agent instance it is for, when its sender named one."""
    wanted: str = ""
    """What it is for: a capability, a receiver or a topic."""
    wishes: tuple[str, ...] = ()
    """The same, and what it is content with if nobody can be given that, in order."""
    order: tuple[str, str] = ("", "")
    """What first in, first out holds within."""
    cause: str | None = None
    wait: bytes | None = None
    parked: bool = False
    """Whether it waits, or has waited, in the backlog."""
    claimed: bool = False
    """Whether the transaction that accepts it gives it to its agent (:mod:`node.messaging.claims`)."""
    settling: bool = False
    """Whether it was handled on this node, and that it is settled is being written."""

    def __post_init__(self) -> None:
        message = self.message
        if message.receiver is None:
            self.wanted = message.capability or message.topic or ""
            self.broadcast = message.goes_to_all
        else:
            self.wanted = message.receiver
            agent, at, node = message.receiver.rpartition("@")
            self.address = (agent, node) if at else None
        self.order = message.conversation_id, message.sender
        self.wishes = wishes(message) if message.fallback_versions else (self.wanted,)

    def give(self, route: Route) -> None:
        """Add a route; the first one of a message that goes to one provider stands in its row."""
        if not self.routes and not self.broadcast:
            self.own, route.own = route, True
        self.routes[route.target] = route

    def exclude(self, target: Target, until: float) -> None:
        """Give it to this provider no more before ``until``."""
        self.excluded = {**self.excluded, target: until}

    def park(self) -> None:
        """It goes to the backlog: nothing is decided about it yet."""
        self.routes.clear()
        self.own, self.wait, self.waiting_since = None, None, None
        self.epoch, self.placements, self.parked = -1, 0, True

    def part(self) -> None:
        """It has ended, and that was told: it knows its routes no more.

        They know it, so without this both would stay in memory until a search for cycles finds them, which
        was a pause of 10 to 20 ms every thousand messages.
        """
        self.routes.clear()
        self.own = None

    def active_routes(self) -> Iterator[Route]:
        """The routes whose provider is expected to do something."""
        return (route for route in self.routes.values() if route.state in ACTIVE)

    def unhandled(self) -> list[Target]:
        """Who has the message, or had it last, and has not handled it."""
        gone = (RouteState.SETTLED, RouteState.MOVED, RouteState.REFUSED)
        return [target for target, route in self.routes.items() if route.state not in gone]

    def row(self, ended_s: float | None = None) -> table.OutboxRow:
        """The message as it is stored when it is accepted."""
        message = self.message
        return table.OutboxRow(
            self.seq,
            message.id,
            message.conversation_id,
            None if message.reply_with == message.id else message.reply_with,
            self.ended,
            self.broadcast,
            self.accepted_s,
            self.expires_s,
            self.hops,
            self.traceparent,
            self.sealed,
            ended_s,
            None,
            self.reason,
            self.answers,
            self.cause,
        )


def wishes(message: Message) -> tuple[str, ...]:
    """What a message is for, and what it is content with if nobody can be given that, in order."""
    wanted = message.wanted
    return (wanted, *(with_version(wanted, version) for version in message.fallback_versions))


_SEQ: Final = attrgetter("letter.seq")


@dataclass(slots=True, eq=False)
class Lane:
    """The line of messages for one agent instance; in order of acceptance.

    Bounded by the outbox's capacity; ``unsettled`` by the window.

    Args:
        target: The agent instance.
        window: Most unsettled messages on the way to it.
    """

    target: Target
    window: int
    line: deque[Route] = field(default_factory=deque)
    unsettled: int = 0

    def join(self, route: Route) -> None:
        """Put a route in line, before those of later messages."""
        if route.waits:
            return
        route.waits = True
        if self.line and self.line[-1].letter.seq > route.letter.seq:
            self.line.insert(bisect.bisect_left(self.line, route.letter.seq, key=_SEQ), route)
        else:
            self.line.append(route)

    @property
    def is_full(self) -> bool:
        """Whether what joins now has to wait for the end of another message."""
        return self.unsettled + len(self.line) >= self.window

    def head(self) -> Route | None:
        """The first in line that still wants to be sent."""
        while self.line:
            route = self.line[0]
            if route.state is RouteState.QUEUED:
                return route
            self.leave()
        return None

    def leave(self) -> None:
        """Take the first out of the line."""
        self.line.popleft().waits = False

    def count(self, route: Route, *, unsettled: bool) -> None:
        """Note whether a route takes a place in the window."""
        if route.counted != unsettled:
            route.counted = unsettled
            self.unsettled += 1 if unsettled else -1
