"""How quickly the outbox gets emptier, so that a client that found it full is told when to come again."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_S: Final = 10
"""Seconds that are looked back upon."""
LONGEST_S: Final = 30
"""Longest time that a client is told to wait, in seconds: also where nothing has ended lately."""
ROOM_SHARE: Final = 10
"""A client comes back when this part of the capacity may be free, not when one place is."""


class DrainRate:
    """Ends of the last seconds, by the second."""

    def __init__(self) -> None:
        self._ended: deque[tuple[int, int]] = deque(maxlen=WINDOW_S + 1)

    def ended(self, messages: int, now: float) -> None:
        """So many messages have ended now."""
        second = int(now)
        if self._ended and self._ended[-1][0] == second:
            messages += self._ended.pop()[1]
        self._ended.append((second, messages))

    def retry_after_s(self, capacity: int, now: float) -> int:
        """When a client of a full outbox of this capacity should come again, in seconds."""
        recent = [(second, count) for second, count in self._ended if second > now - WINDOW_S]
        if not recent:
            return LONGEST_S
        lasted_s = min(WINDOW_S, max(1.0, now - recent[0][0]))
        per_s = sum(count for _, count in recent) / lasted_s
        if per_s <= 0.0:
            return LONGEST_S
        return min(LONGEST_S, max(1, math.ceil(capacity / ROOM_SHARE / per_s)))
