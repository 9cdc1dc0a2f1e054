"""Two members find and repair any difference of their rolls in a few small packets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.codec import IN_DATAGRAM, decode_message
from swim.members import MemberTable
from swim.messages import Alive
from swim.roll import MAX_FRAME_BYTES, Roll, mixed
from tests.swim.test_members import FIRST, alive, record_of, tell


class Side:
    """One member's table and roll, which believes every word it is shown."""

    def __init__(self, name: str, members: dict[str, Alive]) -> None:
        self.table = MemberTable(max_members=10_000, max_remembered=9)
        for said in members.values():
            self.table.insert(record_of(said))
        self.own = record_of(alive(FIRST, 0, name)).encoded
        self.table.roll.add(record_of(alive(FIRST, 0, name)).digest)
        self.roll = Roll(self.table, lambda: self.own, random.Random(name))

    def take(self, frame: bytes) -> list[bytes]:
        words, answers = self.roll.receive(frame)
        for encoded in words:
            said = decoded(encoded)
            record = self.table.get(said.name)
            if record is None:
                self.table.insert(record_of(said))
            else:
                tell(self.table, record, said)
        return answers


def decoded(encoded: bytes) -> Alive:
    said = decode_message(encoded, IN_DATAGRAM)
    assert isinstance(said, Alive)
    return said


def compare(left: Side, right: Side) -> int:
    """Let two compare once, and return how many frames went to and fro."""
    frames = [(right, frame) for frame in left.roll.opening()]
    count = 0
    while frames:
        to, frame = frames.pop(0)
        assert len(frame) <= MAX_FRAME_BYTES
        count += 1
        other = left if to is right else right
        frames += [(other, answer) for answer in to.take(frame)]
    return count


def population(count: int) -> dict[str, Alive]:
    return {f"m{number}": alive(FIRST, 0, f"m{number}") for number in range(count)}


@pytest.mark.parametrize("members", [5, 130, 200, 1_000])
def test_one_word_that_differs_is_found_in_a_handful_of_frames_whatever_the_size(members: int) -> None:
    words = population(members)
    left = Side("a", words | {"m3": alive(FIRST, 1, "m3")})
    right = Side("a", words)
    assert left.roll.root() != right.roll.root()
    assert compare(right, left) <= 5
    assert left.roll.root() == right.roll.root()
    assert right.table.get("m3").alive.incarnation == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("members", [5, 200])
def test_a_word_that_one_side_lacks_is_found_from_either_side(members: int) -> None:
    words = population(members)
    lacking = {name: said for name, said in words.items() if name != "m3"}
    for first in (0, 1):
        sides = Side("a", words), Side("a", lacking)
        assert compare(sides[first], sides[1 - first]) <= 5
        assert sides[0].roll.root() == sides[1].roll.root()


def test_ones_own_word_is_in_the_roll_and_is_handed_out() -> None:
    left, right = Side("a", population(3)), Side("b", population(3))
    compare(left, right)
    assert left.table.get("b") is not None
    assert right.table.get("a") is not None
    assert left.roll.root() == right.roll.root()


@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 2), max_size=30),
    st.dictionaries(st.integers(0, 40), st.integers(0, 2), max_size=30),
)
def test_any_two_rolls_come_to_agree(one: dict[int, int], other: dict[int, int]) -> None:
    sides = [
        Side("a", {f"m{n}": alive(FIRST, incarnation, f"m{n}") for n, incarnation in held.items()})
        for held in (one, other)
    ]
    for _ in range(3):
        compare(*sides)
    assert sides[0].roll.root() == sides[1].roll.root()
    assert {record.name for record in sides[0].table.up()} == {f"m{n}" for n in one.keys() | other.keys()}


def test_many_differences_are_repaired_piece_by_piece() -> None:
    left, right = Side("a", population(600)), Side("a", {})
    rounds = 0
    while left.roll.root() != right.roll.root():
        assert compare(right, left) <= 1 + 8 + 8 * 8  # each frame is answered by at most 8
        rounds += 1
        assert rounds < 60


def test_over_a_stream_one_digest_finds_all_that_is_lacking() -> None:
    left, right = Side("a", population(300)), Side("a", population(280))
    missing = {decoded(word).name for word in left.roll.missing(right.roll.slots())}
    assert {f"m{number}" for number in range(280, 300)} <= missing
    assert right.roll.missing(right.roll.slots()) == []
    assert len(left.roll.slots()) < 41_000


def test_a_frame_that_is_none_is_refused() -> None:
    side = Side("a", population(3))
    for data in (b"", b"x", b"\x80", bytes(2_000), side.roll.opening()[0][:-1]):
        with pytest.raises(ValueError):  # noqa: PT011 (any reason will do)
            side.roll.receive(data)


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_answered_within_bounds(data: bytes) -> None:
    side = Side("a", population(3))
    try:
        _, answers = side.roll.receive(data)
    except ValueError:
        return
    assert len(answers) <= 8


def test_the_root_that_rides_on_probes_is_equal_where_both_roots_are() -> None:
    a, b, c = bytes(range(8)), bytes(range(8, 16)), bytes(8)
    assert mixed(a, b) != mixed(a, c)
    assert mixed(a, b) != mixed(c, b)
    assert mixed(mixed(a, b), a) == b
