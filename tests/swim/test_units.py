import random
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swim import anti_entropy, strict_cbor, units
from swim.unit_reader import UnitReader
from tests.swim.map_model import authority, identity

fast = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
AUTHOR = identity("author")
LIFE = (7, b"8 bytes.")


def bucket_of(entries: dict[str, bytes], depth: int = 0, prefix: int = 0) -> units.Bucket:
    return units.Bucket(AUTHOR.credential, LIFE, 3, depth, prefix, entries, 1_700_000_000_123)


def signed(fields: list[Any]) -> bytes:
    """Encode and sign fields in the order in which they are, canonical or not."""
    body = cbor2.dumps(fields)
    return cbor2.dumps([*fields, AUTHOR.sign(b"caxton/bucket/1\0" + body)])


@fast
@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=40), max_size=8),
    st.integers(0, units.MAX_PUBLISHED_MS),
)
def test_a_bucket_comes_back_as_it_was_signed(entries: dict[str, bytes], published_ms: int) -> None:
    bucket = units.Bucket(AUTHOR.credential, LIFE, 3, 0, 0, entries, published_ms)
    data = units.encode(bucket, AUTHOR)
    decoded = units.decode(data, max_bytes=2000)
    assert decoded == bucket
    assert data == strict_cbor.encode(strict_cbor.decode(data, max_bytes=2000))
    admitted = authority().admit(AUTHOR.credential, 0.0)
    assert admitted is not None
    assert units.is_signed_by(admitted, decoded, data)
    assert len(data) <= len(strict_cbor.encode(entries)) + units.overhead_bytes(AUTHOR.credential)


@pytest.mark.parametrize(
    ("entries", "is_in_order"),
    [
        ({"a": b"", "b": b""}, True),
        ({"b": b"", "a": b""}, False),
        ({"z": b"", "aa": b""}, True),
        ({"aa": b"", "z": b""}, False),
        ({"é": b"", "zzz": b""}, True),  # two bytes
        ({"k" * 30: b"", "z": b""}, False),
    ],
)
def test_keys_come_in_canonical_order(entries: dict[str, bytes], is_in_order: bool) -> None:
    data = signed([1, AUTHOR.credential, *LIFE, 3, 0, 0, 5, entries])
    assert (strict_cbor.encode(entries) == cbor2.dumps(entries)) == is_in_order
    if is_in_order:
        assert units.decode(data, max_bytes=2000) is not None
    else:
        with pytest.raises(ValueError, match="canonical order"):
            units.decode(data, max_bytes=2000)


@pytest.mark.parametrize(
    "entries",
    [
        {"": b""},
        {"k" * 161: b""},
        {"k": b"v" * 1001},
        {f"key-{number:02}": b"v" * 95 for number in range(10)},
        {"k": "text"},
        {"k": None},
        {1: b"v"},
        {b"k": b"v"},
        {"k": 1.5},
        {"k": {}},
    ],
)
def test_entries_out_of_their_bounds_are_refused(entries: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"bucket|entry|key"):
        units.decode(signed([1, AUTHOR.credential, *LIFE, 3, 0, 0, 5, entries]), max_bytes=2000)


@pytest.mark.parametrize("published_ms", [-1, 2**53 + 1, True, 1.0, None, "now"])
def test_a_time_of_publishing_that_is_none_is_refused(published_ms: object) -> None:
    with pytest.raises(ValueError, match="not an integer"):
        units.decode(signed([1, AUTHOR.credential, *LIFE, 3, 0, 0, published_ms, {}]), max_bytes=2000)


def test_a_key_outside_of_its_buckets_range_is_refused() -> None:
    depth = 3
    prefix = units.prefix_of("key", depth)
    assert units.decode(units.encode(bucket_of({"key": b"v"}, depth, prefix), AUTHOR), max_bytes=2000)
    with pytest.raises(ValueError, match="cannot be in this bucket"):
        units.decode(units.encode(bucket_of({"key": b"v"}, depth, prefix ^ 1), AUTHOR), max_bytes=2000)


@fast
@given(st.data())
def test_the_size_of_entries_is_told_without_encoding_them(data: st.DataObject) -> None:
    """A bucket of exactly 1,000 bytes passes, one of 1,001 does not, whatever it is made of."""
    count = data.draw(st.integers(1, 30))
    entries = {f"{number:03}": bytes(data.draw(st.integers(0, 30))) for number in range(count)}
    while units.entries_bytes(entries) < 1000:
        entries["pad"] = bytes(len(entries.get("pad", b"")) + 1)
    for extra in range(3):
        exact = {**entries, "pad": bytes(len(entries["pad"]) + extra)}
        bucket = units.encode(bucket_of(exact), AUTHOR)
        if units.entries_bytes(exact) <= 1000:
            assert units.decode(bucket, max_bytes=2000) is not None
        else:
            with pytest.raises(ValueError, match="at most 1,000 bytes"):
                units.decode(bucket, max_bytes=2000)


