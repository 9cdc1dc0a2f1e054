"""Nodes killed and paused at random while clients send: every accepted message keeps its promises."""

from benchmarks.torture import Torture, plan

SEED = 4
SECONDS = 10.0
DOWN_S = (0.0, 1.0, 4.0)
"""Killed and started at once; away unnoticed; away until declared dead."""


def test_the_plan_is_the_seeds():
    assert plan(SEED, 60.0) == plan(SEED, 60.0)
    assert plan(SEED, 60.0) != plan(SEED + 1, 60.0)
    faults = plan(SEED, SECONDS, DOWN_S)
    assert len({fault.node for fault in faults if fault.kill}) >= 2, "more than one node is killed"


def test_whoever_is_killed_or_stands_still_every_accepted_message_has_one_end_and_one_answer(
    cluster, tmp_path
):
    report = Torture(cluster, tmp_path, SEED).run(SECONDS, DOWN_S, drain_s=20.0)
    assert report.problems == []
    assert report.counts["accepted"] > 50, report.counts
    assert report.counts["killed"] >= 2, report.counts
