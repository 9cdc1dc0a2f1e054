"""Rumours are sent a bounded number of times, the least-sent first, and no traffic starves another."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swim.broadcast import MAX_BURST_RUMOURS, NothingReplicated, Piggyback, RumourQueue
from swim.codec import IN_DATAGRAM, LENGTH_BYTES, decode_message, encode_message
from swim.messages import Left, MapFrame, Statement, UserFrame
from swim.outgoing import BODY_BYTES
from tests.swim.statements import BOOT


def rumour(number: int, incarnation: int = 0) -> Left:
    return Left(f"m{number}", BOOT, incarnation, bytes(64))


def add(queue: RumourQueue, statement: Statement) -> bytes:
    encoded = encode_message(statement)
    queue.add(statement, encoded)
    return encoded


def a_queue(*numbers: int) -> tuple[RumourQueue, list[bytes]]:
    queue = RumourQueue(100)
    return queue, [add(queue, rumour(number)) for number in numbers]


@given(st.lists(st.integers(0, 7), max_size=30), st.integers(130, 600), st.integers(1, 5))
def test_each_rumour_is_sent_its_number_of_times_and_those_sent_least_go_first(
    subjects: list[int], room: int, transmissions: int
) -> None:
    queue = RumourQueue(max_rumours=6)
    for number in subjects:
        add(queue, rumour(number))
    waiting = list(dict.fromkeys(reversed(subjects)))
    assert len(queue) == min(6, len(waiting))
    assert queue.statistics()["rumours_dropped"] >= len(waiting) - len(queue)
    sent: Counter[bytes] = Counter()
    while len(queue):
        taken = queue.take(room, 5, transmissions)
        assert taken
        assert len(set(taken)) == len(taken)
        assert sum(map(len, taken)) + LENGTH_BYTES * len(taken) <= room
        sent.update(taken)
        assert max(sent.values()) - min(sent[encoded] for encoded in taken) <= 1
    assert set(sent.values()) <= {transmissions}
    assert not any(queue.has(f"m{number}") for number in subjects)


def test_of_those_never_sent_the_newest_goes_first_and_of_others_the_one_that_waits_longest() -> None:
    queue, (first, second, third) = a_queue(1, 2, 3)
    assert [queue.take(1000, 1, 9) for _ in range(6)] == [[third], [second], [first]] * 2


def test_newer_news_about_a_subject_replaces_what_waits_and_starts_anew() -> None:
    queue, (old,) = a_queue(1)
    for _ in range(8):
        queue.take(1000, 1, 9)
    new = add(queue, rumour(1, 1))
    assert queue.fresh
    assert not queue.heard(old, 9)
    assert [queue.take(1000, 1, 9) for _ in range(9)] == [[new]] * 9
    assert len(queue) == 0


def test_what_is_heard_again_counts_as_half_a_transmission() -> None:
    queue, (encoded,) = a_queue(1)
    sent = 0
    while len(queue):
        sent += len(queue.take(1000, 1, 8))
        assert queue.heard(encoded, 8) or not len(queue)
    assert 5 <= sent <= 6  # 8 / 1.5
    assert not queue.heard(encoded, 8)


def test_what_was_never_sent_is_sent_however_often_it_is_heard() -> None:
    queue, (encoded,) = a_queue(1)
    for _ in range(100):
        assert queue.heard(encoded, 1)
    assert queue.fresh
    assert queue.take(1000, 1, 1) == [encoded]


@given(st.lists(st.sampled_from(["take", "hear", "add"]), max_size=60), st.integers(1, 6))
def test_hearing_never_makes_a_rumour_go_before_its_first_sending(
    steps: list[str], transmissions: int
) -> None:
    queue = RumourQueue(100)
    never_sent: dict[bytes, None] = {}
    added = 0
    for step in steps:
        if step == "add":
            never_sent[add(queue, rumour(added))] = None
            added += 1
        elif step == "take":
            for encoded in queue.take(300, 2, transmissions):
                never_sent.pop(encoded, None)
        else:
            for number in range(added):
                queue.heard(encode_message(rumour(number)), transmissions)
        assert all(queue.has(f"m{n}") for n in range(added) if encode_message(rumour(n)) in never_sent)


def test_the_most_sent_rumour_leaves_a_full_queue() -> None:
    queue = RumourQueue(2)
    add(queue, rumour(1))
    add(queue, rumour(2))
    queue.take(1000, 1, 9)
    add(queue, rumour(3))
    assert (queue.has("m1"), queue.has("m2"), queue.has("m3")) == (True, False, True)
    assert queue.statistics() == {"rumours_waiting": 2, "rumours_dropped": 1, "rumours_heard_again": 0}


def test_a_rumour_that_does_not_fit_keeps_no_smaller_one_back() -> None:
    queue = RumourQueue(9)
    queue.put("small", b"s" * 30)
    queue.put("large", b"l" * 500)
    assert queue.take(100, 9, 9) == [b"s" * 30]
    assert queue.take(600, 9, 9) == [b"l" * 500, b"s" * 30]


class Units(NothingReplicated):
    """A map with units of one size that wait to be sent, as many of them in a frame as fit."""

    def __init__(self, waiting: int, size: int = 200) -> None:
        self.waiting = waiting
        self.size = size

    def queued(self) -> int:
        return self.waiting

    def fresh(self) -> bool:
        return self.waiting > 0

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        frame_bytes = min(limit_bytes, 1_150)
        frames = []
        for _ in range(limit_bytes // frame_bytes):
            count = min(self.waiting, frame_bytes // self.size)
            self.waiting -= count
            if count:
                frames.append(b"u" * (self.size * count))
        return frames


def a_piggyback(rumours: int, units: int, user: int, user_bytes: int = 200) -> Piggyback:
    queue, _ = a_queue(*range(rumours))
    users = RumourQueue(1_000, what="user_frames")
    for number in range(user):
        users.put(f"u{number}", encode_message(UserFrame(1, number.to_bytes(2, "big") + bytes(user_bytes))))
    return Piggyback(queue, Units(units), users, 1_150)


def kinds(encoded: list[bytes]) -> Counter[str]:
    names = {MapFrame: "map", UserFrame: "user"}
    return Counter(names.get(type(decode_message(one, IN_DATAGRAM)), "rumour") for one in encoded)


WAITING = {"rumour": 0, "map": 1, "user": 2}


@pytest.mark.parametrize("kind", sorted(WAITING))
@settings(max_examples=40)
@given(st.lists(st.integers(260, BODY_BYTES), min_size=9, max_size=9), st.booleans())
def test_whatever_the_others_have_waiting_each_kind_is_in_every_third_packet(
    kind: str, rooms: list[int], floods: bool
) -> None:
    many = 100 if floods else 3
    waiting = [many, many, many]
    waiting[WAITING[kind]] = 60
    piggyback = a_piggyback(*waiting)
    since = 0
    for room in rooms:
        taken = piggyback.fill(room, members=5, transmissions=100)
        assert sum(map(len, taken)) + LENGTH_BYTES * len(taken) <= room
        since = 0 if kinds(taken)[kind] else since + 1
        assert since < 3


@pytest.mark.parametrize("packets", [1, 2, 8])
@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_in_a_burst_of_any_length_each_kind_gets_its_share_and_what_the_others_leave(
    packets: int, rumours: int, units: int, user: int
) -> None:
    room = packets * BODY_BYTES
    taken = a_piggyback(rumours, units, user).burst(room, members=5, transmissions=100)
    assert sum(map(len, taken)) + LENGTH_BYTES * len(taken) <= room
    for kind, count in (("rumour", rumours), ("map", units), ("user", user)):
        alone = not any(other for k, other in zip(WAITING, (rumours, units, user), strict=True) if k != kind)
        share = room if alone else room // 3
        assert kinds(taken)[kind] >= min(count, 1)
        sent = [one for one in taken if kinds([one])[kind]]
        # A unit or rumour more might not have fitted, and a frame of the map has a header.
        assert sum(map(len, sent)) >= min(count * 80, (share - 330) * (0.8 if kind == "map" else 1)), kind
    assert len(set(taken)) >= len(taken) - kinds(taken)["map"]


def test_a_burst_is_bounded_in_number() -> None:
    queue = RumourQueue(5_000)
    for number in range(2_000):
        queue.put(f"m{number}", number.to_bytes(2, "big") + bytes(28))
    piggyback = Piggyback(queue, NothingReplicated(), RumourQueue(9), 1_150)
    assert len(piggyback.burst(10**6, members=5, transmissions=9)) == MAX_BURST_RUMOURS


def test_what_the_packet_already_holds_is_not_put_in_twice() -> None:
    queue, (first, second) = a_queue(1, 2)
    piggyback = Piggyback(queue, NothingReplicated(), RumourQueue(9), 1_150)
    for _ in range(3):
        assert piggyback.fill(1_000, members=5, transmissions=9, already=[first]) == [second]


def test_when_nothing_waits_nothing_is_added() -> None:
    piggyback = a_piggyback(0, 0, 0)
    assert not piggyback.waits()
    assert not piggyback.fresh()
    assert piggyback.fill(BODY_BYTES, members=5, transmissions=9) == []
    assert piggyback.burst(8 * BODY_BYTES, members=5, transmissions=9) == []
