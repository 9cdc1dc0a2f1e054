"""Anti-entropy over opaque units: what the tree of members' statements needs of it."""

import random
from hashlib import sha256

import pytest

from swim import anti_entropy
from swim.anti_entropy import MAX_REPLY_FRAMES, MIN_FRAME_BYTES, NOWHERE, AntiEntropy
from swim.hashtree import HashTree

MAX_FRAME_BYTES = 1150


class Statements:
    """Holds opaque statements, known by the first 8 bytes of their SHA-256."""

    def __init__(self, seed: int = 0, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.tree = HashTree()
        self.units: dict[bytes, bytes] = {}
        self.repair = AntiEntropy(
            self.tree, fetch=self.units.get, rng=random.Random(seed), max_frame_bytes=max_frame_bytes
        )
        self.frame_bytes: list[int] = []

    def add(self, unit: bytes) -> None:
        digest = sha256(unit).digest()[:8]
        self.units[digest] = unit
        self.tree.add(digest)

    def remove(self, unit: bytes) -> None:
        digest = sha256(unit).digest()[:8]
        del self.units[digest]
        self.tree.remove(digest)

    def receive(self, data: bytes) -> list[bytes]:
        self.frame_bytes.append(len(data))
        frame = anti_entropy.decode(data, max_bytes=self.repair.max_frame_bytes)
        assert (frame.horizon, frame.cluster_root) == NOWHERE
        for unit in frame.units:
            self.add(unit)
        replies = self.repair.answer(frame)
        assert len(replies) <= MAX_REPLY_FRAMES
        return replies


def statements(count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(250, 700)) for _ in range(count)]


def compare(one: Statements, other: Statements) -> int:
    """Let one open a comparison, answer until nobody has more to say; return the frames it took."""
    waiting = [(other, frame) for frame in one.repair.opening()]
    count = 0
    while waiting:
        count += 1
        receiver, frame = waiting.pop(0)
        sender = one if receiver is other else other
        waiting += [(sender, reply) for reply in receiver.receive(frame)]
    return count


@pytest.mark.parametrize("count", [0, 50, 1000, 5000])
def test_one_differing_unit_among_many_takes_a_handful_of_small_frames(count: int) -> None:
    one, other = Statements(1), Statements(2)
    for unit in statements(count):
        one.add(unit)
        other.add(unit)
    for holder in (one, other):
        assert one.tree.root == other.tree.root
        news = b"news of " + bytes([holder is one]) * 400
        holder.add(news)
        one.frame_bytes, other.frame_bytes = [], []
        assert compare(one, other) <= 5
        assert one.units == other.units
        assert sum(one.frame_bytes + other.frame_bytes) <= 2 * 600 + 1150 + 600
    assert max(one.frame_bytes + other.frame_bytes) <= MAX_FRAME_BYTES


def test_sets_that_differ_everywhere_come_together_in_bounded_steps() -> None:
    one, other = Statements(1), Statements(2)
    for number, unit in enumerate(statements(1500)):
        if number % 3:
            one.add(unit)
        if number % 2:
            other.add(unit)
    steps = 0
    while one.tree.root != other.tree.root:
        frames = compare(one, other) if steps % 2 else compare(other, one)
        # the opening, 8 summaries or hashes, and what each of them brings
        assert frames <= 1 + MAX_REPLY_FRAMES * (1 + MAX_REPLY_FRAMES * (1 + MAX_REPLY_FRAMES))
        steps += 1
    assert steps < 60
    assert sorted(one.units) == sorted(other.units)
    assert len(one.units) == 1250
    assert max(one.frame_bytes + other.frame_bytes) <= MAX_FRAME_BYTES


def test_a_newcomer_gets_all_over_a_stream_in_frames_within_the_bound() -> None:
    old, new = Statements(1), Statements(2)
    for unit in statements(5000):
        old.add(unit)
    digest = new.repair.slots()
    assert len(digest) <= 60
    frames = old.repair.missing(anti_entropy.decode(digest, max_bytes=anti_entropy.MAX_SLOTS_DIGEST_BYTES))
    assert max(map(len, frames)) <= MAX_FRAME_BYTES
    for frame in frames:
        assert new.receive(frame) == []
    assert new.tree.root == old.tree.root
    digest = old.repair.slots()
    assert 4000 < len(digest) < anti_entropy.MAX_SLOTS_DIGEST_BYTES
    assert (
        new.repair.missing(anti_entropy.decode(digest, max_bytes=anti_entropy.MAX_SLOTS_DIGEST_BYTES)) == []
    )


def test_a_unit_that_is_gone_is_not_offered() -> None:
    one, other = Statements(1), Statements(2)
    units = statements(3)
    for unit in units:
        one.add(unit)
    one.remove(units[1])
    compare(other, one)
    assert sorted(other.units.values()) == sorted([units[0], units[2]])


def test_frames_too_small_for_a_node_of_the_tree_are_refused() -> None:
    Statements(max_frame_bytes=MIN_FRAME_BYTES)
    with pytest.raises(ValueError, match="at least 552 bytes"):
        Statements(max_frame_bytes=MIN_FRAME_BYTES - 1)
