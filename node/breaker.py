"""Leaves a provider alone that fails: closed, open, half open; no I/O, time is passed in.

Closed, every request is let through, and failures in a row are counted. Open, none is, until a time has
passed. Half open, requests are let through one at a time, as probes: so many that succeed in a row close it,
one that fails opens it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class BreakerState(StrEnum):
    """Whether requests are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker changes its state.

    Args:
        failures: Failures in a row that open it.
        open_s: How long it stays open, in seconds.
        probes: Probes in a row that close it.
    """

    failures: int = 5
    open_s: float = 60.0
    probes: int = 3


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that was let through.

    Args:
        probe: Whether it is to find out if the provider is well again.
    """

    probe: bool


class Breaker:
    """The breaker of one provider.

    Args:
        limits: When it changes its state.
    """

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._failures = self._probes = self._opened = 0
        self._open_until: float | None = None
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """Whether requests are let through at ``now``."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> Admission | None:
        """Let a request through, or not; one that was must end with one of the three verbs below."""
        match self.state(now):
            case BreakerState.CLOSED:
                return Admission(probe=False)
            case BreakerState.OPEN:
                return None
        if self._probing:
            return None
        self._probing = True
        return Admission(probe=True)

    def succeeded(self, admission: Admission) -> None:
        """A request was answered; one that went before the breaker opened proves nothing about now."""
        if self._open_until is None:
            self._failures = 0
        elif admission.probe:
            self._probing = False
            self._probes += 1
            if self._probes >= self._limits.probes:
                self._open_until, self._probes, self._failures = None, 0, 0

    def failed(self, admission: Admission, now: float) -> None:
        """A request failed by the provider's fault."""
        self._failures = min(self._failures + 1, self._limits.failures)
        if admission.probe:
            self._probing = False
        if admission.probe or (self._open_until is None and self._failures >= self._limits.failures):
            self._open_until, self._probes = now + self._limits.open_s, 0
            self._opened += 1

    def abandoned(self, admission: Admission) -> None:
        """A request was given up by who asked, which says nothing about the provider."""
        if admission.probe:
            self._probing = False

    def open_s(self, now: float) -> float:
        """How long it stays open, in seconds; 0 unless it is."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def statistics(self, now: float) -> dict[str, Any]:
        """Its state, and what has led to it."""
        return {
            "state": self.state(now).value,
            "failures": self._failures,
            "failures_limit": self._limits.failures,
            "open_s": round(self.open_s(now), 3),
            "opened": self._opened,
            "probes": self._probes,
            "probes_limit": self._limits.probes,
        }
