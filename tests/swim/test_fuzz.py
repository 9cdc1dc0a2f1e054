"""What was found by fuzzing stays found; and the targets take what members say in earnest."""

import pytest

from swim.codec import encode_message, join_packet
from swim.compression import compress
from swim.messages import Ping
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


def test_what_was_found_once_breaks_nothing_any_more() -> None:
    for case in sorted(FOUND.glob("*-*")):
        TARGETS[case.name.partition("-")[0]](case.read_bytes())
