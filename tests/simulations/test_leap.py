"""Leaping over quiet time: allowed only when it is quiet, and like the time simulated in full."""

import pytest

from simulations import production
from simulations.leap import NotQuiet, leap
from simulations.members import MemberCluster
from simulations.runner import Run
from tests.simulations.scenarios import outcome, scenario

HOUR_S = 3_600.0
CONFIG = production.configuration("local", {})
SIDES = {"sides": [{"first": 2}, "rest"], "at_s": 5, "for_s": HOUR_S}
APART = {
    "members": 4,
    "profile": "lan",
    "safety_s": HOUR_S + 60,
    "bounds": {"converge_s": 60, "settle_s": 60},
}


def cluster():
    made = MemberCluster(1, CONFIG)
    made.start_converged(["a", "b", "c"])
    made.run_for(5)
    return made


def test_after_a_leap_everybody_goes_on_and_nobody_is_missed():
    made = cluster()
    leap(made, made.timeline.now_us + 3_600_000_000)
    made.run_for(10)
    assert made.timeline.now() == 3_615.0
    for member in made.running.values():
        assert [other.is_up for other in member.swim.members()] == [True, True]
        # It was no stall: nobody asks for patience, and no later word outbids what is held against a member.
        assert member.swim.own.incarnation == 0
        assert "stalls" not in member.swim.statistics()


def test_members_do_not_fall_into_step():
    made = cluster()
    leap(made, made.timeline.now_us + 3_600_000_000)
    assert len({member.timer_us for member in made.running.values()}) == 3


def test_no_leap_while_somebody_stands_still_or_is_suspected():
    made = cluster()
    made.pause("a")
    with pytest.raises(NotQuiet, match="a stands still"):
        leap(made, made.timeline.now_us + 1_000_000)
    made.resume("a")
    made.crash("b")
    made.run_for(2)
    with pytest.raises(NotQuiet, match="suspects somebody"):
        leap(made, made.timeline.now_us + 1_000_000)


def test_a_refused_leap_leaves_all_timers_as_they_were():
    made = cluster()
    made.links.own("a", "b").delay_s = 5.0  # what is on the way does not arrive soon
    made.run_for(1)
    with pytest.raises(NotQuiet, match="on the way"):
        leap(made, made.timeline.now_us + 3_600_000_000)
    before = made.running["a"].swim.statistics()["probes"]
    made.links.own("a", "b").delay_s = 0.001
    made.run_for(20)
    assert made.running["a"].swim.statistics()["probes"] > before


@pytest.mark.parametrize(
    "fault",
    [
        {"crash": {"members": ["m001"], "at_s": 50}},
        {"churn": {"at_s": 1, "for_s": 300, "per_s": 0.01}},
        {"partition": {"sides": [["m001"], "rest"], "at_s": 1, "for_s": 60}},
    ],
)
def test_a_jump_over_a_fault_is_refused(fault):
    result = Run(scenario(fault, {"jump": {"at_s": 20, "to_s": 200}}, safety_s=300), 1).run()
    assert "leaps over a" in result.crash


def beliefs(run):
    """Whom each member holds how, and what it remembers of others."""
    return {
        name: (
            sorted((other.name, other.state.name, other.boot.time_ms) for other in member.swim.members()),
            sorted(member.swim.address_book()),
        )
        for name, member in run.cluster.running.items()
    }


def test_an_hour_that_was_leapt_over_leaves_the_same_as_an_hour_in_full():
    """Two halves of a cluster, each of which holds the other dead, find together when they can."""
    full = Run(scenario({"partition": SIDES}, **APART), 1)
    leapt = Run(scenario({"partition": SIDES}, {"jump": {"at_s": 150, "to_s": HOUR_S - 120}}, **APART), 1)
    at_the_end = {}
    for run in (full, leapt):
        run.cluster.timeline.at_us(
            int(HOUR_S * 1e6), lambda run=run: at_the_end.update({id(run): beliefs(run)})
        )
    results = [run.run() for run in (full, leapt)]
    assert [result.failed for result in results] == [[], []]
    assert at_the_end[id(full)] == at_the_end[id(leapt)]
    assert all(state == "DEAD" for _, state, _ in at_the_end[id(full)]["m000"][0][1:])
    assert beliefs(full).keys() == beliefs(leapt).keys()
    for result in results:
        assert result.measures["agreed_after_calm_s"] < 60
        assert result.measures["false_deaths"] == 8, "each of four holds two dead"
    assert results[1].lines < results[0].lines / 5


def test_a_month_apart_ends_in_one_view():
    month_s = 30 * 86_400.0
    result = outcome(
        scenario(
            {"partition": {**SIDES, "for_s": month_s}},
            {"jump": {"at_s": 150, "to_s": HOUR_S - 60}},
            {"jump": {"at_s": HOUR_S + 120, "to_s": month_s - 60}},
            **{**APART, "safety_s": month_s + 60},
        )
    )
    assert result.failed == []
    assert result.sometimes["sometimes_somebody_was_reaped"] == 8
    assert result.sometimes["sometimes_a_partition_healed"] == 1
