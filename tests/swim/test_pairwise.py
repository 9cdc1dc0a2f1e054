"""What two members share proves who speaks: a stolen gossip key does not keep the dead alive."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.codec import IN_DATAGRAM, decode_message, encode_message, join_packet, split_packet
from swim.events import MemberDied, MemberSuspected, MemberUpdated
from swim.keyring import Channel, Keyring
from swim.members import State
from swim.messages import Ack, Nack, Ping, PingRequest, UserFrame, Who
from swim.pairwise import Pairwise, Tagged
from tests.swim.net import CLUSTER, Net, settled
from tests.swim.test_codec import names, roots, sequences

PING = Ping(7, "b", b"r" * 8)


def pair(name: str, *, boot: int = 1, label: str = CLUSTER) -> Pairwise:
    return Pairwise(name, label, random.Random(f"{name}/{boot}").randbytes)


def sent(message: Tagged, sender: Pairwise, receiver: Pairwise) -> Tagged:
    return replace(message, tag=sender.tag(message, receiver.public_key))


def test_two_members_agree_on_tags_without_a_word() -> None:
    a, b = pair("a"), pair("b")
    assert b.is_from(sent(PING, a, b), "a", a.public_key)
    assert a.is_from(sent(Ack(7, "b", b"r" * 8, b"c"), b, a), "b", b.public_key)


tagged = st.one_of(
    st.builds(Ping, sequences, names, roots),
    st.builds(PingRequest, sequences, names, st.integers(1, 60_000)),
    st.builds(Ack, sequences, names, roots, st.binary(max_size=24)),
    st.builds(Nack, sequences, st.binary(max_size=64)),
    st.builds(UserFrame, st.integers(0, 255), st.binary(min_size=1, max_size=40)),
)


@given(tagged, tagged)
def test_a_tag_fits_one_message_only(one: Tagged, other: Tagged) -> None:
    a, b = pair("a"), pair("b")
    moved = replace(other, tag=sent(one, a, b).tag)
    assert b.is_from(moved, "a", a.public_key) == (one == other)


@given(tagged)
def test_a_tag_fits_one_direction_one_boot_and_one_cluster_only(message: Tagged) -> None:
    a, b = pair("a"), pair("b")
    real = sent(message, a, b)
    assert b.is_from(real, "a", a.public_key)
    assert not a.is_from(real, "b", b.public_key)  # sent back to where it came from
    assert not b.is_from(real, "c", a.public_key)
    assert not b.is_from(real, "a", pair("a", boot=2).public_key)
    assert not pair("b", boot=2).is_from(real, "a", a.public_key)
    assert not pair("c").is_from(real, "a", a.public_key)
    assert not pair("b", label="other").is_from(real, "a", a.public_key)


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_with_a_key_of_low_order_nothing_is_shared_and_no_tag_fits(point: bytes) -> None:
    a = pair("a")
    assert a.key(point) is None
    assert not a.is_from(replace(PING, tag=a.tag(PING, point)), "b", point)
    assert a.statistics() == {"pair_keys": 0}


def test_the_keys_that_are_kept_are_bounded_and_agreed_on_anew() -> None:
    a = Pairwise("a", CLUSTER, random.Random(1).randbytes, max_keys=2)
    others = [pair(f"m{number}") for number in range(3)]
    tags = [a.tag(PING, other.public_key) for other in others]
    assert a.statistics() == {"pair_keys": 2}
    assert [a.tag(PING, other.public_key) for other in others] == tags


# Over the network

KEY = b"k" * 32


class Thief:
    """Who holds the gossip key and sits at a dead member's address: it answers every ping there."""

    def __init__(self, net: Net, victim: str) -> None:
        self.answers = 0
        self._net = net
        self._victim = victim
        self._ring = Keyring([KEY], label=CLUSTER, entropy=random.Random(victim).randbytes)
        self._rest = net._datagram
        net._datagram = self._datagram  # type: ignore[method-assign]

    def _datagram(self, to: str, data: bytes, source: tuple[str, int]) -> None:
        if to != self._victim:
            self._rest(to, data, source)
            return
        packet = split_packet(self._ring.open(Channel.DATAGRAM, data))
        for encoded in packet.messages:
            if encoded[1] == 10:  # a Ping
                self._answer(encoded, source)

    def _answer(self, encoded: bytes, source: tuple[str, int]) -> None:
        ping = decode_message(encoded, IN_DATAGRAM)
        assert isinstance(ping, Ping)
        forged = [
            encode_message(Ack(ping.sequence, subject, b"", b"", tag))
            for subject in ("", self._victim)
            for tag in (ping.tag, bytes(8), b"guessed!")
        ]
        body = join_packet(self._victim, forged)
        self.answers += 1
        self._net.hosts[source[0]].swim.receive(
            self._ring.seal(Channel.DATAGRAM, body), (self._victim, 7946), self._net.now
        )
        self._net.pump(source[0])


def test_a_thief_of_the_gossip_key_that_answers_for_a_dead_member_does_not_keep_it_alive() -> None:
    net = Net()
    for number in range(4):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, keys=[KEY])
    net.run_for(5)
    assert net.all_up()
    net.kill("n1")
    thief = Thief(net, "n1")
    config = net.config
    bound_s = 2 * config.probe_interval_s + config.suspicion_min_s + config.doubt_margin_s + 1
    assert net.run_for(30, until=lambda: net.state("n0", "n1") is State.DEAD) < bound_s
    assert thief.answers > 3
    assert net.total("dropped_bad_tag") >= 2 * thief.answers


def test_a_restarted_member_that_knows_nobody_is_introduced_by_the_first_ping_it_gets() -> None:
    net = settled(5, seed_refresh_s=1000.0)
    net.kill("n1")
    net.hosts["n1"].running = False
    swim = net.add("n1")
    net.forget()
    net.run_for(5, until=lambda: any(s.to == "n1" for s in net.sent))
    asked = net.sent[-1]
    net.run_for(4 * net.delay_s + 0.001)
    assert net.hosts[asked.source].swim.member("n1").boot == swim.own.boot  # type: ignore[union-attr]
    assert net.state("n1", asked.source) is State.ALIVE
    answers = [s.messages for s in net.sent if s.source == "n1" and s.to == asked.source]
    assert isinstance(answers[0][0], Who)
    assert any(isinstance(message, Ack) for said in answers for message in said)
    assert net.run_for(10, until=net.all_up) < 2
    assert not net.all_told(MemberSuspected, MemberDied)
    assert all(net.told(name, MemberUpdated)[0].restarted for name in ("n0", "n2", "n3", "n4"))


def test_a_captured_ack_of_a_past_life_proves_nothing_of_the_next_one() -> None:
    net = settled(3)
    ack = net.tagged(Ack(1, "n1", bytes(8), b""), "n1", "n0")
    net.inject("n0", ack)
    assert net.count("n0", "dropped_bad_tag") == 0
    net.add("n1", seeds=["n0:7946"])
    net.run_for(1)
    net.inject("n0", ack)
    assert net.count("n0", "dropped_bad_tag") == 1
