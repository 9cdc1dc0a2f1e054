"""Whom a member has heard from lately, which is what it can judge by.

Heard is who has said something that only itself can say: a probe, or an answer, with its tag. A quorum asks
for signatures of members that can be reached; whoever hears nobody at all, for longer than probes take, is
isolated, whatever it holds of the others.
"""

from collections import OrderedDict
from typing import Final

from swim.config import SwimConfig
from swim.health import Health

MAX_HEARD: Final = 8
"""Members last heard that are remembered; quorums need three."""


class Hearing:
    """When others were heard last.

    Args:
        config: after how long without a word a member is isolated.
        health: stretches that time as it stretches probes.
    """

    def __init__(self, config: SwimConfig, health: Health) -> None:
        self._config = config
        self._health = health
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._company_since = 0.0

    def heard(self, name: str, now: float) -> None:
        """A member has said something that only itself can say."""
        self._heard[name] = now
        self._heard.move_to_end(name)
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)

    def in_company(self, now: float) -> None:
        """Somebody is up after nobody was: from now on there is somebody to be heard."""
        self._company_since = now

    def forget(self, name: str) -> None:
        """A member is not up any more."""
        self._heard.pop(name, None)

    def lately(self, now: float) -> list[str]:
        """Return who was heard lately, the latest first."""
        since = now - self._isolation_s()
        return [name for name, at in reversed(self._heard.items()) if at >= since]

    def is_silent(self, now: float) -> bool:
        """Say whether nobody was heard for longer than probes take."""
        return now > next(reversed(self._heard.values()), self._company_since) + self._isolation_s()

    def statistics(self) -> dict[str, int]:
        """Count the members whose last word is remembered."""
        return {"members_heard": len(self._heard)}

    def _isolation_s(self) -> float:
        return max(self._config.isolation_s, 4 * self._config.probe_interval_s * self._health.multiplier)
