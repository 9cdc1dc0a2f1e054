"""Events reach the application once, in its author's words, whatever order or company they come in."""

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.identity import Ed25519Identity, domain, verify
from swim.lamport import JOIN_WITNESSES, MAX_JUMP, MAX_TIME, LamportClock, StatementLog
from swim.messages import Boot
from swim.user_events import MAX_EVENT_BYTES, UserEvent, UserEvents


class Signer:
    """An identity whose signature is a hash: enough to tell authors apart, and fast."""

    credential = b""

    def __init__(self, name: str) -> None:
        self.name = name

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.name.encode() + b"\0" + data).digest()


def is_signed(author: str, data: bytes, signature: bytes) -> bool:
    return Signer(author).sign(data) == signature


def member(name: str, *, boot: int = 1, max_buffer: int = 512) -> UserEvents:
    return UserEvents(Signer(name), Boot(boot, bytes([boot]) * 8), is_signed, max_buffer=max_buffer)


def heard(events: UserEvents, *encoded: bytes) -> list[bytes]:
    """The payloads that are delivered."""
    delivered = [events.receive(one, 1.0) for one in encoded]
    return [event.payload for event in delivered if event is not None]


def count(events: UserEvents, what: str) -> int:
    return events.statistics()[f"events_{what}"]


def crafted(author: str, time: int, payload: bytes = b"", *, boot: int = 1, **changes: object) -> bytes:
    """An event as its author's own, other software could sign it."""
    fields = {"kind": 1, "author": author, "boot_time": boot, "boot_id": bytes([boot]) * 8, "time": time,
              "name": "deploy", "payload": payload, **changes}  # fmt: skip
    values = list(fields.values())
    return strict_cbor.encode([*values, Signer(author).sign(domain("event") + strict_cbor.encode(values))])


def test_an_event_is_delivered_to_every_member_as_its_author_fired_it() -> None:
    a, b = member("a"), member("b")
    fired, encoded = a.fire("deploy", b"web 1.2", 5.0)
    got = b.receive(encoded, 7.0)
    assert got == fired == UserEvent("deploy", b"web 1.2", "a", Boot(1, b"\1" * 8), 1, 0.0)
    assert got is not None
    assert (fired.at, got.at) == (5.0, 7.0)


def test_an_event_is_delivered_once_and_not_to_who_fired_it() -> None:
    a, b = member("a"), member("b")
    _, encoded = a.fire("deploy", b"x", 0.0)
    assert heard(b, encoded, encoded, encoded) == [b"x"]
    assert heard(a, encoded) == []
    assert (count(b, "delivered"), count(b, "duplicate"), count(a, "duplicate")) == (1, 2, 1)


def test_what_is_fired_after_hearing_an_event_sorts_after_it() -> None:
    a, b, c = member("a"), member("b"), member("c")
    causes = [a.fire("cause", b"%d" % n, 0.0) for n in range(5)]
    for _, encoded in causes:
        b.receive(encoded, 0.0)
    effect, encoded = b.fire("effect", b"", 0.0)
    orders = [event.order for event, _ in causes]
    assert max(orders) < effect.order
    delivered = [c.receive(one, 0.0) for one in (encoded, *[e for _, e in reversed(causes)])]
    in_order = sorted([event for event in delivered if event], key=lambda event: event.order)
    assert [event.name for event in in_order] == ["cause"] * 5 + ["effect"]


def test_with_real_keys_a_forged_or_altered_event_is_refused() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    keys = {"a": key.public_key().public_bytes_raw(), "m": other.public_key().public_bytes_raw()}

    def check(author: str, data: bytes, signature: bytes) -> bool:
        return author in keys and verify(keys[author], signature, data)

    a = UserEvents(Ed25519Identity("a", key, b""), Boot(1, bytes(8)), check)
    forger = UserEvents(Ed25519Identity("a", other, b""), Boot(1, bytes(8)), check)
    stranger = UserEvents(Ed25519Identity("s", other, b""), Boot(1, bytes(8)), check)
    b = UserEvents(Ed25519Identity("b", other, b""), Boot(1, bytes(16)), check)
    _, genuine = a.fire("deploy", b"web", 0.0)
    assert heard(b, forger.fire("deploy", b"evil", 0.0)[1]) == []
    assert heard(b, stranger.fire("deploy", b"evil", 0.0)[1]) == []
    assert heard(b, genuine.replace(b"web", b"bad")) == []
    assert count(b, "bad_signature") == 3
    assert heard(b, genuine) == [b"web"]


