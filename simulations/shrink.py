"""Less that still fails: what an engineer would rather read.

Delta debugging (Zeller and Hildebrandt, 2002) over the faults of a plan: halves are left out first, then
smaller and smaller parts, as long as the run still fails on the first property that failed. Then members are
left out from the last on, as far as no fault names them, and the safety phase is shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from simulations.faults import Fault, write_plan
from simulations.production import Identities
from simulations.runner import Result, run
from simulations.scenario import Scenario, ScenarioError, check

MAX_RUNS: Final = 200
"""Runs after which the smallest that fails so far is taken."""
TAIL_S: Final = 0.5
"""The safety phase lasts so much longer than the last fault, at least."""


def shrink(
    scenario: Scenario,
    seed: int,
    plan: Sequence[Fault],
    progress: Callable[[Result], None] = lambda result: None,
) -> tuple[Scenario, Result]:
    """Find a run of which nothing can be left out.

    Args:
        scenario: What fails.
        seed: With which seed.
        plan: With which faults.
        progress: Told of each run.

    Returns:
        The smallest scenario that was found, and the result of its run, which has the plan.

    Raises:
        ScenarioError: it does not fail.
    """
    search = _Search(scenario, seed, progress)
    if not search.begin(plan):
        raise ScenarioError(f"seed {seed} of {scenario.name} does not fail")
    search.leave_faults_out()
    search.leave_members_out()
    search.shorten()
    return search.scenario, search.best


class _Search:
    """The smallest run so far, and attempts at a smaller one."""

    best: Result

    def __init__(self, scenario: Scenario, seed: int, progress: Callable[[Result], None]) -> None:
        self.scenario, self._seed, self._progress = scenario, seed, progress
        self._identities = Identities()
        self._runs = 0

    def begin(self, plan: Sequence[Fault]) -> bool:
        """Run it whole; say whether it fails."""
        self.best = self._run(self.scenario, plan)
        return bool(self.best.code)

    def leave_faults_out(self) -> None:
        size = max(1, len(self.best.plan) // 2)
        while self._runs < MAX_RUNS:
            plan = self.best.plan
            for start in range(0, len(plan), size):
                if self._fails(self.scenario, [*plan[:start], *plan[start + size :]]):
                    break
            else:
                if size == 1:
                    break
                size //= 2

    def leave_members_out(self) -> None:
        """Halve what may still be left out until nothing may."""
        least, size = 1, self.scenario.members // 2
        while size and self._runs < MAX_RUNS:
            members = self.scenario.members - size
            fewer = self._changed(members=members) if members >= least else None
            if fewer is None or not self._fails(fewer, self.best.plan):
                size //= 2

    def shorten(self) -> None:
        """Halve what the safety phase has beyond the last fault until it cannot be halved."""
        needed = max((fault.at_s for fault in self.best.plan), default=0.0) + TAIL_S
        low, high = needed, self.scenario.safety_s
        while high - low > TAIL_S and self._runs < MAX_RUNS:
            middle = round((low + high) / 2, 1)
            shorter = self._changed(safety_s=middle)
            if shorter is not None and self._fails(shorter, self.best.plan):
                high = middle
            else:
                low = middle

    def _changed(self, **values: Any) -> Scenario | None:
        """The scenario with other values, or None where it makes no sense.

        The faults of its own are left out: the plan has what is needed of them.
        """
        data = {**self.scenario.model_dump(mode="json", exclude_defaults=True), **values}
        data.update(faults=write_plan(self.best.plan), swarm=None)
        names = self.scenario.names()[: values.get("members", self.scenario.members)]
        named = {name for fault in self.best.plan for name in _named(fault.model_dump())}
        if named.intersection(self.scenario.names()).difference(names):
            return None
        try:
            return check(data, self.scenario.name)
        except ScenarioError:
            return None

    def _fails(self, scenario: Scenario, plan: Sequence[Fault]) -> bool:
        """Whether it fails on the same property; if so, it is the smallest so far."""
        result = self._run(scenario, plan)
        if result.code != self.best.code or result.failed[:1] != self.best.failed[:1]:
            return False
        self.scenario, self.best = scenario, result
        return True

    def _run(self, scenario: Scenario, plan: Sequence[Fault]) -> Result:
        self._runs += 1
        result = run(scenario, self._seed, plan=plan, identities=self._identities)
        self._progress(result)
        return result


def _named(value: Any) -> set[str]:
    """Every word in a fault: names of members are among them."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        value = list(value.values())
    return set().union(*map(_named, value)) if isinstance(value, list | tuple) else set()
