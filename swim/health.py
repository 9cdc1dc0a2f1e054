"""Local health: how far a member should distrust its own accusations (Lifeguard's LHM).

The penalty rises when relays that should have answered did not (the fault is likely near us), when
we had to refute an accusation, and when our own timers fired late. It falls with each answered probe.
Beside it counts the lag of the event loop itself, which is known before any probe has failed: a starved
loop is the one cause of false accusations that a Python process can see directly. Probe interval and
timeouts are multiplied by 1 + the greater of the two.
"""

from typing import Final

LAG_MEMORY_S: Final = 10.0
"""How long a lag of the event loop counts."""
OUTCOMES: Final = 16
"""Latest probes by which a member judges whether its own paths work."""
LEAST_DIRECT: Final = 4
"""So many of them have to be answered directly, or datagrams do not pass between this member and others."""


class Health:
    """The penalty of one member.

    Args:
        highest: the penalty never exceeds this; 0 switches it off.
        lag_warning_s: a timer later than this counts, and each such part of a loop's lag.

    Attributes:
        longest_lag_s: the longest lag ever seen.
    """

    __slots__ = (
        "_direct", "_highest", "_lag_at", "_lag_s", "_lag_warning_s", "_outcomes", "_penalty",
        "longest_lag_s",
    )  # fmt: skip

    def __init__(self, highest: int, lag_warning_s: float) -> None:
        self._highest = highest
        self._lag_warning_s = lag_warning_s
        self._penalty = 0
        self._lag_s = 0.0
        self._lag_at = 0.0
        self._outcomes = self._direct = (1 << OUTCOMES) - 1
        self.longest_lag_s = 0.0

    @property
    def penalty(self) -> int:
        """How far this member distrusts itself, 0 to `health_max`."""
        return max(self._penalty, min(self._highest, int(self._lag_s / self._lag_warning_s)))

    @property
    def multiplier(self) -> int:
        """What probe interval and timeouts are multiplied by."""
        return 1 + self.penalty

    @property
    def is_well(self) -> bool:
        """Whether at least three quarters of the latest probes were answered."""
        return self._outcomes.bit_count() >= OUTCOMES * 3 // 4

    @property
    def is_heard(self) -> bool:
        """Whether datagrams pass between this member and others."""
        return self._direct.bit_count() >= LEAST_DIRECT

    def probe_answered(self) -> None:
        """A probe was answered, by whatever path: we do hear others."""
        self._add(-1)

    def probe_failed(self, *, relays: int, nacks: int) -> None:
        """A probe failed, and of so many relays asked so many said they were alive."""
        self._add(relays - nacks)

    def probe_ended(self, *, answered: bool, directly: bool) -> None:
        """Remember how a probe ended."""
        self._outcomes = (self._outcomes << 1 | answered) & ((1 << OUTCOMES) - 1)
        self._direct = (self._direct << 1 | directly) & ((1 << OUTCOMES) - 1)

    def refuted(self) -> None:
        """Somebody doubted us, so our answers come late or not at all."""
        self._add(1)

    def timer_lagged(self, lag_s: float, now: float) -> bool:
        """Note how late a timer fired; say whether that is a stall of this process."""
        self.loop_lagged(lag_s, now)
        if lag_s <= self._lag_warning_s:
            return False
        self._add(1)
        return True

    def loop_lagged(self, lag_s: float, now: float) -> None:
        """Note how long one pass of the event loop took; the longest one lately counts."""
        self.longest_lag_s = max(self.longest_lag_s, lag_s)
        if lag_s >= self._lag_s or now >= self._lag_at + LAG_MEMORY_S:
            self._lag_s, self._lag_at = lag_s, now

    def statistics(self) -> dict[str, int]:
        """Return the penalty and the lags in milliseconds."""
        return {
            "health_penalty": self.penalty,
            "loop_lag_ms": int(self._lag_s * 1000),
            "longest_lag_ms": int(self.longest_lag_s * 1000),
        }

    def _add(self, change: int) -> None:
        self._penalty = min(self._highest, max(0, self._penalty + change))
