"""Which messages wait on disk only, because whom they are for is away and enough for it wait in memory.

Theory of operation. A message for somebody who is there goes through memory, and who sends more than is
handled is told so (429). One for somebody who is away may wait for days, and nobody is to be told anything:
beyond a share of the outbox's capacity such messages are written into a table of their own
(:mod:`node.storage.backlog`) and held nowhere else. From the first of them on all that follows for the same
capability or receiver goes there, too, so that none overtakes another; when whom they are for is there again,
they are taken up in order, some hundreds at a time, as the earlier ones leave.

This is the counting; :mod:`node.messaging.deliveries` applies it, and :mod:`node.messaging.outbox` moves the
rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TARGETS_LIMIT: Final = 10_000
"""Most capabilities and receivers that messages wait for on disk."""
TAKEN_LIMIT: Final = 1_000
"""Most messages that are taken up at once."""
TAKEN_BYTES: Final = 4 * 1024**2
"""Most bytes that are taken up at once, but for a single message."""


@dataclass(slots=True)
class _Queue:
    """Messages for one capability or receiver.

    Args:
        written: On disk.
        prepared: To be written.
        back: Taken up again, and not ended.
    """

    written: int = 0
    prepared: int = 0
    back: int = 0


class Backlog:
    """The numbers of what waits on disk.

    Args:
        capacity: Most messages.
        size: Most bytes.
    """

    def __init__(self, *, capacity: int, size: int) -> None:
        self._capacity, self._size = capacity, size
        self._queues: dict[str, _Queue] = {}
        self._messages = self._bytes = 0

    def __len__(self) -> int:
        return self._messages

    def recall(self, sums: Iterable[tuple[str, int, int]]) -> None:
        """There are so many messages of so many bytes for each of these on disk."""
        for wanted, messages, size in sums:
            self._queues.setdefault(wanted, _Queue()).written += messages
            self._messages += messages
            self._bytes += size

    def holds(self, wanted: str) -> bool:
        """Whether what is for ``wanted`` has to follow what waits on disk."""
        queue = self._queues.get(wanted)
        return queue is not None and queue.written + queue.prepared > 0

    def has_room(self, wanted: str, size: int) -> bool:
        """Whether one more message of so many bytes may wait for ``wanted``."""
        is_known = wanted in self._queues or len(self._queues) < TARGETS_LIMIT
        return is_known and self._messages < self._capacity and self._bytes + size <= self._size

    def prepare(self, wanted: str, size: int) -> None:
        """A message is to be written."""
        self._queues.setdefault(wanted, _Queue()).prepared += 1
        self._messages += 1
        self._bytes += size

    def wrote(self, wanted: str) -> None:
        """It was."""
        queue = self._queues[wanted]
        queue.prepared -= 1
        queue.written += 1

    def dropped(self, wanted: str, size: int) -> None:
        """It was not, and will not be."""
        self._queues[wanted].prepared -= 1
        self._forget(wanted, size)

    def took_up(self, wanted: str, size: int, *, is_open: bool) -> None:
        """A message is in memory, or has ended."""
        queue = self._queues[wanted]
        queue.written -= 1
        queue.back += is_open
        self._forget(wanted, size)

    def ended(self, wanted: str) -> None:
        """One that was taken up has ended."""
        self._queues[wanted].back -= 1
        self._close(wanted)

    def waiting(self) -> list[tuple[str, int]]:
        """For whom messages are on disk, and how many that were taken up have not ended."""
        return [(wanted, queue.back) for wanted, queue in self._queues.items() if queue.written]

    def statistics(self) -> dict[str, int]:
        """Sizes and bounds."""
        return {
            "backlog": self._messages,
            "backlog_limit": self._capacity,
            "backlog_bytes": self._bytes,
            "backlog_bytes_limit": self._size,
            "backlog_targets": len(self._queues),
            "backlog_targets_limit": TARGETS_LIMIT,
        }

    def _forget(self, wanted: str, size: int) -> None:
        self._messages -= 1
        self._bytes -= size
        self._close(wanted)

    def _close(self, wanted: str) -> None:
        queue = self._queues[wanted]
        if not (queue.written or queue.prepared or queue.back):
            del self._queues[wanted]
