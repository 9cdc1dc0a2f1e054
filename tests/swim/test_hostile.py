"""Whatever comes in, from strangers or from members that lie: no exception, bounded memory, counted drops."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from swim import strict_cbor, units
from swim.codec import encode_message, join_packet, split_packet
from swim.compression import compress, decompress
from swim.config import SwimConfig
from swim.events import MemberDied, MemberSuspected
from swim.evidence import MAX_SUBJECTS
from swim.keyring import Channel
from swim.learning import MAX_KNOCKS
from swim.messages import MAX_INCARNATION, DecodeError, MapFrame, Message, Ping, RollFrame
from swim.probe import MAX_AGAIN, MAX_QUESTIONS, MAX_RELAYED
from swim.reception import MAX_SEEN
from swim.replicated import Limits, Replicated
from swim.sync import FRAME_LENGTH_BYTES
from swim.units import Bucket
from tests.swim.net import CLUSTER, ENVELOPE, WALL, Net, authority, identity_of, settled
from tests.swim.statements import doubt, goodbye, stranger, verdict
from tests.swim.test_codec import datagram_messages, stream_messages

BOUNDS = Limits(
    max_owners=8, max_buckets=8, max_quarantined=16, max_registers=8, max_queued=32, max_events=64
)


MAP_FRAME = 15


def a_map(name: str, limits: Limits | None = None) -> Replicated:
    rng = random.Random(name)
    return Replicated(identity_of(name), authority(), rng=rng, entropy=rng.randbytes, limits=limits)


class Corpus:
    """What three members with maps have said to each other."""

    def __init__(self) -> None:
        self.net = Net(config=SwimConfig.profile("local", label=CLUSTER, max_members=20, max_rumours=40))
        streams: list[bytes] = []
        for number in range(3):
            name = f"n{number}"
            held = a_map(name, BOUNDS)
            held.start(0, self.net.now, WALL)
            held.put("agent/x/1", b"v" * 40)
            held.cluster_put(f"key/{number}", b"v", WALL)
            for other in range(3):
                held.admit_owner(f"n{other}", WALL)
            swim = self.net.add(name, seeds=["n0:7946"] if number else None, replicated=held)
            received = swim.stream_received

            def listen(stream: int, data: bytes, now: float, *, tell=received) -> None:  # type: ignore[no-untyped-def]
                streams.append(data)
                tell(stream, data, now)

            swim.stream_received = listen  # type: ignore[method-assign]
        self.net.run_for(3)
        self.net.hosts["n1"].swim.update_meta(b"new", self.net.now)
        self.net.run_for(2)
        about = self.net.hosts["n1"].swim.own
        self.net.inject("n0", doubt(about, "n2"), sender="n2")
        self.net.run_for(2)
        messages = [encoded for sent in self.net.sent for encoded in sent.encoded]
        messages += [encode_message(verdict(about, "n2", "n0")), encode_message(doubt(about, "n0", "n2"))]
        messages += [encode_message(RollFrame(frame)) for frame in self.net.hosts["n0"].swim._roll.opening()]
        by_kind: dict[int, dict[bytes, None]] = {}
        for encoded in messages:
            by_kind.setdefault(encoded[1], {})[encoded] = None
        self.messages = [list(found) for found in by_kind.values()]
        self.bodies = list(dict.fromkeys(ENVELOPE.open(Channel.DATAGRAM, s.data) for s in self.net.sent))
        self.streams = [a + b for a, b in zip(streams[::2], streams[1::2], strict=False)]
        self.frames = [
            strict_cbor.decode(encoded, max_bytes=2_000)[1]
            for found in self.messages
            for encoded in found
            if encoded[1] == MAP_FRAME
        ]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Change bytes, cut, repeat or splice; or change one value of the CBOR inside and encode it properly."""
    choice = rng.randrange(5)
    if choice == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if choice == 1:
        return data[: rng.randrange(len(data))]
    if choice == 2:
        at = rng.randrange(len(data))
        return data[:at] + data[rng.randrange(len(data)) :]
    try:
        value = strict_cbor.decode(data, max_bytes=100_000)
    except ValueError:
        return data
    return strict_cbor.encode(_changed(rng, value))


def _changed(rng: random.Random, value: object) -> object:
    if isinstance(value, list) and value and rng.random() < 0.95:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    odd = [
        None,
        True,
        -1,
        0,
        2**32,
        2**63,
        2**64 - 1,
        1.5,
        "",
        "n1",
        "\x00",
        "ü" * 80,
        b"",
        b"x" * 64,
        [],
        {},
    ]
    if isinstance(value, int):
        odd += [value + 1, value - 1, value ^ 1]
    if isinstance(value, bytes) and value:
        odd += [value[:-1], value + b"\0", bytes(reversed(value))]
    return rng.choice(odd)


