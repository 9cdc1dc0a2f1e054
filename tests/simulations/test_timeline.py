"""The timeline: order, waiting, fences, leaps; and the clocks of machines on it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import timeline as timelines
from simulations.clocks import MachineClock
from simulations.timeline import EPOCH_S, Overflow, Timeline, no_earlier_us


@dataclass(eq=False)
class Process:
    name: str = "p"
    paused: bool = False
    fenced: bool = False


def test_what_is_planned_for_one_instant_happens_in_the_order_of_planning():
    timeline, seen = Timeline(1), []
    for us, what in ((5, "c"), (3, "a"), (3, "b"), (9, "late")):
        timeline.at_us(us, seen.append, what)
    assert timeline.run_until(5)
    assert (seen, timeline.now_us) == (["a", "b", "c"], 5)


def test_the_past_means_now():
    timeline, seen = Timeline(1), []
    timeline.run_until(10)
    timeline.at_us(3, lambda: seen.append(timeline.now_us))
    timeline.run_until(20)
    assert seen == [10]


def test_what_concerns_a_paused_process_waits_and_happens_in_order_when_it_is_resumed():
    timeline, seen, process = Timeline(1), [], Process()
    process.paused = True
    timeline.at_us(2, seen.append, "second", process=process)
    timeline.at_us(1, seen.append, "first", process=process)
    timeline.at_us(3, seen.append, "of nobody")
    timeline.run_until(10)
    assert seen == ["of nobody"]
    timeline.resume(process)
    assert timeline.run_until(10)
    assert seen == ["of nobody", "first", "second"]
    assert timeline.statistics() == {"happened": 3, "planned": 0, "held": 0}


def test_what_concerns_a_fenced_process_never_happens_not_even_what_waited():
    timeline, seen, process = Timeline(1), [], Process()
    process.paused = True
    timeline.at_us(1, seen.append, "waited", process=process)
    timeline.at_us(5, seen.append, "planned", process=process)
    timeline.run_until(2)
    process.fenced = True
    timeline.resume(process)
    timeline.run_until(10)
    assert seen == []


def test_a_run_can_be_stopped_by_what_happens_and_goes_on_from_there():
    timeline, seen = Timeline(1), []
    timeline.at_us(3, timeline.stop)
    timeline.at_us(3, seen.append, "next")
    assert not timeline.run_until(10)
    assert (timeline.now_us, seen) == (3, [])
    assert timeline.run_until(10)
    assert seen == ["next"]


def test_a_leap_moves_what_was_planned_for_the_time_between():
    timeline, seen = Timeline(1), []
    timeline.at_us(50, lambda: seen.append(("between", timeline.now_us)))
    timeline.at_us(150, lambda: seen.append(("after", timeline.now_us)))
    timeline.leap(100, 110)
    assert timeline.now_us == 100
    timeline.run_until(200)
    assert seen == [("between", 110), ("after", 150)]


def test_planning_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(timelines, "MAX_HAPPENINGS", 3)
    timeline = Timeline(1)
    for _ in range(3):
        timeline.at_us(1, print)
    with pytest.raises(Overflow):
        timeline.at_us(1, print)


def test_each_purpose_has_a_stream_of_its_own():
    one, other = Timeline(1), Timeline(1)
    one.stream("n", "other").random()
    assert one.stream("n", "probe").random() == other.stream("n", "probe").random()
    assert one.stream("n", "probe").random() != Timeline(2).stream("n", "probe").random()


@given(st.floats(0, 1e7))
def test_a_time_in_seconds_is_never_early(seconds):
    us = no_earlier_us(seconds)
    assert us / 1e6 >= seconds
    assert us / 1e6 < seconds + 3e-6


@given(st.floats(0.9, 1.1), st.floats(0, 1e5), st.integers(0, 10**9), st.floats(0, 1e4))
def test_a_timer_on_a_drifting_clock_is_due_at_the_first_microsecond_that_shows_it(
    rate, start_s, now_us, wait_s
):
    clock = MachineClock(start_s, rate)
    due = clock.local(now_us) + wait_s
    us = clock.true_us(due)
    assert clock.local(us) >= due
    assert us <= now_us + 2 or clock.local(us - 3) < due


def test_a_clock_goes_on_from_where_it_is_when_its_rate_changes():
    clock = MachineClock(100.0)
    clock.change(2_000_000, rate=1.5, wall_offset_s=-30.0)
    assert clock.local(2_000_000) == pytest.approx(102.0)
    assert clock.local(4_000_000) == pytest.approx(105.0)
    assert clock.wall(4_000_000) == EPOCH_S + 4 - 30
