"""Local health rises by what points at ourselves and falls by answers; lag counts before any probe fails."""

from hypothesis import given
from hypothesis import strategies as st

from swim.health import LAG_MEMORY_S, LEAST_DIRECT, OUTCOMES, Health


def test_missing_nacks_refutations_and_late_timers_raise_it_and_answers_lower_it() -> None:
    health = Health(7, lag_warning_s=0.25)
    health.probe_failed(relays=2, nacks=2)
    assert health.multiplier == 1
    health.probe_failed(relays=2, nacks=1)
    assert health.multiplier == 2
    health.refuted()
    assert health.multiplier == 3
    assert not health.timer_lagged(0.2, 0.0)
    assert health.multiplier == 3
    assert health.timer_lagged(0.3, 0.0)
    assert health.multiplier == 4
    health.probe_failed(relays=9, nacks=0)
    assert health.multiplier == 8
    for _ in range(9):
        health.probe_answered()
    assert health.penalty == 1  # the lag of 0.3 s, which answers do not take back
    health.loop_lagged(0.0, LAG_MEMORY_S)
    assert health.penalty == 0
    assert health.statistics() == {"health_penalty": 0, "loop_lag_ms": 0, "longest_lag_ms": 300}


def test_lag_of_the_loop_stretches_before_any_probe_has_failed_and_is_forgotten_after_a_while() -> None:
    health = Health(7, lag_warning_s=0.25)
    health.loop_lagged(0.8, 100.0)
    assert health.multiplier == 4
    health.loop_lagged(0.3, 101.0)
    assert health.multiplier == 4  # the longest one lately counts
    health.loop_lagged(0.3, 100.0 + LAG_MEMORY_S)
    assert health.multiplier == 2
    health.loop_lagged(60.0, 120.0)
    assert health.multiplier == 8


def test_a_highest_penalty_of_zero_switches_it_off() -> None:
    health = Health(0, lag_warning_s=0.25)
    health.probe_failed(relays=3, nacks=0)
    health.refuted()
    health.loop_lagged(10.0, 0.0)
    assert health.timer_lagged(1.0, 0.0)  # a stall is still one
    assert health.multiplier == 1


def test_a_member_is_well_while_three_quarters_of_its_probes_are_answered() -> None:
    health = Health(7, lag_warning_s=0.25)
    for _ in range(OUTCOMES // 4):
        health.probe_ended(answered=False, directly=False)
    assert health.is_well
    health.probe_ended(answered=False, directly=False)
    assert not health.is_well
    for _ in range(OUTCOMES * 3 // 4):
        health.probe_ended(answered=True, directly=False)
    assert health.is_well


def test_a_member_is_heard_while_a_few_of_its_probes_are_answered_directly() -> None:
    health = Health(7, lag_warning_s=0.25)
    for _ in range(OUTCOMES - LEAST_DIRECT):
        health.probe_ended(answered=True, directly=False)
    assert health.is_heard
    health.probe_ended(answered=True, directly=False)
    assert health.is_well
    assert not health.is_heard
    for _ in range(LEAST_DIRECT):
        health.probe_ended(answered=True, directly=True)
    assert health.is_heard


@given(
    st.integers(0, 7),
    st.lists(
        st.one_of(
            st.just("answered"), st.just("refuted"), st.integers(0, 5), st.floats(0, 100, allow_nan=False)
        ),
        max_size=40,
    ),
)
def test_the_penalty_stays_within_its_bounds(highest: int, happened: list[object]) -> None:
    health = Health(highest, lag_warning_s=0.25)
    for now, what in enumerate(happened):
        if what == "answered":
            health.probe_answered()
        elif what == "refuted":
            health.refuted()
        elif isinstance(what, int):
            health.probe_failed(relays=5, nacks=what)
        elif isinstance(what, float):
            health.timer_lagged(what, float(now))
        assert 0 <= health.penalty <= highest
