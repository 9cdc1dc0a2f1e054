import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import strict_cbor, units
from swim.hashtree import HashTree
from swim.hlc import ClockSkewError, HybridClock, stamp_at, wall_of
from swim.map_events import (
    BehindHorizon,
    ClusterChanged,
    ClusterConflict,
    DuplicateIdentity,
    EntryChanged,
    EventsLost,
    OwnerForgotten,
    OwnerReset,
    Rebased,
)
from swim.own_map import OwnMap
from swim.owner_maps import OwnerMaps
from swim.replicated import Limits, StateError
from swim.unit_queue import UnitQueue, max_transmissions
from tests.swim.map_model import CLUSTER, MAX_FRAME_BYTES, Peers, authority, identity, push

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


@pytest.mark.parametrize("seed", range(6))
def test_a_lost_disk_converges_even_if_no_peer_was_asked_first(seed: int) -> None:
    peers = Peers("a", "b", seed=seed)
    for number in range(100):
        peers["a"].put(f"key-{number}", b"v" * 40)
    peers.settle()
    peers.boot("a", counter=0)  # the same counter again: an old life looks like a duplicate
    peers["a"].put("new", b"1")
    peers.settle()
    duplicates = [e for e in peers["a"].events() if isinstance(e, DuplicateIdentity)]
    if [event.stays for event in duplicates] == [
        False
    ]:  # it stops with an error; its next start has learned the counter
        peers.boot("a", counter=1, stored=peers["a"].export())
        peers["a"].put("new", b"1")
        peers.settle()
    assert peers.agree()
    assert [key for _, key, _ in peers["b"].entries()] == ["new"]


def test_learning_the_counter_before_start() -> None:
    peers = Peers("a", "b")
    peers["a"].put("x", b"1")
    peers.settle()
    fresh = peers.create("a")
    for unit in peers["b"].bulk_units(fresh.bulk_digest()):
        fresh.bulk_receive("b", unit, peers.now, peers.wall)
    assert fresh.start(0, peers.now, peers.wall)[0] == 2


def test_a_load_told_before_the_start_goes_out_at_the_start_and_leaves_no_timer_in_the_past() -> None:
    fresh = Peers("a").create("b")
    fresh.set_load(b"\x07", 10.0)
    fresh.start(0, 12.0, 1e9)
    due = fresh.next_timer()
    assert due is not None
    assert due > 12.0
    assert fresh.load("b") == b"\x07"


def test_a_higher_own_generation_makes_a_node_rebase() -> None:
    peers = Peers("a", "b")
    peers.boot("a", counter=8)
    peers["a"].put("old", b"1")
    peers.settle()
    peers.boot("a", counter=0)
    peers["a"].put("new", b"2")
    peers["b"].events()
    peers.settle()
    assert peers["a"].generation is not None
    assert peers["a"].generation[0] == 10
    assert Rebased(peers["a"].generation) in peers["a"].events()
    assert [key for _, key, _ in peers["b"].entries()] == ["new"]
    assert OwnerReset("a", peers["a"].generation) in peers["b"].events()


def test_of_two_processes_with_one_name_the_higher_boot_id_stays() -> None:
    peers = Peers("a", "b")
    twin = peers.create("a")
    twin.start(0, 0.0, peers.wall)
    twin.put("x", b"twin")
    peers["a"].put("x", b"first")
    for frame in twin.broadcasts(5000, 3):
        peers["a"].receive("b", frame, 0.0, peers.wall)
    for frame in peers["a"].broadcasts(5000, 3):
        twin.receive("b", frame, 0.0, peers.wall)
    one = [event for event in peers["a"].events() if isinstance(event, DuplicateIdentity)]
    two = [event for event in twin.events() if isinstance(event, DuplicateIdentity)]
    assert [event.stays for event in one] != [event.stays for event in two]
    loser = twin if one[0].stays else peers["a"]
    with pytest.raises(StateError, match="another process") as failure:
        loser.put("y", b"1")
    assert failure.value.code == "duplicate_identity"


