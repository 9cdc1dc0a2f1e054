"""Whatever comes in, from strangers or from members that lie: no exception, bounded memory, counted drops."""

import random

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from swim import codec, strict_cbor, units
from swim.broadcast import NothingReplicated
from swim.codec import encode_message, encode_packet, join_packet
from swim.config import SwimConfig
from swim.events import MemberDied
from swim.keyring import Channel, PlainEnvelope
from swim.messages import MAX_INCARNATION, Alive, MapFrame, Message, Packet, Ping, Suspect, SyncDigest
from swim.replicated import Limits, Replicated
from swim.sync import LENGTH_BYTES, MAX_DIGEST_BYTES
from swim.units import Bucket
from tests.swim.net import CLUSTER, WALL, Net, authority, cluster, identity_of

ENVELOPE = PlainEnvelope(CLUSTER)
BOUNDS = Limits(
    max_owners=8, max_buckets=8, max_quarantined=16, max_registers=8, max_queued=32, max_events=64
)


def a_map(name: str, limits: Limits | None = None) -> Replicated:
    rng = random.Random(name)
    return Replicated(identity_of(name), authority(), rng=rng, entropy=rng.randbytes, limits=limits)


def datagram(sender: str, *messages: Message) -> bytes:
    return ENVELOPE.seal(Channel.DATAGRAM, encode_packet(Packet(sender, messages)))


def frame(sender: str, *messages: Message) -> bytes:
    sealed = ENVELOPE.seal(Channel.STREAM, encode_packet(Packet(sender, messages)))
    return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed


def hear(net: Net, to: str, data: bytes) -> None:
    net.hosts[to].swim.receive(data, ("elsewhere", 1), net.now)
    net.pump(to)


def recorded() -> tuple[Net, list[bytes], list[bytes], list[bytes]]:
    """Three members with maps, and what they said: bodies of datagrams and stream frames, and map frames."""
    net = Net(config=SwimConfig.profile("local", label=CLUSTER, max_members=20, max_rumours=40))
    streams: list[bytes] = []
    for number in range(3):
        name = f"n{number}"
        held = a_map(name, BOUNDS)
        held.start(0, net.now, WALL)
        held.put("agent/x/1", b"v" * 40)
        held.cluster_put(f"key/{number}", b"v", WALL)
        for other in range(3):
            held.admit_owner(f"n{other}", WALL)
        swim = net.add(name, seeds=["n0:7946"] if number else None, replicated=held)
        received = swim.stream_received

        def listen(stream: int, data: bytes, now: float, *, tell=received) -> None:  # type: ignore[no-untyped-def]
            streams.append(data)
            tell(stream, data, now)

        swim.stream_received = listen  # type: ignore[method-assign]
    net.run_for(3)
    net.hosts["n1"].swim.update_meta(b"new", net.now)
    net.run_for(2)
    bodies = [ENVELOPE.open(Channel.DATAGRAM, data) for _, data in net.sent]
    whole = [a + b for a, b in zip(streams[::2], streams[1::2], strict=False)]
    frames = [
        message.frame
        for body in bodies
        for message in codec.decode_packet(body, codec.IN_DATAGRAM).messages
        if isinstance(message, MapFrame)
    ]
    return net, list(dict.fromkeys(bodies)), whole, list(dict.fromkeys(frames))


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
        counts = host.swim.statistics()
        assert counts["rumours_waiting"] <= 40
        assert sum(counts[f"members_{state}"] for state in ("alive", "suspect", "dead", "left")) <= 20
        assert counts["streams_open"] <= 32
        held = host.swim._replicated.statistics()  # type: ignore[attr-defined]
        assert held["quarantined"] <= 16
        assert held["buckets"] <= 64
        assert held["registers"] <= 8
        assert held["queued"] <= 32
        assert held["events_waiting"] <= 64


def attack(net: Net, corpus: tuple[list[bytes], list[bytes], list[bytes]], rng: random.Random) -> None:
    """Feed one mutation of each kind to a member."""
    bodies, streams, frames = corpus
    swim = net.hosts["n0"].swim
    hear(net, "n0", ENVELOPE.seal(Channel.DATAGRAM, mutated(rng, rng.choice(bodies))))
    if frames:
        body = join_packet("n1", [encode_message(MapFrame(mutated(rng, rng.choice(frames))[:1150] or b"x"))])
        hear(net, "n0", ENVELOPE.seal(Channel.DATAGRAM, body))
        swim._replicated.bulk_receive("n1", mutated(rng, rng.choice(frames)), net.now, WALL)  # type: ignore[attr-defined]
        swim._replicated.bulk_units(mutated(rng, rng.choice(frames)))  # type: ignore[attr-defined]
    stream = rng.randrange(10**6, 10**9) * 2
    swim.stream_accepted(stream, ("elsewhere", 1), net.now)
    try:
        inner = ENVELOPE.open(Channel.STREAM, rng.choice(streams)[LENGTH_BYTES:])
    except codec.DecodeError:  # several frames came at once: change the bytes as they are
        data = mutated(rng, rng.choice(streams))
    else:
        sealed = ENVELOPE.seal(Channel.STREAM, mutated(rng, inner))
        data = len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed
    swim.stream_received(stream, data, net.now)
    if rng.random() < 0.9:
        swim.stream_closed(stream, net.now)
    net.pump("n0")


