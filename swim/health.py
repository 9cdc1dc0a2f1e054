"""Local health: how far a member should distrust its own accusations (Lifeguard's LHM).

The penalty rises when relays that should have answered did not (the fault is likely near us), when
we had to refute an accusation, and when our own timers fired late: a starved event loop is the one
cause of false accusations that a Python process can see directly. It falls with each answered
probe. Probe interval and timeout are multiplied by 1 + penalty.
"""


class Health:
    """The penalty of one member.

    Args:
        highest: the penalty never exceeds this; 0 switches it off.
        lag_warning_s: a timer later than this counts.
    """

    __slots__ = ("_highest", "_lag_warning_s", "_penalty", "longest_lag_s")

    def __init__(self, highest: int, lag_warning_s: float) -> None:
        self._highest = highest
        self._lag_warning_s = lag_warning_s
        self._penalty = 0
        self.longest_lag_s = 0.0

    @property
    def multiplier(self) -> int:
        """What probe interval and timeout are multiplied by."""
        return 1 + self._penalty

    def probe_answered(self) -> None:
        """A probe was answered: the paths around us work."""
        self._add(-1)

    def probe_failed(self, *, relays: int, nacks: int) -> None:
        """A probe failed, and of so many relays asked so many said they were alive."""
        self._add(relays - nacks)

    def refuted(self) -> None:
        """Somebody doubted us, so our answers come late or not at all."""
        self._add(1)

    def timer_lagged(self, lag_s: float) -> bool:
        """Note how late a timer fired; say whether that is a stall of this process."""
        self.longest_lag_s = max(self.longest_lag_s, lag_s)
        if lag_s <= self._lag_warning_s:
            return False
        self._add(1)
        return True

    def statistics(self) -> dict[str, int]:
        """Return the penalty and the longest lag in milliseconds."""
        return {"health_penalty": self._penalty, "longest_lag_ms": int(self.longest_lag_s * 1000)}

    def _add(self, change: int) -> None:
        self._penalty = min(self._highest, max(0, self._penalty + change))
