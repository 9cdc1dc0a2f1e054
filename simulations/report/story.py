"""What a page tells of a run: gathered while it happens, and bounded whatever the run does.

Of members only so many are shown by name; the counts per second are of all. What does not fit is either
made coarser (who sent to whom: wider buckets) or ends (changes of views: nothing is kept from a moment on),
and each bound that was met is told on the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal

from simulations.faults import Fault, write
from simulations.timeline import US_PER_S

MAX_SHOWN: Final = 50
"""Members that have a row of their own, and a row and a column among who sees whom."""
MAX_VIEWS: Final = 50_000
"""Changes of somebody's view of somebody that are kept; later ones are not."""
MAX_TURNS: Final = 10_000
"""Starts, ends, pauses and the like that are kept; later ones are not."""
MAX_FLOWS: Final = 50_000
"""Entries of who sent to whom in a bucket of time; with more, buckets become twice as wide."""
MAX_LEAPS: Final = 1_000
"""Stretches that were leapt over."""
FIRST_WIDTH_US: Final = US_PER_S // 2
"""Width of a bucket of who sent to whom, at first."""


class View(IntEnum):
    """What somebody holds of somebody."""

    UNKNOWN = 0
    UP = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


class Turn(IntEnum):
    """What is true of a process from a moment on."""

    ABSENT = 0
    STARTING = 1
    UP = 2
    PAUSED = 3
    LEAVING = 4
    CRASHED = 5
    LEFT = 6
    STOPPED = 7


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn over the time of a run.

    Args:
        name: Under which it is counted.
        title: What it shows.
        mode: ``stack``: kinds on each other; ``mirror``: the first two above a line, the others below it;
            ``share``: the first as a part of all; ``level``: the first as it stands.
        kinds: What is counted, in order; of an empty one, the most frequent.
    """

    name: str
    title: str
    mode: Literal["stack", "mirror", "share", "level"]
    kinds: tuple[str, ...] = ()


@dataclass(slots=True)
class Flows:
    """Who sent how much to whom, by buckets of time that widen as they become too many.

    Args:
        width_us: Of a bucket.
        cells: Sent, and lost of that, by bucket, sender and receiver.
    """

    width_us: int = FIRST_WIDTH_US
    cells: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)

    def note(self, us: int, source: int, target: int, *, lost: bool) -> None:
        """Count one packet."""
        key = (us // self.width_us, source, target)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = [0, 0]
            if len(self.cells) > MAX_FLOWS:
                self._widen()
                self.note(us, source, target, lost=lost)
                return
        cell[0] += 1
        cell[1] += lost

    def _widen(self) -> None:
        self.width_us *= 2
        wider: dict[tuple[int, int, int], list[int]] = {}
        for (bucket, source, target), (sent, lost) in self.cells.items():
            cell = wider.setdefault((bucket // 2, source, target), [0, 0])
            cell[0] += sent
            cell[1] += lost
        self.cells = wider


class Story:
    """Everything a page tells of one run; times are microseconds since it began.

    Args:
        names: Members that are shown by name.
        total: How many members there are in all.

    Attributes:
        index: Places of the shown, by name.
        turns: When, of whom (a place), what is true from then on, and how that came in words.
        views: When, in whose eyes, of whom, what is held from then on.
        flows: Who sent to whom.
        counts: How often per second something happened, by chart, kind and second.
        leaps: What was leapt over, from and to.
        healed_us: When everything was healed; None if it never was.
        views_until_us: From when on changes of views are not kept; None if all are.
        turns_until_us: The same of what is true of processes.
        notes: What a reader has to know of what is missing.
    """

    def __init__(self, names: Sequence[str], total: int) -> None:
        self.names, self.total = list(names[:MAX_SHOWN]), total
        self.index = {name: place for place, name in enumerate(self.names)}
        self.turns: list[tuple[int, int, Turn, str]] = []
        self.views: list[tuple[int, int, int, View]] = []
        self.flows = Flows()
        self.counts: dict[str, dict[str, dict[int, int]]] = {}
        self.leaps: list[tuple[int, int]] = []
        self.healed_us: int | None = None
        self.views_until_us: int | None = None
        self.turns_until_us: int | None = None
        self.notes: list[str] = []
        self._held: dict[tuple[int, int], View] = {}

    def turned(self, us: int, name: str, turn: Turn, words: str) -> None:
        """Note what is true of a process from now on.

        Args:
            us: When.
            name: Of the member.
            turn: What.
            words: How it came, as ``loses power``.
        """
        place = self.index.get(name)
        if place is None or self.turns_until_us is not None:
            return
        if len(self.turns) >= MAX_TURNS:
            self.turns_until_us = us
            return
        self.turns.append((us, place, turn, words))

    def viewed(self, us: int, observer: str, subject: str, view: View) -> None:
        """Note what a member holds of another from now on; what it held already is no news."""
        who, whom = self.index.get(observer), self.index.get(subject)
        if who is None or whom is None or self.views_until_us is not None:
            return
        if self._held.get((who, whom), View.UNKNOWN) == view:
            return
        if len(self.views) >= MAX_VIEWS:
            self.views_until_us = us
            return
        self._held[who, whom] = view
        self.views.append((us, who, whom, view))

    def table(self, us: int, observer: str, held: Iterable[tuple[str, View]]) -> None:
        """Note all that a member holds now; of whom it says nothing it knows nothing."""
        known = dict(held)
        for subject in self.names:
            if subject != observer:
                self.viewed(us, observer, subject, known.get(subject, View.UNKNOWN))

    def sent(self, us: int, source: str, target: str, *, lost: bool = False) -> None:
        """Note a packet from one to another."""
        who, whom = self.index.get(source), self.index.get(target)
        if who is not None and whom is not None:
            self.flows.note(us, who, whom, lost=lost)

    def counted(self, us: int, chart: str, kind: str, number: int = 1) -> None:
        """Count something in the second it happened in."""
        second = us // US_PER_S
        seconds = self.counts.setdefault(chart, {}).setdefault(kind, {})
        seconds[second] = seconds.get(second, 0) + number

    def leapt(self, from_us: int, to_us: int) -> None:
        """Note a stretch in which nothing was simulated."""
        if len(self.leaps) < MAX_LEAPS:
            self.leaps.append((from_us, to_us))


def shown(names: Sequence[str], plan: Sequence[Fault], spoken_of: str = "") -> list[str]:
    """Whom to show by name, in the order of their names.

    Where there are too many: whom a violation that is known of names, then whom faults strike by name, then
    the first by name.

    Args:
        names: Of all members there are at first.
        plan: The faults; who joins by one of them belongs to the members.
        spoken_of: Texts of violations, if they are known already.
    """
    struck = list(dict.fromkeys(name for fault in plan for name in _names(fault)))
    everybody = list(dict.fromkeys([*names, *struck]))
    if len(everybody) <= MAX_SHOWN:
        return everybody
    words = set(re.findall(r"[\w.-]+", spoken_of))
    wanted = [*(name for name in everybody if name in words), *struck, *everybody]
    chosen = set(list(dict.fromkeys(wanted))[:MAX_SHOWN])
    return [name for name in everybody if name in chosen]


def _names(fault: Fault) -> list[str]:
    """Whom a fault strikes by name: of a partition, everybody but its largest side."""
    (values,) = write(fault).values()
    sides = sorted(values.get("sides", ()), key=len)[:-1]
    groups = [*(values.get(key) or () for key in ("members", "sources", "targets")), *sides]
    return [str(name) for group in [*groups, *values.get("pairs", ())] for name in group]
