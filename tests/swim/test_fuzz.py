"""What was found by fuzzing stays found; and the targets take what members say in earnest."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import cbor2
import pytest

from swim import anti_entropy, strict_cbor
from swim.codec import encode_message, join_packet, split_packet
from swim.compression import compress
from swim.messages import DecodeError, Packet, Ping
from tests.swim import fuzz
from tests.swim.fuzz import FOUND, PEERS, TARGETS
from tests.swim.net import settled

TELL_N1 = join_packet("n1", [encode_message(Ping(1, "n0", bytes(8))), PEERS[0]])


def step(what: int, part: bytes) -> bytes:
    return bytes([what]) + len(part).to_bytes(2, "big") + part


GOOD = {
    "message": [*PEERS, encode_message(Ping(1, "n0", bytes(8)))],
    "packet": [TELL_N1],
    "compressed": [compress(TELL_N1), compress(b"x" * 5_000)],
    "roll": list(settled(3).hosts["n0"].swim._roll.opening()),
    "member": [
        step(0, TELL_N1)
        + step(1, TELL_N1)
        + step(2, PEERS[1])
        + step(3, compress(TELL_N1))
        + step(4, bytes(900))
    ],
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_takes_what_is_said_in_earnest_and_what_is_cut(target: str) -> None:
    assert GOOD[target]
    for data in GOOD[target]:
        for end in range(0, len(data) + 1, max(1, len(data) // 40)):
            TARGETS[target](data[:end])


def without_half_a_length(body: bytes) -> Packet:
    try:
        return split_packet(body)
    except DecodeError:
        return split_packet(body[:-1])


BUGS: dict[str, tuple[object, str, object]] = {
    "message-number_in_more_bytes_than_it_needs": (
        strict_cbor,
        "decode",
        lambda data, max_bytes: cbor2.loads(data),
    ),
    "packet-half_a_length_at_the_end": (fuzz, "split_packet", without_half_a_length),
    "compressed-bomb_of_a_megabyte": (
        fuzz,
        "decompress",
        lambda data, limit: zlib.decompress(data[1:], -zlib.MAX_WBITS),
    ),
    "roll-hashes_of_a_node_that_no_tree_has": (anti_entropy, "_node", lambda node: node),
    "member-twelve_strangers_where_there_is_room_for_four": (
        fuzz,
        "CONFIG",
        replace(fuzz.CONFIG, max_members=64),
    ),
}
"""Input in ``fuzz_found`` -> the bug that it finds: what to replace, and by what."""


def found(case: str) -> tuple[Callable[[bytes], None], bytes]:
    return TARGETS[case.partition("-")[0]], (FOUND / case).read_bytes()


def test_every_input_that_is_kept_is_kept_for_a_bug() -> None:
    assert {path.name for path in FOUND.iterdir()} == set(BUGS)
    assert {case.partition("-")[0] for case in BUGS} == set(TARGETS)


@pytest.mark.parametrize("case", BUGS)
def test_what_was_found_once_breaks_nothing_any_more(case: str) -> None:
    target, data = found(case)
    target(data)


@pytest.mark.parametrize("case", BUGS)
def test_what_was_found_once_is_found_again_when_its_bug_comes_back(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, data = found(case)
    monkeypatch.setattr(*BUGS[case])
    with pytest.raises((AssertionError, IndexError)):
        target(data)
