"""A live view of the messages of one node, for whoever listens.

The bus tells each step of each message, and does so only while somebody listens: otherwise a step costs one
look at an empty list. A listener has a bounded buffer; what does not fit is counted and told as a number, so
a slow reader keeps nobody waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.environment import Clock
from node.errors import ResourceLimitExceeded
from node.message import Message, iso8601
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.receiver import ItemState

LISTENER_LIMIT: Final = 16
"""Most listeners at once."""
BUFFER_LIMIT: Final = 1_000
"""Most events that wait for one listener."""
CONTENT_LIMIT_BYTES: Final = 4_096
"""A message that is larger, sealed, is told without its content."""
TAKEN_AT_ONCE: Final = 100
"""Most events handed over at once."""

EVENTS: Final = ("accepted", "routed", "received", "handled", "refused", "settled", "failed", "dead")
"""What is told: a message enters here, is given to a provider, has arrived for an agent of this node, was
handled by it, is given back, has ended well for its origin, has failed at the agent, is given up here."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages a listener wants; what is None leaves nothing out.

    Args:
        capability: Those that ask for exactly this.
        agent: Those from or to this agent, with or without its node.
        conversation: Those of this conversation.
        performative: Those that do this.
        content: Whether the content is shown.
    """

    capability: str | None = None
    agent: str | None = None
    conversation: str | None = None
    performative: str | None = None
    content: bool = False

    def wants(self, message: Message, target: str) -> bool:
        """Whether a step of ``message``, on its way to ``target``, is to be told."""
        return (
            self.capability in (None, message.capability)
            and self.conversation in (None, message.conversation_id)
            and self.performative in (None, message.performative.value)
            and (self.agent is None or self._concerns(message, target))
        )

    def _concerns(self, message: Message, target: str) -> bool:
        addresses = (message.sender, message.receiver or "", target)
        return any(self.agent in (address, address.rpartition("@")[0]) for address in addresses)


class Listener:
    """One reader of the tail.

    Args:
        wanted: Which messages it wants.
    """

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.missed = 0
        self._events: deque[dict[str, Any]] = deque()
        self._arrived = trio.Event()

    def offer(self, event: dict[str, Any]) -> None:
        """Keep an event for the reader, or count that it has missed one."""
        if len(self._events) >= BUFFER_LIMIT:
            self.missed += 1
            return
        self._events.append(event)
        self._arrived.set()

    async def take(self, clock: Clock, timeout_s: float) -> list[dict[str, Any]]:
        """The next events, at most :data:`TAKEN_AT_ONCE`; none if nothing happens for ``timeout_s``.

        What was missed comes after those that had been kept when it began, as an event of its own.
        """
        if not self._events:
            self._arrived = trio.Event()
            with clock.move_on_after(timeout_s):
                await self._arrived.wait()
        taken = [self._events.popleft() for _ in range(min(len(self._events), TAKEN_AT_ONCE))]
        if self.missed and not self._events:
            taken.append({"event": "missed", "at": iso8601(clock.wall()), "count": self.missed})
            self.missed = 0
        return taken


class Tail:
    """Tells listeners what happens to messages; see the module's docstring.

    Args:
        node: This node's name.
        clock: Dates the events.
    """

    def __init__(self, node: str, clock: Clock) -> None:
        self._node, self._clock = node, clock
        self.listeners: list[Listener] = []
        """Empty while nobody listens: look here before telling anything."""
        self._told = self._missed = 0

    @contextmanager
    def listen(self, wanted: Filter) -> Iterator[Listener]:
        """Be told what happens to the messages that are wanted, as long as the block lasts.

        Raises:
            ResourceLimitExceeded: too many listen.
        """
        if len(self.listeners) >= LISTENER_LIMIT:
            raise ResourceLimitExceeded(
                "too many listen to the messages of this node",
                why=f"the limit is {LISTENER_LIMIT}",
                fix="End one of them.",
                details={"listeners": len(self.listeners), "limit": LISTENER_LIMIT},
            )
        listener = Listener(wanted)
        self.listeners.append(listener)
        try:
            yield listener
        finally:
            self.listeners.remove(listener)

    def admitted(self, letters: Iterable[Letter]) -> None:
        """Messages have entered here, and where they go."""
        for letter in letters:
            self._tell("accepted", letter.message, len(letter.sealed))
            for route in letter.active_routes():
                self.routed(route)

    def routed(self, route: Route) -> None:
        """A message was given to a provider."""
        letter = route.letter
        self._tell("routed", letter.message, len(letter.sealed), target="@".join(route.target))

    def ended(self, letters: Iterable[Letter]) -> None:
        """Messages of this node have ended."""
        for letter in letters:
            if letter.ended != OPEN:
                event = "settled" if letter.ended == "settled" else "dead"
                detail = "" if event == "settled" else f"{letter.ended}: {letter.reason}".rstrip(": ")
                self._tell(event, letter.message, len(letter.sealed), detail=detail)

    def received(self, message: Message, size: int, target: str, origin: str) -> None:
        """A message has arrived for an agent or client of this node."""
        self._tell("received", message, size, target=f"{target}@{self._node}", detail=f"from {origin}")

    def handled(self, message: Message, target: str, state: ItemState, reason: str) -> None:
        """A held message has ended at an agent of this node."""
        event = {ItemState.SETTLED: "handled", ItemState.FAILED: "failed"}.get(state, "refused")
        self._tell(event, message, None, target=f"{target}@{self._node}", detail=reason)

    def statistics(self) -> dict[str, int]:
        """Who listens, and what they were told and have missed since the start."""
        return {
            "listeners": len(self.listeners),
            "listeners_limit": LISTENER_LIMIT,
            "told": self._told,
            "missed": self._missed,
        }

    def _tell(
        self, event: str, message: Message, size: int | None, *, target: str = "", detail: str = ""
    ) -> None:
        told: dict[str, Any] | None = None
        for listener in self.listeners:
            if not listener.wanted.wants(message, target):
                continue
            if told is None:
                told = self._event(event, message, target, detail)
            earlier = listener.missed
            listener.offer(told | _content(message, size) if listener.wanted.content else told)
            self._missed += listener.missed - earlier
            self._told += 1

    def _event(self, event: str, message: Message, target: str, detail: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "event": event,
            "at": iso8601(self._clock.wall()),
            "node": self._node,
            "message_id": message.id,
            "conversation_id": message.conversation_id,
            "performative": message.performative.value,
            "from": message.sender,
            "to": target or message.wanted,
            "capability": message.capability,
        }
        if message.in_reply_to is not None:
            found["in_reply_to"] = message.in_reply_to
        if detail:
            found["detail"] = detail
        return found


def _content(message: Message, size: int | None) -> dict[str, Any]:
    """The content as an event shows it; a message whose size is not known is not told with it."""
    if size is None:
        return {}
    if size > CONTENT_LIMIT_BYTES:
        return {"content_left_out_bytes": size}
    return {"content": message.content}
