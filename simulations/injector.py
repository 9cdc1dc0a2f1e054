"""What faults do to a cluster: a plan goes onto the timeline, and is healed when its phase is over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import singledispatchmethod
from typing import Final, Protocol

from simulations import faults
from simulations.links import Change, Links, Rule, separate
from simulations.timeline import US_PER_S, Timeline
from simulations.trace import Trace
from simulations.truth import Spell

SEEDS: Final = 3
"""How many members, the first by name, are the seeds of all others."""


class Running(Protocol):
    """A process that runs."""

    @property
    def name(self) -> str:
        """Whose it is."""

    @property
    def paused(self) -> bool:
        """Whether it stands still."""


class Cluster(Protocol):
    """To whom faults happen: members, or whole nodes."""

    @property
    def timeline(self) -> Timeline:
        """When things happen."""

    @property
    def lines(self) -> Trace:
        """What is told of it."""

    @property
    def links(self) -> Links:
        """Between any two of them."""

    @property
    def running(self) -> Mapping[str, Running]:
        """Who runs, by name."""

    @property
    def machines(self) -> Iterable[str]:
        """All names there have been."""

    def live(self) -> Sequence[Running]:
        """Who runs and has not said goodbye."""

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does."""

    def resume(self, name: str) -> None:
        """Let it go on."""

    def crash(self, name: str, *, power: bool = False) -> None:
        """End a process as SIGKILL does, or its machine."""

    def start(self, name: str, *, seeds: Sequence[str] = (), disk: bool = True) -> object:
        """Start a process, for the first time or again."""

    def leave(self, name: str) -> None:
        """Let a process say goodbye and end."""

    def move(self, name: str) -> None:
        """Give a machine another address."""

    def set_clock(self, name: str, *, rate: float | None, wall_offset_s: float | None) -> None:
        """Set a machine's clock wrong."""


class Excuses(Protocol):
    """Is told who has an excuse, and for how long."""

    def begin(
        self,
        subjects: Iterable[str],
        *,
        observers: Iterable[str] | None = None,
        beside: Iterable[str] = (),
        is_own_fault: bool = False,
    ) -> Spell:
        """Begin a spell; the arguments are those of :class:`simulations.truth.Spell`."""

    def end(self, spell: Spell) -> None:
        """End a spell."""


