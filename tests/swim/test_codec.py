"""The codec is a bijection on packets and messages, and a total function on bytes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.codec import (
    IN_DATAGRAM,
    IN_STREAM,
    MAX_BULK_BYTES,
    MAX_GOSSIP_FRAME_BYTES,
    MAX_MESSAGES,
    SENDER_BYTES,
    decode_message,
    encode_message,
    is_statement,
    join_packet,
    split_packet,
)
from swim.keyring import VERSIONS
from swim.messages import (
    MAX_AUTHORS,
    MAX_BOOT_TIME_MS,
    MAX_COORDINATE_BYTES,
    MAX_INCARNATION,
    MAX_PATIENCE_S,
    STATEMENTS,
    Ack,
    Alive,
    Boot,
    Dead,
    DecodeError,
    Left,
    MapFrame,
    Message,
    Nack,
    Ping,
    PingRequest,
    RollFrame,
    Suspect,
    SyncClocks,
    SyncDigest,
    SyncEnd,
    SyncRoll,
    SyncRoot,
    SyncUnit,
    UserFrame,
    Who,
)
from swim.outgoing import BODY_BYTES

EVERYTHING = IN_DATAGRAM | IN_STREAM

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
boots = st.builds(Boot, st.integers(0, MAX_BOOT_TIME_MS), st.binary(min_size=8, max_size=8))
incarnations = st.integers(0, MAX_INCARNATION)
sequences = st.integers(0, 2**32 - 1)
roots = st.binary(min_size=8, max_size=8)
tags = st.binary(min_size=8, max_size=8)
signatures = st.binary(min_size=64, max_size=64)
hosts = st.sampled_from(["10.0.0.5", "::1", "fe80::1%eth0"])
versions = st.integers(1, 255)
authors = st.dictionaries(names, signatures, min_size=1, max_size=MAX_AUTHORS).map(lambda d: tuple(d.items()))
frames = st.binary(min_size=1, max_size=MAX_GOSSIP_FRAME_BYTES)
parts = st.binary(max_size=100)
statements = st.one_of(
    st.builds(
        Alive, names, hosts, st.integers(1, 65535), boots, incarnations, st.binary(max_size=512), versions,
        versions, st.integers(0, MAX_PATIENCE_S), st.binary(min_size=32, max_size=32),
        st.binary(max_size=320), signatures,
    ),
    st.builds(Suspect, names, boots, incarnations, authors),
    st.builds(Dead, names, boots, incarnations, authors, names, signatures),
    st.builds(Left, names, boots, incarnations, signatures),
)  # fmt: skip
datagram_messages = st.one_of(
    statements,
    st.builds(Ping, sequences, names, roots, tags),
    st.builds(PingRequest, sequences, names, st.integers(1, 60_000), tags),
    st.builds(Ack, sequences, names, roots, st.binary(max_size=MAX_COORDINATE_BYTES), tags),
    st.builds(Nack, sequences, st.binary(max_size=64), tags),
    st.builds(Who, sequences),
    st.builds(MapFrame, frames),
    st.builds(RollFrame, frames),
    st.builds(UserFrame, st.integers(0, 255), frames, st.binary(max_size=8)),
)
stream_messages = st.one_of(
    statements,
    st.builds(Ping, sequences, names, roots, tags),
    st.builds(Ack, sequences, names, roots, st.binary(max_size=MAX_COORDINATE_BYTES), tags),
    st.builds(SyncRoot, roots),
    st.builds(SyncRoll, parts),
    st.builds(SyncDigest, parts),
    st.builds(SyncUnit, st.binary(min_size=1, max_size=100)),
    st.builds(UserFrame, st.integers(0, 255), frames, st.binary(max_size=8)),
    st.builds(SyncClocks, st.integers(0, 2**62), st.integers(0, 2**62)),
    st.builds(SyncEnd, st.booleans()),
)


@given(datagram_messages)
def test_a_message_of_a_datagram_comes_back_as_it_was(message: Message) -> None:
    assert decode_message(encode_message(message), IN_DATAGRAM) == message


@given(stream_messages)
def test_a_message_of_a_stream_comes_back_as_it_was(message: Message) -> None:
    assert decode_message(encode_message(message), IN_STREAM) == message


@given(names, st.lists(st.binary(min_size=1, max_size=300), max_size=MAX_MESSAGES))
def test_a_packet_comes_back_as_it_was(sender: str, messages: list[bytes]) -> None:
    packet = split_packet(join_packet(sender, messages))
    assert (packet.sender, packet.messages) == (sender, tuple(messages))


@given(st.one_of(datagram_messages, stream_messages))
def test_two_bytes_tell_a_statement_from_everything_else(message: Message) -> None:
    assert is_statement(encode_message(message)) == isinstance(message, STATEMENTS)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        message = decode_message(data, EVERYTHING)
    except DecodeError:
        return
    assert encode_message(message) == data


@given(st.binary(max_size=200))
def test_random_bytes_are_a_packet_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        packet = split_packet(data)
    except DecodeError:
        return
    assert join_packet(packet.sender, packet.messages) == data


@given(names, st.lists(st.one_of(datagram_messages, stream_messages), max_size=8), st.data())
def test_a_mutated_packet_is_understood_or_refused_and_nothing_else(
    sender: str, messages: list[Message], data: st.DataObject
) -> None:
    mutated = bytearray(join_packet(sender, list(map(encode_message, messages))))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    for body in (bytes(mutated), cut):
        with suppress(DecodeError):
            packet = split_packet(body)
            assert join_packet(packet.sender, packet.messages) == body
            for encoded in packet.messages:
                assert encode_message(decode_message(encoded, EVERYTHING)) == encoded


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 30), st.floats(), st.text(max_size=5), st.binary(max_size=70)
)


@given(
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=12), max_leaves=30),
    st.sampled_from([1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 25]),
)
def test_well_formed_cbor_of_the_wrong_shape_raises_nothing_else(value: object, code: int) -> None:
    for body in (value, [code, value], [code, *value] if isinstance(value, list) else [code]):
        with suppress(DecodeError):
            decode_message(strict_cbor.encode(body), EVERYTHING)


BOOT_FIELD = [0, b"b" * 8]
AUTHOR = ["n1", b"s" * 64]
ALIVE = [1, "n0", "h", 1, BOOT_FIELD, 0, b"", *VERSIONS, 0, b"k" * 32, b"", b"s" * 64]


def changed(at: int, value: object) -> list[object]:
    return [*ALIVE[:at], value, *ALIVE[at + 1 :]]


def test_the_cases_below_are_refused_for_the_one_thing_that_is_wrong_with_them() -> None:
    for fine in (
        ALIVE,
        [12, 1, "n0", b"12345678", b"", b"12345678"],
        [2, "n0", BOOT_FIELD, 0, [AUTHOR]],
        [3, "n0", BOOT_FIELD, 0, [AUTHOR], "n1", b"s" * 64],
        [11, 1, "n0", 60_000, b"12345678"],
        [15, b"m" * MAX_GOSSIP_FRAME_BYTES],
    ):
        assert encode_message(decode_message(strict_cbor.encode(fine), IN_DATAGRAM))


@pytest.mark.parametrize(
    "message",
    [
        [12, 1, "n0", b"1234567", b"", b"12345678"],
        [12, -1, "n0", b"12345678", b"", b"12345678"],
        [12, 2**32, "n0", b"12345678", b"", b"12345678"],
        [12, True, "n0", b"12345678", b"", b"12345678"],
        [12, 1.0, "n0", b"12345678", b"", b"12345678"],
        [12, 1, "N0", b"12345678", b"", b"12345678"],
        [12, 1, "n" * 64, b"12345678", b"", b"12345678"],
        [12, 1, "n0", b"12345678", b"c" * (MAX_COORDINATE_BYTES + 1), b"12345678"],
        [12, 1, "n0", b"12345678", b"", b"1234567"],
        [12, 1, "n0", b"12345678", b"", b"12345678", 0],
        [12, 1, "n0", b"12345678", b""],
        [24, True],
        [13, 1, b"s" * 65, b"12345678"],
        [99, 1],
        [],
        ["12"],
        [True],
        None,
        [2, "n0", [0, b"b" * 7], 0, [AUTHOR]],
        [2, "n0", [0], 0, [AUTHOR]],
        [2, "n0", [MAX_BOOT_TIME_MS + 1, b"b" * 8], 0, [AUTHOR]],
        [2, "n0", BOOT_FIELD, MAX_INCARNATION + 1, [AUTHOR]],
        [2, "n0", BOOT_FIELD, 0, []],
        [2, "n0", BOOT_FIELD, 0, [AUTHOR, AUTHOR]],
        [2, "n0", BOOT_FIELD, 0, [[f"n{n}", b"s" * 64] for n in range(MAX_AUTHORS + 1)]],
        [2, "n0", BOOT_FIELD, 0, [["n1", b"s" * 65]]],
        [2, "n0", BOOT_FIELD, 0, [["n1"]]],
        [2, "n0", BOOT_FIELD, 0, {"n1": b"s" * 64}],
        [3, "n0", BOOT_FIELD, 0, [AUTHOR], "n1", b""],
        [11, 1, "n0", 0, b"12345678"],
        [11, 1, "n0", 60_001, b"12345678"],
        changed(2, "h\n"),
        changed(2, "ü"),
        changed(2, ""),
        changed(3, 0),
        changed(6, b"m" * 513),
        changed(7, 0),
        changed(8, 256),
        changed(9, MAX_PATIENCE_S + 1),
        changed(10, b"k" * 31),
        changed(11, b"c" * 321),
        [15, b"m" * (MAX_GOSSIP_FRAME_BYTES + 1)],
        [15, b""],
        [17, 256, b"m", b""],
        [17, 1, b"m", b"t" * 9],
        [25, -1, 0],
    ],
)
def test_a_field_out_of_its_bounds_is_refused(message: object) -> None:
    with pytest.raises(DecodeError):
        decode_message(strict_cbor.encode(message), IN_DATAGRAM)


def test_messages_of_streams_are_refused_in_datagrams_and_the_other_way_round() -> None:
    end, who = encode_message(SyncEnd(True)), encode_message(Who(1))
    assert decode_message(end, IN_STREAM) == SyncEnd(True)
    with pytest.raises(DecodeError, match="unknown_message"):
        decode_message(end, IN_DATAGRAM)
    with pytest.raises(DecodeError, match="unknown_message"):
        decode_message(who, IN_STREAM)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\2n",
        b"\2N0",
        b"\2n\xff",
        b"\2n0\0",
        b"\2n0\0\0",
        b"\2n0\0\2x",
        b"\2n0\0\1x\0",
        b"\x40" + b"n" * 64,
        b"\2n0" + b"\0\1x" * (MAX_MESSAGES + 1),
    ],
)
def test_a_packet_with_a_bad_name_length_or_count_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        split_packet(body)


def test_the_number_of_messages_is_bounded_on_both_sides() -> None:
    nack = encode_message(Nack(1, b"", bytes(8)))
    full = join_packet("n0", [nack] * MAX_MESSAGES)
    assert len(split_packet(full).messages) == MAX_MESSAGES
    with pytest.raises(ValueError, match="256 messages"):
        join_packet("n0", [nack] * (MAX_MESSAGES + 1))


def test_the_longest_name_takes_the_room_that_is_kept_for_it() -> None:
    assert len(join_packet("n" * 63, [])) == SENDER_BYTES


def test_the_longest_statements_fit_into_one_datagram() -> None:
    name, boot = "n" * 63, Boot(MAX_BOOT_TIME_MS, b"b" * 8)
    authors = tuple((f"{n}" * 63, b"s" * 64) for n in range(MAX_AUTHORS))
    for statement in (
        Alive(name, "h" * 64, 65_535, boot, MAX_INCARNATION, b"m" * 512, 255, 255, 30, b"k" * 32, b"c" * 320,
              b"s" * 64),
        Suspect(name, boot, MAX_INCARNATION, authors),
        Dead(name, boot, MAX_INCARNATION, authors, name, b"s" * 64),
    ):  # fmt: skip
        assert len(encode_message(statement)) + 2 <= BODY_BYTES


def test_bulk_that_fills_a_frame_is_taken_and_a_byte_more_is_not() -> None:
    for kind in (SyncRoll, SyncDigest, SyncUnit):
        assert decode_message(encode_message(kind(bytes(MAX_BULK_BYTES))), IN_STREAM)
        with pytest.raises(DecodeError, match="bad_field"):
            decode_message(encode_message(kind(bytes(MAX_BULK_BYTES + 1))), IN_STREAM)
