"""Push-pull over streams: short where both agree, both ways where they differ, bounded whatever comes."""

import zlib
from dataclasses import replace

import pytest

from swim import strict_cbor
from swim.anti_entropy import NOWHERE, SLOTS_DIGEST
from swim.codec import IN_STREAM, decode_message, encode_message, join_packet, split_packet
from swim.compression import compress, decompress
from swim.config import MAX_FRAME_BYTES
from swim.events import CloseStream, MemberDied, SendStream
from swim.keyring import MAX_OVERHEAD_BYTES, Channel
from swim.members import State
from swim.messages import (
    Ack,
    Alive,
    Message,
    Ping,
    SyncDigest,
    SyncEnd,
    SyncRoll,
    SyncRoot,
    SyncUnit,
)
from swim.sync import FRAME_LENGTH_BYTES, MAX_DIGEST_BYTES, MAX_FORGED
from tests.swim.net import ENVELOPE, Net, settled
from tests.swim.statements import doubt, signed, stranger

NOT_OURS = SyncRoot(b"not ours")
NOBODY = strict_cbor.encode([SLOTS_DIGEST, *NOWHERE, b""])
"""The digest of an empty roll."""


def sealed(body: bytes) -> bytes:
    """Return a frame around a body that is compressed already."""
    data = ENVELOPE.seal(Channel.STREAM, body)
    return len(data).to_bytes(FRAME_LENGTH_BYTES, "big") + data


def frame(sender: str, *messages: Message | bytes) -> bytes:
    encoded = [m if isinstance(m, bytes) else encode_message(m) for m in messages]
    return sealed(compress(join_packet(sender, encoded)))


class Stream:
    """A stream that a test opens to a host, and speaks on byte by byte."""

    def __init__(self, net: Net, to: str, number: int = 1000) -> None:
        self.net = net
        self.swim = net.hosts[to].swim
        self.number = number
        self.heard: list[Message] = []
        self.is_closed = False
        self.swim.stream_accepted(number, ("elsewhere", 1), net.now)
        self._listen()

    def say(self, data: bytes) -> "Stream":
        self.swim.stream_received(self.number, data, self.net.now)
        self._listen()
        return self

    def close(self) -> None:
        self.swim.stream_closed(self.number, self.net.now)
        self._listen()

    def _listen(self) -> None:
        for effect in self.swim.effects():
            if isinstance(effect, SendStream) and effect.id == self.number:
                body = decompress(ENVELOPE.open(Channel.STREAM, effect.data[FRAME_LENGTH_BYTES:]), 10**6)
                self.heard += [decode_message(encoded, IN_STREAM) for encoded in split_packet(body).messages]
            elif isinstance(effect, CloseStream) and effect.id == self.number:
                self.is_closed = True


def own(net: Net, name: str) -> Alive:
    return net.hosts[name].swim.own


def reason(net: Net, name: str = "n0") -> str:
    """Return why a stream was dropped, the only one that was."""
    (found,) = [
        key
        for key in net.hosts[name].swim.statistics()
        if key.startswith(("dropped_stream_", "streams_timed"))
    ]
    return found.removeprefix("dropped_stream_")


def begin(net: Net, source: str, to: str) -> None:
    record = net.hosts[source].swim._table.get(to)
    assert record is not None
    net.hosts[source].swim.open_stream(record, net.now)
    net.pump(source)


# The conversation


def test_where_both_stand_at_the_same_root_one_short_round_says_so() -> None:
    net = settled(10)
    bytes_before = net.total("stream_bytes_sent")
    begin(net, "n1", "n2")
    net.run_for(5 * net.delay_s)
    assert net.count("n1", "streams_open") == net.count("n2", "streams_open") == 0
    assert net.total("stream_bytes_sent") - bytes_before < 1_000


