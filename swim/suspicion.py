"""What is held against one word of one member, and how long the member has to answer it.

A case opens with the first failed probe. It is a **private doubt** until enough members have signed it,
a **suspicion** from then on, and ends in a verdict or in a refutation. A suspicion starts at its longest
and shrinks with each independent confirmation C of the K awaited (Lifeguard, Dadgar et al., 2018, IV-B):

    timeout = max(Min, Max - (Max - Min) * log(C + 1) / log(K + 1))

One accuser may be the one that is starved; several independent ones hardly are. Where nobody can
confirm (K = 0, a cluster of two) the longest timeout stays, because one's own word is all there is.
"""

import math
from typing import Final

from swim.messages import MAX_AUTHORS, Boot, Dead, Signatures

MAX_SIGNATURES: Final = 16
"""Most accusers kept per case; no profile waits for more confirmations."""


class Case:
    """The case against one member.

    Args:
        boot: of the word that is doubted.
        incarnation: of that word.
        now: when the case opens, in seconds.
        shortest_s: the timeout when all awaited confirmations are in.
        longest_s: the timeout while none is.

    Attributes:
        signatures: who doubts, in the order heard, each with its signature.
        suspected_at: when the doubt became a suspicion; None for a private doubt.
        heard_at: when the member last proved, to us, that it lives.
        checked: whether it was asked a last time.
        is_public: whether others have accused the member before everybody.
        declarers: who has declared the member dead, though that was not believed here yet.
        verdict: a Dead that is to be believed at the next timer, and the same as it came.
        due: when the case wants to be looked at again.
    """

    __slots__ = (
        "_awaited", "_longest_s", "_shortest_s", "boot", "checked", "declarers", "due", "heard_at",
        "incarnation", "is_public", "opened_at", "signatures", "suspected_at", "verdict",
    )  # fmt: skip

    def __init__(
        self, boot: Boot, incarnation: int, now: float, *, shortest_s: float, longest_s: float
    ) -> None:
        self.boot = boot
        self.incarnation = incarnation
        self.opened_at = now
        self.signatures: dict[str, bytes] = {}
        self.suspected_at: float | None = None
        self.heard_at = -math.inf
        self.checked = self.is_public = False
        self.declarers: dict[str, None] = {}
        self.verdict: tuple[Dead, bytes] | None = None
        self.due = now
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._awaited = 0

    @property
    def longest_end(self) -> float:
        """When even a case that nobody confirms is decided by what is known here."""
        return self.opened_at + self._longest_s

    def sign(self, author: str, signature: bytes) -> bool:
        """Add an accuser; say whether it is a new one."""
        if author in self.signatures or len(self.signatures) >= MAX_SIGNATURES:
            return False
        self.signatures[author] = signature
        return True

    def authors(self) -> Signatures:
        """Return as many signatures as an accusation carries."""
        return tuple(self.signatures.items())[:MAX_AUTHORS]

    def suspect(self, now: float, confirmations: int) -> None:
        """Turn the doubt into a suspicion that so many others may confirm."""
        self.suspected_at = now
        self._awaited = max(0, min(confirmations, MAX_SIGNATURES - 1))

    def deadline(self, margin_s: float = 0.0) -> float:
        """Return when the suspicion becomes a verdict, in seconds.

        Args:
            margin_s: how much longer to wait than those who probed the member themselves.
        """
        if self.suspected_at is None:
            return math.inf
        timeout_s = self._longest_s
        if self._awaited:
            confirmed = min(1.0, math.log(max(1, len(self.signatures))) / math.log(self._awaited + 1))
            timeout_s = self._longest_s - (self._longest_s - self._shortest_s) * confirmed
        timeout_s = max(self._shortest_s, timeout_s) + margin_s
        return max(self.suspected_at + timeout_s, self.heard_at + self._shortest_s)

    def postpone(self, seconds: float) -> None:
        """Give back time during which this process itself did not run."""
        self.opened_at += seconds
        self.due += seconds
        if self.suspected_at is not None:
            self.suspected_at += seconds
