"""Many entries are one change of the own map: each bucket signed once, all of it taken or none."""

import random
from collections.abc import Callable

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import units
from swim.map_events import EventsLost
from swim.own_map import OwnMap
from swim.publisher import BULK_BUCKETS
from swim.replicated import Limits, Replicated, StateError
from tests.swim.map_model import Peers, authority, identity

fast = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
Entries = dict[str, bytes]


class Signs:
    """An identity that counts what it signs."""

    def __init__(self, name: str) -> None:
        self._identity = identity(name)
        self.name, self.credential = name, self._identity.credential
        self.count = 0

    def sign(self, data: bytes) -> bytes:
        self.count += 1
        return self._identity.sign(data)


def agents(count: int, priority: int = 50) -> Entries:
    """Entries as the registry has them."""
    return {
        f"agent/agent-{number}/1.0.0": cbor2.dumps([[f"work-{number % 100}"], priority, 255])
        for number in range(count)
    }


def signing() -> tuple[Replicated, Signs]:
    rng, signs = random.Random(1), Signs("a")
    node = Replicated(signs, authority(), rng=rng, entropy=rng.randbytes)
    node.start(0, 0.0, 1_000_000.0)
    return node, signs


def pull(source: Replicated, target: Replicated, peers: Peers) -> None:
    """Let one node take over a stream what it lacks of another."""
    for frame in source.bulk_units(target.bulk_digest()):
        target.bulk_receive(source.name, frame, peers.now, peers.wall)


def test_a_batch_signs_each_bucket_that_it_changes_once() -> None:
    node, signs = signing()
    signs.count = 0
    node.put_many(agents(2000))
    assert signs.count == node.statistics()["buckets"] < 150
    signs.count = 0
    node.put_many(agents(2000, priority=60))
    assert signs.count == node.statistics()["buckets"]
    signs.count = 0
    node.put_many(agents(2000, priority=60))  # which says nothing new
    node.put_many({})
    assert signs.count == 0
    node.put_many(dict.fromkeys(agents(2000)))
    assert signs.count == node.statistics()["buckets"]
    assert (list(node.entries()), node.statistics()["entries"]) == ([], 0)


def test_a_change_of_one_entry_among_thousands_signs_one_bucket() -> None:
    node, signs = signing()
    node.put_many(agents(2000))
    signs.count = 0
    node.put_many({"agent/agent-7/1.0.0": b"new", "agent/stranger/1.0.0": None})
    assert signs.count == 1
    assert node.get("a", "agent/agent-7/1.0.0") == b"new"


def test_four_thousand_and_sixteen_agents_are_one_change_that_a_peer_takes_over_one_stream() -> None:
    peers = Peers("a", "b")
    peers.settle()
    entries = agents(4016)
    peers["a"].put_many(entries)
    pull(peers["a"], peers["b"], peers)
    assert {key: value for owner, key, value in peers["b"].entries() if owner == "a"} == entries
    assert peers.agree()
    assert EventsLost() not in peers["b"].events()
    assert peers["b"].queued() == 1  # its own first bucket: what came over a stream is not gossiped


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({**agents(500), "agent/long/1.0.0": bytes(1000)}, "entry_too_large"),
        ({**agents(500), "": b"1"}, "bad_key"),
        ({f"key-{number}": bytes(500) for number in range(300)}, "entry_too_large"),
        ({"key-1": bytes(2000)}, "entry_too_large"),
    ],
)
def test_a_batch_of_which_one_entry_does_not_fit_is_refused_whole(
    changes: dict[str, bytes | None], code: str
) -> None:
    node, signs = signing()
    node.put_many(agents(100))
    root, held, signed = node.root(), list(node.entries()), signs.count
    for attempt in (node.put_many, node.check):
        with pytest.raises(StateError) as refused:
            attempt(changes)
        assert refused.value.code == code
    assert (node.root(), list(node.entries()), signs.count) == (root, held, signed)
    node.put_many(agents(101))  # and the map goes on as if nothing had been asked
    assert node.statistics()["entries"] == 101


def test_a_check_that_passes_changes_nothing() -> None:
    node, signs = signing()
    root, signed = node.root(), signs.count
    node.check(agents(2000))
    assert (node.root(), signs.count, list(node.entries())) == (root, signed, [])


def test_a_batch_before_the_start_waits_for_it() -> None:
    peers = Peers("b")
    early = peers.create("a")
    early.put_many(agents(500))
    assert early.bulk_waits() == 0
    early.start(0, peers.now, peers.wall)
    peers["b"].admit_owner("a", peers.wall)
    pull(early, peers["b"], peers)
    assert len(list(peers["b"].entries("agent/"))) == 500


