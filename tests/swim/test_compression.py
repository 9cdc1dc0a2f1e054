"""Compression pays or is left out, and a small packet cannot become a large one in memory."""

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.compression import compress, decompress

LIMIT = 4_096
some_bytes = st.binary(max_size=LIMIT) | st.lists(
    st.sampled_from([b"alive", b"\0" * 40, b"n1"]), max_size=90
).map(b"".join)


@given(some_bytes)
def test_what_was_compressed_comes_back_and_is_never_more_than_a_tag_longer(data: bytes) -> None:
    packed = compress(data)
    assert decompress(packed, LIMIT) == data
    assert decompress(packed, len(data)) == data
    assert len(packed) <= len(data) + 1


def test_text_is_compressed_and_noise_is_left_alone() -> None:
    text, noise = b"agent/data-analyzer/1.2.0/" * 40, random.Random(1).randbytes(1_000)
    assert len(compress(text)) < len(text) // 5
    assert compress(noise) == b"\0" + noise
    assert compress(b"a" * 63) == b"\0" + b"a" * 63


def test_a_saving_below_a_tenth_is_not_worth_it() -> None:
    noise = random.Random(1).randbytes(1_000)
    assert compress(noise + bytes(60))[0] == 0
    assert compress(noise + bytes(200))[0] == 1


def test_a_bomb_is_refused_without_being_unfolded() -> None:
    bomb = b"\1" + zlib.compress(bytes(50_000_000), 9, -15)
    assert len(bomb) < 50_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 65536"):
        decompress(bomb, 65_536)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@given(st.binary(min_size=1, max_size=2_000), st.integers(0, 3_000))
def test_never_more_comes_out_than_is_accepted(data: bytes, limit: int) -> None:
    for packed in (compress(data), b"\1" + zlib.compress(data, 9, -15)):
        if len(data) <= limit:
            assert decompress(packed, limit) == data
        else:
            with pytest.raises(ValueError, match=r"more than|at most"):
                decompress(packed, limit)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\0", b"\1"]))
def test_garbage_is_decompressed_or_refused_and_nothing_else(data: bytes, tag: bytes) -> None:
    try:
        content = decompress(tag + data, LIMIT)
    except ValueError:
        return
    assert len(content) <= LIMIT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "tag is missing"),
        (b"\2abc", "unknown compression 2"),
        (b"\0" + bytes(LIMIT + 1), "at most 4096"),
        (b"\1", "truncated"),
        (compress(bytes(500))[:-1], "truncated"),
        (compress(bytes(500)) + b"x", "after the end"),
        (compress(bytes(500)) + compress(bytes(500)), "after the end"),
        (b"\1\xff\xff", "not a DEFLATE stream"),
    ],
)
def test_what_compress_did_not_write_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decompress(data, LIMIT)
