"""When to look at which open message again, so that a round costs what is due and not what is open.

Moments are rounded down to slots. A message is in one slot at most, and leaves it when it ends, so the
calendar holds no more than there are open messages.
"""

from __future__ import annotations

import heapq
from operator import attrgetter

from node.messaging.letters import Letter


class Calendar:
    """The next look at each open message.

    Args:
        width_s: Seconds of one slot.
    """

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._slots: dict[int, dict[int, Letter]] = {}
        self._order: list[int] = []

    def at(self, letter: Letter, when: float) -> None:
        """Look at a message at ``when``, on the monotonic clock, and not at the moment set before."""
        slot = int(when / self._width_s)
        if letter.slot == slot:
            return
        if letter.slot is not None:
            self.remove(letter)
        letter.slot = slot
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {letter.seq: letter}
            heapq.heappush(self._order, slot)
        else:
            found[letter.seq] = letter

    def by(self, letter: Letter, when: float) -> None:
        """Look at a message at ``when`` at the latest."""
        if letter.slot is None or when < letter.slot * self._width_s:
            self.at(letter, when)

    def remove(self, letter: Letter) -> None:
        """Look at a message no more."""
        if letter.slot is not None:
            self._slots[letter.slot].pop(letter.seq, None)
            letter.slot = None

    def due(self, now: float) -> list[Letter]:
        """The messages to look at now, in order of acceptance; they are in no slot any more."""
        found: list[Letter] = []
        while self._order and self._order[0] * self._width_s <= now:
            found += self._slots.pop(heapq.heappop(self._order)).values()
        for letter in found:
            letter.slot = None
        found.sort(key=_SEQ)
        return found


_SEQ = attrgetter("seq")
