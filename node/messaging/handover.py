"""Hands messages to agents of the node that accepts them, in the transaction that does.

The ordinary way of a message from outbox to inbox costs a task, a write and a wait; between agents of one
node all three can be saved. Under load, where writes and wakings are shared anyway, nothing is saved, so only
a few are handed over, and only while nobody else writes, or has just written along with others. What is
claimed (:mod:`node.messaging.claims`) is judged as an arrival, written in the job that writes it to the
outbox, and offered to its mailbox right after the commit. A reply that somebody waits for ends as it arrives,
so its end is written with it, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import apsw

from node.messaging.arrivals import Arriving, Batch
from node.messaging.claims import Claim
from node.messaging.dated import Dated
from node.messaging.inbox import Inbox
from node.messaging.letters import OPEN, Letter
from node.messaging.outbox import Outbox
from node.messaging.receiver import ArrivalAction, ItemState
from node.messaging.storing import store
from node.storage import outbox as table
from node.storage.storage import Storage

HANDED_LIMIT: Final = 16
"""Most messages that are handed over in one write; more share their writes on the ordinary way as well."""


@dataclass(slots=True)
class Handed:
    """Messages on their way into the tables of both sides; nothing, where there is no batch.

    Args:
        node: This node's name.
        inbox: The receiving side.
        outbox: The sending side.
        claims: What was claimed.
        batch: The same as arrivals.
    """

    node: str
    inbox: Inbox
    outbox: Outbox
    claims: Sequence[Claim] = ()
    batch: Batch | None = None
    _dated: Dated | None = None
    _withdrawn: Collection[int] = field(default=())

    def __enter__(self) -> Self:
        if self.batch is not None:  # replies that somebody waits for end as they arrive
            self._dated = self.inbox.ending()
            self._dated.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._dated is not None:
            self._dated.__exit__()

    def store(self, connection: apsw.Connection, withdrawn: Collection[int]) -> None:
        """Write them as received; part of the job that has accepted them, and may be done again.

        Args:
            connection: The job's.
            withdrawn: Seqs of messages that were not accepted after all.
        """
        if self.batch is None:
            return
        self._withdrawn = withdrawn
        items = []
        for (letter, _), item in zip(self.claims, self.batch.items, strict=True):
            item.state, item.reason = ItemState.SETTLED if item.kept else ItemState.HELD, ""
            if letter.seq in withdrawn:
                item.action = ArrivalAction.WITHDRAW
            else:
                item.action = ArrivalAction.STORE
                items.append(item)
        if items:
            store(connection, items, self.node)
            ends = [_end(letter, item) for letter, item in self._ended()]
            if ends:
                table.finish_with_route(connection, ends)

    def stored(self) -> None:
        """All is durable, and the outbox has taken its messages up: hand them on."""
        if self.batch is None:
            return
        self.outbox.end_is_written([letter.message.id for letter, _ in self._ended()])
        self.inbox.stored(self.batch)

    def _ended(self) -> list[tuple[Letter, Arriving]]:
        """Those that somebody waits for, and that are the first of their kind."""
        assert self.batch is not None
        return [
            (letter, item)
            for (letter, _), item in zip(self.claims, self.batch.items, strict=True)
            if item.state is ItemState.SETTLED and item.action is ArrivalAction.STORE
        ]


class Handover:
    """See the module's docstring.

    Args:
        node: This node's name.
        inbox: The receiving side.
        outbox: The sending side.
        storage: The node's database.
    """

    def __init__(self, *, node: str, inbox: Inbox, outbox: Outbox, storage: Storage) -> None:
        self._node, self._inbox, self._outbox, self._storage = node, inbox, outbox, storage
        self._nothing = Handed(node, inbox, outbox)

    def take(self, letters: Sequence[Letter]) -> Handed:
        """Claim what can be claimed of prepared messages; they are to be written within the context."""
        if not self.is_worth_it(len(letters)):
            return self._nothing
        here = self._for_agents_here(letters)
        taken = self._inbox.takes(here) if here else here
        claims = self._outbox.claim(taken) if taken else []
        if not claims:
            return self._nothing
        batch = self._inbox.judge([(claim.item, claim.letter.message) for claim in claims])
        return Handed(self._node, self._inbox, self._outbox, claims, batch)

    def is_worth_it(self, count: int) -> bool:
        """Whether so many messages are better handed over than sent."""
        return 0 < count <= HANDED_LIMIT and not self._storage.is_busy

    def _for_agents_here(self, letters: Sequence[Letter]) -> list[Letter]:
        return [
            letter
            for letter in letters
            if letter.own is not None and letter.own.target[1] == self._node and letter.ended == OPEN
        ]


def _end(letter: Letter, item: Arriving) -> table.EndWithRoute:
    """How a message ends that was accepted and received at the same moment."""
    at_s, settled = item.row.received_s, ItemState.SETTLED.value
    return letter.seq, settled, at_s, "", settled, 1, at_s, None, at_s, ""
