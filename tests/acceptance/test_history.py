"""SIGKILLs, partitions and full disks: what was acknowledged was settled, once and in order."""

import pytest

from benchmarks.history import History, Report, Run, check_runs
from benchmarks.places import why_not

MESSAGES = 5_000
KILLS = 5


@pytest.mark.timeout(400)
def test_what_was_acknowledged_is_settled_whatever_is_killed(cluster):
    report = History(cluster, 3, MESSAGES, KILLS).run()
    assert report.problems == []
    counts = report.counts
    assert counts["acknowledged"] >= MESSAGES
    assert counts["settled"] + counts["dead_letters"] == counts["acknowledged"]
    assert counts["killed"] == KILLS
    assert counts["runs"] >= counts["settled"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("harm", "counted"), [({"partitions": 2}, "cut_off"), ({"full_disks": 2}, "filled")], ids=str
)
def test_the_same_holds_for_nodes_that_are_cut_off_and_for_full_disks(cluster, harm, counted):
    missing = why_not(apart="partitions" in harm, small="full_disks" in harm)
    if missing:
        pytest.skip(f"networks or disks of their own: {missing}")
    report = History(cluster, 4, 900, 0, **harm).run()
    assert report.problems == []
    counts = report.counts
    assert counts["settled"] + counts["dead_letters"] == counts["acknowledged"] == 900
    assert counts[counted] == 2
    if "full_disks" in harm:
        assert counts["refused_STORAGE_ERROR"] > 0


def run(number, *, node="a", message=None, conversation="one", process=1):
    return Run(node, message or f"m{number}", conversation, number, process)


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ([run(1), run(2), run(3)], None),
        ([run(1), run(2), run(2, process=2), run(3, process=2)], None),  # killed in between
        ([run(1), run(2), run(1, node="b"), run(2, node="b")], None),  # moved
        ([run(1), run(2), run(1)], "a handler ran twice"),
        ([run(2), run(1)], "out of order"),
        ([run(2), run(1, conversation="two")], None),
    ],
)
def test_the_checker_tells_a_broken_promise_from_a_kept_one(runs, problem):
    report = Report()
    check_runs(runs, report)
    if problem is None:
        assert report.problems == []
    else:
        assert any(problem in each for each in report.problems)
