"""Order and once-only for what is said to everybody: a Lamport clock and the latest statements.

Every signed statement of this kind (`swim.user_events`, `swim.queries`) carries a Lamport time: its
author counts one up from the highest time it has made or heard. So a statement made after hearing
another always has the later time, whatever the clocks on the wall say. (Lamport, CACM 21(7), 1978.)

Gossip brings everything several times, so the statements of the latest `max_times` Lamport times are
remembered, by author and boot. Older times than the oldest remembered one are refused, because
nobody could tell a first copy from a repetition. Only times at which something was said count: an
author that leaps ahead pushes one statement out of the memory, not all of them.

A time more than `MAX_JUMP` ahead is not believed, but moves the clock by that much, so that a clock
which fell behind catches up; to the end of the integers it would take 2**42 of them.
"""

from collections.abc import Callable
from hashlib import sha256
from heapq import heappop, heappush
from typing import Final

from swim.messages import Boot

MAX_TIME: Final = 2**62
MAX_JUMP: Final = 2**20
"""How far ahead of the own clock a Lamport time is believed."""
MAX_TIMES: Final = 512
"""Lamport times whose statements are remembered, as serf remembers them."""
STATEMENTS_PER_TIME: Final = 4
"""Statements remembered, as a multiple of the times: several authors may use one time."""
JOIN_WITNESSES: Final = 3
"""Peers whose clocks a newcomer takes in full: their median, or the first liar could make it deaf."""

VerifyAuthor = Callable[[str, bytes, bytes], bool]
"""(author, signed bytes, signature): say whether that member's key made the signature."""
Author = tuple[str, Boot]


class LamportClock:
    """A counter that never falls behind what was heard."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 0

    def witness(self, time: int) -> bool:
        """Take note of the time of a genuine statement; say whether it can be believed."""
        believed = time <= self.time + MAX_JUMP
        self.time = max(self.time, min(time, self.time + MAX_JUMP))
        return believed


class StatementLog:
    """Which statements were taken, each once, and the clock that they move.

    Args:
        max_times: Lamport times whose statements are remembered.
        keep: whether the statements themselves are kept, for `recent`.
    """

    def __init__(self, *, max_times: int = MAX_TIMES, keep: bool = False) -> None:
        if max_times < 1:
            raise ValueError("max_times must be at least 1")
        self.clock = LamportClock()
        self._max_times = max_times
        self._keep = keep
        self._by_time: dict[int, dict[Author, bytes]] = {}
        self._times: list[int] = []
        self._held: dict[bytes, bytes] = {}
        self._forgotten = 0
        self._not_before = 0
        self._heard = 0
        self._told: list[int] = []

    def joined(self, time: int, *, replay: bool = False) -> None:
        """Take the clock of a member that was here before us, told in an authenticated exchange.

        Call it after each push-pull. The first three count in full, by their median: the first sets
        our clock, and if the others are far lower it is set back, because nobody would believe ours.

        Args:
            time: the member's clock.
            replay: whether statements from before it are wanted too.
        """
        time = max(0, min(time, MAX_TIME))
        if len(self._told) >= JOIN_WITNESSES:
            self.clock.witness(time)
            return
        self._told.append(time)
        agreed = sorted(self._told)[(len(self._told) - 1) // 2]
        if not replay:
            self._not_before = agreed
        lowest = max(agreed, self._heard)
        self.clock.time = lowest if self.clock.time > lowest + MAX_JUMP else max(self.clock.time, lowest)

    def next_time(self, author: Author) -> int:
        """Return the time for a statement of our own, one that we have not used yet."""
        time = self.clock.time + 1
        while author in self._by_time.get(time, ()):  # only after the clock was set back
            time += 1
        return time

    def add_own(self, encoded: bytes, author: Author, time: int) -> None:
        """Remember a statement of our own, so that we do not take it when it comes back."""
        self.clock.time = max(self.clock.time, time)
        self._remember(encoded, author, time)

    def take(self, encoded: bytes, author: Author, time: int, is_genuine: Callable[[], bool]) -> str:
        """Take a well-formed statement that is new and signed by its author.

        Args:
            encoded: the statement as received.
            author: name and boot that it carries.
            time: its Lamport time.
            is_genuine: checks the signature; asked last, because it costs most.

        Returns:
            Nothing if the statement was taken; otherwise why not, in a word.
        """
        if time <= max(self._forgotten, self._not_before):
            return "too_old"
        if author in self._by_time.get(time, ()):
            return "conflicting"
        if not is_genuine():
            return "bad_signature"
        if not self.clock.witness(time):
            return "too_far_ahead"
        self._heard = max(self._heard, time)
        self._remember(encoded, author, time)
        return ""

    def holds(self, encoded: bytes) -> bool:
        """Say whether exactly this statement was taken and is still remembered."""
        return _digest(encoded) in self._held

    def recent(self, limit_bytes: int) -> list[bytes]:
        """Return the latest statements that fit, oldest first; for a peer that may have missed some."""
        chosen: list[bytes] = []
        for time in sorted(self._times, reverse=True):
            for digest in self._by_time[time].values():
                encoded = self._held[digest]
                if len(encoded) > limit_bytes:
                    return chosen[::-1]
                limit_bytes -= len(encoded)
                chosen.append(encoded)
        return chosen[::-1]

    def statistics(self, kind: str) -> dict[str, int]:
        """Return the clock and count what is remembered; names begin with `kind`."""
        return {
            f"{kind}_clock": self.clock.time,
            f"{kind}_remembered": len(self._held),
            f"{kind}_remembered_bytes": sum(map(len, self._held.values())),
        }

    def _remember(self, encoded: bytes, author: Author, time: int) -> None:
        digest = _digest(encoded)
        if time not in self._by_time:
            self._by_time[time] = {}
            heappush(self._times, time)
        self._by_time[time][author] = digest
        self._held[digest] = encoded if self._keep else b""
        while len(self._times) > self._max_times or len(self._held) > STATEMENTS_PER_TIME * self._max_times:
            self._forgotten = heappop(self._times)
            for old in self._by_time.pop(self._forgotten).values():
                self._held.pop(old, None)


def _digest(encoded: bytes) -> bytes:
    return sha256(encoded).digest()[:16]
