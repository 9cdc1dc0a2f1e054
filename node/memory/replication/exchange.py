"""Who is asked for what, and when who is told that there is more: the exchange of logs, without any I/O.

A node pulls. It asks a partner for what it does not hold, page by page, until there is no more, then leaves a
request there that waits: the partner answers it, with its headings alone, once there is something new. What
the partner has said itself is told after :data:`NEWS_S`, what it has from others after
:data:`SECOND_HAND_S`, when it has usually come from them. A node has a few partners, always among them the
next in the ring of names, so that everything reaches everybody whoever is gone.

Two nodes that hold the same of every log hold the same operations. Where their digests say otherwise, a log
was kept from one of them, or its node has used numbers twice; then it is asked for from the beginning, at
most every :data:`REPAIR_EVERY_S`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.memory.replication.head import STALLED_LIMIT, Head, LogName
from node.memory.replication.wire import EVERYTHING, Have, Heading, Page, Request

PARTNERS: Final = 4
"""Nodes that one node pulls from."""
NEWS_S: Final = 0.02
"""So long a node gathers what it says before it tells those who wait, in seconds."""
SECOND_HAND_S: Final = 1.0
"""So long it waits with what others have said, in seconds."""
STALLED_S: Final = 30.0
"""So long a log is not asked for that is ahead of the time, or that there is no room for, in seconds."""
REFUSED_S: Final = 30.0
"""So long a node is not asked again that has told what nobody said, in seconds."""
WAIT_S: Final = 60.0
"""Longest that a request waits, in seconds: then nothing is new, and digests are compared."""
REPAIR_EVERY_S: Final = 600.0
"""Least time between two repairs with one partner, in seconds."""
IDLE_PAGES: Final = 8
"""Pages of one partner in a row that may bring nothing before it is asked less often."""
PEERS_LIMIT: Final = 1_024
"""Most nodes of which something is noted."""


@dataclass(slots=True)
class _Peer:
    told: dict[LogName, Heading] = field(default_factory=dict)
    waits: tuple[int, float] | None = None
    held: dict[LogName, int] = field(default_factory=dict)
    repair: dict[LogName, int] = field(default_factory=dict)
    repaired_s: float | None = None
    paused_until_s: float = 0.0
    idle_pages: int = 0
    refused: int = 0
    repairs: int = 0


class Exchange:
    """What one node knows of the others' logs.

    Args:
        node: Its name.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._heads: dict[LogName, Head] = {}
        self._changed_s: dict[LogName, float] = {}
        self._stalled: dict[LogName, tuple[float, str]] = {}
        self._peers: dict[str, _Peer] = {}

    # What is held here

    def know(self, heads: Sequence[Head], now: float) -> bool:
        """Take note of how much of each log is held; says whether it is more than before."""
        grown = False
        for head in heads:
            name = (head.node, head.log)
            before = self._heads.get(name)
            if before is None or head.seen > before.seen:
                self._changed_s[name], grown = now, True
        self._heads = {(head.node, head.log): head for head in heads}
        return grown

    def headings(self) -> tuple[Heading, ...]:
        """The same as it is told."""
        return tuple(Heading(*head) for head in self._heads.values())

    # Pulling

    def request(self, peer: str, now: float, *, wait: bool) -> Request:
        """What to ask a partner for."""
        held = {name: head.seen for name, head in self._heads.items()}
        held |= {name: EVERYTHING for name, (until_s, _) in self._stalled.items() if now < until_s}
        if not wait:
            held |= self._peer(peer).repair
        return Request(tuple(Have(*name, seen) for name, seen in sorted(held.items())), wait)

    def told(self, peer: str, page: Page, now: float) -> bool:
        """Take note of what a partner holds, and begin or end a repair; says whether one has gone on."""
        state = self._peer(peer)
        state.told = {(heading.node, heading.log): heading for heading in page.heads}
        if state.repair:
            has_gone_on = False
            for stretch in page.stretches:
                name = (stretch.node, stretch.log)
                if stretch.last > state.repair.get(name, EVERYTHING):
                    state.repair[name], has_gone_on = stretch.last, True
            if not page.stretches:
                state.repair = {}
            return has_gone_on
        if page.stretches:
            return False
        due = state.repaired_s is None or now - state.repaired_s >= REPAIR_EVERY_S
        differing = [name for name in self._differing(state) if not self._is_stalled(name, now)]
        if due and differing:
            state.repaired_s = now
            self.repair(peer, differing)
        return False

    def gained(self, peer: str, *, anything: bool) -> bool:
        """Take note whether a page has brought anything; says whether to ask for the next one at once.

        An honest node tells little that everybody else has made void already; one that signs without end
        what says nothing would keep this one busy.
        """
        state = self._peer(peer)
        state.idle_pages = 0 if anything else state.idle_pages + 1
        return state.idle_pages <= IDLE_PAGES

    def repair(self, peer: str, logs: Iterable[LogName]) -> None:
        """Ask a partner for logs from their beginning."""
        state = self._peer(peer)
        state.repair = dict.fromkeys(logs, 0)
        state.repairs += 1

    def is_repairing(self, peer: str) -> bool:
        """Whether logs are asked for from their beginning."""
        return bool(self._peer(peer).repair)

    def is_missing(self, peer: str, now: float) -> bool:
        """Whether a partner has something that is wanted here."""
        state = self._peer(peer)
        return bool(state.repair) or any(
            heading.seen > self._seen(name)
            for name, heading in state.told.items()
            if not self._is_stalled(name, now)
        )

    def stall(self, log: LogName, why: str, now: float) -> None:
        """Leave a log alone for a while, also where it was being repaired."""
        self._stalled = {name: at for name, at in self._stalled.items() if now < at[0] and name != log}
        if len(self._stalled) >= STALLED_LIMIT:
            del self._stalled[next(iter(self._stalled))]
        self._stalled[log] = (now + STALLED_S, why)
        for state in self._peers.values():
            state.repair.pop(log, None)

    def refuse(self, peer: str, now: float) -> None:
        """Leave a partner alone for a while."""
        state = self._peer(peer)
        state.refused += 1
        state.paused_until_s, state.repair = now + REFUSED_S, {}

    def paused_until(self, peer: str) -> float:
        """Until when a partner is left alone."""
        return self._peer(peer).paused_until_s

    # Answering

    def wait(self, peer: str, number: int, request: Request, now: float) -> None:
        """Take note of a request that waits."""
        state = self._peer(peer)
        state.held = {(have.node, have.log): have.seen for have in request.have}
        state.waits = (number, now)

    def lost(self, peer: str) -> None:
        """A request that waited is gone with its link."""
        self._peer(peer).waits = None

    def due(self, now: float) -> list[tuple[str, int]]:
        """The requests that are to be answered now: who waits, and the number of its pull."""
        found = []
        for peer, state in sorted(self._peers.items()):
            due_s = self._due_s(state)
            if state.waits is not None and due_s is not None and due_s <= now:
                found.append((peer, state.waits[0]))
                state.waits = None
        return found

    def next_due(self) -> float | None:
        """When the next request is to be answered, if one is."""
        times = [self._due_s(state) for state in self._peers.values()]
        return min((at for at in times if at is not None), default=None)

    def leave(self, peer: str) -> None:
        """A node is no partner any more; it may go on to ask this one."""
        state = self._peers.get(peer)
        if state is not None and state.waits is None:
            del self._peers[peer]
        elif state is not None:
            state.told, state.repair = {}, {}

    def statistics(self, now: float) -> dict[str, Any]:
        """For each node, how many operations it has that this one has not, and the other way round."""
        return {
            "peers": {
                peer: {
                    "behind": sum(
                        max(0, heading.seen - self._seen(name)) for name, heading in state.told.items()
                    ),
                    "is_behind": sum(
                        max(0, head.seen - state.held.get(name, 0)) for name, head in self._heads.items()
                    )
                    if state.held
                    else None,
                    "in_step": not self._differing(state) and not self.is_missing(peer, now),
                    "refused": state.refused,
                    "repairs": state.repairs,
                }
                for peer, state in sorted(self._peers.items())
            },
            "stalled": {name[0]: why for name, (until_s, why) in self._stalled.items() if now < until_s},
        }

    def _peer(self, peer: str) -> _Peer:
        found = self._peers.get(peer)
        if found is None:
            if len(self._peers) >= PEERS_LIMIT:
                del self._peers[next(iter(self._peers))]
            found = self._peers[peer] = _Peer()
        return found

    def _seen(self, name: LogName) -> int:
        head = self._heads.get(name)
        return 0 if head is None else head.seen

    def _is_stalled(self, name: LogName, now: float) -> bool:
        return now < self._stalled.get(name, (0.0, ""))[0]

    def _differing(self, state: _Peer) -> list[LogName]:
        """The logs that differ although as much is held of all of them as the partner holds.

        A log that was begun and of which nothing is told yet counts for nothing, on either side.
        """
        told = {name: heading for name, heading in state.told.items() if heading.seen}
        held = {name: head for name, head in self._heads.items() if head.seen}
        if {name: each.seen for name, each in told.items()} != {
            name: each.seen for name, each in held.items()
        }:
            return []
        return [name for name, heading in told.items() if heading.digest != held[name].digest]

    def _due_s(self, state: _Peer) -> float | None:
        """When a request that waits is to be answered."""
        if state.waits is None:
            return None
        times = [
            self._changed_s[name] + (NEWS_S if head.node == self._node else SECOND_HAND_S)
            for name, head in self._heads.items()
            if head.seen > state.held.get(name, 0)
        ]
        return min(times, default=state.waits[1] + WAIT_S)


def partners(node: str, holders: Sequence[str]) -> list[str]:
    """Whom a node pulls from: the next in the ring of names, and others that differ from node to node."""
    if len(holders) <= PARTNERS:
        return sorted(holders)
    following = min(holders, key=lambda name: (name <= node, name))
    others = sorted(
        (name for name in holders if name != following),
        key=lambda name: hashlib.blake2b(f"{node} {name}".encode(), digest_size=8).digest(),
    )
    return sorted([following, *others[: PARTNERS - 1]])
