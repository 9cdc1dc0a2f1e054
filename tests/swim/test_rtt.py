"""The wait for an answer follows the path's round trip and its jitter, within bounds."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.rtt import MAX_SAMPLE_S, RttEstimator

credible = st.floats(1e-6, MAX_SAMPLE_S)


def after(*samples: float) -> RttEstimator:
    estimator = RttEstimator()
    for sample in samples:
        assert estimator.observe(sample)
    return estimator


def test_the_first_sample_is_taken_whole_and_the_second_in_the_shares_of_the_rfc() -> None:
    first = after(0.100)
    assert (first.srtt_s, first.rttvar_s) == (0.100, 0.050)
    assert first.timeout_s(0, 10) == pytest.approx(0.300)
    second = after(0.100, 0.180)
    assert second.rttvar_s == pytest.approx(0.75 * 0.050 + 0.25 * 0.080)
    assert second.srtt_s == pytest.approx(0.875 * 0.100 + 0.125 * 0.180)


def test_before_the_first_sample_the_wait_is_the_fallback_or_the_longest() -> None:
    fresh = RttEstimator()
    assert fresh.timeout_s(0.1, 0.5) == 0.5
    assert fresh.timeout_s(0.1, 0.5, fallback_s=0.3) == 0.3
    assert fresh.timeout_s(0.1, 0.5, fallback_s=0.01) == 0.1
    assert fresh.timeout_s(0.1, 0.5, fallback_s=2.0) == 0.5


def test_a_steady_path_is_waited_for_hardly_longer_than_it_needs() -> None:
    steady = after(*[0.020] * 60)
    assert steady.timeout_s(0.0, 1.0) == pytest.approx(0.020, rel=0.01)
    assert steady.timeout_s(0.05, 1.0) == 0.05


def test_a_jittery_path_seldom_outlasts_its_wait() -> None:
    rng = random.Random(7)
    estimator, late, rounds = RttEstimator(), 0, 5_000
    for _ in range(rounds):
        rtt = 0.020 + rng.expovariate(1 / 0.010)
        late += rtt > estimator.timeout_s(0.0, 1.0)
        estimator.observe(rtt)
    assert late / rounds < 0.05
    assert estimator.timeout_s(0.0, 1.0) < 0.2


def test_a_path_that_became_slow_is_learned_within_a_few_samples() -> None:
    moved = after(*[0.010] * 50, *[0.200] * 3)
    assert moved.timeout_s(0.0, 1.0) > 0.200


@pytest.mark.parametrize("sample", [0.0, -0.1, math.nan, math.inf, -math.inf, 60.1])
def test_an_incredible_sample_changes_nothing(sample: float) -> None:
    estimator = after(0.1)
    assert not estimator.observe(sample)
    assert (estimator.srtt_s, estimator.rttvar_s) == (0.1, 0.05)


@given(st.lists(credible, min_size=1, max_size=50), st.floats(0, 1), st.floats(1, 10))
def test_whatever_was_measured_the_estimate_stays_within_it_and_the_wait_within_its_bounds(
    samples: list[float], minimum: float, maximum: float
) -> None:
    estimator = after(*samples)
    assert min(samples) * 0.999 <= estimator.srtt_s <= max(samples) * 1.001
    assert 0 <= estimator.rttvar_s <= max(samples)
    assert minimum <= estimator.timeout_s(minimum, maximum) <= maximum
