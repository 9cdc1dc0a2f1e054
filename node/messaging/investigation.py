"""Finds out what became of a message and of all that it caused, wherever in the cluster that happened.

The origin knows where a message went, and each node it went to knows what its agent made of it; neither can
be had from the other by gossip. So whoever is asked asks the nodes concerned, over the links that carry
messages, and puts their sides together. A node that is away, or answers too late, is named in the result:
what it knows is missing, and what the others know is shown.

Clocks differ, so a time is told with the node that read it off, and durations are only taken between times
of one node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import apsw

from node.environment import Clock
from node.errors import CaxtonError, MessageNotFound
from node.messaging import sides
from node.messaging.explanation import Decision, decision
from node.messaging.ports import LinkSender, MembershipView
from node.messaging.sides import Accepted, Copy, Described, Running, Side
from node.messaging.story import Explanation, Told, Trace
from node.storage import accepted, decisions, outbox
from node.storage.storage import Storage

TRACE: Final = "trace"
"""The question by which a node asks another for its side of a message."""
TRACED_LIMIT: Final = 64
"""Most messages in one trace."""
QUESTION_LIMIT: Final = 128
"""Most questions asked for one trace."""
DEPTH_LIMIT: Final = 20
"""Longest chain of causes that is followed; above the hops that a chain may have."""
ANSWER_S: Final = 2.0
"""Longest wait for one answer, in seconds; a node that needs longer is not asked again."""
TRACE_S: Final = 8.0
"""Longest time for one trace, in seconds; what is not known then is left out."""


@dataclass(slots=True)
class _Inquiry:
    """One trace while it is made."""

    until: float
    messages: int = 0
    questions: int = 0
    cut: bool = False
    sides: dict[tuple[str, str], Side | None] = field(default_factory=dict)
    away: dict[str, None] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)


class Investigation:
    """Traces and explains messages; see the module's docstring.

    Args:
        node: This node's name.
        clock: Bounds the time.
        storage: The node's database.
        membership: Who is there.
        running_since: Tells which messages agents of this node are handling now.
    """

    def __init__(
        self,
        *,
        node: str,
        clock: Clock,
        storage: Storage,
        membership: MembershipView,
        running_since: Running,
    ) -> None:
        self._node, self._clock, self._storage = node, clock, storage
        self._membership, self._running_since = membership, running_since
        self.links: LinkSender | None = None
        self._counts = dict.fromkeys(("traces", "asked", "unanswered", "answered", "not_known"), 0)

    async def trace(self, message_id: str) -> Trace:
        """The way of a message, and of all that it caused.

        Raises:
            MessageNotFound: this node knows no such message (any more).
        """
        self._counts["traces"] += 1
        own = await self._own(message_id)
        if own.message is None:
            raise _unknown(message_id)
        inquiry = _Inquiry(self._clock.now() + TRACE_S)
        inquiry.sides[self._node, message_id] = own
        told = await self._follow(inquiry, own.message, own.accepted, 0)
        complete = not inquiry.cut and not inquiry.away
        return Trace(self._node, told, tuple(inquiry.away), complete, inquiry.questions)

    async def explain(self, message_id: str) -> Explanation:
        """What was decided about a message that this node accepted, and why.

        Raises:
            MessageNotFound: this node has not accepted it, or does not know it any more.
        """
        own = await self._own(message_id)
        if own.accepted is None:
            if own.message is None:
                raise _unknown(message_id)
            origin = own.message.sender.rpartition("@")[2]
            raise MessageNotFound(
                f"the message {message_id[:80]!r} was received here, not accepted",
                why="the node that accepts a message decides where it goes",
                fix=f"Ask {origin}.",
                details={"origin": origin},
            )
        kept = await self._storage.read(lambda connection: _decisions(connection, message_id))
        return Explanation(self._node, own.accepted, kept)

    async def answer(self, question: str, about: str) -> bytes | None:
        """Answer a peer; None when this node does not know the message, or not what the question means."""
        try:
            side = await self._own(about) if question == TRACE else None
        except CaxtonError:  # of a sick disk; the link it came by goes on
            side = None
        if side is None or side.is_empty:
            self._counts["not_known"] += 1
            return None
        self._counts["answered"] += 1
        return side.encode()

    def statistics(self) -> dict[str, int]:
        """What was asked here, of others, and by others."""
        return dict(self._counts)

    async def _own(self, message_id: str) -> Side:
        return await self._storage.read(
            lambda connection: sides.load(connection, message_id, self._running_since)
        )

    async def _follow(
        self, inquiry: _Inquiry, message: Described, accepted: Accepted | None, depth: int
    ) -> Told:
        """One message with the sides of all nodes concerned, then each that it caused."""
        inquiry.messages += 1
        inquiry.seen[message.message_id] = None
        origin = message.sender.rpartition("@")[2]
        first = await self._side(inquiry, origin, message.message_id)
        if accepted is None and first is not None:
            accepted = first.accepted
        concerned = [way.node for way in accepted.ways] if accepted is not None else [self._node]
        copies: dict[str, tuple[Copy, ...]] = {}
        caused: list[tuple[str, Accepted]] = []
        away: dict[str, None] = {}
        for node in dict.fromkeys([origin, *concerned]):
            side = await self._side(inquiry, node, message.message_id)
            if side is None:
                if node in inquiry.away:
                    away[node] = None
                continue
            inquiry.cut |= side.more
            if side.copies:
                copies[node] = side.copies
            caused += [(node, each) for each in side.caused]
        told = Told(message, origin, accepted, copies, tuple(away))
        for _, each in sorted(caused, key=lambda entry: entry[1].accepted_s):
            if each.message.message_id in inquiry.seen:
                continue
            if inquiry.messages >= TRACED_LIMIT or depth >= DEPTH_LIMIT:
                inquiry.cut = True
                break
            told.caused.append(await self._follow(inquiry, each.message, each, depth + 1))
        return told

    async def _side(self, inquiry: _Inquiry, node: str, message_id: str) -> Side | None:
        """What a node knows of a message; None when it knows nothing or does not say."""
        key = (node, message_id)
        if key not in inquiry.sides:
            inquiry.sides[key] = await self._ask(inquiry, node, message_id)
        return inquiry.sides[key]

    async def _ask(self, inquiry: _Inquiry, node: str, message_id: str) -> Side | None:
        if node == self._node:
            return await self._own(message_id)
        if node in inquiry.away:
            return None
        left_s = inquiry.until - self._clock.now()
        if inquiry.questions >= QUESTION_LIMIT or left_s <= 0.0:
            inquiry.cut = True
            return None
        if self.links is None or not self._membership.is_alive(node):
            inquiry.away[node] = None
            return None
        inquiry.questions += 1
        self._counts["asked"] += 1
        answer = await self.links.ask(node, TRACE, message_id, timeout_s=min(ANSWER_S, left_s))
        side = None if answer is None or answer.state != "known" else Side.decode(answer.body)
        if answer is None or answer.state == "refused" or (side is None and answer.state == "known"):
            self._counts["unanswered"] += 1
            inquiry.away[node] = None
        return side


def _decisions(connection: apsw.Connection, message_id: str) -> list[tuple[int, float, Decision]]:
    """(epoch, when, decision) of everything that was decided about a message, in order."""
    row = accepted.find(connection, message_id)
    if row is None:
        return []
    found = {
        route.epoch: (route.routed_s, route.decision)
        for route in outbox.routes(connection, row.seq)
        if route.decision is not None
    }
    found |= {kept.epoch: (kept.at_s, kept.decision) for kept in decisions.of_message(connection, row.seq)}
    return [(epoch, at_s, decision(encoded)) for epoch, (at_s, encoded) in sorted(found.items())]


def _unknown(message_id: str) -> MessageNotFound:
    return MessageNotFound(
        f"no message {message_id[:80]!r} is known on this node",
        why="it was never accepted or received here, or has aged out",
        fix="Ask the node that accepted it.",
    )
