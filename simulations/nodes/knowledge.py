"""How long it takes until everybody knows: the truth about who is up, beside what each node holds.

The truth changes when a process ends, starts or goes on, and when ways between nodes are cut or mended. From
each change on the views of all nodes are compared with it, again and again, until all agree; if the truth
changes again before, nobody ever knew. Whom one hears of in no way is down. About some pairs nothing is
demanded: a process that stands still is neither up nor down, and of somebody whom one hears but cannot reach
one may think what one likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from simulations.links import Links

POLL_S: Final = 0.25
"""How often views are looked at, which is how exactly the times are known."""

Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Truth:
    """Who is up, and who cannot reach whom.

    Attributes:
        awake: The processes that run and do not stand still.
        still: Those that stand still.
        cut: Pairs of which the first cannot send to the second.
    """

    awake: frozenset[str]
    still: frozenset[str]
    cut: Pairs

    @classmethod
    def of(
        cls, awake: Collection[str], still: Collection[str], machines: Collection[str], links: Links
    ) -> Truth:
        """The truth at this moment."""
        cut: Pairs = frozenset()
        if links.statistics()["rules"]:
            pairs = ((one, other) for one in machines for other in machines if one != other)
            cut = frozenset(pair for pair in pairs if (link := links.of(*pair)).cut or link.cut_datagrams)
        return cls(frozenset(awake), frozenset(still), cut)

    def reached_from(self, source: str) -> frozenset[str]:
        """Who hears of somebody, straight or through others."""
        reached, waiting = {source}, [source]
        while waiting:
            here = waiting.pop()
            new = {name for name in self.awake - reached if (here, name) not in self.cut}
            reached |= new
            waiting += new
        return frozenset(reached)

    def change_since(self, before: Truth) -> str:
        """What has happened, in one word; nothing if nobody need think otherwise now."""
        if (before.awake | before.still) - (self.awake | self.still):
            return "ended"
        if self.cut - before.cut:
            return "cut"
        if self.awake - before.awake - before.still:
            return "started"
        if self.awake & before.still:
            return "resumed"
        return "healed" if before.cut - self.cut else ""


@dataclass(slots=True)
class Knowledge:
    """What has become known, and how fast.

    Attributes:
        took_s: How long it took until everybody knew, by the kind of change, in the order of the changes.
        never: How many changes were overtaken by the next before everybody knew, by their kind.
    """

    took_s: dict[str, list[float]] = field(default_factory=dict)
    never: Counter[str] = field(default_factory=Counter)
    _truth: Truth | None = None
    _reached: dict[str, frozenset[str]] = field(default_factory=dict)
    _kind: str = ""
    _since_s: float = 0.0

    def look(
        self,
        truth: Truth,
        views: Mapping[str, Collection[str]],
        now_s: float,
        *,
        seen_s: float | None = None,
    ) -> None:
        """Compare what everybody holds with the truth.

        Args:
            truth: As it was when the views were asked for.
            views: Who is up, in the eyes of each who is awake; those that could not be asked may be missing,
                and nobody knows then.
            now_s: When the views had been told, in seconds of the run.
            seen_s: When the truth was looked at, if asking for views took time.
        """
        if truth != self._truth:
            self._turn(truth, now_s if seen_s is None else seen_s)
        if not self._kind:
            return
        if all(name in views and self._is_right(name, views[name]) for name in truth.awake):
            self.took_s.setdefault(self._kind, []).append(round(now_s - self._since_s, 3))
            self._kind = ""

    def finish(self) -> None:
        """The run is over: what is not known now will not be."""
        if self._kind:
            self.never[self._kind] += 1
            self._kind = ""

    def measures(self) -> dict[str, float | int]:
        """The longest time of each kind of change as ``known_KIND_s``, and ``unknown_KIND`` counted."""
        longest = {f"known_{kind}_s": max(times) for kind, times in sorted(self.took_s.items())}
        return {**longest, **{f"unknown_{kind}": count for kind, count in sorted(self.never.items())}}

    def _turn(self, truth: Truth, now_s: float) -> None:
        before, self._truth = self._truth, truth
        self._reached = {name: truth.reached_from(name) for name in truth.awake}
        kind = truth.change_since(before) if before is not None else ""
        if kind:
            self.finish()
            self._kind, self._since_s = kind, now_s

    def _is_right(self, observer: str, held_up: Collection[str]) -> bool:
        """Whether somebody holds up whom it hears and reaches, and nobody whom it does not hear."""
        truth = self._truth
        if truth is None:
            return False
        for name, reached in self._reached.items():
            hears, reaches = observer in reached, name in self._reached[observer]
            if (name in held_up and not hears) or (name not in held_up and hears and reaches):
                return False
        return not any(name not in truth.awake | truth.still for name in held_up)
