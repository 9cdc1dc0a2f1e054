"""Who waits for which reply, in memory: requests of clients, and of agents in the middle of their work."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from node.errors import ResourceLimitExceeded
from node.message import Message
from node.vocabulary import Performative

WAIT_LIMIT: Final = 4_096
"""Most requests that wait for replies at once."""
ABANDONED_LIMIT: Final = 10_000
"""Requests nobody waits for any more whose late replies are kept from the agents' mailboxes."""

Quoted = tuple[str, str]
"""The address a reply goes to, and what it quotes."""


@dataclass(slots=True, eq=False)
class Wait:
    """One request that waits.

    Args:
        quoted: What its replies are known by.
        wanted: Replies that end the wait; None until it is known how many were asked.
        agreed_suffices: Whether AGREE is an answer; otherwise it only says that one will come.
        missing: Providers of a broadcast that will not answer.
        of_all: Whether the answers of all that were asked are wanted.
    """

    quoted: Quoted
    wanted: int | None
    agreed_suffices: bool = False
    missing: int = 0
    of_all: bool = field(init=False)
    replies: list[Message] = field(default_factory=list)
    satisfied: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.of_all = self.wanted is None

    def expect(self, wanted: int) -> None:
        """So many were asked."""
        self.wanted = wanted
        self._see()

    def ended(self, asked: int, missing: int) -> None:
        """The message has ended: so many were asked in the end, and so many of them will not answer."""
        self.missing = missing
        if self.of_all:
            self.wanted = asked  # others than at first, or after a wait
        self._see()

    def take(self, reply: Message) -> None:
        """One more reply."""
        if reply.performative is Performative.AGREE and not self.agreed_suffices:
            return
        self.replies.append(reply)
        self._see()

    def _see(self) -> None:
        """A FAILURE comes even when nobody answers, so at least one reply is waited for."""
        if self.wanted is not None and len(self.replies) >= max(1, self.wanted - self.missing):
            self.satisfied.set()


class Waits:
    """All requests of this node that wait for replies."""

    def __init__(self) -> None:
        self._waits: dict[Quoted, Wait] = {}
        self._abandoned: OrderedDict[Quoted, None] = OrderedDict()
        self.on_unclaimed: Callable[[Message], None] = lambda reply: None
        """Told of each reply that nobody waits for (any more) and no mailbox gets."""

    def open(self, message: Message, wanted: int | None) -> Wait:
        """Begin to wait for replies to ``message``.

        Raises:
            ResourceLimitExceeded: too many wait, or another request of the same sender has its label.
        """
        quoted = (message.sender, message.reply_with)
        if quoted in self._waits:
            raise ResourceLimitExceeded(
                "another request with this label waits for its reply",
                why=f"{message.sender} has an open request with reply_with {message.reply_with!r}",
                fix="Leave reply_with out, or make it unique.",
            )
        if len(self._waits) >= WAIT_LIMIT:
            raise ResourceLimitExceeded(
                "too many requests wait for a reply",
                why=f"the limit is {WAIT_LIMIT}",
                fix="Send without waiting and look the message up, or try again later.",
            )
        # what a subscription brings may never come: that it stands is all there is to wait for
        subscribes = message.performative is Performative.SUBSCRIBE
        wait = self._waits[quoted] = Wait(quoted, wanted, agreed_suffices=subscribes)
        return wait

    def close(self, wait: Wait) -> None:
        """Wait no more; replies that come after this go to no mailbox."""
        del self._waits[wait.quoted]
        self.abandon(wait.quoted)

    def abandon(self, quoted: Quoted) -> None:
        """Keep replies to this from mailboxes."""
        self._abandoned[quoted] = None
        if len(self._abandoned) > ABANDONED_LIMIT:
            self._abandoned.popitem(last=False)

    def concerns(self, message: Message) -> bool:
        """Whether somebody waits, or has waited, for this message."""
        quoted = (message.receiver or "", message.in_reply_to or "")
        return quoted in self._waits or quoted in self._abandoned

    def answer(self, reply: Message) -> bool:
        """Hand a reply to whoever waits for it; False when nobody does."""
        wait = self._waits.get((reply.receiver or "", reply.in_reply_to or ""))
        if wait is None:
            self.on_unclaimed(reply)
            return False
        wait.take(reply)
        return True

    def find(self, message: Message) -> Wait | None:
        """The wait for replies to ``message``."""
        return self._waits.get((message.sender, message.reply_with))

    def statistics(self) -> dict[str, int]:
        """Sizes and bounds."""
        return {
            "waits": len(self._waits),
            "waits_limit": WAIT_LIMIT,
            "abandoned": len(self._abandoned),
            "abandoned_limit": ABANDONED_LIMIT,
        }