def test_two_events_under_one_time_of_one_boot_are_not_both_believed() -> None:
    b = member("b")
    assert heard(b, crafted("a", 3, b"one"), crafted("a", 3, b"two")) == [b"one"]
    assert count(b, "conflicting") == 1
    assert heard(b, crafted("a", 3, b"after a restart", boot=2), crafted("c", 3, b"of another")) == [
        b"after a restart",
        b"of another",
    ]


# The clock


def test_a_time_far_ahead_is_not_believed_and_moves_the_clock_by_a_bounded_step() -> None:
    b = member("b")
    assert heard(b, crafted("liar", MAX_TIME)) == []
    assert count(b, "too_far_ahead") == 1
    assert b.clock == MAX_JUMP
    assert b.fire("x", b"", 0.0)[0].time == MAX_JUMP + 1
    assert heard(b, crafted("a", 1, b"still heard")) == [b"still heard"]


def test_a_forged_time_moves_nothing() -> None:
    b = member("b")
    assert heard(b, crafted("liar", 1_000)[:-1] + b"?") == []
    assert b.clock == 0


def test_a_leap_within_bounds_does_not_make_the_events_of_others_too_old() -> None:
    b = member("b", max_buffer=8)
    assert heard(b, crafted("liar", MAX_JUMP, b"leap")) == [b"leap"]
    assert heard(b, crafted("a", 2, b"on its way")) == [b"on its way"]


def test_a_clock_that_fell_behind_catches_up() -> None:
    b, far = member("b"), 5 * MAX_JUMP
    for step in range(6):
        heard(b, crafted("a", far + step))
    assert heard(b, crafted("a", far + 10, b"x")) == [b"x"]


def test_events_from_before_a_newcomer_came_are_not_replayed_unless_asked() -> None:
    old, new = member("a"), member("n")
    past = [old.fire("past", b"%d" % n, 0.0)[1] for n in range(3)]
    new.joined(old.clock)
    assert heard(new, *past) == []
    assert count(new, "too_old") == 3
    assert heard(new, old.fire("now", b"now", 0.0)[1]) == [b"now"]
    curious = member("c")
    curious.joined(old.clock, replay=True)
    assert sorted(heard(curious, *past)) == [b"0", b"1", b"2"]


def test_a_newcomer_takes_the_clusters_clock_however_high_and_is_believed() -> None:
    old, new = member("a"), member("n")
    old.joined(100 * MAX_JUMP)
    new.joined(old.clock)
    assert heard(old, new.fire("hello", b"hi", 0.0)[1]) == [b"hi"]


def test_a_first_peer_that_lies_about_the_clock_is_outvoted_by_the_next() -> None:
    old, new = member("a"), member("n")
    old.joined(1_000)
    new.joined(MAX_TIME)
    assert new.fire("lost", b"", 0.0)[0].time > MAX_TIME - 1
    new.joined(old.clock)
    assert heard(old, new.fire("hello", b"hi", 0.0)[1]) == [b"hi"]
    assert heard(new, old.fire("hello", b"ho", 0.0)[1]) == [b"ho"]


@pytest.mark.parametrize("told", [(0, 2**40, 2**40), (2**40, 0, 2**40), (2**40, 2**40, 0)])
def test_one_low_clock_among_three_opens_no_door_to_the_past(told: tuple[int, ...]) -> None:
    new = member("n")
    for clock in told:
        new.joined(clock)
    assert new.clock == 2**40
    assert heard(new, crafted("a", 5, b"of long ago")) == []
    assert heard(new, crafted("a", 2**40 + 1, b"of now")) == [b"of now"]


def test_a_clock_that_is_set_back_repeats_no_time() -> None:
    new = member("n")
    times = [new.fire("e", b"", 0.0)[0].time]
    for clock in (2**40, 0, 2**40, 2**41):
        new.joined(clock)
        times += [new.fire("e", b"", 0.0)[0].time for _ in range(2)]
    assert len(set(times)) == len(times)


def test_after_the_first_peers_a_low_clock_lowers_nothing() -> None:
    new = member("n")
    for _ in range(JOIN_WITNESSES):
        new.joined(5_000)
    new.joined(0)
    assert new.clock == 5_000
    assert heard(new, crafted("a", 4_000)) == []


@given(st.lists(st.integers(0, MAX_TIME), max_size=40))
def test_a_clock_never_goes_back_and_never_leaps(times: list[int]) -> None:
    clock = LamportClock()
    for time in times:
        before = clock.time
        assert clock.witness(time) == (time <= before + MAX_JUMP)
        assert before <= clock.time <= before + MAX_JUMP


# The memory


def test_the_memory_is_bounded_and_what_left_it_is_too_old() -> None:
    b = member("b", max_buffer=4)
    events = [crafted("a", time, b"%d" % time) for time in range(1, 9)]
    assert len(heard(b, *events)) == 8
    assert heard(b, *events) == []
    assert count(b, "too_old") == 4
    assert count(b, "remembered") == 4
    assert count(b, "remembered_bytes") == sum(map(len, events[4:]))


