"""How many messages to others an agent may send: a bucket that fills with time. No I/O; time is passed in."""

from __future__ import annotations


class Rate:
    """A token bucket that holds one second's worth.

    Args:
        per_s: Messages in a second.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._seen: float | None = None

    def take(self, count: int, now: float) -> bool:
        """Take ``count`` at ``now`` (monotonic seconds); False, taking nothing, if so many are not left."""
        if self._seen is not None:
            self._left = min(self._per_s, self._left + (now - self._seen) * self._per_s)
        self._seen = now
        if count > self._left:
            return False
        self._left -= count
        return True