def bounded(net: Net) -> None:
    for host in net.hosts.values():
        swim = host.swim
        counts = swim.statistics()
        assert counts["rumours_waiting"] <= 40
        assert sum(counts[f"members_{state}"] for state in ("alive", "suspect", "dead", "left")) <= 20
        assert counts["streams_open"] <= 32
        assert counts["relayed_probes"] <= MAX_RELAYED
        assert counts["questions_open"] <= MAX_QUESTIONS
        assert counts["probed_again_soon"] <= MAX_AGAIN
        assert counts["knocks_waiting"] <= MAX_KNOCKS
        assert counts["evidence_subjects"] <= MAX_SUBJECTS
        assert counts["suspicions"] + counts["private_doubts"] <= 20
        assert counts["paths_lost"] <= 20
        assert counts["statements_seen"] <= MAX_SEEN
        held = swim._replicated.statistics()  # type: ignore[attr-defined]
        assert held["quarantined"] <= 16
        assert held["buckets"] <= 64
        assert held["registers"] <= 8
        assert held["queued"] <= 32
        assert held["events_waiting"] <= 64


def attack(corpus: Corpus, rng: random.Random) -> None:
    """Feed one mutation of each kind to a member."""
    net, swim = corpus.net, corpus.net.hosts["n0"].swim
    sender = rng.choice(["n1", "n2", "n9"])
    net.hear("n0", ENVELOPE.seal(Channel.DATAGRAM, mutated(rng, rng.choice(corpus.bodies)))[:1400])
    said = [mutated(rng, rng.choice(rng.choice(corpus.messages))) or b"x" for _ in range(2)]
    net.hear("n0", ENVELOPE.seal(Channel.DATAGRAM, join_packet(sender, said))[:1400])
    if corpus.frames:
        body = join_packet(
            "n1", [encode_message(MapFrame(mutated(rng, rng.choice(corpus.frames))[:1150] or b"x"))]
        )
        net.hear("n0", ENVELOPE.seal(Channel.DATAGRAM, body))
        swim._replicated.bulk_receive("n1", mutated(rng, rng.choice(corpus.frames)), net.now, WALL)  # type: ignore[attr-defined]
        swim._replicated.bulk_units(mutated(rng, rng.choice(corpus.frames)))  # type: ignore[attr-defined]
    stream = rng.randrange(10**6, 10**9) * 2
    swim.stream_accepted(stream, ("elsewhere", 1), net.now)
    swim.stream_received(stream, mutated_frame(rng, rng.choice(corpus.streams)), net.now)
    if rng.random() < 0.9:
        swim.stream_closed(stream, net.now)
    net.pump("n0")


def mutated_frame(rng: random.Random, frame: bytes) -> bytes:
    """Change a stream frame, or its body, or one message in it, and seal it properly where possible."""
    try:
        body = decompress(ENVELOPE.open(Channel.STREAM, frame[FRAME_LENGTH_BYTES:]), 100_000)
        packet = split_packet(body)
    except (DecodeError, ValueError):  # several frames came at once: change the bytes as they are
        return mutated(rng, frame)
    if rng.random() < 0.5:
        body = mutated(rng, body)
    else:
        at = rng.randrange(len(packet.messages))
        changed = mutated(rng, packet.messages[at]) or b"x"
        body = join_packet(packet.sender, [*packet.messages[:at], changed, *packet.messages[at + 1 :]])
    sealed = ENVELOPE.seal(Channel.STREAM, compress(body))
    return len(sealed).to_bytes(FRAME_LENGTH_BYTES, "big") + sealed


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    found = Corpus()
    assert len(found.bodies) > 3
    assert len(found.streams) > 3
    assert len(found.frames) > 3
    assert len(found.messages) >= 7
    return found


@seed(1)
@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_mutated_packets_and_frames_are_taken_or_counted_and_nothing_grows(
    corpus: Corpus, number: int
) -> None:
    rng = random.Random(number)
    for _ in range(10):
        attack(corpus, rng)
    corpus.net.run_for(0.1)
    bounded(corpus.net)
    statistics = corpus.net.hosts["n0"].swim.statistics()
    assert sum(count for key, count in statistics.items() if key.startswith("dropped_")) > 0


