"""Deliveries to the agents of this very node, and how they end: the inbox's way, without a link."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import trio

from node.environment import Clock
from node.errors import StorageFailed
from node.message import Message
from node.messaging.inbox import Inbox
from node.messaging.outbox import Outbox
from node.transport.frames import DeliverItem, Outcome

_log = logging.getLogger(__name__)

LOCAL_BATCH: Final = 256
"""Most local deliveries in one write."""
RETRY_S: Final = 0.5
"""Pause before a local delivery that the disk refused is tried again."""


class LocalDeliveries:
    """Hands this node's messages to its own inbox, many in one write.

    Args:
        node: This node's name.
        clock: Times the pause after a refusal of the disk.
    """

    def __init__(self, node: str, clock: Clock) -> None:
        self._node, self._clock = node, clock
        self._waiting: deque[tuple[DeliverItem, Message | None]] = deque()
        self._arrived = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: DeliverItem, message: Message) -> None:
        """Take a delivery; the lanes of the outbox bound how many there are."""
        self._waiting.append((item, message))
        self._arrived.set()

    async def run(self, inbox: Inbox) -> None:
        """Deliver until cancelled."""
        while True:
            await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), LOCAL_BATCH))]
            if not self._waiting:
                self._arrived = trio.Event()
            try:
                await inbox.receive(self._node, [(batch, None)])
            except StorageFailed as error:
                _log.warning("local deliveries wait for the disk: %s", error)
                self._waiting.extendleft(reversed(batch))
                self._arrived.set()
                await self._clock.sleep(RETRY_S)


class LocalEnds:
    """Tells this node's outbox how its own messages ended at its own agents.

    Args:
        node: This node's name.
        clock: Dates what was told.
    """

    def __init__(self, node: str, clock: Clock) -> None:
        self._node, self._clock = node, clock
        self._ended: list[Outcome] = []
        self._arrived = trio.Event()
        self._told_s = 0.0
        self._telling = False

    @property
    def told_s(self) -> float:
        """Unix seconds; what ended before is told."""
        return self._told_s if self._telling or self._ended else self._clock.wall()

    def add(self, outcomes: list[Outcome]) -> None:
        """These have ended, and that is not written at their origin yet."""
        if outcomes:
            self._ended += outcomes
            self._arrived.set()

    async def run(self, outbox: Outbox) -> None:
        """Tell until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            outcomes, self._ended = self._ended, []
            self._telling, taken_s = True, self._clock.wall()
            await outbox.report(self._node, outcomes)
            self._telling, self._told_s = False, taken_s
