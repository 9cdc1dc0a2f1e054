"""What strangers send to the maps: refused, counted, bounded."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import strict_cbor, units
from swim.hashtree import HashTree
from swim.hlc import stamp_at
from swim.map_events import (
    EventsLost,
)
from swim.owner_maps import OwnerMaps
from swim.replicated import Limits, StateError
from tests.swim.map_model import MAX_FRAME_BYTES, Peers, identity, push

fast = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("kind", ["bucket", "register", "load", "retirement"])
def test_a_unit_altered_by_one_byte_is_rejected_and_counted(kind: str) -> None:
    peers = Peers("a", "b", roster="ab")
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


def test_a_peer_gets_only_so_many_replies_a_second() -> None:
    peers = Peers("a")
    for number in range(300):
        peers["a"].put(f"key-{number}", b"v" * 40)
    nothing = strict_cbor.encode([3, 0, bytes(8), 0, b"\xff" * 8, b""])
    replies = [len(peers["a"].receive("b", nothing, 0.0, peers.wall)) for _ in range(30)]
    assert max(replies) <= 8
    assert sum(replies) == 64
    assert peers["a"].receive("b", nothing, 1.0, peers.wall)


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