class Mischief(RuleBasedStateMachine):
    """A small cluster, a process that may say anything at all in any name, and time that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(config=SwimConfig.profile("local", label=CLUSTER, max_members=20, max_rumours=40))
        for number in range(4):
            self.net.add(
                f"n{number}", seeds=["n0:7946"] if number else None, replicated=a_map(f"n{number}", BOUNDS)
            )
        self.net.run_for(2)
        self.streams = 10**6

    names = st.sampled_from(["n0", "n1", "n2", "n3", "n9", "far"])

    @rule(
        messages=st.lists(datagram_messages, min_size=1, max_size=4),
        sender=names,
        to=st.sampled_from(["n0", "n1"]),
    )
    def say(self, messages: list[Message], sender: str, to: str) -> None:
        body = join_packet(sender, list(map(encode_message, messages)))
        self.net.hear(to, ENVELOPE.seal(Channel.DATAGRAM, body)[:1400])

    @rule(
        subject=st.sampled_from(["n1", "n2", "n3"]),
        authors=st.lists(names, min_size=1, max_size=3, unique=True),
        incarnation=st.one_of(st.none(), st.integers(0, MAX_INCARNATION)),
        is_final=st.booleans(),
    )
    def accuse(self, subject: str, authors: list[str], incarnation: int | None, is_final: bool) -> None:
        about = self.net.hosts[subject].swim.own
        if incarnation is not None:
            about = replace(about, incarnation=incarnation)
        said = verdict(about, *authors) if is_final else doubt(about, *authors)
        self.net.inject("n0", said, sender="n3")

    @rule(subject=st.sampled_from(["n1", "n9", "far"]), left=st.booleans())
    def speak_for(self, subject: str, left: bool) -> None:
        word = stranger(subject)
        self.net.inject("n0", goodbye(word) if left else word, sender="n3")

    @rule(messages=st.lists(stream_messages, max_size=4), sender=names, closes=st.booleans())
    def stream(self, messages: list[Message], sender: str, closes: bool) -> None:
        swim = self.net.hosts["n0"].swim
        self.streams += 2
        sealed = ENVELOPE.seal(
            Channel.STREAM, compress(join_packet(sender, list(map(encode_message, messages))))
        )
        swim.stream_accepted(self.streams, ("elsewhere", 1), self.net.now)
        swim.stream_received(self.streams, len(sealed).to_bytes(4, "big") + sealed, self.net.now)
        if closes:
            swim.stream_closed(self.streams, self.net.now)
        self.net.pump("n0")

    @rule(seconds=st.sampled_from([0.01, 0.5, 4.0]))
    def wait(self, seconds: float) -> None:
        self.net.run_for(seconds)

    @invariant()
    def nothing_grows(self) -> None:
        bounded(self.net)

    def teardown(self) -> None:
        self.net.run_for(40)
        assert self.net.hosts["n0"].running
        assert {"n1", "n2", "n3"} <= set(self.net.up("n0"))


TestMischief = Mischief.TestCase
TestMischief.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


def test_nobody_dies_of_a_member_that_suspects_everybody_all_the_time() -> None:
    net = settled(5)
    for _ in range(80):
        for victim in ("n0", "n1", "n2", "n3"):
            lie = doubt(net.hosts[victim].swim.own, "n4")
            for to in ("n0", "n1", "n2", "n3"):
                net.inject(to, lie, sender="n4")
        net.run_for(0.1)
    assert not net.all_told(MemberSuspected, MemberDied)
    assert all(host.swim.statistics()["rumours_waiting"] < 20 for host in net.hosts.values())
    net.run_for(10)
    assert net.all_up()


def test_a_flood_of_maps_of_strangers_waits_in_a_bounded_place() -> None:
    net = Net()
    held = a_map("n0", BOUNDS)
    net.add("n0", replicated=held)
    held.start(0, net.now, WALL)
    net.add("n1", seeds=["n0:7946"])
    net.run_for(2)
    for number in range(100):
        other = identity_of(f"stranger-{number}")
        bucket = Bucket(other.credential, (1, bytes(8)), 1, 0, 0, {"agent/x/1": b"v"})
        unit = units.encode(bucket, other)
        push = strict_cbor.encode([1, 0, bytes(8), [unit]])
        net.inject("n0", MapFrame(push), sender="n1")
    counts = held.statistics()
    assert counts["quarantined"] == 16
    assert counts["dropped_unknown_owner"] == 100
    assert counts["owners"] == 1


def test_pings_of_many_names_open_no_streams_and_are_remembered_by_nobody() -> None:
    net = Net()
    net.add("n0")
    for number in range(200):
        net.inject("n0", Ping(number, "n0", bytes(8), bytes(8)), sender=f"far-{number}")
    statistics = net.hosts["n0"].swim.statistics()
    assert statistics["streams_open"] == statistics["pair_keys"] == statistics["questions_open"] == 0
    assert len(net.sent) == 200  # one answer each, no longer than what proves who we are
    assert max(len(sent.data) for sent in net.sent) < 400
