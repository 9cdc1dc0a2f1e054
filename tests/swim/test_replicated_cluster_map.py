"""The map that all write: registers, stamps, and deletions that wait for the whole roster."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import units
from swim.hlc import ClockSkewError, HybridClock, wall_of
from swim.map_events import (
    BehindHorizon,
    ClusterChanged,
    ClusterConflict,
)
from tests.swim.map_model import Peers, identity, push, three_with_a_roster

fast = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)


def test_cluster_registers_outlive_their_author() -> None:
    peers = Peers("a", "b")
    peers["a"].cluster_put("x", b"1", peers.wall)
    peers.settle()
    peers["b"].forget("a")
    assert peers["b"].cluster_get("x") == b"1"
    assert list(peers["b"].cluster_entries()) == [("x", b"1")]


def test_the_last_writer_wins_and_a_concurrent_loser_stays_visible() -> None:
    peers = Peers("a", "b")
    base = peers["a"].cluster_put("x", b"0", peers.wall)
    peers.settle()
    peers["a"].events()
    peers.partition("a")
    peers["a"].cluster_put("x", b"from a", peers.wall, based_on=base)
    peers["b"].cluster_put("x", b"from b", peers.wall + 1, based_on=base)
    peers.heal()
    peers.settle()
    for name in "ab":
        assert peers[name].cluster_get("x") == b"from b"
        assert [(lost.value, lost.author) for lost in peers[name].conflicts("x")] == [(b"from a", "a")]
    assert ClusterConflict("x") in peers["a"].events()
    peers["a"].cluster_put("x", b"resolved", peers.wall + 2)
    peers.settle()
    assert peers["a"].conflicts("x") == peers["b"].conflicts("x") == []


def test_a_stamp_from_the_future_is_refused_until_time_has_come() -> None:
    peers = Peers("a", "b")
    peers.skew_s["a"] = 100.0
    peers["a"].cluster_put("x", b"1", peers.wall_of("a"))
    peers.settle(rounds=10)
    assert peers["b"].cluster_get("x") is None
    assert peers["b"].statistics()["dropped_future_stamp"] > 0
    peers.advance(100.0)
    peers.settle()
    assert peers["b"].cluster_get("x") == b"1"


def test_a_node_with_an_outlying_clock_may_not_author() -> None:
    node = Peers("a")["a"]
    node.observe_clock("b", 70.0)
    node.cluster_put("x", b"1", 0.0)  # one peer is no median
    node.observe_clock("c", 80.0)
    with pytest.raises(ClockSkewError, match=r"\+75\.0 s"):
        node.cluster_put("x", b"2", 0.0)
    node.observe_clock("b", 0.1)
    node.observe_clock("c", -0.1)
    node.cluster_put("x", b"2", 0.0)


def test_a_tombstone_goes_when_the_whole_roster_holds_it() -> None:
    peers = three_with_a_roster()
    peers["a"].cluster_put("x", b"1", peers.wall)
    peers["b"].cluster_put("kept", b"2", peers.wall)
    peers.settle()
    peers.partition("c")
    assert peers["b"].cluster_delete("x", peers.wall)
    peers.settle(rounds=30)
    assert peers["a"].statistics()["tombstones"] == 1
    peers.heal()
    for _ in range(20):
        peers.settle(rounds=1)
    for name in "abc":
        assert peers[name].statistics()["tombstones"] == 0
        assert peers[name].statistics()["registers"] == 1
        assert peers[name].cluster_get("x") is None
        assert not [e for e in peers[name].events() if isinstance(e, BehindHorizon)]
    assert peers.agree()


def test_who_comes_back_from_behind_the_horizon_pulls_and_never_pushes() -> None:
    peers = three_with_a_roster()
    peers["a"].cluster_put("x", b"1", peers.wall)
    peers["a"].cluster_put("kept", b"2", peers.wall)
    peers.settle()
    old_disk = peers["c"].export()
    peers["b"].cluster_delete("x", peers.wall)
    for _ in range(20):
        peers.settle(rounds=1)
    assert peers["a"].statistics()["tombstones"] == 0
    peers.boot("c", counter=1, stored=old_disk)
    assert peers["c"].cluster_get("x") == b"1"
    peers["c"].events()
    seen = []
    for _ in range(30):
        peers.settle(rounds=1)
        seen += peers["c"].events()
        assert peers["c"].cluster_get("kept") == b"2"  # a pull never looks like a deletion
        assert peers["a"].cluster_get("x") is None
        assert peers["b"].cluster_get("x") is None
    assert peers.agree()
    assert peers["c"].cluster_get("x") is None
    assert ClusterChanged("x", None) in seen
    assert peers["c"].statistics()["behind_horizon"] == 0


def test_without_a_roster_deletions_are_kept() -> None:
    peers = Peers("a", "b")
    peers["a"].cluster_put("x", b"1", peers.wall)
    assert peers["a"].cluster_delete("x", peers.wall) is not None
    assert peers["a"].cluster_delete("x", peers.wall) is None
    for _ in range(20):
        peers.settle(rounds=1)
    assert peers["b"].statistics()["tombstones"] == 1


def test_nobody_retires_deletions_where_there_is_no_roster() -> None:
    """One liar could have everybody set aside what it holds, and take the liar's word for what there is."""
    peers = Peers("a", "b", "c")
    peers["a"].cluster_put("x", b"1", peers.wall)
    peers.settle()
    liar = identity("c")
    stamp = (int(peers.wall) * 1000 << 16) + 1
    forged = units.encode(units.Retirement(liar.credential, stamp, 0, ((b"\0" * 8, stamp),)), liar)
    for name in "ab":
        peers[name].receive("c", push(forged, horizon=stamp), peers.now, peers.wall)
        assert peers[name].statistics()["dropped_not_in_roster"] == 1
        assert peers[name].statistics()["behind_horizon"] == 0
    peers.settle()
    assert [peers[name].cluster_get("x") for name in "abc"] == [b"1"] * 3


@fast
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 2**50))
def test_stamps_only_grow(walls: list[float], seen: int) -> None:
    clock = HybridClock()
    stamps = [clock.tick(wall) for wall in walls]
    clock.observe(seen)
    stamps.append(clock.tick(walls[0]))
    assert stamps == sorted(set(stamps))
    assert stamps[-1] > seen
    assert wall_of(stamps[0]) == pytest.approx(walls[0], abs=0.001)
