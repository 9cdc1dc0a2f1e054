"""The maps: what one node publishes reaches all, by gossip, by repair and in bulk."""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import units
from swim.hashtree import HashTree
from swim.map_events import (
    EntryChanged,
)
from swim.own_map import OwnMap
from swim.owner_maps import OwnerMaps
from swim.replicated import Limits
from tests.swim.map_model import MAX_FRAME_BYTES, Peers, identity, push

fast = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)


def test_an_entry_reaches_every_node_by_gossip() -> None:
    peers = Peers("a", "b", "c")
    peers.settle()
    peers["a"].put("agent/x", b"1")
    peers.ping("a", "b")
    peers.ping("b", "c")
    assert peers["c"].get("a", "agent/x") == b"1"
    assert EntryChanged("a", "agent/x", b"1") in peers["c"].events()


def test_a_lost_entry_is_repaired_by_roots_alone() -> None:
    peers = Peers("a", "b")
    for number in range(300):
        peers["a"].put(f"key-{number}", b"v" * 40)
    peers.settle(gossip=False)
    assert peers.agree()
    assert len(list(peers["b"].entries())) == 300
    assert peers.largest_frame <= MAX_FRAME_BYTES


def test_a_deletion_leaves_nothing_behind() -> None:
    peers = Peers("a", "b")
    peers["a"].put("x", b"1")
    peers.settle()
    peers["a"].delete("x")
    peers.settle()
    assert peers["b"].get("a", "x") is None
    assert list(peers["b"].entries()) == []
    assert EntryChanged("a", "x", None) in peers["b"].events()


def test_idle_gossip_is_silent() -> None:
    peers = Peers("a", "b", "c")
    peers["a"].put("x", b"1")
    peers["b"].cluster_put("y", b"2", peers.wall)
    for _ in range(20):
        peers.settle(rounds=1)
    before = peers.frames
    for _ in range(20):
        peers.settle(rounds=1)
    assert peers.frames == before


def test_the_same_value_again_is_not_published() -> None:
    peers = Peers("a")
    peers["a"].put("x", b"1")
    root = peers["a"].root()
    peers["a"].put("x", b"1")
    peers["a"].delete("absent")
    assert peers["a"].root() == root


def test_entries_come_in_order_and_by_prefix() -> None:
    peers = Peers("a", "b")
    for key in ("z", "agent/b", "agent/a"):
        peers["b"].put(key, key.encode())
    peers["a"].put("agent/c", b"c")
    peers.settle()
    assert list(peers["a"].entries("agent/")) == [
        ("a", "agent/c", b"c"),
        ("b", "agent/a", b"agent/a"),
        ("b", "agent/b", b"agent/b"),
    ]
    assert peers["a"].owners() == ["a", "b"]


def test_bulk_brings_two_strangers_in_step_in_one_exchange() -> None:
    peers = Peers("a", "b")
    for number in range(500):
        peers["a"].put(f"a-{number}", b"v" * 30)
        peers["b"].put(f"b-{number}", b"v" * 30)
    peers["a"].set_load(b"\x07", peers.now)
    peers["b"].cluster_put("x", b"1", peers.wall)
    peers.bulk("a", "b")
    assert peers.agree()
    assert peers["b"].load("a") == b"\x07"
    assert peers["a"].bulk_units(peers["b"].bulk_digest()) == []


def test_a_load_told_before_the_start_goes_out_at_the_start_and_leaves_no_timer_in_the_past() -> None:
    fresh = Peers("a").create("b")
    fresh.set_load(b"\x07", 10.0)
    fresh.start(0, 12.0, 1e9)
    due = fresh.next_timer()
    assert due is not None
    assert due > 12.0
    assert fresh.load("b") == b"\x07"


def test_load_is_latest_only_and_published_once_a_second() -> None:
    peers = Peers("a", "b")
    peers.settle()
    root = peers["a"].root()
    peers.advance(10.0 - peers.now)
    peers["a"].set_load(b"\x01", 10.0)
    peers["a"].set_load(b"\x02", 10.1)
    peers["a"].set_load(b"\x03", 10.2)
    assert peers["a"].load("a") == b"\x01"
    assert peers["a"].next_timer() == 11.0
    peers.advance(1.0)
    peers.ping("a", "b")
    assert peers["b"].load("a") == b"\x03"
    assert peers["a"].root() == root
    assert peers["b"].load("nobody") is None


def test_comparisons_with_one_peer_are_paced() -> None:
    peers = Peers("a")
    opened = [now for now in range(60) if peers["a"].peer_root("b", b"\xff" * 8, float(now)) != []]
    assert opened == [1, 2, 4, 8, 16, 32, 48]


def test_a_large_difference_is_found_in_small_frames() -> None:
    peers = Peers("a", "b", limits=Limits(max_owners=600))
    for number in range(400):
        author = identity(f"n{number}")
        unit = units.encode(
            units.Bucket(author.credential, (1, bytes(8)), 1, 0, 0, {"x": b"1" * 200}), author
        )
        for name in "ab":
            peers[name].admit_owner(author.name, peers.wall)
            if number % 40 != (name == "a"):
                peers[name].bulk_receive("b", push(unit), 0.0, peers.wall)
    assert not peers.agree()
    peers.settle(gossip=False)
    assert peers.agree()
    assert peers["a"].statistics()["owners"] == 402
    assert peers.frames < 120
    assert peers.largest_frame <= MAX_FRAME_BYTES


@fast
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 200)), min_size=1, max_size=80),
    st.randoms(use_true_random=False),
)
def test_receivers_agree_whatever_the_order_in_which_buckets_arrive(
    writes: list[tuple[bool, int, int]], rng: random.Random
) -> None:
    own, expected = OwnMap(400, 128), {}
    signed = []
    for put, number, size in writes:
        key = f"key-{number}"
        places = own.put(key, bytes(size)) if put else own.delete(key)
        if put:
            expected[key] = bytes(size)
        else:
            expected.pop(key, None)
        for depth, prefix in places:
            entries = dict(own.buckets[depth, prefix])
            life = (1 + len(signed) // 20, bytes(8))
            bucket = units.Bucket(b"", life, len(signed) + 1, depth, prefix, entries)
            signed.append((bucket, len(signed).to_bytes(8, "big")))
    roots = []
    for _ in range(3):
        rng.shuffle(signed)
        maps = OwnerMaps(HashTree())
        for bucket, digest in signed:
            if not maps.refusal("a", bucket, digest):
                maps.accept("a", bucket, b"", digest, 0.0)
        assert {key: value for _, key, value in maps.entries()} == expected
        roots.append(sorted(maps.by_digest))
    assert roots[0] == roots[1] == roots[2]
