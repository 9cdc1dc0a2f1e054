"""How much the messages of both sides weigh on the disk, and how much of that is to go.

Theory of operation. What is written and dropped is counted as that happens, without a look at the disk. The
first round of retention weighs what was there before, and one an hour weighs all again: a count may miss what
a disk that refuses has left in between. Beyond ``messaging.history_limit`` the oldest ended messages go. The
sent and the received share it: each side has half, and what the other one leaves. When a part of it has come
since the last round, the next one begins early. What must stay (open messages, ends that an origin may not
have heard of) can be more than the limit; at :data:`FULL` times the limit nothing is taken that adds to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from node.storage.storage import Storage
from node.storage.weight import ROW_BYTES, Table, last_seq, weigh

FULL: Final = 2
"""So many times the limit, the messages of one side are so many that nothing is taken which adds to them."""
EARLY_SHARE: Final = 16
"""When this part of the limit has come since the last round, the next one begins early."""
WEIGHED_EVERY_S: Final = 3600.0
"""How often all is weighed again."""


class Kept:
    """See the module's docstring.

    Args:
        limit_bytes: Of the messages of both sides.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sent = self._received = self._since = self._dropped = 0
        self._weighed_s: float | None = None
        self._early = trio.Event()
        self.on_received_full: Callable[[bool], object] = lambda is_full: None
        self._told_full = False

    # What happens

    def add_sent(self, count: int, size: int) -> None:
        """So many messages, of so many sealed bytes, were written as accepted."""
        self._sent += size + ROW_BYTES * count
        self._grown(size + ROW_BYTES * count)

    def add_received(self, count: int, size: int) -> None:
        """So many messages, of so many sealed bytes, were written as received."""
        self._received += size + ROW_BYTES * count
        self._grown(size + ROW_BYTES * count)
        self._tell_full()

    def drop_sent(self, count: int, weight: int) -> None:
        """Accepted messages were dropped, of this weight with their rows."""
        self._sent = max(0, self._sent - weight)
        self._dropped += count

    def drop_received(self, count: int, weight: int) -> None:
        """Received messages were dropped, of this weight with their rows."""
        self._received = max(0, self._received - weight)
        self._dropped += count
        self._tell_full()

    # What follows

    @property
    def excess_sent(self) -> int:
        """Bytes of accepted messages that are to go."""
        return max(0, self._sent - max(self._limit_bytes // 2, self._limit_bytes - self._received))

    @property
    def excess_received(self) -> int:
        """Bytes of received messages that are to go."""
        return max(0, self._received - max(self._limit_bytes // 2, self._limit_bytes - self._sent))

    @property
    def sent_is_full(self) -> bool:
        """Whether accepted messages weigh so much that none is kept beyond its end any more."""
        return self._sent > FULL * self._limit_bytes

    async def wait_until_grown(self) -> None:
        """Wait until so much has come that the next round should begin early."""
        await self._early.wait()

    def begin_round(self) -> None:
        """A round of retention begins."""
        self._since, self._early = 0, trio.Event()

    async def weigh(self, storage: Storage, wall: float) -> None:
        """Weigh what is on the disk, when it is time.

        Raises:
            StorageFailed: the disk refused.
        """
        if self._weighed_s is not None and 0 <= wall - self._weighed_s < WEIGHED_EVERY_S:
            return
        sent, received = self._sent, self._received
        self._sent = await _weight(storage, "outbox") + self._sent - sent  # and what has come meanwhile
        self._received = await _weight(storage, "inbox") + self._received - received
        self._weighed_s = wall
        self._tell_full()

    def statistics(self) -> dict[str, int]:
        """Bytes on both sides, the limit, and messages that were dropped since the start."""
        return {
            "sent_bytes": self._sent,
            "received_bytes": self._received,
            "bytes_limit": self._limit_bytes,
            "dropped": self._dropped,
        }

    def _grown(self, size: int) -> None:
        self._since += size
        if self._since >= self._limit_bytes // EARLY_SHARE:
            self._early.set()

    def _tell_full(self) -> None:
        is_full = self._received > FULL * self._limit_bytes
        if is_full is not self._told_full:
            self._told_full = is_full
            self.on_received_full(is_full)


async def _weight(storage: Storage, table: Table) -> int:
    """The weight of what is in a table now, in steps that let others pass."""
    last = await storage.read(lambda connection: last_seq(connection, table))
    weight, after, finished = 0, 0, False
    while not finished:
        query = partial(weigh, table=table, after=after, last=last)
        step, after, finished = await storage.read(query)
        weight += step
        await trio.lowlevel.checkpoint()
    return weight
