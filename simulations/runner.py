"""One run: a scenario and a seed in, a result out.

A run has two phases (after TigerBeetle's VOPR). In the **safety** phase the faults of the plan happen, and
everything that is ``always_`` demanded must hold. Then all is **healed**, and in the **liveness** phase the
members must find together again within the bounds. Each property that does not hold is named; an exception
out of the core counts as a crash.
"""

from __future__ import annotations

import gc
import importlib
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from simulations.faults import Churn, Fault, Jump, Pause, Starve
from simulations.injector import SEEDS, Injector
from simulations.leap import MOST_LEAP_ATTEMPTS, NotQuiet, check_jump, leap
from simulations.measures import Measures
from simulations.members import MemberCluster
from simulations.production import Identities
from simulations.properties import PROPERTIES, Context, Property, Sometimes, Violation
from simulations.scenario import RUNS, Scenario
from simulations.timeline import US_PER_S
from simulations.truth import Truth
from simulations.views import Views

SAMPLE_S: Final = 10.0
"""How often tables and bounds are looked at; everything else is told as it happens."""
SAMPLED_MEMBERS: Final = 50
"""Members whose tables are looked at in one go; of more, each has its turn."""
MANY_MEMBERS: Final = 200
"""From so many members on it pays to keep them out of the garbage collector's sight."""
GOSSIP_KEY: Final = bytes(range(32))
"""The key of an encrypted scenario; no secret."""

OK: Final = 0
CRASHED: Final = 127
NOT_LIVE: Final = 128
NOT_SAFE: Final = 129
INTERRUPTED: Final = 130
"""Exit code of a run that Ctrl-C has ended: what it had found until then is told."""


