"""One client that reads one mailbox: in order of receipt, and no further than its window is open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from node.messaging.inbox import Inbox
from node.messaging.mailboxes import Entry
from node.storage import mailboxes as table

WINDOW: Final = 256
"""Most messages given to a client before it has acknowledged some, unless it says otherwise."""
WINDOW_LIMIT: Final = 1_000
"""Largest such number."""
Screen = Callable[[str, Sequence[Entry]], Awaitable[list[Entry]]]
"""Of messages of a mailbox those that its client may be given; the others are answered."""


@dataclass(slots=True, eq=False)
class Box:
    """One mailbox, and who reads it."""

    row: table.MailboxRow
    held: set[int] = field(default_factory=set)
    """Its rows, by their numbers: as many as the inbox holds at most."""
    expires_s: float = float("inf")
    """No message of it expires before this time of day."""
    touched: bool = False
    consumer: Consumer | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """Something has changed for whoever reads it."""
        self.changed.set()
        self.changed = trio.Event()


class Consumer:
    """One client that reads one mailbox, from the oldest message on.

    Args:
        name: The mailbox.
        box: Its state.
        inbox: Where its messages are.
        in_protocol: Which messages of the mailbox a client may be given.
        window: Most messages that it has been given and that are not acknowledged.
    """

    def __init__(self, name: str, box: Box, inbox: Inbox, in_protocol: Screen, window: int) -> None:
        self.name = name
        self.reason = ""
        """Why it is the mailbox's consumer no more; the empty string while it is."""
        self._ended = trio.Event()
        self._box = box
        self._inbox, self._in_protocol = inbox, in_protocol
        self._after = 0
        self._window = window
        self._given: dict[int, None] = {}

    async def take(self, most: int) -> list[Entry]:
        """The next messages, in order, at most so many; waits for one. Empty when it was ended."""
        while not self._ended.is_set():
            changed, after = self._box.changed, self._after
            held = await self._read(min(most, self._window - len(self._given)))
            found = await self._in_protocol(self.name, held)
            if self._ended.is_set():
                break
            if held:
                if self._after == after:  # nobody has made it look back meanwhile
                    self._after = held[-1].seq
                self._given.update(dict.fromkeys(e.seq for e in found if not e.message.once))
            if found:
                return found
            if not held:
                await changed.wait()
        return []

    async def _read(self, room: int) -> list[Entry]:
        """The next that it has not been given, at most so many."""
        if room <= 0:
            return []
        ahead = sum(seq > self._after for seq in self._given)  # after a look back
        found = await self._inbox.read_held_after(self.name, self._after, room + ahead)
        return [entry for entry in found if entry.seq not in self._given][:room]

    def open_window(self, window: int) -> None:
        """From now on it is given no more than so many before it has acknowledged some."""
        self._window = window
        self._box.wake()

    def waits_for(self, seq: int) -> bool:
        """Whether it has been given this row, and is to acknowledge it."""
        return seq in self._given

    def look_back(self, seq: int) -> None:
        """A row is held again after it had ended: it is read on from there."""
        self._after = min(self._after, seq - 1)

    def forget(self, seqs: Iterable[int]) -> None:
        """These have ended: they need no place in the window any more."""
        for seq in seqs:
            self._given.pop(seq, None)
        self._box.wake()

    def end(self, reason: str) -> None:
        """It is the mailbox's consumer no more."""
        if not self._ended.is_set():
            self.reason = reason
            self._ended.set()
        self._box.wake()
