"""How long an event loop served nobody, measured by the loop's own instruments.

A member whose process gets too little of a processor learns it here, before its probes fail, and takes its
own observations with more care (Lifeguard's local health; Dadgar, Phillips and Currey, 2018, fed by a signal
of the process itself).
"""

from collections.abc import Callable
from typing import Protocol

import trio


class LoopLag(Protocol):
    """A meter of one event loop."""

    def start(self) -> None:
        """Begin to measure; in the loop that is measured."""

    def stop(self) -> None:
        """Measure no more."""

    def take(self) -> float:
        """Return the longest lag since the last call, in seconds."""


class TrioLoopLag(trio.abc.Instrument):
    """The longest time in which Trio's event loop served nobody: it was busy, or woken late.

    Args:
        now: Tells time, in monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._woken_at = self._waits_since = now()
        self._longest_s = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._woken_at = self._waits_since = self._now()
        trio.lowlevel.add_instrument(self)

    def stop(self) -> None:
        """Measure no more."""
        trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """All tasks have run that could."""
        del timeout
        self._waits_since = self._now()
        self._longest_s = max(self._longest_s, self._waits_since - self._woken_at)

    def after_io_wait(self, timeout: float) -> None:
        """Something happened, or the timeout has passed, perhaps long ago."""
        self._woken_at = self._now()
        self._longest_s = max(self._longest_s, self._woken_at - self._waits_since - timeout)

    def take(self) -> float:
        """Return the longest lag since the last call, in seconds."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s
