"""How long a doubted member has to refute, following Lifeguard (Dadgar et al., 2018), section IV.

A suspicion starts at its longest and shrinks with each independent confirmation C of the K awaited:

    timeout = max(Min, Max - (Max - Min) * log(C + 1) / log(K + 1))

One accuser may be the one that is starved; several independent ones hardly are. Where nobody can
confirm (K = 0, a cluster of two) the longest timeout stays, because one's own word is all there is.
"""

import math
from typing import Final

MAX_AUTHORS: Final = 16
"""Most accusers remembered per suspicion; no profile waits for more confirmations."""


class Suspicion:
    """The timer of one doubted member.

    Args:
        author: the first accuser.
        now: when the suspicion started, in seconds.
        shortest_s: the timeout when all awaited confirmations are in.
        longest_s: the timeout while none is.
        confirmations: how many independent confirmations are awaited.
    """

    __slots__ = ("_authors", "_awaited", "_longest_s", "_shortest_s", "_started")

    def __init__(
        self, author: str, now: float, *, shortest_s: float, longest_s: float, confirmations: int
    ) -> None:
        self._authors = [author]
        self._started = now
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._awaited = max(0, min(confirmations, MAX_AUTHORS - 1))

    @property
    def authors(self) -> tuple[str, ...]:
        """Who doubts, in the order heard."""
        return tuple(self._authors)

    @property
    def deadline(self) -> float:
        """When the doubt becomes a verdict, in seconds."""
        if self._awaited == 0:
            return self._started + self._longest_s
        confirmed = math.log(len(self._authors)) / math.log(self._awaited + 1)
        shrunk = self._longest_s - (self._longest_s - self._shortest_s) * confirmed
        return self._started + max(self._shortest_s, shrunk)

    def confirm(self, author: str) -> bool:
        """Count one more accuser; say whether it was a new one that was still awaited."""
        if author in self._authors or len(self._authors) > self._awaited:
            return False
        self._authors.append(author)
        return True

    def postpone(self, seconds: float) -> None:
        """Give back time during which this process itself did not run."""
        self._started += seconds