def test_a_half_arrived_generation_does_not_look_like_a_deletion() -> None:
    peers = Peers("a", "b")
    for number in range(100):
        peers["a"].put(f"key-{number}", b"v" * 40)
    peers.settle()
    reborn = peers.create("a")
    for number in range(100):
        reborn.put(f"key-{number}", b"v" * 40)
    reborn.start(1, peers.now, peers.wall)
    assert len(reborn.own_units()) > 4
    for unit in reborn.own_units():
        peers["b"].bulk_receive("a", push(unit), peers.now, peers.wall)
        assert len(list(peers["b"].entries())) == 100
    assert peers["b"].own_units() != []
    assert sorted(u for u in peers["b"].export() if u in reborn.own_units()) == sorted(reborn.own_units())


def test_a_reaped_owner_does_not_come_back_by_hearsay() -> None:
    peers = Peers("a", "b", "c")
    peers["a"].put("x", b"1")
    peers.settle()
    peers["b"].events()
    peers["b"].forget("a")
    assert peers["b"].events() == [EntryChanged("a", "x", None), OwnerForgotten("a")]
    peers.settle(rounds=5)
    assert peers["b"].get("a", "x") is None
    assert peers["b"].statistics()["quarantined"] == 1
    peers["b"].admit_owner("a", peers.wall)
    assert peers["b"].get("a", "x") == b"1"
    peers.settle()
    assert peers.agree()


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


def three_with_a_roster() -> Peers:
    peers = Peers("a", "b", "c")
    for name in "abc":
        peers[name].set_roster("abc")
    return peers


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
    peers["c"].set_roster("abc")
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


def test_a_node_survives_a_restart_with_its_disk() -> None:
    peers = three_with_a_roster()
    peers["b"].put("x", b"1")
    peers["a"].cluster_put("y", b"2", peers.wall)
    peers.settle()
    stored = peers["a"].export()
    peers.partition("a")
    again = peers.boot("a", stored=stored)
    assert again.generation is not None
    assert again.generation[0] == 2
    assert again.cluster_get("y") == b"2"
    assert again.get("b", "x") == b"1"


def test_an_altered_disk_is_not_believed() -> None:
    peers = Peers("a", "b")
    peers["b"].put("x", b"value")
    peers.settle()
    stored = [unit.replace(b"value", b"velue") for unit in peers["a"].export()]
    peers.partition("a")
    again = peers.boot("a", stored=stored)
    assert again.get("b", "x") is None
    assert again.statistics()["dropped_bad_signature"] == 1


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


def test_expired_owners_go() -> None:
    peers = Peers("a", "b")
    short = identity("c", not_after=peers.wall + 10)
    for name in "ab":
        peers[name].admit_owner("c", peers.wall)
    bucket = units.Bucket(short.credential, (1, bytes(8)), 1, 0, 0, {"x": b"1"})
    unit = units.encode(bucket, short)
    peers["a"].bulk_receive("c", push(unit), 0.0, peers.wall)
    assert peers["a"].get("c", "x") == b"1"
    peers.advance(20.0)
    assert peers["a"].get("c", "x") is None
    peers["a"].bulk_receive("c", push(unit), 0.0, peers.wall)
    assert peers["a"].statistics()["dropped_credential_refused"] == 1


@pytest.mark.parametrize("kind", ["bucket", "register", "load", "retirement"])
def test_a_unit_altered_by_one_byte_is_rejected_and_counted(kind: str) -> None:
    peers = Peers("a", "b")
    author = identity("b")
    life = (7, b"8 bytes.")
    stamp = stamp_at(peers.wall)
    unit = units.encode(
        {
            "bucket": units.Bucket(author.credential, life, 1, 0, 0, {"key": b"value"}),
            "register": units.Register(author.credential, stamp, "key", b"value", 0),
            "load": units.Load(author.credential, life, 1, b"load"),
            "retirement": units.Retirement(author.credential, stamp, 0, ((units.key_hash("k"), stamp),)),
        }[kind],
        author,
    )
    node = peers["a"]
    before = node.root()
    for position in range(len(unit)):
        altered = bytearray(unit)
        altered[position] ^= 1 << position % 8
        node.receive("b", push(bytes(altered)), 0.0, peers.wall)
        assert node.root() == before
        assert node.load("b") is None
    statistics = node.statistics()
    assert statistics["dropped_bad_signature"] > 0
    rejected = sum(count for name, count in statistics.items() if name.startswith("dropped_"))
    assert rejected == len(unit)
    node.receive("b", push(unit), 0.0, peers.wall)
    assert node.root() != before or node.load("b") == b"load"


