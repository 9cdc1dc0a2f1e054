"""A case against a member: suspicion shrinks with independent confirmations, and time lost is given back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.config import PROFILES, SwimConfig
from swim.messages import MAX_AUTHORS, Boot
from swim.suspicion import MAX_SIGNATURES, Case

SHORTEST_S, LONGEST_S = 2.0, 10.0


def case(*authors: str, confirmations: int = 2) -> Case:
    """Return a case that was opened at 99 and became a suspicion of these authors at 100."""
    opened = Case(Boot(1, b"a" * 8), 0, 99.0, shortest_s=SHORTEST_S, longest_s=LONGEST_S)
    for author in authors:
        assert opened.sign(author, b"s" * 64)
    opened.suspect(100.0, confirmations)
    return opened


def test_confirmations_shrink_the_timeout_from_the_longest_to_the_shortest() -> None:
    doubt = case("n0")
    assert doubt.deadline() == 110.0
    assert doubt.sign("n1", b"")
    assert doubt.deadline() == pytest.approx(110 - 8 * math.log(2) / math.log(3))
    assert doubt.sign("n2", b"")
    assert doubt.deadline() == pytest.approx(102.0)
    assert doubt.sign("n3", b"")
    assert doubt.deadline() == 102.0
    assert [author for author, _ in doubt.authors()] == ["n0", "n1", "n2", "n3"]


@given(st.integers(1, 15), st.floats(0.1, 10), st.floats(1, 10))
def test_each_confirmation_shortens_by_lifeguards_formula_and_never_below_the_shortest(
    awaited: int, shortest_s: float, factor: float
) -> None:
    doubt = Case(Boot(1, b"a" * 8), 0, 0.0, shortest_s=shortest_s, longest_s=shortest_s * factor)
    doubt.suspect(0.0, awaited)
    before = math.inf
    for confirmations in range(awaited + 2):
        doubt.sign(f"n{confirmations}", b"")
        wanted = shortest_s * factor - shortest_s * (factor - 1) * (
            math.log(confirmations + 1) / math.log(awaited + 1)
        )
        assert doubt.deadline() == pytest.approx(max(shortest_s, wanted))
        assert doubt.deadline() <= before
        before = doubt.deadline()


def test_one_accuser_counts_once_and_their_number_is_bounded() -> None:
    doubt = case("n0")
    assert not doubt.sign("n0", b"")
    assert [doubt.sign(f"m{n}", b"") for n in range(MAX_SIGNATURES)].count(True) == MAX_SIGNATURES - 1
    assert len(doubt.authors()) == MAX_AUTHORS


@pytest.mark.parametrize("awaited", [0, -1])
def test_where_nobody_can_confirm_the_longest_timeout_stays(awaited: int) -> None:
    assert case("n0", confirmations=awaited).deadline() == 110.0


def test_a_private_doubt_has_no_deadline() -> None:
    doubt = Case(Boot(1, b"a" * 8), 0, 99.0, shortest_s=SHORTEST_S, longest_s=LONGEST_S)
    assert doubt.sign("n0", b"")
    assert doubt.deadline() == math.inf
    assert doubt.longest_end == 99.0 + LONGEST_S


def test_who_has_not_probed_the_suspect_itself_waits_longer() -> None:
    assert case("n0", "n1", "n2").deadline(1.5) == pytest.approx(103.5)


def test_a_member_that_has_answered_us_has_the_shortest_suspicion_left() -> None:
    doubt = case("n0", "n1", "n2")
    doubt.heard_at = 101.5
    assert doubt.deadline() == 101.5 + SHORTEST_S


def test_time_in_which_we_did_not_run_is_given_back() -> None:
    doubt = case("n0", confirmations=0)
    doubt.postpone(3.0)
    assert doubt.deadline() == 113.0
    assert doubt.longest_end == 102.0 + LONGEST_S


# Configuration


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_are_consistent(name: str) -> None:
    config = SwimConfig.profile(name)  # type: ignore[arg-type]
    verdict_s = config.probe_timeout_s * config.probe_verdict_mult
    assert verdict_s <= config.probe_interval_s < config.suspicion_min_s <= config.suspicion_max_s
    # After a suspicion was told there is time for the subject to refute, and for that to spread.
    assert config.suspicion_min_s >= 10 * config.gossip_interval_s + verdict_s
    assert config.retransmissions(5) >= 3
    assert config.retransmissions(1000) <= 20
    assert SwimConfig.profile(name, label="mine").label == "mine"  # type: ignore[arg-type]
