"""The maps at full size: 1,001 owners, 12,000 entries and 4,000 registers, in small packets.

All units are signed and verified once, by the node `full`; every other node adopts what it holds.
"""

import random

import pytest

from swim import anti_entropy, strict_cbor, units
from swim.anti_entropy import MAX_REPLY_FRAMES, MAX_SLOTS_DIGEST_BYTES
from swim.comparisons import MAX_REPLIES_PER_S
from swim.hashtree import HashTree
from swim.hlc import stamp_at
from swim.map_events import EventsLost
from swim.replicated import Replicated
from swim.unit_reader import UnitReader
from tests.swim.map_model import MAX_FRAME_BYTES, authority, identity, push

WALL = 1_000_000.0
OWNERS = 1000
ENTRIES_OF_BIG = 2000
REGISTERS = 4000
ANY_ROOT = b"\xff" * 8

READER = UnitReader(10_000)
AUTHORITY = authority()


def create(name: str, like: Replicated | None = None) -> Replicated:
    """Return a node that has started and, perhaps, adopted what another one holds."""
    rng = random.Random(name)
    node = Replicated(identity(name), AUTHORITY, rng=rng, entropy=rng.randbytes, reader=READER)
    if like is not None:
        node.adopt(like)
    return node


def entries_of(number: int) -> dict[str, bytes]:
    return {f"agent/w{entry}/1.0": b"%d" % (number * 10 + entry) for entry in range(10)}


def bucket_of(number: int, version: int = 1) -> bytes:
    owner = identity(f"owner-{number}")
    entries = entries_of(number + version - 1)
    bucket = units.Bucket(owner.credential, (1, bytes(8)), version, 0, 0, entries, int(WALL * 1000))
    return units.encode(bucket, owner)


def buckets() -> list[tuple[str, bytes]]:
    """Return a bucket with ten entries of each of a thousand owners, and the owner's name."""
    return [(f"owner-{number}", bucket_of(number)) for number in range(OWNERS)]


def registers() -> list[bytes]:
    author = identity("owner-1")
    return [
        units.encode(
            units.Register(author.credential, stamp_at(WALL) + number, f"desired/{number}", b"v" * 30, 0),
            author,
        )
        for number in range(REGISTERS)
    ]


@pytest.fixture(scope="module")
def big() -> Replicated:
    """Return the owner of 2,000 entries."""
    node = create("big")
    for number in range(ENTRIES_OF_BIG):
        node.put(f"artifact/{number}", b"v" * 14)
    node.start(0, 0.0, WALL)
    return node


@pytest.fixture(scope="module")
def full(big: Replicated) -> Replicated:
    """Return a node that has received everything."""
    node = create("full")
    node.admit_owner("big", WALL)
    for name, unit in buckets():
        node.admit_owner(name, WALL)
        node.bulk_receive(name, push(unit), 0.0, WALL)
    for unit in (*big.own_units(), *registers()):
        node.bulk_receive("big", push(unit), 0.0, WALL)
    return node


class Exchange:
    """Delivers frames between two nodes and counts what they cost."""

    def __init__(self, one: Replicated, other: Replicated) -> None:
        self.nodes = (one, other)
        self.frames: list[int] = []

    def compare(self, now: float) -> None:
        """Let the first open a comparison, and deliver every answer to every answer."""
        one, other = self.nodes
        one.peer_root(other.name, other.root(), now)
        waiting = [(other, frame) for frame in one.peer_root(other.name, other.root(), now + 30.0)]
        while waiting:
            receiver, frame = waiting.pop(0)
            sender = one if receiver is other else other
            self.frames.append(len(frame))
            replies = receiver.receive(sender.name, frame, now + 30.0, WALL)
            assert len(replies) <= MAX_REPLY_FRAMES
            waiting += [(sender, reply) for reply in replies]

    @property
    def largest(self) -> int:
        return max(self.frames)


def test_everything_is_held(full: Replicated) -> None:
    statistics = full.statistics()
    assert statistics["owners"] == OWNERS + 1
    assert statistics["entries"] == OWNERS * 10 + ENTRIES_OF_BIG
    assert statistics["registers"] == REGISTERS
    assert not [name for name in statistics if name.startswith("dropped_")]
    assert full.get("owner-7", "agent/w3/1.0") == b"73"
    assert full.get("big", "artifact/1999") == b"v" * 14
    assert sum(1 for _ in full.entries("agent/w5/")) == OWNERS


