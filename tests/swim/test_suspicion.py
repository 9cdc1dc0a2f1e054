"""Suspicion shrinks with independent confirmations; local health stretches and recovers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.config import PROFILES, SwimConfig
from swim.health import Health
from swim.probe import ProbeRing
from swim.suspicion import Suspicion


def suspicion(confirmations: int) -> Suspicion:
    return Suspicion("n0", 100.0, shortest_s=2.0, longest_s=10.0, confirmations=confirmations)


def test_confirmations_shrink_the_timeout_from_the_longest_to_the_shortest() -> None:
    doubt = suspicion(2)
    assert doubt.deadline == 110.0
    assert doubt.confirm("n1")
    assert 102.0 < doubt.deadline < 106.0
    assert doubt.confirm("n2")
    assert doubt.deadline == pytest.approx(102.0)
    assert not doubt.confirm("n3")
    assert doubt.authors == ("n0", "n1", "n2")


def test_one_accuser_counts_once() -> None:
    doubt = suspicion(2)
    assert not doubt.confirm("n0")
    assert doubt.confirm("n1")
    assert not doubt.confirm("n1")


@pytest.mark.parametrize("awaited", [0, -1])
def test_where_nobody_can_confirm_the_longest_timeout_stays(awaited: int) -> None:
    doubt = suspicion(awaited)
    assert not doubt.confirm("n1")
    assert doubt.deadline == 110.0


def test_time_in_which_we_did_not_run_is_given_back() -> None:
    doubt = suspicion(0)
    doubt.postpone(3.0)
    assert doubt.deadline == 113.0


def test_health_rises_by_missing_nacks_refutations_and_lag_and_falls_by_answers() -> None:
    health = Health(3, lag_warning_s=0.25)
    health.probe_failed(relays=2, nacks=2)
    assert health.multiplier == 1
    health.probe_failed(relays=2, nacks=1)
    assert health.multiplier == 2
    health.refuted()
    assert not health.timer_lagged(0.2)
    assert health.multiplier == 3
    assert health.timer_lagged(0.5)
    health.probe_failed(relays=3, nacks=0)
    assert health.multiplier == 4
    for _ in range(9):
        health.probe_answered()
    assert health.multiplier == 1
    assert health.statistics() == {"health_penalty": 0, "longest_lag_ms": 500}


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_every_member_is_probed_once_per_round(members: int, rng: random.Random) -> None:
    ring = ProbeRing(rng)
    for number in range(members):
        ring.add(f"n{number}")
    ring.add("n0")
    for _ in range(members):
        ring.next()
    for _ in range(3):
        assert sorted(str(ring.next()) for _ in range(members)) == sorted(f"n{n}" for n in range(members))
    ring.discard("n0")
    assert "n0" not in [ring.next() for _ in range(2 * members)]


def test_an_empty_ring_has_nobody() -> None:
    assert ProbeRing(random.Random(1)).next() is None


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_are_consistent(name: str) -> None:
    config = SwimConfig.profile(name)  # type: ignore[arg-type]
    shortest, longest = config.suspicion_bounds_s(5)
    assert config.probe_interval_s < shortest <= longest
    assert config.retransmissions(5) >= 3
    assert SwimConfig.profile(name, label="mine").label == "mine"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"label": ""}, "label"),
        ({"probe_timeout_s": 2.0}, "probe_timeout_s"),
        ({"suspicion_mult": 0.5}, "suspicion_mult"),
        ({"max_meta_bytes": 513}, "max_meta_bytes"),
        ({"gossip_interval_s": 0.0}, "intervals"),
        ({"max_streams": 0}, "counts"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SwimConfig.profile("lan", **change)