def test_a_stranger_is_told_everybody_and_is_believed_itself() -> None:
    net = settled(5)
    newcomer = stranger("far")
    stream = Stream(net, "n0").say(frame("far", newcomer, NOT_OURS, SyncEnd(False)))
    assert {Alive, SyncRoll, SyncEnd} <= {type(m) for m in stream.heard}
    assert net.state("n0", "far") is State.ALIVE
    stream.heard.clear()
    stream.say(frame("far", newcomer, SyncRoll(NOBODY), SyncEnd(False)))
    told = {m.name for m in stream.heard if isinstance(m, Alive)}
    assert told - {"far"} == {"n0", "n1", "n2", "n3", "n4"}
    stream.say(frame("far", newcomer, SyncEnd(True)))
    assert stream.is_closed
    assert net.count("n0", "push_pulls") >= 1


def test_one_exchange_carries_the_refutations_of_both_sides() -> None:
    net = settled(6)
    net.partition(["n0", "n1", "n2"], ["n3", "n4", "n5"])
    net.run_for(120, until=lambda: net.state("n0", "n3") is net.state("n3", "n0") is State.DEAD)
    # A stream that was begun towards n3 before the heal would stand in the way of a new one.
    net.run_for(60, until=lambda: net.count("n0", "streams_open") == net.count("n3", "streams_open") == 0)
    net.heal()
    net.censor = lambda sent: True
    begin(net, "n0", "n3")
    net.run_for(10 * net.delay_s)
    assert net.state("n0", "n3") is State.ALIVE
    assert net.state("n3", "n0") is State.ALIVE
    assert own(net, "n0").incarnation == own(net, "n3").incarnation == 1


def test_a_member_that_meets_itself_says_so_and_ends() -> None:
    net = settled(2)
    stream = Stream(net, "n0").say(frame("n0", own(net, "n0"), NOT_OURS, SyncEnd(False)))
    assert stream.heard == [SyncEnd(True)]
    assert stream.is_closed


def test_a_ping_over_a_stream_is_answered_if_it_is_a_members_and_ends_it_in_any_case() -> None:
    net = settled(3)
    stream = Stream(net, "n0").say(frame("n1", net.tagged(Ping(7, "n0", bytes(8)), "n1", "n0")))
    introduction, ack = stream.heard
    assert introduction == own(net, "n0")
    assert isinstance(ack, Ack)
    assert (ack.sequence, ack.subject, ack.root) == (7, "", net.hosts["n0"].swim.root())
    assert net.tagged(replace(ack, tag=b""), "n0", "n1") == ack
    assert stream.is_closed
    for sender, target in (
        ("n2", "n0"),
        ("n9", "n0"),
        ("n1", "n2"),
    ):  # another's tag, a stranger, another's ping
        forged = net.tagged(Ping(8, target, bytes(8)), "n1", "n0")
        stream = Stream(net, "n0", 1002).say(frame(sender, forged))
        assert stream.heard == []
        assert stream.is_closed


def test_who_shows_our_root_over_a_stream_has_our_latest_word_but_for_an_answer_to_what_it_says() -> None:
    net = settled(3)
    ping = net.tagged(Ping(7, "n0", net.hosts["n0"].swim.root()), "n1", "n0")
    (ack,) = Stream(net, "n0").say(frame("n1", ping)).heard
    assert isinstance(ack, Ack)
    said = Stream(net, "n0", 1002).say(frame("n1", doubt(own(net, "n0"), "n1", "n2"), ping)).heard
    assert [type(message) for message in said] == [Alive, Ack]
    assert said[0] == own(net, "n0")
    assert own(net, "n0").incarnation == 1


def test_a_stream_may_be_cut_into_bytes() -> None:
    net = settled(3)
    stream = Stream(net, "n0")
    for byte in frame("far", stranger("far"), NOT_OURS, SyncEnd(False)):
        stream.say(bytes([byte]))
    assert isinstance(stream.heard[-1], SyncEnd)


def test_a_stream_that_breaks_is_nobodys_failure_but_its_own() -> None:
    net = settled(3)
    Stream(net, "n0").say(frame("far", stranger("far"), NOT_OURS)).close()
    stream = Stream(net, "n0", 1002)
    stream.swim.stream_failed(1002, "reset", net.now)
    net.run_for(5)
    assert net.count("n0", "streams_open") == 0
    assert net.state("n0", "far") is not None
    assert {"n1", "n2"} <= set(net.up("n0"))


# What is refused