def test_gossip_of_everything_fits_into_frames(big: Replicated) -> None:
    big.bulk_over(is_spread=False)  # as if no stream could be opened
    frames = []
    while big.queued():
        burst = big.broadcasts(8 * MAX_FRAME_BYTES, 2)
        assert sum(map(len, burst)) <= 8 * MAX_FRAME_BYTES
        frames += burst
    assert max(map(len, frames)) <= MAX_FRAME_BYTES
    assert len(frames) >= 4 * 64  # each of at least 64 buckets four times


def test_a_change_among_two_thousand_entries_signs_one_bucket(full: Replicated, big: Replicated) -> None:
    owner = create("big", full)
    for _, key, value in big.entries():
        owner.put(key, value)
    owner.start(1, 0.0, WALL)
    while owner.queued():
        owner.broadcasts(100_000, 1)
    before = dict.fromkeys(owner.own_units())
    owner.put("artifact/7", b"new")
    assert owner.queued() == 1
    assert sum(1 for unit in owner.own_units() if unit not in before) == 1


@pytest.mark.parametrize("held", [50, 500, 5000])
def test_one_differing_unit_costs_a_few_frames_however_many_are_held(full: Replicated, held: int) -> None:
    """The tree is never deeper than two levels, and a level is a frame.

    A bucket that replaces another one makes two branches differ: the one that it is in, and the one
    that the old one was in.
    """
    if held == 5000:
        one, other = create("one", full), create("other", full)
    else:
        one, other = create("one"), create("other")
        for node in (one, other):
            for name, unit in buckets()[: held // 2]:
                node.admit_owner(name, WALL)
                node.bulk_receive(name, push(unit), 0.0, WALL)
            for unit in registers()[: held // 2]:
                node.bulk_receive("peer", push(unit), 0.0, WALL)
    for version, knows in ((2, one), (3, other)):
        assert one.root() == other.root()
        news = bucket_of(5, version)
        knows.bulk_receive("owner-5", push(news), 0.0, WALL)
        assert one.root() != other.root()
        exchange = Exchange(one, other)
        exchange.compare(100.0 * version)
        assert one.root() == other.root()
        assert exchange.largest <= MAX_FRAME_BYTES
        assert len(exchange.frames) <= 6
        assert sum(exchange.frames) <= 3 * MAX_FRAME_BYTES + 2 * len(news)


def test_a_newcomer_gets_everything_in_one_exchange_of_bounded_frames(full: Replicated) -> None:
    newcomer = create("newcomer")
    for name in full.owners():
        newcomer.admit_owner(name, WALL)
    opening = newcomer.bulk_digest()
    assert len(opening) <= 100
    frames, digest = full.bulk_reply(opening)
    assert max(map(len, frames)) <= MAX_FRAME_BYTES
    total = sum(len(unit) + 3 for unit in full.export())
    assert len(frames) <= total / (MAX_FRAME_BYTES - anti_entropy.FRAME_OVERHEAD_BYTES) * 2
    assert sum(map(len, frames)) <= total * 1.1
    for frame in frames[:200]:  # verifying all of them here would take a second and show nothing more
        newcomer.bulk_receive("full", frame, 0.0, WALL)
    assert newcomer.statistics()["units_accepted"] > 200
    assert newcomer.bulk_units(digest) == []  # what it holds the other one holds too
    assert 10 * 2900 < len(digest) <= MAX_SLOTS_DIGEST_BYTES


def test_the_opening_digest_of_a_stream_never_exceeds_41_kB() -> None:
    rng = random.Random(1)
    tree = HashTree()
    for _ in range(60_000):
        tree.add(rng.randbytes(8))
    repair = anti_entropy.AntiEntropy(
        tree, fetch=lambda _: None, rng=rng, max_frame_bytes=MAX_FRAME_BYTES, stand=lambda: (2**62, ANY_ROOT)
    )
    assert 40_960 < len(repair.slots()) <= MAX_SLOTS_DIGEST_BYTES <= 41_000


def test_members_in_step_exchange_a_digest_and_nothing_else(full: Replicated) -> None:
    twin = create("twin", full)
    frames, digest = full.bulk_reply(twin.bulk_digest())
    assert frames == []
    assert twin.bulk_units(digest) == []
    assert full.bulk_digest() is full.bulk_digest()


def test_a_node_that_missed_half_of_it_catches_up_in_bounded_steps(full: Replicated) -> None:
    lacking = create("lacking")
    for number, (name, unit) in enumerate(buckets()):
        lacking.admit_owner(name, WALL)
        if number % 2:
            lacking.bulk_receive(name, push(unit), 0.0, WALL)
    whole = create("whole")
    for name, unit in buckets():
        whole.admit_owner(name, WALL)
        whole.bulk_receive(name, push(unit), 0.0, WALL)
    steps = 0
    while lacking.root() != whole.root():
        exchange = Exchange(lacking, whole)
        exchange.compare(100.0 + 60.0 * steps)
        assert exchange.largest <= MAX_FRAME_BYTES
        assert len(exchange.frames) <= 1 + 2 * MAX_REPLIES_PER_S
        steps += 1
    assert steps < 20
    assert lacking.statistics()["entries"] == OWNERS * 10


def test_a_summary_of_a_crowded_branch_still_fits(full: Replicated) -> None:
    """80 digests in a branch are listed at once; 200 are looked into slot by slot."""
    twin, empty = create("twin", full), create("empty")
    (opening,) = empty.peer_root("twin", twin.root(), 0.0) or empty.peer_root("twin", twin.root(), 30.0)
    replies = twin.receive("empty", opening, 30.0, WALL)
    hashes = strict_cbor.encode([2, 0, bytes(8), 0, b"\xee" * 512])
    replies += twin.receive("empty", hashes, 30.0, WALL)
    assert 0 < len(replies) <= 2 * MAX_REPLY_FRAMES
    assert max(map(len, replies)) <= MAX_FRAME_BYTES


# Adopting


def test_who_adopts_shares_every_unit_and_goes_on_alone(full: Replicated) -> None:
    twin = create("twin", full)
    assert twin.root() == full.root()
    assert twin.statistics()["entries"] == full.statistics()["entries"]
    shared, held = full._maps.by_digest, twin._maps.by_digest
    assert shared is not held
    assert all(held[digest] is shared[digest] for digest in shared)
    root = full.root()
    twin.start(0, 0.0, WALL)
    twin.put("x", b"1")
    twin.cluster_put("desired/1", b"changed", WALL + 10)
    twin.forget("owner-9")
    assert full.root() == root
    assert twin.root() != root
    assert full.cluster_get("desired/1") == b"v" * 30
    assert full.get("owner-9", "agent/w1/1.0") == b"91"
    assert twin.get("owner-9", "agent/w1/1.0") is None
    assert full.get("twin", "x") is None


def test_views_of_who_adopts_are_built_anew(full: Replicated) -> None:
    twin = create("twin")
    twin.put("x", b"1")
    twin.start(0, 0.0, WALL)
    twin.events()
    twin.adopt(full)
    assert twin.events() == [EventsLost()]
    assert twin.get("twin", "x") == b"1"
    assert twin.queued() == 1


def test_many_members_start_in_step_by_adopting_from_one_that_received_all() -> None:
    names = [f"n{number}" for number in range(20)]
    nodes = [create(name) for name in names]
    for node in nodes:
        node.put("key", node.name.encode())
        node.start(0, 0.0, WALL)
        node.set_load(node.name.encode(), 0.0)
        nodes[0].admit_owner(node.name, WALL)
        for frame in node.bulk_units(nodes[0].bulk_digest()):
            nodes[0].bulk_receive(node.name, frame, 0.0, WALL)
    for node in nodes:
        node.adopt(nodes[0])
    assert len({node.root() for node in nodes}) == 1
    for node in nodes:
        assert [value for _, key, value in node.entries() if key == "key"] == [
            b"%b" % n.encode() for n in sorted(names)
        ]
        assert [node.load(name) for name in names] == [name.encode() for name in names]
        assert node.own_units() != []
        node.put("key", b"later")
    assert len({node.root() for node in nodes}) == 20


def test_the_own_map_of_an_earlier_life_teaches_the_counter_only(full: Replicated) -> None:
    reborn = create("owner-3", full)
    assert reborn.get("owner-3", "agent/w1/1.0") is None
    assert full.get("owner-3", "agent/w1/1.0") == b"31"
    assert reborn.statistics()["owners"] == OWNERS
    assert reborn.next_counter(0) == 2
    assert reborn.root() != full.root()


def test_what_would_be_lost_is_not_replaced(full: Replicated) -> None:
    twin = create("twin")
    twin.cluster_put("only here", b"1", WALL)
    with pytest.raises(ValueError, match="lacks something"):
        twin.adopt(full)
    other = create("other")
    author = identity("stranger")
    other.admit_owner("stranger", WALL)
    bucket = units.Bucket(author.credential, (1, bytes(8)), 1, 0, 0, {"x": b"1"})
    other.bulk_receive("stranger", push(units.encode(bucket, author)), 0.0, WALL)
    with pytest.raises(ValueError, match="lacks something"):
        other.adopt(full)
