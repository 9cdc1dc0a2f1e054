"""What an agent did: its last log records and its counts, both bounded."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from node.environment import Clock
from node.message import iso8601

LEVELS: Final = ("debug", "info", "warning", "error")
TEXT_LIMIT: Final = 2_000
"""Longest text of one record, in characters; longer ones are cut."""


class AgentLogRecord(msgspec.Struct, frozen=True):
    """One thing that happened to an agent; ``time_s`` is Unix time in seconds."""

    time_s: float
    level: str
    text: str
    fields: dict[str, Any] = {}

    def as_json(self) -> dict[str, Any]:
        """The record as the public API shows it."""
        return {"time": iso8601(self.time_s), "level": self.level, "message": self.text, **self.fields}


class Journal:
    """A ring of log records and the counts of one agent.

    Args:
        clock: Stamps the records.
        capacity: Records kept; the oldest leave first.
    """

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._records: deque[AgentLogRecord] = deque(maxlen=capacity)
        self._dropped = 0
        self._succeeded = self._failed = 0
        self._busy_s = 0.0

    def log(self, level: str, text: str, **fields: Any) -> None:
        """Note something."""
        self._dropped += len(self._records) == self._records.maxlen
        self._records.append(AgentLogRecord(self._clock.wall(), level, text[:TEXT_LIMIT], fields))

    def count(self, *, succeeded: bool, took_s: float) -> None:
        """Note that a message has been handled."""
        self._succeeded += succeeded
        self._failed += not succeeded
        self._busy_s += took_s

    def records(self, *, tail: int, since_s: float | None, level: str | None) -> list[AgentLogRecord]:
        """The last ``tail`` records, oldest first, of at least ``level``, not before ``since_s`` (Unix)."""
        lowest = LEVELS.index(level) if level in LEVELS else 0
        found = [
            record
            for record in self._records
            if LEVELS.index(record.level) >= lowest and (since_s is None or record.time_s >= since_s)
        ]
        return found[-tail:] if tail > 0 else []

    @property
    def execution_stats(self) -> dict[str, Any]:
        """Counts of messages, and the mean time of handling one, in seconds."""
        total = self._succeeded + self._failed
        return {
            "total_requests": total,
            "successful_requests": self._succeeded,
            "failed_requests": self._failed,
            "average_response_time": round(self._busy_s / total, 6) if total else 0.0,
        }

    def statistics(self) -> dict[str, int]:
        """How full the ring is, and how many records have left it."""
        return {"records": len(self._records), "limit": self._records.maxlen or 0, "dropped": self._dropped}
