"""How long to wait for a peer's answer, from the round trips that it needed so far (RFC 6298).

A smoothed round trip and its smoothed deviation are kept; the wait is the one plus four times the
other, within bounds. Only unambiguous samples may be fed (Karn's rule): an Ack is matched with its
ping by sequence number, and a ping is never sent twice under one number. Backing off after a
failure is local health's task (`swim.health`), not done here a second time.
"""

from typing import Final

MAX_SAMPLE_S: Final = 60.0
"""A longer round trip tells of a stalled process, not of the path."""
_SMOOTHING: Final = 1 / 8
"""RFC 6298's alpha."""
_DEVIATION_SMOOTHING: Final = 1 / 4
"""RFC 6298's beta."""
_DEVIATIONS: Final = 4.0
"""RFC 6298's K."""


class RttEstimator:
    """The round trip to one peer.

    Attributes:
        srtt_s: smoothed round trip in seconds, 0 before the first sample.
        rttvar_s: smoothed absolute deviation from it, in seconds.
    """

    __slots__ = ("rttvar_s", "srtt_s")

    def __init__(self) -> None:
        self.srtt_s = 0.0
        self.rttvar_s = 0.0

    def observe(self, rtt_s: float) -> bool:
        """Take one measured round trip (section 2); say whether it was credible.

        Args:
            rtt_s: seconds from ping to Ack, above 0 and at most 60.
        """
        if not 0.0 < rtt_s <= MAX_SAMPLE_S:  # NaN is refused too
            return False
        if self.srtt_s == 0.0:
            self.srtt_s = rtt_s
            self.rttvar_s = rtt_s / 2
            return True
        self.rttvar_s += _DEVIATION_SMOOTHING * (abs(self.srtt_s - rtt_s) - self.rttvar_s)
        self.srtt_s += _SMOOTHING * (rtt_s - self.srtt_s)
        return True

    def timeout_s(self, minimum_s: float, maximum_s: float, fallback_s: float | None = None) -> float:
        """Return how many seconds to wait for the peer's next answer.

        Args:
            minimum_s: never less, or a path without any jitter would leave no room for the first.
            maximum_s: never more.
            fallback_s: what to wait before the first sample, within the same bounds; for
                instance an estimate from network coordinates. `maximum_s` if there is none.
        """
        wait = self.srtt_s + _DEVIATIONS * self.rttvar_s
        if self.srtt_s == 0.0:
            wait = maximum_s if fallback_s is None else fallback_s
        return min(maximum_s, max(minimum_s, wait))
