"""Packets are private, authentic, bound to their cluster and channel, and accepted once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.keyring import (
    MAX_BOOTS,
    MAX_KEYS,
    MAX_OVERHEAD_BYTES,
    REPLAY_WINDOW,
    VERSIONS,
    Channel,
    Keyring,
    PlainEnvelope,
)
from swim.messages import DecodeError

OLD, NEW = b"o" * 32, b"n" * 32
D, S = Channel.DATAGRAM, Channel.STREAM


HEADER_BYTES = MAX_OVERHEAD_BYTES - 16


def ring(*keys: bytes, seed: int = 1, label: str = "test", versions: tuple[int, int] = VERSIONS) -> Keyring:
    return Keyring(keys or (OLD,), label=label, entropy=random.Random(seed).randbytes, versions=versions)


def plain(*, seed: int = 1, versions: tuple[int, int] = VERSIONS) -> PlainEnvelope:
    return PlainEnvelope("test", versions=versions)


def refusal(receiver: Keyring | PlainEnvelope, data: bytes, channel: Channel = D) -> str:
    with pytest.raises(DecodeError) as caught:
        receiver.open(channel, data)
    return caught.value.reason


def test_a_sealed_body_is_opened_by_a_peer_and_hides_its_content() -> None:
    sealed = ring(seed=1).seal(D, b"secret body")
    assert b"secret" not in sealed
    assert len(sealed) == len(b"secret body") + MAX_OVERHEAD_BYTES
    assert ring(seed=2).open(D, sealed) == b"secret body"


def test_a_replay_is_refused_and_packets_may_overtake_each_other() -> None:
    sender, receiver = ring(seed=1), ring(seed=2)
    packets = [sender.seal(D, bytes([n % 256])) for n in range(REPLAY_WINDOW + 2)]
    assert receiver.open(D, packets[5]) == b"\x05"
    assert receiver.open(D, packets[3]) == b"\x03"
    assert refusal(receiver, packets[5]) == "replay"
    assert refusal(receiver, packets[3]) == "replay"
    assert receiver.open(D, packets[-1])
    assert refusal(receiver, packets[0]) == "replay"  # too old to tell
    assert receiver.open(D, packets[4]) == b"\x04"


@given(st.lists(st.integers(0, 40), max_size=60))
def test_each_packet_is_opened_at_most_once_in_any_order(order: list[int]) -> None:
    sender, receiver = ring(seed=1), ring(seed=2)
    packets = [sender.seal(D, bytes([n])) for n in range(41)]
    opened = set()
    for number in order:
        if number in opened:
            assert refusal(receiver, packets[number]) == "replay"
        else:
            assert receiver.open(D, packets[number]) == bytes([number])
            opened.add(number)


def test_another_key_label_or_channel_is_refused() -> None:
    sealed = ring(OLD).seal(D, b"x")
    assert refusal(ring(NEW, seed=2), sealed) == "unknown_key"
    assert refusal(ring(OLD, seed=2, label="other"), sealed) == "not_authentic"
    assert refusal(ring(OLD, seed=2), sealed, S) == "wrong_channel"
    assert refusal(ring(OLD, seed=2), PlainEnvelope("test").seal(D, b"x" * 60)) == "unencrypted"


@given(st.data())
def test_an_altered_packet_is_refused_and_spends_no_number(data: st.DataObject) -> None:
    sealed = ring(seed=1).seal(D, b"some body")
    receiver = ring(seed=2)
    altered = bytearray(sealed)
    altered[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    assert refusal(receiver, bytes(altered))
    assert receiver.open(D, sealed) == b"some body"
    assert receiver.statistics()["senders"] == 1


@given(st.binary(max_size=100))
def test_garbage_is_refused_and_remembered_by_nobody(data: bytes) -> None:
    receiver = ring()
    assert refusal(receiver, data)
    assert receiver.statistics()["senders"] == 0
    assert refusal(PlainEnvelope("test"), data)


def test_rotation_loses_no_packet_and_repeats_no_nonce() -> None:
    sender, receiver = ring(OLD, seed=1), ring(OLD, seed=2)
    headers = []

    def pass_one() -> None:
        sealed = sender.seal(D, b"x")
        headers.append(sealed[2:HEADER_BYTES])
        assert receiver.open(D, sealed) == b"x"

    pass_one()
    sender.add(NEW)
    receiver.add(NEW)
    pass_one()
    sender.use(NEW)
    pass_one()
    sender.use(OLD)
    pass_one()
    sender.use(NEW)
    pass_one()
    assert len(set(headers)) == len(headers)
    receiver.use(NEW)
    receiver.remove(OLD)
    sender.use(OLD)
    assert refusal(receiver, sender.seal(D, b"x")) == "unknown_key"


def test_packets_of_a_removed_key_are_refused_even_from_a_sender_that_was_heard_before() -> None:
    sender, receiver = ring(OLD, seed=1), ring(NEW, OLD, seed=2)
    assert receiver.open(D, sender.seal(D, b"x")) == b"x"
    assert receiver.statistics()["senders"] == 1
    receiver.remove(OLD)
    assert refusal(receiver, sender.seal(D, b"x")) == "unknown_key"
    assert receiver.statistics() == {"keys": 1, "senders": 0, "replay_windows_forgotten": 0}


def test_a_packet_says_the_version_it_is_written_in_and_others_are_refused() -> None:
    for make in (ring, plain):
        old, both, new = make(versions=(2, 2)), make(seed=2, versions=(2, 3)), make(seed=3, versions=(3, 3))
        assert both.open(D, old.seal(D, b"x")) == both.open(D, new.seal(D, b"x")) == b"x"
        assert refusal(old, both.seal(D, b"x")) == "unknown_version"
        both.speaks = 2
        assert old.open(D, both.seal(D, b"x")) == b"x"
        assert refusal(new, both.seal(D, b"x")) == "unknown_version"


def test_replay_windows_are_bounded_and_strangers_push_none_of_them_out() -> None:
    receiver = ring(seed=0)
    for boot in range(1, 2 * MAX_BOOTS + 4):
        assert receiver.open(D, ring(seed=boot).seal(D, b"x"))
    full = receiver.statistics()
    assert (full["senders"], full["replay_windows_forgotten"]) == (2 * MAX_BOOTS, 3)
    for boot in range(100):
        assert refusal(receiver, ring(seed=10**6 + boot, label="other").seal(D, b"x")) == "not_authentic"
    assert receiver.statistics() == full


def test_wrong_use_of_the_ring_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring([], label="test", entropy=bytes)
    with pytest.raises(ValueError, match="32 bytes"):
        ring().add(b"short")
    with pytest.raises(ValueError, match="add the key"):
        ring().use(NEW)
    with pytest.raises(ValueError, match="use another"):
        ring().remove(OLD)
    full = ring(*(bytes([n]) * 32 for n in range(MAX_KEYS)))
    full.add(bytes(32))  # known already
    with pytest.raises(ValueError, match="at most"):
        full.add(NEW)


def test_the_plain_envelope_finds_accidents_and_strangers() -> None:
    sealed = PlainEnvelope("test").seal(D, b"body")
    assert PlainEnvelope("test").open(D, sealed) == b"body"
    assert refusal(PlainEnvelope("other"), sealed) == "bad_checksum"
    assert refusal(PlainEnvelope("test"), sealed[:-1] + b"?") == "bad_checksum"
    assert refusal(PlainEnvelope("test"), sealed, S) == "wrong_channel"
    assert refusal(PlainEnvelope("test"), ring().seal(D, b"x")) == "unexpected_encryption"
