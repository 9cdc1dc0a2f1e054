"""Fewer faults that still fail: what an engineer would rather read.

Delta debugging (Zeller and Hildebrandt, 2002) over the faults of a plan: halves are left out first, then
smaller and smaller parts, as long as the run still fails on the first property that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from simulations.faults import Fault
from simulations.production import Identities
from simulations.runner import Result, run
from simulations.scenario import Scenario, ScenarioError

MAX_RUNS: Final = 200
"""Runs after which the smallest plan so far is taken."""


def shrink(scenario: Scenario, seed: int, plan: Sequence[Fault]) -> Result:
    """Find a plan of which no fault can be left out.

    Args:
        scenario: What fails.
        seed: With which seed.
        plan: With which faults.

    Returns:
        The result of the smallest failing run that was found.

    Raises:
        ScenarioError: it does not fail.
    """
    identities = Identities()
    best = run(scenario, seed, plan=plan, identities=identities)
    if not best.code:
        raise ScenarioError(f"seed {seed} of {scenario.name} does not fail")
    runs, size = 1, max(1, len(plan) // 2)
    while runs < MAX_RUNS:
        for start in range(0, len(best.plan), size):
            fewer = [*best.plan[:start], *best.plan[start + size :]]
            result = run(scenario, seed, plan=fewer, identities=identities)
            runs += 1
            if result.code == best.code and result.failed[:1] == best.failed[:1]:
                best = result
                break
        else:
            if size == 1:
                break
            size //= 2
    return best
