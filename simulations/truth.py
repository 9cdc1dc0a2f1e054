"""What is true, whatever members believe: who runs since when, who stood still, who could not be reached.

Properties compare beliefs with it. It learns of processes as a watcher and of links from the injector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulations import production
from simulations.watcher import Watcher

if TYPE_CHECKING:
    from simulations.members import MemberCluster, SimulatedMember

FOR_EVER_US: Final = 1 << 62
MAX_SPELLS: Final = 100_000
"""Spells that are remembered; the oldest are forgotten, and excuse nothing any more."""


@dataclass(slots=True)
class Spell:
    """A time during which some members had an excuse.

    Args:
        subjects: Whose death is excused.
        observers: In whose eyes; None for everybody's.
        beside: In whose eyes it is not, although ``observers`` would say so: those on the same side.
        is_own_fault: Whether the subjects' own links were bad, so that nothing is expected of them either.
        from_us: Since when.
        until_us: Until when.
    """

    subjects: frozenset[str]
    observers: frozenset[str] | None
    beside: frozenset[str]
    is_own_fault: bool
    from_us: int
    until_us: int = FOR_EVER_US

    def covers(self, observer: str, subject: str) -> bool:
        """Whether it is about the two."""
        return (
            subject in self.subjects
            and observer not in self.beside
            and (self.observers is None or observer in self.observers)
        )


class Truth(Watcher):
    """Who runs, stood still, or was out of reach.

    Args:
        cluster: Whom it is about.
        pause_bound_s: A process that stands still for less must not be declared dead.
        settle_s: For how long after its end a spell still excuses: verdicts take their time.

    Attributes:
        since_us: When the present life of each running member began.
        gone_us: When the last life of each member ended that does not run.
    """

    def __init__(self, cluster: MemberCluster, *, pause_bound_s: float, settle_s: float) -> None:
        self._cluster = cluster
        self._bound_us = int(pause_bound_s * 1e6)
        self._settle_us = int(settle_s * 1e6)
        self.since_us: dict[str, int] = {}
        self.gone_us: dict[str, int] = {}
        self._paused_us: dict[str, int] = {}
        self._long_pause_until_us: dict[str, int] = {}
        self._spells: list[Spell] = []

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note who starts, ends and stands still."""
        now_us, name = self._cluster.timeline.now_us, member.name
        if what == "started":
            self.since_us[name] = now_us
            self.gone_us.pop(name, None)
            self._long_pause_until_us.pop(name, None)
        elif what == "paused":
            self._paused_us[name] = now_us
        elif what == "resumed":
            began_us = self._paused_us.pop(name, now_us)
            if now_us - began_us > self._bound_us:
                self._long_pause_until_us[name] = now_us
        elif what in ("crashed", "left", "stopped"):
            self.since_us.pop(name, None)
            self._paused_us.pop(name, None)
            self.gone_us[name] = now_us

    def begin(
        self,
        subjects: Iterable[str],
        *,
        observers: Iterable[str] | None = None,
        beside: Iterable[str] = (),
        is_own_fault: bool = False,
    ) -> Spell:
        """Begin a spell; the arguments are those of :class:`Spell`."""
        spell = Spell(
            frozenset(subjects),
            None if observers is None else frozenset(observers),
            frozenset(beside),
            is_own_fault,
            self._cluster.timeline.now_us,
        )
        self._spells.append(spell)
        if len(self._spells) > MAX_SPELLS:
            del self._spells[0]
        return spell

    def end(self, spell: Spell) -> None:
        """End a spell."""
        spell.until_us = min(spell.until_us, self._cluster.timeline.now_us)

    def is_running(self, name: str, version: production.Version) -> bool:
        """Whether the life of a member that a version tells of is its present one."""
        member = self._cluster.running.get(name)
        return member is not None and production.own_version(member.swim)[:2] == version[:2]

    def stood_still(self, name: str) -> bool:
        """Whether a process has stood still for longer than the bound, now or a short time ago."""
        now_us = self._cluster.timeline.now_us
        began_us = self._paused_us.get(name)
        if began_us is not None and now_us - began_us > self._bound_us:
            return True
        return self._long_pause_until_us.get(name, -FOR_EVER_US) >= now_us - self._settle_us

    def is_paused(self, name: str) -> bool:
        """Whether a process stands still now."""
        return name in self._paused_us

    def is_excused(self, observer: str, subject: str) -> bool:
        """Whether ``observer`` may now hold ``subject`` dead although it runs."""
        horizon_us = self._cluster.timeline.now_us - self._settle_us
        return self.stood_still(subject) or any(
            spell.until_us >= horizon_us and spell.covers(observer, subject) for spell in self._spells
        )

    def was_hampered(self, name: str, since_us: int) -> bool:
        """Whether a member could not do its part since a time: it stood still, or its own links were bad."""
        if self.stood_still(name) or self._long_pause_until_us.get(name, -FOR_EVER_US) >= since_us:
            return True
        return any(
            spell.until_us >= since_us and spell.is_own_fault and name in spell.subjects
            for spell in self._spells
        )

    def is_cut_off(self, name: str) -> bool:
        """Whether a member is on the smaller side of something, or its own links are bad, now or lately."""
        horizon_us = self._cluster.timeline.now_us - self._settle_us
        half = len(self._cluster.machines) / 2
        return any(
            spell.until_us >= horizon_us
            and name in spell.subjects
            and (spell.is_own_fault or 0 < len(spell.beside) < half)
            for spell in self._spells
        )

    def can_be_introduced(self, member: SimulatedMember, since_us: int) -> bool:
        """Whether somebody of whom a member was told at its start has run since then, and can be reached."""
        return any(
            self.since_us.get(name, FOR_EVER_US) <= since_us
            and name != member.name
            and not self.is_excused(name, member.name)
            for name in member.introducers
        )

    def are_acquainted(self, one: str, other: str) -> bool:
        """Whether a chain of running members leads from one to another, each of whom was told of the next.

        Where none does, no protocol can bring them together: all seeds of a member may have gone for ever.
        """
        told: dict[str, set[str]] = {name: set() for name in self._cluster.running}
        for member in self._cluster.running.values():
            book = [self._cluster.machine_at(address) for _, address in member.swim.address_book()]
            names = [*member.introducers, *(machine.name for machine in book if machine is not None)]
            for name in names:
                if name in told:
                    told[member.name].add(name)
                    told[name].add(member.name)
        reached, waiting = {one}, [one]
        while waiting:
            new = told.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += sorted(new)
        return other in reached