def test_many_authors_at_one_time_are_bounded_too() -> None:
    b = member("b", max_buffer=4)
    crowd = [crafted(f"n{index}", 5, b"x") for index in range(40)]
    delivered = heard(b, *crowd)
    assert len(delivered) >= 16
    assert count(b, "remembered") <= 16
    assert heard(b, *crowd) == []


def test_recent_events_repair_what_gossip_lost() -> None:
    a, b = member("a"), member("b")
    encoded = [a.fire("e", b"%d" % n, 0.0)[1] for n in range(10)]
    heard(b, *encoded[:4])
    assert a.recent(10**6) == encoded
    assert heard(b, *a.recent(10**6)) == [b"%d" % n for n in range(4, 10)]
    assert a.recent(3 * len(encoded[0])) == encoded[-3:]
    assert a.recent(10) == []
    with pytest.raises(ValueError, match="at least 1"):
        StatementLog(max_times=0)


@given(st.permutations(range(12)), st.integers(0, 2**32))
def test_every_order_and_repetition_delivers_the_same_events_once(order: list[int], seed: int) -> None:
    authors = [member(name) for name in "abc"]
    encoded = [authors[n % 3].fire("e", b"%d" % n, 0.0)[1] for n in range(12)]
    rng = random.Random(seed)
    repeated = [encoded[n] for n in order] + [rng.choice(encoded) for _ in range(10)]
    receiver = member("r")
    assert sorted(heard(receiver, *repeated), key=int) == [b"%d" % n for n in range(12)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=80), st.integers(1, 6))
def test_nothing_is_delivered_twice_however_small_the_memory(
    stream: list[tuple[str, int]], max_buffer: int
) -> None:
    receiver = member("r", max_buffer=max_buffer)
    delivered = heard(
        receiver, *[crafted(author, time, f"{author}{time}".encode()) for author, time in stream]
    )
    assert len(delivered) == len(set(delivered))
    assert count(receiver, "remembered") <= 4 * max_buffer


# The form


names = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=16).filter(
    str.isprintable
)


@given(names, st.binary(max_size=512))
def test_whatever_is_fired_is_heard_and_fits(name: str, payload: bytes) -> None:
    _, encoded = member("a" * 63).fire(name, payload, 0.0)
    got = member("b").receive(encoded, 0.0)
    assert got is not None
    assert (got.name, got.payload) == (name, payload)
    assert len(encoded) <= MAX_EVENT_BYTES


def test_the_longest_event_fits() -> None:
    longest = crafted("a" * 63, MAX_JUMP, b"p" * 512, boot=1, boot_time=2**53, name="n" * 64)
    assert heard(member("b"), longest) == [b"p" * 512]
    assert len(longest) <= MAX_EVENT_BYTES - 4  # what a Lamport time near its end takes more


@given(st.binary(max_size=300))
def test_garbage_is_counted_and_changes_nothing(data: bytes) -> None:
    b = member("b")
    assert b.receive(data, 0.0) is None
    assert (count(b, "malformed"), b.clock, count(b, "remembered")) == (1, 0, 0)


@given(st.data())
def test_an_altered_event_is_never_delivered(data: st.DataObject) -> None:
    altered = bytearray(crafted("a", 7, b"payload"))
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    b = member("b")
    assert b.receive(bytes(altered), 0.0) is None
    assert b.clock == 0
    assert count(b, "malformed") + count(b, "bad_signature") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 2},
        {"kind": True},
        {"boot_time": -1},
        {"boot_time": 2**53 + 1},
        {"boot_id": b"short"},
        {"time": 0},
        {"time": MAX_TIME + 1},
        {"time": 1.0},
        {"name": ""},
        {"name": "two\nlines"},
        {"name": "n" * 65},
        {"name": b"bytes"},
        {"payload": b"p" * 513},
        {"payload": "text"},
        {"extra": 0},
    ],
)
def test_a_field_out_of_its_bounds_is_refused(changes: dict[str, object]) -> None:
    b = member("b")
    encoded = crafted("a", 1, **changes) if "time" not in changes else crafted("a", **changes)  # type: ignore[arg-type]
    assert heard(b, encoded) == []
    assert count(b, "malformed") == 1


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [("", b"", "name"), ("n" * 65, b"", "name"), ("\0", b"", "name"), ("n", b"p" * 513, "513 bytes")],
)
def test_what_no_receiver_would_take_cannot_be_fired(name: str, payload: bytes, reason: str) -> None:
    a = member("a")
    with pytest.raises(ValueError, match=reason):
        a.fire(name, payload, 0.0)
    assert a.clock == 0
