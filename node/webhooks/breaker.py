"""Circuit breakers, one for each target: a server that is down is left alone, then tried once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

FAILURES: Final = 5
"""Failures in a row that open a breaker."""
OPEN_FIRST_S: Final = 10.0
OPEN_LAST_S: Final = 300.0
"""How long a breaker stays open, the first time and at most, in seconds; it doubles while trials fail."""
TARGET_LIMIT: Final = 256
"""Most targets remembered; above any number of webhooks."""

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class _Target:
    failures: int = 0
    openings: int = 0
    open_until: float = float("-inf")
    trying: bool = False


class Breakers:
    """Sans I/O: time is passed in, in monotonic seconds."""

    def __init__(self) -> None:
        self._targets: OrderedDict[str, _Target] = OrderedDict()

    def state(self, target: str, now: float) -> State:
        """How a target's breaker stands."""
        found = self._targets.get(target)
        if found is None or found.failures < FAILURES:
            return "closed"
        return "open" if now < found.open_until else "half_open"

    def wait_s(self, target: str, now: float) -> float:
        """Seconds until a delivery may be tried; 0.0 when one may now."""
        found = self._targets.get(target)
        if found is None or found.failures < FAILURES:
            return 0.0
        if found.trying:
            return OPEN_FIRST_S
        return max(0.0, found.open_until - now)

    def begin(self, target: str) -> None:
        """A delivery is tried; while a breaker is half open it is the only one."""
        found = self._targets.setdefault(target, _Target())
        self._targets.move_to_end(target)
        found.trying = found.failures >= FAILURES
        if len(self._targets) > TARGET_LIMIT:
            self._targets.popitem(last=False)

    def succeeded(self, target: str) -> None:
        """It arrived: the breaker is closed."""
        self._targets.pop(target, None)

    def failed(self, target: str, now: float) -> None:
        """It failed."""
        found = self._targets.setdefault(target, _Target())
        found.failures, found.trying = found.failures + 1, False
        if found.failures >= FAILURES:
            found.open_until = now + min(OPEN_LAST_S, OPEN_FIRST_S * 2.0 ** min(found.openings, 16))
            found.openings += 1

    def given_up(self, target: str) -> None:
        """It was neither: whoever tried was cancelled."""
        found = self._targets.get(target)
        if found is not None:
            found.trying = False

    def statistics(self, now: float) -> dict[str, int]:
        """Counts and sizes."""
        states = [self.state(target, now) for target in self._targets]
        return {
            "targets": len(states),
            "targets_limit": TARGET_LIMIT,
            "breakers_open": states.count("open"),
            "breakers_half_open": states.count("half_open"),
        }
