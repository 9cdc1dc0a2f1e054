"""How long to wait before a request is sent again; no I/O.

The pause is drawn evenly from 0 to a bound that doubles with every attempt ("full jitter"), so that many who
failed together do not come back together. Where the provider has said how long to wait, that is waited, up
to a limit, and a little drawn on top of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often a request is sent again.

    Args:
        attempts: Requests for one answer, the first included.
        initial_s: Longest pause after the first that failed, in seconds; it doubles.
        max_s: Longest pause, and the longest a provider's own wish is heeded, in seconds.
    """

    attempts: int = 3
    initial_s: float = 1.0
    max_s: float = 30.0

    def pause_s(self, failed: int, retry_after_s: float | None, chance: random.Random) -> float:
        """The pause after so many attempts that failed, in seconds.

        Args:
            failed: Attempts so far, from 1.
            retry_after_s: What the provider asked for; None if it did not.
            chance: Draws it.
        """
        bound = min(self.max_s, self.initial_s * 2.0 ** (failed - 1))
        if retry_after_s is None:
            return chance.uniform(0.0, bound)
        return min(retry_after_s, self.max_s) + chance.uniform(0.0, min(self.initial_s, bound))