def test_a_few_forged_statements_are_counted_and_more_of_them_end_the_stream() -> None:
    net = settled(3)
    forged = [replace(stranger(f"m{n}"), signature=bytes(64)) for n in range(MAX_FORGED + 1)]
    stream = Stream(net, "n0").say(frame("far", *forged[:-1]))
    assert net.count("n0", "dropped_bad_signature") == MAX_FORGED
    assert not stream.is_closed
    stream.say(frame("far", stranger("fine")))
    assert net.state("n0", "fine") is State.ALIVE
    stream.say(frame("far", forged[-1]))
    assert stream.is_closed
    assert net.count("n0", "dropped_stream_bad_signature") == 1
    assert not any(net.state("n0", said.name) for said in forged)


def bomb(size: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"\1" + deflate.compress(bytes(size)) + deflate.flush()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([sealed(bomb(50 * 1024 * 1024))], "bad_compression"),
        ([sealed(b"\7nonsense")], "bad_compression"),
        ([sealed(b"")], "bad_compression"),
        ([sealed(b"\0")], "bad_packet"),
        ([(MAX_FRAME_BYTES + MAX_OVERHEAD_BYTES + 1).to_bytes(4, "big")], "frame_too_large"),
        ([b"GET / HTTP/1.1\r\n\r\n"], "frame_too_large"),
        ([b"\0\0\0\x20" + bytes(32)], "unknown_version"),
        ([b"\0\0\0\0"], "truncated"),
        ([frame("far", stranger("far")), frame("near", stranger("near"))], "sender_changed"),
        ([frame("far", SyncDigest(bytes(60_000)))] * (MAX_DIGEST_BYTES // 60_000 + 1), "digest_too_large"),
        ([frame("far", SyncRoll(bytes(60_000)))] * (MAX_DIGEST_BYTES // 60_000 + 1), "digest_too_large"),
        ([frame("far", NOT_OURS, SyncRoll(NOBODY), SyncEnd(False)), *[frame("far", SyncEnd(False))] * 2],
         "talks_on"),
        ([frame("far", SyncRoll(b"no digest"), NOT_OURS, SyncEnd(False)), frame("far", SyncEnd(False))],
         "bad_digest"),
        ([frame("far", b"\x82\x0e\x01")], "unknown_message"),
        ([frame("far", b"\x81\x15")], "bad_message"),
    ],
)  # fmt: skip
def test_what_no_honest_peer_says_ends_the_stream_and_is_counted_by_its_reason(
    data: list[bytes], why: str
) -> None:
    net = settled(3)
    stream = Stream(net, "n0")
    for part in data:
        stream.say(part)
    assert stream.is_closed
    assert reason(net) == why
    assert net.count("n0", "streams_open") == 0


def test_state_beyond_the_limit_is_cut_off() -> None:
    net = settled(2, max_state_bytes=100_000)
    stream = Stream(net, "n0")
    for _ in range(5):
        stream.say(frame("far", SyncUnit(net.rng.randbytes(30_000))))
    assert stream.is_closed
    assert reason(net) == "state_too_large"


def test_streams_are_bounded_in_number_and_time() -> None:
    net = settled(2, max_streams=4, seed_refresh_s=1e5)
    streams = [Stream(net, "n0", 1000 + 2 * number) for number in range(4)]
    # A quarter of its streams is kept for this member's own.
    assert [stream.is_closed for stream in streams] == [False, False, False, True]
    assert net.count("n0", "streams_over_limit") == 1
    begin(net, "n0", "n1")
    net.roundtrip()
    net.run_for(net.config.stream_timeout_s + 1)
    assert net.count("n0", "streams_timed_out") == 3
    assert net.count("n0", "streams_open") == 0


def test_a_second_stream_to_the_same_address_is_not_opened_while_the_first_runs() -> None:
    net = settled(3)
    net.freeze("n1")
    for _ in range(5):
        begin(net, "n0", "n1")
    assert net.count("n0", "streams_open") == 1


def test_words_over_a_stream_are_judged_as_any_other() -> None:
    net = settled(3)
    liar = replace(signed(stranger("far"), "n1"), name="far")
    Stream(net, "n0").say(frame("n1", liar))
    assert net.count("n0", "dropped_credential_of_another") == 1
    net.run_for(3)
    assert not net.all_told(MemberDied)
