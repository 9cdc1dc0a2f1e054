"""Answers while they are made, both sides: what this node's agents say, and what is watched from here.

Whether a message is watched is known to its origin alone and is nothing of the message itself: it does not
travel with it, is not stored, and is lost with the process. The origin asks the node that makes the answer,
over the link that has brought the message, and is told on the same link, after everything durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from node.environment import Clock
from node.messaging.explanation import Target
from node.messaging.partial_sources import PartialSources
from node.messaging.partial_watches import PARTIALS, PARTIALS_NO_MORE, PartialWatches
from node.messaging.ports import LinkSender
from node.transport.frames import Partial

QUESTIONS: Final = (PARTIALS, PARTIALS_NO_MORE)
"""The questions of a link that are asked here."""


class Partials:
    """See the module's docstring.

    Args:
        node: This node's name.
        clock: Times what is gathered and asked.
        providers: Where a message of this node is now.
    """

    def __init__(self, *, node: str, clock: Clock, providers: Callable[[str], Sequence[Target]]) -> None:
        self._node = node
        self._links: LinkSender | None = None
        self.sources = PartialSources(clock, self._tell)
        self.watches = PartialWatches(
            node=node,
            clock=clock,
            providers=providers,
            want=self.sources.want,
            want_no_more=self.sources.want_no_more,
        )

    def use_links(self, links: LinkSender) -> None:
        """Give the links to peers."""
        self._links = self.watches.links = links

    async def run(self) -> None:
        """Ask and tell until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sources.run)
            nursery.start_soon(self.watches.run)

    def node_lost(self, node: str) -> None:
        """``node`` has died or left: it wants nothing any more."""
        self.sources.want_no_more(node)

    def asked(self, peer: str, question: str, message_id: str) -> bytes:
        """``peer`` asks to be told, or no more; whether there is such a message of its own, it will see."""
        if question == PARTIALS:
            self.sources.want(peer, message_id)
        else:
            self.sources.want_no_more(peer, message_id)
        return b""

    def statistics(self) -> dict[str, int]:
        """Counts and sizes of both sides."""
        return {**self.sources.statistics(), **self.watches.statistics()}

    def _tell(self, origin: str, piece: Partial) -> bool:
        if origin == self._node:
            self.watches.on_partial(origin, piece)
            return True
        return self._links is not None and self._links.partial(origin, piece)