def test_after_a_crash_in_the_middle_of_a_batchs_way_the_next_life_is_believed() -> None:
    peers = Peers("a", "b", "c")
    stored = peers["a"].export()
    peers["a"].put_many(agents(1000))
    pull(peers["a"], peers["b"], peers)  # and then it dies, before c has heard anything
    restarted = peers.boot("a", counter=1, stored=stored)
    assert restarted.generation is not None
    restarted.put_many(agents(900, priority=60))
    for _ in range(3):
        peers.settle()
        peers.advance(1.0)
    expected = sorted(agents(900, priority=60).items())
    for name in ("a", "b", "c"):
        assert [(key, value) for owner, key, value in peers[name].entries() if owner == "a"] == expected
    assert peers.agree()


def test_what_streams_could_not_spread_is_gossiped_and_what_was_replaced_meanwhile_is_not() -> None:
    node, _ = signing()
    node.put_many(agents(2000))
    buckets = node.statistics()["buckets"]
    assert (node.queued(), node.statistics()["in_bulk"]) == (0, buckets)
    first = node.bulk_waits()
    node.put_many({"agent/agent-7/1.0.0": b"new"})
    assert (node.queued(), node.statistics()["in_bulk"], node.bulk_waits()) == (1, buckets - 1, first)
    node.put_many(agents(2000, priority=60))
    assert node.bulk_waits() > first
    node.bulk_over(is_spread=False)
    assert (node.bulk_waits(), node.queued()) == (0, buckets)


def test_few_buckets_are_gossiped_as_ever() -> None:
    node, _ = signing()
    node.put_many(agents(100))
    assert 1 < node.statistics()["buckets"] < BULK_BUCKETS
    assert (node.bulk_waits(), node.queued()) == (0, node.statistics()["buckets"])


changed = st.dictionaries(
    st.integers(0, 60).map(lambda number: f"key-{number}"),
    st.one_of(st.none(), st.integers(0, 200).map(bytes)),
    max_size=40,
)


@fast
@given(st.lists(changed, max_size=5))
def test_batches_hold_what_the_same_changes_one_by_one_hold(batches: list[dict[str, bytes | None]]) -> None:
    at_once, singly, expected = OwnMap(400, 128), OwnMap(400, 128), Entries()
    for batch in batches:
        at_once.check(batch)
        places = at_once.change(batch)
        assert places == sorted(set(places))
        for key, value in batch.items():
            (singly.put(key, value) if value is not None else singly.delete(key))
            expected.pop(key, None)
            if value is not None:
                expected[key] = value
        assert _held(at_once) == _held(singly) == expected
        for (depth, prefix), entries in at_once.buckets.items():
            assert units.entries_bytes(entries) <= 400
            assert all(units.prefix_of(key, depth) == prefix for key in entries)


@fast
@given(st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=120), max_size=60))
def test_new_entries_are_cut_into_the_same_buckets_at_once_and_one_by_one(entries: Entries) -> None:
    at_once, singly = OwnMap(400, 128), OwnMap(400, 128)
    at_once.change(entries)
    for key, value in entries.items():
        singly.put(key, value)
    assert at_once.buckets == singly.buckets


@fast
@given(st.lists(changed, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_receivers_of_batches_agree_whatever_the_order_of_arrival(
    batches: list[dict[str, bytes | None]], rng: random.Random
) -> None:
    peers = Peers("a", "b", limits=Limits(max_events=100_000))
    peers.settle()
    seen: dict[bytes, None] = {}
    for batch in batches:
        peers["a"].put_many({key: value and value * 4 for key, value in batch.items()})
        seen.update(dict.fromkeys(peers["a"].own_units()))
    shuffled = list(seen)
    rng.shuffle(shuffled)
    for data in shuffled:
        peers["b"]._state.receive(data, 0, peers.wall, forward=False)
    assert peers.agree()
    follow: dict[str, bytes] = {}
    for event in peers["b"].events():
        owner, key, value = (getattr(event, name, None) for name in ("owner", "key", "value"))
        if owner == "a" and key is not None:
            follow.pop(key, None)
            if value is not None:
                follow[key] = value
    assert sorted(follow.items()) == [(key, value) for _, key, value in peers["a"].entries()]


def _held(own: OwnMap) -> Entries:
    return {key: value for entries in own.buckets.values() for key, value in entries.items()}


@pytest.mark.parametrize(
    "write", [lambda node: node.put_many({"x": b"1"}), lambda node: node.check({"x": b"1"})]
)
def test_a_node_whose_name_another_process_has_publishes_no_batch(
    write: Callable[[Replicated], None],
) -> None:
    node, _ = signing()
    node._publisher.is_stopped = True
    with pytest.raises(StateError) as refused:
        write(node)
    assert refused.value.code == "duplicate_identity"
