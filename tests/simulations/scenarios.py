"""Small scenarios for the tests of the simulator."""

from simulations.runner import Result, run
from simulations.scenario import Scenario, check

BASE = {
    "name": "test",
    "about": "a test",
    "members": 6,
    "profile": "local",
    "network": {"delay_s": 0.001, "jitter_s": 0.001},
    "safety_s": 20,
    "bounds": {
        "detect_s": 20, "join_s": 10, "converge_s": 25, "pause_s": 2.2, "settle_s": 20, "reap_slack_s": 3,
    },
}  # fmt: skip


def scenario(*faults: dict, bounds: dict | None = None, **changes: object) -> Scenario:
    """A scenario of six members with a local profile."""
    return check(
        {**BASE, "faults": list(faults), **changes, "bounds": {**BASE["bounds"], **(bounds or {})}}, "test"
    )


def outcome(tested: Scenario, seed: int = 1, **options: object) -> Result:
    """The result of a run, without a crash of the core."""
    result = run(tested, seed, **options)
    assert not result.crash, result.crash
    return result