@pytest.fixture(scope="module")
def said() -> tuple[Net, tuple[list[bytes], list[bytes], list[bytes]]]:
    net, *corpus = recorded()
    assert all(len(part) > 3 for part in corpus)
    return net, (corpus[0], corpus[1], corpus[2])


@seed(1)
@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_mutated_packets_and_frames_are_taken_or_counted_and_nothing_grows(said, number) -> None:  # type: ignore[no-untyped-def]
    net, corpus = said
    rng = random.Random(number)
    for _ in range(10):
        attack(net, corpus, rng)
    net.run_for(0.1)
    bounded(net)
    drops = [count for key, count in net.hosts["n0"].swim.statistics().items() if key.startswith("dropped_")]
    assert sum(drops) > 0


def test_nobody_dies_of_a_member_that_suspects_everybody_all_the_time() -> None:
    net = cluster(5)
    for _ in range(80):
        for victim in ("n0", "n1", "n2", "n3"):
            own = net.hosts[victim].swim.own
            lie = datagram("n4", Suspect(victim, own.boot, own.incarnation, "n4"))
            for to in ("n0", "n1", "n2", "n3"):
                hear(net, to, lie)
        net.run_for(0.1)
    assert not any(net.told(name, MemberDied) for name in net.hosts)
    assert all(host.swim.statistics()["rumours_waiting"] < 20 for host in net.hosts.values())
    net.run_for(10)
    assert net.all_up()


@pytest.mark.parametrize("incarnation", [2**63, 2**32, -1])
def test_an_impossible_incarnation_is_no_message(incarnation: int) -> None:
    net = cluster(2)
    own = net.hosts["n1"].swim.own
    alive = Alive(own.name, own.host, own.port, own.boot, incarnation, b"", own.credential, bytes(64))
    hear(net, "n0", datagram("n1", alive))
    assert net.hosts["n0"].swim.statistics()["dropped_bad_field"] == 1
    assert net.hosts["n0"].swim.member("n1").incarnation == own.incarnation  # type: ignore[union-attr]


def test_the_highest_incarnation_does_not_keep_its_subject_from_refuting() -> None:
    net = cluster(3)
    identity = identity_of("n1")
    own = net.hosts["n1"].swim.own
    alive = Alive("n1", "n1", 7946, own.boot, MAX_INCARNATION, b"", identity.credential)
    signed = Alive(
        *[getattr(alive, f) for f in list(Alive.__dataclass_fields__)[:-1]],
        identity.sign(alive.signed_bytes()),
    )
    for to in ("n0", "n1", "n2"):
        hear(net, to, datagram("n2", signed))
    hear(net, "n0", datagram("n2", Suspect("n1", own.boot, MAX_INCARNATION, "n2")))
    net.run_for(10)
    assert net.all_up()
    assert net.hosts["n1"].swim.own.boot > own.boot


def test_a_flood_of_maps_of_strangers_waits_in_a_bounded_place() -> None:
    net = Net()
    held = a_map("n0", BOUNDS)
    net.add("n0", replicated=held)
    held.start(0, net.now, WALL)
    net.add("n1", seeds=["n0:7946"])
    net.run_for(2)
    for number in range(100):
        stranger = identity_of(f"stranger-{number}")
        bucket = Bucket(stranger.credential, (1, bytes(8)), 1, 0, 0, {"agent/x/1": b"v"})
        unit = units.encode(bucket, stranger)
        push = strict_cbor.encode([1, 0, bytes(8), [unit]])
        hear(net, "n0", datagram("n1", MapFrame(push)))
    counts = held.statistics()
    assert counts["quarantined"] == 16
    assert counts["dropped_unknown_owner"] == 100
    assert counts["owners"] == 1


def test_a_peer_that_sends_endless_state_is_cut_off() -> None:
    net = cluster(2)
    swim = net.hosts["n0"].swim
    open_before = swim.statistics()["streams_open"]
    swim.stream_accepted(100, ("elsewhere", 1), net.now)
    part = frame("n1", SyncDigest(bytes(60_000)))
    for _ in range(MAX_DIGEST_BYTES // 60_000 + 1):
        swim.stream_received(100, part, net.now)
    net.pump("n0")
    assert swim.statistics()["dropped_stream_digest_too_large"] == 1
    assert swim.statistics()["streams_open"] == open_before


def test_pings_of_many_names_open_few_streams() -> None:
    net = Net()
    net.add("n0", replicated=NothingReplicated())
    for number in range(200):
        hear(net, "n0", datagram(f"far-{number}", Ping(number, "n0", bytes(8))))
    assert net.hosts["n0"].swim.statistics()["streams_open"] <= 1