def test_a_bucket_signed_by_another_node_is_rejected() -> None:
    peers = Peers("a", "b", "c")
    victim, forger = identity("b"), identity("c")
    forged = units.Bucket(victim.credential, (99, bytes(8)), 1, 0, 0, {})
    fields = strict_cbor.decode(units.encode(forged, forger), max_bytes=2000)
    peers["a"].receive("c", push(strict_cbor.encode(fields)), 0.0, peers.wall)
    assert peers["a"].statistics()["dropped_bad_signature"] == 1


hostile = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(st.integers(-1, 6), st.binary(max_size=600), st.text(max_size=5), st.none(), st.booleans()),
        max_size=9,
    ).map(strict_cbor.encode),
    st.tuples(st.integers(1, 5), st.integers(0, 2**64), st.just(bytes(8)), st.integers(-1, 70)).flatmap(
        lambda head: st.tuples(*map(st.just, head), st.binary(max_size=40)).map(
            lambda fields: strict_cbor.encode(list(fields))
        )
    ),
    st.lists(
        st.lists(st.one_of(st.integers(0, 5), st.binary(max_size=70)), max_size=9).map(strict_cbor.encode),
        max_size=4,
    ).map(lambda pushed: push(*pushed)),
)


@fast
@given(st.lists(hostile, max_size=8))
def test_garbage_is_dropped_and_changes_nothing(frames: list[bytes]) -> None:
    peers = Peers("a")
    peers["a"].put("x", b"1")
    root = peers["a"].root()
    for frame in frames:
        replies = peers["a"].receive("b", frame, 0.0, peers.wall)
        assert len(replies) <= 8
        assert all(len(reply) <= MAX_FRAME_BYTES for reply in replies)
        peers["a"].bulk_receive("b", frame, 0.0, peers.wall)
        peers["a"].bulk_units(frame)
        peers["a"].load_units([frame], peers.wall)
    assert peers["a"].root() == root


def test_every_table_is_bounded() -> None:
    limits = Limits(
        max_owners=3, max_buckets=4, max_quarantined=2, max_registers=3, max_queued=5, max_events=8
    )
    peers = Peers("a", limits=limits)
    node = peers["a"]

    def fill() -> None:
        for number in range(1000):
            node.put(f"key-{number}", b"v" * 100)

    with pytest.raises(StateError, match="full") as failure:
        fill()
    assert failure.value.code == "entry_too_large"
    for number in range(3):
        node.cluster_put(f"key-{number}", b"v", peers.wall)
    with pytest.raises(StateError, match="3 keys"):
        node.cluster_put("one more", b"v", peers.wall)
    for number in range(10):
        author = identity(f"n{number}")
        unit = units.encode(units.Bucket(author.credential, (1, bytes(8)), 1, 0, 0, {"x": b"1"}), author)
        node.receive("b", push(unit), 0.0, peers.wall)
    assert node.statistics()["quarantined"] == 2
    for number in range(10):
        node.admit_owner(f"n{number}", peers.wall)
    statistics = node.statistics()
    assert statistics["known_owners"] == 3
    assert statistics["dropped_too_many_owners"] == 8
    assert statistics["queued"] <= 5
    events = node.events()
    assert len(events) <= 8
    assert events[0] == EventsLost()


def test_too_many_registers_and_buckets_of_others_are_refused() -> None:
    peers = Peers("a", "b", limits=Limits(max_registers=2, max_buckets=2))
    author = identity("b")
    for number in range(4):
        register = units.Register(author.credential, stamp_at(peers.wall), f"key-{number}", b"", 0)
        peers["a"].receive("b", push(units.encode(register, author)), 0.0, peers.wall)
        bucket = units.Bucket(author.credential, (9, bytes(8)), number + 1, 2, number, {})
        peers["a"].receive("b", push(units.encode(bucket, author)), 0.0, peers.wall)
    assert peers["a"].statistics()["dropped_too_many_registers"] == 2
    assert peers["a"].statistics()["dropped_too_many_buckets"] == 2
    whole = units.Bucket(author.credential, (9, bytes(8)), 9, 0, 0, {})
    peers["a"].receive("b", push(units.encode(whole, author)), 0.0, peers.wall)
    assert peers["a"].statistics()["buckets"] == 2  # the own one, and one for all of b's range