@dataclass(slots=True)
class Result:
    """How a run ended.

    Args:
        scenario: Its name.
        seed: What everything random followed from.
        code: ``OK``, ``CRASHED``, ``NOT_LIVE``, ``NOT_SAFE`` or ``INTERRUPTED``.
        violations: What did not hold.
        crash: The traceback, if the core raised.
        plan: The faults.
        digest: Hash of the whole trace.
        lines: Lines of the trace.
        tail: The last ones.
        virtual_s: How long it took in the simulated cluster.
        sometimes: What was met, and how often.
        checks: How often each property was put to the test.
        measures: Detection times, traffic and what else was measured.
        statistics: Of the cluster.
    """

    scenario: str
    seed: int
    code: int = OK
    violations: list[Violation] = field(default_factory=list)
    crash: str = ""
    plan: tuple[Fault, ...] = ()
    digest: str = ""
    lines: int = 0
    tail: list[str] = field(default_factory=list)
    virtual_s: float = 0.0
    sometimes: Counter[str] = field(default_factory=Counter)
    checks: dict[str, int] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The names of the properties that did not hold, each once."""
        return list(dict.fromkeys(violation.property for violation in self.violations))


class Run:
    """One run, step by step.

    Args:
        scenario: What is run.
        seed: Everything random follows from it.
        plan: The faults, if they shall be others than those that follow from the seed.
        sink: Where the trace is written.
        identities: Who everybody is; sharing one between runs saves signing.
        observe: Is given the cluster before anything happens, to watch it.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        plan: Sequence[Fault] | None = None,
        sink: TextIO | None = None,
        identities: Identities | None = None,
        observe: Callable[[MemberCluster], None] | None = None,
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.plan = scenario.plan(seed) if plan is None else tuple(plan)
        self.cluster = MemberCluster(
            seed,
            scenario.swim_config(),
            link=scenario.network.link(),
            gossip_keys=(GOSSIP_KEY,) if scenario.encrypted else (),
            sink=sink,
            identities=identities,
        )
        bounds = scenario.bounds
        self.truth = Truth(self.cluster, pause_bound_s=bounds.pause_s, settle_s=bounds.settle_s)
        self.views = Views(self.cluster)
        self.context = Context(self.cluster, self.truth, self.views, bounds)
        self.properties: list[Property] = [kind(self.context) for kind in PROPERTIES.values()]
        self.sometimes = Sometimes(self.context)
        self.measures = Measures(self.cluster, self.views)
        self.cluster.watch(self.truth, self.views, *self.properties, self.sometimes, self.measures)
        seeds = scenario.names()[:SEEDS]
        self.injector = Injector(self.cluster, self.truth, seeds)
        self._seeds = seeds
        self._sampled = 0
        if observe is not None:
            observe(self.cluster)

    def run(self) -> Result:
        """Run to the end, or to the first violation of what must always hold."""
        result = Result(self.scenario.name, self.seed, plan=self.plan)
        try:
            self._phases()
        except KeyboardInterrupt:
            result.code = INTERRUPTED
        except Exception:
            result.crash = traceback.format_exc()
            result.code = CRASHED
        finally:
            gc.unfreeze()
        return self._complete(result)

    def _phases(self) -> None:
        scenario = self.scenario
        self._start()
        if self.scenario.members >= MANY_MEMBERS:
            gc.collect()
            gc.freeze()  # a thousand tables of a thousand members are not looked through again and again
        self.injector.plan(self.plan)
        if not self._until(scenario.safety_s):
            return
        self._sample()
        if scenario.heal:
            self.injector.heal()
        if not self._until(self.cluster.timeline.now() + self._liveness_s()):
            return
        self._sample()
        for property_ in (*self.properties, self.sometimes):
            property_.finish()

    def _liveness_s(self) -> float:
        """Long enough for every bound to be put to the test."""
        bounds = self.scenario.bounds
        return max(bounds.converge_s, bounds.detect_s, bounds.join_s, bounds.quiet_s, self.scenario.settled_s)

    def _start(self) -> None:
        scenario, names = self.scenario, self.scenario.names()
        if scenario.start == "converged":
            self.cluster.start_converged(names)
            return
        chance = self.cluster.timeline.stream("start")
        for number, name in enumerate(names):
            seeds = self._seeds if number else ()
            us = int(scenario.spread_s * chance.random() * US_PER_S) if number else 0
            self.cluster.timeline.at_us(us, self._start_one, name, seeds)

    def _start_one(self, name: str, seeds: Sequence[str]) -> None:
        self.cluster.start(name, seeds=seeds)

    def _until(self, end_s: float) -> bool:
        """Run to a time, over the jumps of the plan; say whether nothing stopped it."""
        timeline = self.cluster.timeline
        jumps = [f for f in self.plan if isinstance(f, Jump) and timeline.now() <= f.at_s < end_s]
        for jump in jumps:
            if not self._run(jump.at_s) or not self._jump(jump):
                return False
        return self._run(end_s)

    def _jump(self, jump: Jump) -> bool:
        """Leap as soon as all is quiet."""
        check_jump(jump, self.plan, unquiet=(Pause, Starve, Churn))
        for _ in range(MOST_LEAP_ATTEMPTS):
            try:
                leap(self.cluster, round(jump.to_s * US_PER_S))
            except NotQuiet:
                if not self._run(self.cluster.timeline.now() + 1.0):
                    return False
            else:
                return True
        raise NotQuiet(f"a jump from {jump.at_s:g} s: it did not become quiet")

    def _run(self, end_s: float) -> bool:
        timeline, end_us = self.cluster.timeline, round(end_s * US_PER_S)
        while timeline.now_us < end_us:
            next_us = min(end_us, timeline.now_us + round(SAMPLE_S * US_PER_S))
            if not timeline.run_until(next_us):
                return False
            self._sample()
            if self._is_unsafe():
                return False
        return True

    def _sample(self) -> None:
        live = self.cluster.live()
        first = self._sampled % max(1, len(live))
        self._sampled += SAMPLED_MEMBERS
        members = (live[first:] + live[:first])[:SAMPLED_MEMBERS]
        for property_ in self.properties:
            property_.sample(members)

    def _is_unsafe(self) -> bool:
        return any(violation.property.startswith("always_") for violation in self.context.violations)

    def _complete(self, result: Result) -> Result:
        result.violations = self.context.violations
        if result.code == OK and result.violations:
            result.code = NOT_SAFE if self._is_unsafe() else NOT_LIVE
        result.digest = self.cluster.lines.digest()
        result.lines, result.tail = self.cluster.lines.count, self.cluster.lines.tail()
        result.virtual_s = self.cluster.timeline.now()
        result.sometimes = Counter({name: n for name, n in self.sometimes.seen.items() if n})
        result.checks = {property_.name: property_.checks for property_ in self.properties}
        result.measures = self.measures.report(self.injector.calm_us)
        result.statistics = self.cluster.statistics()
        return result


def run(scenario: Scenario, seed: int, **options: Any) -> Result:
    """Run a scenario once, whatever it runs; the options are those of :class:`Run`."""
    module, name = RUNS[scenario.runs].run
    result: Result = getattr(importlib.import_module(module), name)(scenario, seed, **options).run()
    return result