def test_every_byte_of_a_unit_is_covered() -> None:
    """A unit with one bit turned is no unit, or its signature is wrong."""
    admitted = authority().admit(AUTHOR.credential, 0.0)
    assert admitted is not None
    data = units.encode(bucket_of({"key": b"value", "other": b"v"}), AUTHOR)
    for position in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[position] ^= 1 << bit
            try:
                unit = units.decode(bytes(altered), max_bytes=2000)
            except ValueError:
                continue
            assert not units.is_signed_by(admitted, unit, bytes(altered))


# Frames with units


@fast
@given(
    st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1)),
    st.binary(min_size=8, max_size=8),
    st.lists(st.one_of(st.binary(max_size=30), st.integers(0, 700).map(bytes)), max_size=30),
)
def test_a_push_is_the_canonical_encoding_of_its_fields(
    horizon: int, root: bytes, pushed: list[bytes]
) -> None:
    data = anti_entropy.encode_push(horizon, root, pushed)
    assert data == strict_cbor.encode([1, horizon, root, pushed])
    assert anti_entropy.decode(data, max_bytes=len(data)) == anti_entropy.Frame(
        1, horizon, root, units=tuple(pushed)
    )


def generally_decoded(data: bytes) -> tuple[int, bytes, list[bytes]] | None:
    """Decode a push with the general decoder; None if it is none."""
    try:
        fields = strict_cbor.decode(data, max_bytes=2000)
    except ValueError:
        return None
    match fields:
        case [1, int(horizon), bytes(root), list(pushed)] if (
            type(fields[0]) is int
            and type(horizon) is int
            and 0 <= horizon < 2**63
            and len(root) == 8
            and all(type(unit) is bytes for unit in pushed)
        ):
            return horizon, root, pushed
    return None


@fast
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 5))
def test_an_altered_push_is_decoded_as_the_general_decoder_would(seed: int, horizon: int, cut: int) -> None:
    rng = random.Random(seed)
    pushed = [rng.randbytes(rng.choice((0, 5, 23, 24, 60, 255, 256, 300))) for _ in range(rng.randrange(4))]
    whole = anti_entropy.encode_push(horizon, bytes(8), pushed)
    for _ in range(20):
        altered = bytearray(whole)
        at = rng.choice((rng.randrange(len(altered)), rng.randrange(min(25, len(altered)))))
        altered[at] = rng.choice((altered[at] ^ 1 << rng.randrange(8), 0x18, 0x58, 0x59, 0x9F, 0xFF, 0x00))
        data = bytes(altered)[: len(altered) - cut if rng.random() < 0.3 else None]
        try:
            frame = anti_entropy.decode(data, max_bytes=2000)
        except ValueError:
            assert generally_decoded(data) is None
        else:
            if frame.kind == anti_entropy.PUSH:
                assert generally_decoded(data) == (frame.horizon, frame.cluster_root, list(frame.units))


def test_a_push_of_a_million_units_in_a_few_bytes_is_refused_quickly() -> None:
    head = anti_entropy.encode_push(0, bytes(8), [])[:-1]
    for claim in (b"\x9a\x00\x0f\xff\xff", b"\x9b" + b"\xff" * 8, b"\x81", b"\x81\x59\x04", b"\x98\x10"):
        with pytest.raises(ValueError, match=r"push|head"):
            anti_entropy.decode(head + claim, max_bytes=2000)


# Reading


def test_a_unit_is_decoded_once_while_it_is_remembered() -> None:
    reader = UnitReader(max_remembered=2)
    read = [units.encode(bucket_of({"key": bytes([number])}), AUTHOR) for number in range(3)]
    for data in read:
        digest = units.digest_of(data)
        assert reader.recall(data) is None
        assert reader.read(data, digest, max_bytes=2000).digest == digest
    assert len(reader) == 2
    assert reader.recall(read[0]) is None
    again = reader.recall(bytes(bytearray(read[2])))
    assert again is not None
    assert again.data is read[2]
    assert isinstance(again.unit, units.Bucket)
    assert again.unit.entries == {"key": b"\x02"}


def test_what_is_no_unit_is_not_remembered() -> None:
    reader = UnitReader()
    with pytest.raises(ValueError, match="CBOR"):
        reader.read(b"garbage", b"digest..", max_bytes=2000)
    with pytest.raises(ValueError, match="at most 10"):
        reader.read(units.encode(bucket_of({}), AUTHOR), b"digest..", max_bytes=10)
    assert len(reader) == 0
