"""Inputs that are found by coverage: what a member is told by anybody, byte by byte.

    .venv/bin/pip install -q -c constraints.txt --group fuzz
    .venv/bin/python -m tests.swim.fuzz member -max_total_time=600

The first word is a target below, everything after it goes to libFuzzer. What breaks a target is written to
the directory one is in. Move it to ``tests/swim/fuzz_found/TARGET-SAYING-WHAT``, and name the bug that it has
found in ``BUGS`` of ``test_fuzz.py``: every test run repeats it, with the bug and without. The first ones
there were made and not found, one for each target, so that each is known to bite.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from swim.codec import IN_DATAGRAM, IN_STREAM, decode_message, encode_message, join_packet, split_packet
from swim.compression import decompress
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.hashtree import HashTree
from swim.keyring import Channel
from swim.messages import DecodeError
from swim.roll import Roll
from swim.sync import FRAME_LENGTH_BYTES
from tests.swim.net import CLUSTER, ENVELOPE, Net
from tests.swim.statements import stranger

FOUND: Final = Path(__file__).parent / "fuzz_found"
LIMIT_BYTES: Final = 10_000
STREAM: Final = 1_000_000
CONFIG: Final = SwimConfig.profile("local", label=CLUSTER, max_members=8, max_rumours=16)
PEERS: Final = [encode_message(stranger(name)) for name in ("n1", "n2", "n3")]


def message(data: bytes) -> None:
    """One message: refused, or exactly what its meaning is encoded as."""
    for allowed in (IN_DATAGRAM, IN_STREAM):
        try:
            decoded = decode_message(data, allowed)
        except DecodeError:
            continue
        assert encode_message(decoded) == data


def packet(data: bytes) -> None:
    """The body of a packet: refused, or exactly what its messages are joined to."""
    try:
        split = split_packet(data)
    except DecodeError:
        return
    assert join_packet(split.sender, list(split.messages)) == data


def compressed(data: bytes) -> None:
    """A compressed body: refused, or no longer than allowed."""
    try:
        body = decompress(data, LIMIT_BYTES)
    except (ValueError, DecodeError):
        return
    assert len(body) <= LIMIT_BYTES


def roll(data: bytes) -> None:
    """A frame of the comparison of rolls: refused, or answered with frames that fit a packet."""
    net = _net()
    held: Roll = net.hosts["n0"].swim._roll
    assert isinstance(net.hosts["n0"].swim._table.roll, HashTree)
    try:
        _, answers = held.receive(data)
    except ValueError:
        return
    assert all(len(answer) <= MAX_PACKET_BYTES for answer in answers)


def member(data: bytes) -> None:
    """What others send to a member, in turns: datagrams, bytes of a stream, and time that passes."""
    net = _net()
    swim = net.hosts["n0"].swim
    swim.stream_accepted(STREAM, ("n1", 7946), net.now)
    while data:
        what, size, rest = data[0] % 5, data[1:3], data[3:]
        length = int.from_bytes(size, "big") % 1_200
        part, data = rest[:length], rest[length:]
        if what == 0:
            net.hear("n0", part)
        elif what == 1:
            net.hear("n0", ENVELOPE.seal(Channel.DATAGRAM, part), ("n1", 7946))
        elif what == 2 and part:
            net.hear("n0", ENVELOPE.seal(Channel.DATAGRAM, join_packet("n1", [part])), ("n1", 7946))
        elif what == 3:
            sealed = ENVELOPE.seal(Channel.STREAM, part)
            swim.stream_received(STREAM, len(sealed).to_bytes(FRAME_LENGTH_BYTES, "big") + sealed, net.now)
        else:
            net.run_for(length / 1_000)
        assert all(len(sent.data) <= MAX_PACKET_BYTES for sent in net.sent)
    counts = swim.statistics()
    assert sum(counts[f"members_{state}"] for state in ("alive", "suspect", "dead", "left")) <= 8
    assert counts["rumours_waiting"] <= 16


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (message, packet, compressed, roll, member)
}


def _net() -> Net:
    net = Net(config=CONFIG)
    net.add("n0").load(PEERS, net.now)
    return net


def main() -> None:
    """Fuzz one target until it breaks, or libFuzzer's limits are reached."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.swim.fuzz {{{','.join(TARGETS)}}} [libFuzzer options]")
    target = TARGETS[sys.argv.pop(1)]
    atheris = import_module("atheris")  # only in the dependency group `fuzz`
    atheris.instrument_all()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
