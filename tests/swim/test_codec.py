"""The codec is a bijection on packets and a total function on bytes."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.codec import (
    IN_DATAGRAM,
    IN_STREAM,
    MAX_MESSAGES,
    decode_packet,
    encode_message,
    encode_packet,
    join_packet,
)
from swim.messages import (
    MAX_BOOT_TIME_MS,
    MAX_INCARNATION,
    Ack,
    Alive,
    Boot,
    Dead,
    DecodeError,
    Left,
    MapFrame,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Snapshot,
    Suspect,
    SyncDigest,
    SyncEnd,
    SyncUnit,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
boots = st.builds(Boot, st.integers(0, MAX_BOOT_TIME_MS), st.binary(min_size=16, max_size=16))
incarnations = st.integers(0, MAX_INCARNATION)
sequences = st.integers(0, 2**32 - 1)
roots = st.binary(min_size=8, max_size=8)
signatures = st.binary(min_size=64, max_size=64)
hosts = st.sampled_from(["10.0.0.5", "::1", "fe80::1%eth0"])
alives = st.builds(
    Alive, names, hosts, st.integers(1, 65535), boots, incarnations,
    st.binary(max_size=512), st.binary(max_size=320), signatures,
)  # fmt: skip
suspects = st.builds(Suspect, names, boots, incarnations, names, st.sampled_from([b"", b"s" * 64]))
deads = st.builds(Dead, names, boots, incarnations, names)
lefts = st.builds(Left, names, boots, incarnations, signatures)
datagram_messages = st.one_of(
    alives, suspects, deads, lefts,
    st.builds(Ping, sequences, names, roots),
    st.builds(PingRequest, sequences, names),
    st.builds(Ack, sequences, names, roots),
    st.builds(Nack, sequences),
    st.builds(MapFrame, st.binary(min_size=1, max_size=1150)),
)  # fmt: skip
stream_messages = st.one_of(
    st.builds(Snapshot, alives, st.one_of(st.none(), suspects, deads, lefts), sequences),
    st.builds(SyncDigest, st.binary(max_size=100)),
    st.builds(SyncUnit, st.binary(min_size=1, max_size=100)),
    st.builds(SyncEnd),
)


def packets(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[Packet]:
    return st.builds(Packet, names, st.lists(messages, max_size=30).map(tuple))


@given(packets(datagram_messages))
def test_a_datagram_comes_back_as_it_was(packet: Packet) -> None:
    assert decode_packet(encode_packet(packet), IN_DATAGRAM) == packet


@given(packets(stream_messages))
def test_a_stream_frame_comes_back_as_it_was(packet: Packet) -> None:
    assert decode_packet(encode_packet(packet), IN_STREAM) == packet


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        packet = decode_packet(data, (*IN_DATAGRAM, *IN_STREAM))
    except DecodeError:
        return
    assert encode_packet(packet) == data


@given(packets(st.one_of(datagram_messages, stream_messages)), st.data())
def test_a_mutated_packet_is_decoded_or_refused_and_nothing_else(packet: Packet, data: st.DataObject) -> None:
    mutated = bytearray(encode_packet(packet))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    for body in (bytes(mutated), cut):
        try:
            decoded = decode_packet(body, (*IN_DATAGRAM, *IN_STREAM))
        except DecodeError:
            continue
        assert encode_packet(decoded) == body


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 30), st.floats(), st.text(max_size=5), st.binary(max_size=70)
)


@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=9), max_leaves=30))
def test_well_formed_cbor_of_the_wrong_shape_raises_nothing_else(value: object) -> None:
    for body in (value, ["n0", value], ["n0", [value]], ["n0", [[21, value, None, 0]]]):
        with suppress(DecodeError):
            decode_packet(strict_cbor.encode(body), (*IN_DATAGRAM, *IN_STREAM))


@pytest.mark.parametrize(
    "message",
    [
        [12, 1, "n0", b"1234567"],
        [12, -1, "n0", b"12345678"],
        [12, True, "n0", b"12345678"],
        [12, 1.0, "n0", b"12345678"],
        [12, 1, "N0", b"12345678"],
        [12, 1, "n" * 64, b"12345678"],
        [12, 1, "n0", b"12345678", 0],
        [12, 1, "n0"],
        [24],
        [99, 1],
        [],
        ["12"],
        None,
        [2, "n0", [0, b"b" * 15], 0, "n1", b""],
        [2, "n0", [0, b"b" * 16], 2**32, "n1", b""],
        [2, "n0", [0, b"b" * 16], 0, "n1", b"s" * 65],
        [1, "n0", "h\n", 1, [0, b"b" * 16], 0, b"", b"", b"s" * 64],
        [1, "n0", "h", 0, [0, b"b" * 16], 0, b"", b"", b"s" * 64],
        [1, "n0", "h", 1, [0, b"b" * 16], 0, b"m" * 513, b"", b"s" * 64],
        [14, b"m" * 1151],
    ],
)
def test_a_field_out_of_its_bounds_is_refused(message: object) -> None:
    with pytest.raises(DecodeError):
        decode_packet(strict_cbor.encode(["n0", [message]]), IN_DATAGRAM)


def test_messages_of_streams_are_refused_in_datagrams() -> None:
    body = encode_packet(Packet("n0", (SyncEnd(),)))
    assert decode_packet(body, IN_STREAM).messages == (SyncEnd(),)
    with pytest.raises(DecodeError, match="unknown_message"):
        decode_packet(body, IN_DATAGRAM)


def test_the_number_of_messages_is_bounded() -> None:
    nack = encode_message(Nack(1))
    full = join_packet("n0", [nack] * MAX_MESSAGES)
    assert len(decode_packet(full, IN_DATAGRAM).messages) == MAX_MESSAGES
    with pytest.raises(DecodeError):
        decode_packet(strict_cbor.encode(["n0", [[13, 1]] * 256]), IN_DATAGRAM)
    with pytest.raises(DecodeError, match="bad_cbor"):
        decode_packet(full, IN_DATAGRAM, max_bytes=len(full) - 1)
