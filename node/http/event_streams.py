"""Server-sent events (the WHATWG's HTML standard, section 9.2): how they are written, and kept alive."""

from __future__ import annotations

import json
from typing import Any, Final

from node.environment import Clock
from node.http.streams import Streamed, Write

HEARTBEAT_S: Final = 15.0
"""Seconds without an event after which a comment is sent, so that nothing on the way gives up."""
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 1.0
"""Where something has to be asked for again and again: the pause while it changes, and the longest."""


class EventStream(Streamed):
    """Events, for as long as there are any."""

    media_type = "text/event-stream"


class Events:
    """Writes the events of one answer.

    Args:
        write: Sends them.
        clock: For the heartbeat, and for pauses.
    """

    def __init__(self, write: Write, clock: Clock) -> None:
        self._write = write
        self._clock = clock
        self._written_at = float("-inf")
        self._pause_s = FIRST_PAUSE_S

    async def send(self, name: str, data: dict[str, Any], identifier: str = "") -> None:
        """Send one event; ``identifier`` is without line breaks, and comes back as Last-Event-ID."""
        head = f"id: {identifier}\n" if identifier else ""
        text = f"{head}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
        await self._write(text.encode())
        self._written_at = self._clock.now()
        self._pause_s = FIRST_PAUSE_S

    async def beat(self) -> None:
        """Show that the stream is alive, if it has been silent for long."""
        if self._clock.now() - self._written_at >= HEARTBEAT_S:
            await self._write(b": alive\n\n")
            self._written_at = self._clock.now()

    async def pause(self) -> None:
        """Wait before something is asked for again: longer and longer, until there is an event."""
        await self.beat()
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
