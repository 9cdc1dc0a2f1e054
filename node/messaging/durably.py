"""Writes that must not be given up: what has happened has happened, even while the disk is full."""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from node.environment import Clock
from node.errors import StorageFailed
from node.storage.storage import Job

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0


class Writer(Protocol):
    """What writing needs of ``node.storage``."""

    async def write(self, job: Job[T]) -> T:
        """Run ``job`` in a transaction; returns after the commit."""
        ...


async def durably(storage: Writer, clock: Clock, job: Job[T]) -> T:
    """Write, again and again while the disk refuses; ends with the write or by being cancelled."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await storage.write(job)
        except StorageFailed:
            await clock.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