class Injector:
    """Lets the faults of a plan happen.

    Args:
        cluster: To whom.
        truth: Is told who is excused.
        seeds: Names of the members that others join through.

    Attributes:
        calm_us: When the last fault of links ended.
        happened: How many faults of each kind have happened.
    """

    def __init__(self, cluster: Cluster, truth: Excuses, seeds: Sequence[str]) -> None:
        self._cluster, self._truth, self._seeds = cluster, truth, tuple(seeds)
        self._spells: list[Spell] = []
        self._healed = False
        self.calm_us = 0
        self.happened: dict[str, int] = {}

    def plan(self, faults_: Sequence[faults.Fault]) -> None:
        """Put faults onto the timeline; jumps are left to whoever runs it."""
        for fault in faults_:
            if not isinstance(fault, faults.Jump):
                self._cluster.timeline.at_us(_us(fault.at_s), self._begin, fault)

    def heal(self) -> None:
        """End everything that goes wrong: links as at first, processes run on. The dead stay dead."""
        self._healed = True
        if self._cluster.links.statistics()["rules"]:
            self.calm_us = self._cluster.timeline.now_us
        self._cluster.links.clear()
        for spell in self._spells:
            self._truth.end(spell)
        for member in list(self._cluster.running.values()):
            if member.paused:
                self._cluster.resume(member.name)
        self._note("heal", "")

    # ---- one kind after the other --------------------------------------------------------------

    def _begin(self, fault: faults.Fault) -> None:
        if not self._healed:
            self.happened[fault.kind] = self.happened.get(fault.kind, 0) + 1
            self._apply(fault)

    @singledispatchmethod
    def _apply(self, fault: faults.Fault) -> None:
        raise NotImplementedError(fault.kind)

    @_apply.register
    def _(self, fault: faults.Pause) -> None:
        for name in fault.members:
            if name in self._cluster.running and not self._cluster.running[name].paused:
                self._cluster.pause(name)
                if fault.for_s is not None:
                    self._later(fault.for_s, self._resume, name)

    @_apply.register
    def _(self, fault: faults.Starve) -> None:
        for name in fault.members:
            chance = self._cluster.timeline.stream(name, *self._purpose(fault))
            self._run_on(fault, name, chance)

    def _run_on(self, fault: faults.Starve, name: str, chance: random.Random) -> None:
        """Resume a starved process, and stop it again after a while."""
        self._resume(name)
        self._later(chance.expovariate(1 / fault.running_s), self._stand_still, fault, name, chance)

    def _stand_still(self, fault: faults.Starve, name: str, chance: random.Random) -> None:
        if self._cluster.timeline.now() >= fault.ends_s:
            return
        pause_s = chance.uniform(*fault.paused_s)
        member = self._cluster.running.get(name)
        if member is not None and not member.paused:
            self._cluster.pause(name)
        self._later(pause_s, self._run_on, fault, name, chance)

    def _resume(self, name: str) -> None:
        if name in self._cluster.running:
            self._cluster.resume(name)

    @_apply.register
    def _(self, fault: faults.Crash) -> None:
        for name in fault.members:
            if name in self._cluster.running:
                self._cluster.crash(name, power=fault.power)

    @_apply.register
    def _(self, fault: faults.Restart) -> None:
        for name in fault.members:
            if name in self._cluster.running:
                continue
            if fault.moved:
                self._cluster.move(name)
            self._start(name, disk=fault.disk, seeds=fault.seeds)

    @_apply.register
    def _(self, fault: faults.Join) -> None:
        for name in fault.members:
            if name not in self._cluster.running:
                self._start(name)

    def _start(self, name: str, *, disk: bool = True, seeds: bool = True) -> None:
        self._cluster.start(name, seeds=self._seeds if seeds else (), disk=disk)

    @_apply.register
    def _(self, fault: faults.Leave) -> None:
        for name in fault.members:
            if name in self._cluster.running and not self._cluster.running[name].paused:
                self._cluster.leave(name)

    @_apply.register
    def _(self, fault: faults.Partition) -> None:
        change = Change(cut_datagrams=True) if fault.datagrams_only else Change(cut=True)
        one_way = fault.mode == "one_way"
        rules = separate(fault.sides, change, one_way=one_way)
        for pair in fault.pairs:
            rules += separate([[name] for name in pair], change, one_way=one_way)
        spells = []
        if fault.is_excuse:
            for side in fault.sides:
                # One way, those who cannot answer hear the others' verdicts on them all the same.
                heard = one_way and side is not fault.sides[-1]
                minor = len(side) < max(map(len, fault.sides))
                beside = () if heard else side
                spells.append(self._truth.begin(side, beside=beside, is_own_fault=heard and minor))
            both = (*fault.pairs, *((other, one) for one, other in fault.pairs))
            spells += [self._truth.begin([one], observers=[other]) for one, other in both]
        self._link_fault(fault, rules, spells)

    @_apply.register
    def _(self, fault: faults.Disturb) -> None:
        change = Change(
            loss=fault.loss, delay_s=fault.delay_s, jitter_s=fault.jitter_s, tail_s=fault.tail_s,
            sigma=fault.sigma, duplicate=fault.duplicate, reorder=fault.reorder, reorder_s=fault.reorder_s,
            corrupt=fault.corrupt, capacity_bytes_s=fault.capacity_bytes_s, queue_bytes=fault.queue_bytes,
        )  # fmt: skip
        sources, targets = (
            None if names is None else frozenset(names) for names in (fault.sources, fault.targets)
        )
        rules = [Rule(sources, targets, change)]
        if fault.both_ways and sources != targets:
            rules.append(Rule(targets, sources, change))
        spells = []
        if fault.is_excuse:
            touched = [*(fault.sources or ()), *(fault.targets or ())] or list(self._cluster.machines)
            spells.append(self._truth.begin(touched, is_own_fault=True))
        self._link_fault(fault, rules, spells)

    def _link_fault(self, fault: faults.Lasting, rules: list[Rule], spells: list[Spell]) -> None:
        self._cluster.links.add(rules)
        self._spells += spells
        self._note(fault.kind, "begins")
        if fault.for_s is not None:
            self._later(fault.for_s, self._end_link_fault, fault, rules, spells)

    def _end_link_fault(self, fault: faults.Lasting, rules: list[Rule], spells: list[Spell]) -> None:
        self._cluster.links.remove(rules)
        for spell in spells:
            self._truth.end(spell)
        self.calm_us = self._cluster.timeline.now_us
        self._note(fault.kind, "ends")

    @_apply.register
    def _(self, fault: faults.Clock) -> None:
        for name in fault.members:
            self._cluster.set_clock(name, rate=fault.rate, wall_offset_s=fault.wall_offset_s)
        self._note(fault.kind, " ".join(fault.members))

    @_apply.register
    def _(self, fault: faults.Churn) -> None:
        self._next_of_churn(fault, self._cluster.timeline.stream(*self._purpose(fault)))

    def _next_of_churn(self, fault: faults.Churn, chance: random.Random) -> None:
        self._later(chance.expovariate(fault.per_s), self._one_goes, fault, chance)

    def _one_goes(self, fault: faults.Churn, chance: random.Random) -> None:
        if self._cluster.timeline.now() >= fault.ends_s:
            return
        self._next_of_churn(fault, chance)
        candidates = [member.name for member in self._cluster.live() if not member.paused]
        if len(candidates) < 2:
            return
        name = chance.choice(candidates)
        if chance.random() < fault.leaving:
            self._cluster.leave(name)
        else:
            self._cluster.crash(name)
        disk = chance.random() < fault.keeping
        down_us = _us(chance.uniform(*fault.down_s))
        self._cluster.timeline.after_us(down_us, self._comes_back, name, disk)

    def _comes_back(self, name: str, disk: bool) -> None:
        if name in self._cluster.running:  # it is still saying goodbye
            self._cluster.timeline.after_us(US_PER_S, self._comes_back, name, disk)
        else:
            self._start(name, disk=disk)

    # ---- inside ------------------------------------------------------------------------------

    def _purpose(self, fault: faults.Fault) -> tuple[str, ...]:
        """What a fault draws for: a second one of its kind must not do over again what the first has done."""
        number = self.happened[fault.kind]
        return (fault.kind,) if number == 1 else (fault.kind, str(number))

    def _later(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        self._cluster.timeline.after_us(_us(seconds), self._unless_healed, function, *args)

    def _unless_healed(self, function: Callable[..., None], *args: object) -> None:
        if not self._healed:
            function(*args)

    def _note(self, what: str, rest: str) -> None:
        self._cluster.lines.add(self._cluster.timeline.now_us, "-", "fault", f"{what} {rest}")


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)
