"""What one agent has to do next: bounded, in order within a conversation, fair between conversations.

Messages of one (conversation, sender) form a lane: first in, first out, one at a time. Between lanes the
priority of their first message decides, as a head start: each step of priority is worth
:data:`HEAD_START` arrivals, so a message of low priority is overtaken by a bounded number of later ones and
never starves. The mailbox is a window onto the inbox table: what does not fit stays there until it is
refilled.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from node.message import Message

HEAD_START: Final = 64
"""Arrivals that one step of priority is worth."""


class Entry(msgspec.Struct, eq=False, gc=False):  # what it holds holds nothing that could lead back
    """One held message for one agent.

    Args:
        seq: Its row in the inbox.
        origin: The node it came from.
        message: The message.
        epoch: The highest route epoch it was delivered under.
        attempts: Handler runs that raised.
        hops: Messages that led to it.
        deadline: Moment after which nobody wants it.
        traceparent: W3C Trace Context.
        rank: Place between lanes; set by the mailbox.
        started_s: Unix seconds at which its last handler run began, or None.
        lane: What first in, first out holds within: its conversation and its sender; set by the mailbox.
    """

    seq: int
    origin: str
    message: Message
    epoch: int
    attempts: int
    hops: int
    deadline: float
    traceparent: str
    rank: int = 0
    started_s: float | None = None
    lane: tuple[str, str] = ("", "")


@dataclass(slots=True)
class Mailbox:
    """The waiting and running messages of one agent.

    Args:
        capacity: Most of them in memory.
    """

    capacity: int
    spilled: bool = True
    """Whether the table may hold messages that are not here; true at first: look there."""
    _known: dict[int, Entry] = field(default_factory=dict)
    _lanes: dict[tuple[str, str], deque[Entry] | None] = field(default_factory=dict)
    """Lane -> what waits behind its first message, which most lanes have alone."""
    _ready: list[tuple[int, int]] = field(default_factory=list)
    _arrivals: int = 0
    _running: int = 0
    _handled: int = 0

    def __len__(self) -> int:
        return len(self._known) - self._running - self._handled

    @property
    def running(self) -> int:
        """Messages being handled."""
        return self._running

    @property
    def handled(self) -> int:
        """Messages that were handled and are not forgotten yet."""
        return self._handled

    @property
    def room(self) -> int:
        """How many more fit."""
        return max(0, self.capacity - len(self._known))

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`take` gives a message."""
        return bool(self._ready)

    def knows(self, seq: int) -> bool:
        """Whether the message of that row is here."""
        return seq in self._known

    def offer(self, entry: Entry) -> bool:
        """Take a message that was just stored; False when it has to stay in the table for now."""
        if entry.seq in self._known:
            return True
        if self.spilled or len(self._known) >= self.capacity:
            self.spilled = True
            return False
        self._push(entry)
        return True

    def refill(self, entries: Iterable[Entry], *, exhausted: bool) -> None:
        """Take messages read from the table; ``exhausted`` when it holds no others."""
        for entry in entries:
            if entry.seq not in self._known:
                self._push(entry)
        self.spilled = not exhausted

    def raise_epoch(self, seq: int, epoch: int) -> None:
        """A message here was delivered again under a higher epoch."""
        entry = self._known.get(seq)
        if entry is not None:
            entry.epoch = max(entry.epoch, epoch)

    def take(self) -> Entry | None:
        """The next message to handle; its lane is closed until :meth:`done`."""
        if not self._ready:
            return None
        _, seq = heapq.heappop(self._ready)
        self._running += 1
        return self._known[seq]

    def done(self, entry: Entry) -> None:
        """A message has been handled: open its lane, and know it until :meth:`forget`."""
        self._running -= 1
        self._handled += 1
        behind = self._lanes[entry.lane]
        if behind:
            following = behind.popleft()
            heapq.heappush(self._ready, (following.rank, following.seq))
        else:
            del self._lanes[entry.lane]

    def forget(self, entry: Entry) -> None:
        """What became of a message that was handled is durable, or nothing did."""
        del self._known[entry.seq]
        self._handled -= 1

    def _push(self, entry: Entry) -> None:
        message = entry.message
        self._arrivals += 1
        entry.rank = self._arrivals - message.priority * HEAD_START
        self._known[entry.seq] = entry
        place = entry.lane = message.conversation_id, message.sender
        if place not in self._lanes:
            self._lanes[place] = None
            heapq.heappush(self._ready, (entry.rank, entry.seq))
            return
        behind = self._lanes[place]
        if behind is None:
            self._lanes[place] = deque((entry,))
        else:
            behind.append(entry)