@pytest.mark.parametrize("key", ["", "x" * 161, "ä" * 81, "\ud800"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    node = Peers("a")["a"]
    with pytest.raises(StateError, match="cannot be a key"):
        node.put(key, b"")
    with pytest.raises(StateError, match="cannot be a key"):
        node.cluster_put(key, b"", 0.0)


def test_what_does_not_fit_is_refused() -> None:
    node = Peers("a")["a"]
    with pytest.raises(StateError, match="entry takes at most"):
        node.put("x", bytes(1000))
    with pytest.raises(StateError, match="take more than"):
        node.cluster_put("x", bytes(1000), 0.0)
    with pytest.raises(StateError, match="quantise"):
        node.set_load(bytes(33), 0.0)
    node.put("x" * 160, bytes(node.max_value_bytes - 170))
    node.cluster_put("x" * 160, bytes(node.max_value_bytes - 160), 1e9)
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in node.broadcasts(10_000, 3))
    assert sum(len(unit) > 1000 for unit in node.export()) == 2


def test_a_credential_that_counts_nowhere_stops_the_start() -> None:
    peers = Peers()
    node = peers.create("a")
    with pytest.raises(StateError, match="expired or of another cluster"):
        node.start(0, 0.0, 5e9)
    assert authority().cluster == CLUSTER


def test_a_peer_gets_only_so_many_replies_a_second() -> None:
    peers = Peers("a")
    for number in range(300):
        peers["a"].put(f"key-{number}", b"v" * 40)
    nothing = strict_cbor.encode([3, 0, bytes(8), 0, b"\xff" * 8, b""])
    replies = [len(peers["a"].receive("b", nothing, 0.0, peers.wall)) for _ in range(30)]
    assert max(replies) <= 8
    assert sum(replies) == 64
    assert peers["a"].receive("b", nothing, 1.0, peers.wall)


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


# Parts


@fast
@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=8, max_size=8)), max_size=60))
def test_a_hash_tree_is_a_function_of_its_set(changes: list[tuple[bool, bytes]]) -> None:
    tree, present = HashTree(), {}
    for add, digest in changes:
        if add:
            tree.add(digest)
            present[digest] = None
        else:
            tree.remove(digest)
            present.pop(digest, None)
    rebuilt = HashTree()
    for digest in sorted(present, reverse=True):
        rebuilt.add(digest)
    assert tree.root == rebuilt.root
    assert tree.size == len(present)
    assert all(digest in tree for digest in present)
    listed = [d for child in range(64) for d in tree.digests(0, child)]
    assert listed == sorted(present)
    assert tree.differing(0, rebuilt.hashes(0)) == []


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


def test_units_sent_least_go_first_and_each_a_bounded_number_of_times() -> None:
    queue = UnitQueue()
    queue.add(b"old", b"o" * 10)
    assert queue.take(13, 10, 3) == [b"o" * 10]
    queue.add(b"new", b"n" * 10)
    assert queue.take(13, 10, 3) == [b"n" * 10]
    sent = 2
    while len(queue):
        sent += len(queue.take(100, 10, 3))
    assert sent == 2 * max_transmissions(10)
    assert [max_transmissions(n) for n in (1, 3, 9, 10, 99, 100)] == [4, 4, 4, 8, 8, 12]


@fast
@given(st.lists(st.tuples(st.sampled_from("qqqqrf"), st.integers(0, 3), st.integers(0, 6)), max_size=60))
def test_quarantine_keeps_the_last_buckets_of_each_stranger(steps: list[tuple[str, int, int]]) -> None:
    maps = OwnerMaps(HashTree(), max_quarantined=5)
    waiting: dict[bytes, str] = {}
    for what, owner_number, number in steps:
        owner, digest = f"owner-{owner_number}", bytes([owner_number, number])
        if what == "q" and digest not in waiting:  # one that waits is not received again
            maps.quarantine(owner, b"unit " + digest, digest)
            waiting[digest] = owner
            if len(waiting) > 5:
                del waiting[next(iter(waiting))]
        elif what == "r":
            expected = [b"unit " + at for at, name in waiting.items() if name == owner]
            assert maps.release(owner) == expected
        elif what == "f":
            assert maps.forget(owner) == ([], [])
        if what in "rf":
            waiting = {at: name for at, name in waiting.items() if name != owner}
        assert maps.statistics()["quarantined"] == len(waiting)
        assert all(maps.is_waiting(at) for at in waiting)
    assert sorted(maps._strangers) == sorted(set(waiting.values()))
