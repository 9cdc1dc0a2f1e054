"""What one datagram may cost and do, whoever sent it: counted under its reason, and bounded."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim import identity as identities
from swim.codec import encode_message, join_packet
from swim.config import MAX_PACKET_BYTES
from swim.events import MemberSuspected
from swim.keyring import VERSIONS, Channel, Keyring, PlainEnvelope
from swim.members import State
from swim.messages import Ack, Alive, MapFrame, Ping, PingRequest, RollFrame, Who
from swim.reception import MAX_SEEN
from tests.swim.net import CLUSTER, Net, Sent, settled
from tests.swim.statements import doubt, signed, stranger

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def forged(name: str, signature: bytes = bytes(64)) -> Alive:
    return replace(stranger(name), signature=signature)


def beliefs(net: Net, name: str = "n0") -> tuple[object, ...]:
    """Return all that a host holds and says of itself."""
    swim = net.hosts[name].swim
    held = sorted((m.name, m.state, m.boot, m.incarnation, m.address, m.meta) for m in swim.members())
    return (held, swim.own, net.hosts[name].events.copy())


def drops(net: Net, name: str = "n0") -> dict[str, int]:
    statistics = net.hosts[name].swim.statistics()
    return {key: count for key, count in statistics.items() if key.startswith("dropped_") and count}


# What costs how much


def test_a_packet_full_of_forged_statements_costs_one_check() -> None:
    net = settled(3)
    before = net.hosts["n0"].checks
    for number in range(20):
        lies = [encode_message(forged(f"m{number}-{n}")) for n in range(3)]
        net.inject("n0", *lies, sender="n1")
    assert net.hosts["n0"].checks - before == 20
    assert drops(net) == {"dropped_bad_signature": 20}
    assert set(net.up("n0")) == {"n1", "n2"}


def test_a_forged_statement_ends_its_packet_before_anything_is_answered() -> None:
    net = settled(3)
    ping = net.tagged(Ping(1, "n0", bytes(8)), "n1", "n0")
    net.inject("n0", ping, forged("far"))
    assert not net.sent
    net.inject("n0", ping)
    assert [type(m) for s in net.sent for m in s.messages if not isinstance(m, MapFrame)][:1] == [Ack]


def test_news_that_was_heard_before_costs_neither_a_check_nor_decoding() -> None:
    net = settled(3)
    net.hosts["n1"].swim.update_meta(b"later", net.now)
    later = encode_message(net.hosts["n1"].swim.own)
    net.inject("n0", later, sender="n2")
    before = net.hosts["n0"].checks
    for _ in range(50):
        net.inject("n0", later, sender="n2")
    net.run_for(20)  # it waits to be told on no longer
    for _ in range(50):
        net.inject("n0", later, sender="n2")
    assert net.hosts["n0"].checks == before


def test_the_statements_remembered_as_heard_are_bounded() -> None:
    net = settled(2, max_members=5)
    for number in range(MAX_SEEN + 50):
        net.inject("n0", doubt(stranger(f"m{number}"), "n1"), sender="n1")
    assert net.count("n0", "statements_seen") == MAX_SEEN


def test_twenty_thousand_invented_members_cost_bounded_checks_and_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = settled(3, max_members=50, max_rumours=100)
    swim = net.hosts["n0"].swim
    real = identities.verify
    checks = 0

    def counting(*args: bytes) -> bool:
        nonlocal checks
        checks += 1
        return real(*args)

    monkeypatch.setattr(identities, "verify", counting)  # the authority's, who looks at credentials
    swim._learning._verify = counting
    borrowed = stranger("template")
    for number in range(0, 20_000, 4):  # all that a thief of the gossip key has are credentials of others
        lies = [encode_message(replace(borrowed, name=f"x{number + n}")) for n in range(4)]
        net.inject("n0", *lies, sender="n1")
    assert checks <= 1
    assert drops(net) == {"dropped_credential_of_another": 20_000}
    homemade = signed(borrowed, "template", Ed25519PrivateKey.from_private_bytes(b"\x09" * 32))
    for number in range(1_000):
        net.inject("n0", replace(homemade, name=f"x{number}"), sender="n1")
    assert checks <= 1 + 1_000
    assert drops(net)["dropped_credential_refused"] == 1_000
    assert set(net.up("n0")) == {"n1", "n2"}
    assert net.count("n0", "rumours_waiting") == net.count("n0", "knocks_waiting") == 0
    assert net.count("n0", "pair_keys") == 2
    net.run_for(2)
    assert net.all_up()


def test_members_that_the_authority_vouches_for_fill_the_table_and_nothing_more() -> None:
    net = settled(2, max_members=30)
    for number in range(100):
        net.inject("n0", stranger(f"m{number}"), sender="n1")
    statistics = net.hosts["n0"].swim.statistics()
    assert sum(statistics[f"members_{state}"] for state in ("alive", "suspect", "dead", "left")) == 30
    assert statistics["dropped_member_table_full"] == 71
    assert net.state("n0", "n1") is State.ALIVE


# What changes nothing


def encrypted() -> Net:
    net = Net()
    for number in range(3):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, keys=[KEY])
    net.run_for(6)
    assert net.all_up()
    net.forget()
    return net


def test_valid_packets_that_are_replayed_are_counted_and_change_nothing() -> None:
    net = encrypted()
    net.run_for(3)
    captured: list[Sent] = [s for s in net.sent if s.to == "n0"]
    net.roundtrip()
    before = beliefs(net)
    for sent in captured:
        net.hear("n0", sent.data, (sent.source, 7946))
    assert drops(net)["dropped_replay"] == len(captured) > 5
    assert beliefs(net) == before


def packets_under(
    key: bytes | None, label: str = CLUSTER, versions: tuple[int, int] = VERSIONS
) -> list[bytes]:
    """Return well-formed packets of other clusters, with everything in them that could change something."""
    envelope: Keyring | PlainEnvelope = PlainEnvelope(label, versions=versions)
    if key is not None:
        envelope = Keyring([key], label=label, entropy=lambda size: b"e" * size, versions=versions)
    messages = [
        [encode_message(stranger("far"))],
        [encode_message(Who(1))],
        [encode_message(MapFrame(b"x"))],
        [encode_message(Ping(1, "n0", bytes(8), bytes(8)))],
    ]
    return [envelope.seal(Channel.DATAGRAM, join_packet("n1", said)) for said in messages]


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        (packets_under(OTHER_KEY), "unknown_key"),
        (packets_under(KEY, label="other"), "not_authentic"),
        (packets_under(KEY, versions=(VERSIONS[1] + 1,) * 2), "unknown_version"),
        (packets_under(KEY, versions=(VERSIONS[0] - 1,) * 2), "unknown_version"),
        (packets_under(None)[:1], "unencrypted"),
        ([b"", b"short"], "truncated"),
        ([bytes(MAX_PACKET_BYTES + 1)], "oversized"),
    ],
)
def test_packets_of_others_are_counted_under_their_own_reason_and_change_nothing(
    packets: list[bytes], why: str
) -> None:
    net = encrypted()
    before = beliefs(net)
    for data in packets:
        net.hear("n0", data)
    assert drops(net) == {f"dropped_{why}": len(packets)}
    assert beliefs(net) == before
    assert net.sent == []


def test_packets_of_a_key_that_was_removed_are_refused_though_they_are_fresh() -> None:
    net = encrypted()
    for step in ("add", "use"):
        for host in net.hosts.values():
            getattr(host.swim.keyring, step)(OTHER_KEY)
    net.run_for(1)
    keyring = net.hosts["n0"].swim.keyring
    assert keyring is not None
    keyring.remove(KEY)
    before = beliefs(net)
    old = packets_under(KEY)
    for data in old:
        net.hear("n0", data)
    assert drops(net) == {"dropped_unknown_key": len(old)}
    assert beliefs(net) == before
    net.run_for(5)
    assert net.all_up()
    assert not net.all_told(MemberSuspected)


def test_a_plain_packet_of_another_cluster_is_told_by_its_checksum() -> None:
    net = settled(2)
    before = beliefs(net)
    for data in packets_under(None, label="other"):
        net.hear("n0", data)
    assert drops(net) == {"dropped_bad_checksum": 4}
    assert beliefs(net) == before


def test_a_packet_in_ones_own_name_is_dropped() -> None:
    net = settled(2)
    net.inject("n0", stranger("far"), sender="n0")
    assert drops(net) == {"dropped_own_packet": 1}
    assert net.up("n0") == ["n1"]


# Who is answered


def test_a_ping_that_cannot_be_checked_is_answered_with_a_question_and_an_introduction() -> None:
    net = settled(3)
    net.inject("n0", Ping(7, "n0", bytes(8), bytes(8)), sender="far", source=("n2", 7946))
    (sent,) = net.sent
    assert sent.to == "n2"
    assert sent.messages == [Who(7), net.hosts["n0"].swim.own]
    assert drops(net) == {"dropped_probe_of_stranger": 1}
    net.inject("n0", Ping(8, "n0", bytes(8), bytes(8)), sender="n1", source=("n2", 7946))
    assert net.sent[1].messages == [Who(8), net.hosts["n0"].swim.own, net.hosts["n1"].swim.own]
    assert drops(net)["dropped_bad_tag"] == 1


def test_an_ack_goes_where_its_ping_came_from() -> None:
    net = settled(2)
    net.inject("n0", net.tagged(Ping(7, "n0", bytes(8)), "n1", "n0"), source=("behind-nat", 999))
    assert (net.sent[0].to, type(net.sent[0].messages[0])) == ("behind-nat", Ack)


def test_an_ack_leaves_out_what_its_asker_knows() -> None:
    net = settled(2)
    root = net.hosts["n0"].swim.root()
    for shown in (root, bytes(8)):
        net.inject("n0", net.tagged(Ping(7, "n0", shown), "n1", "n0"), source=("n1", 7946))
    same, other = [m for s in net.sent for m in s.messages if isinstance(m, Ack)]
    assert (same.subject, same.root) == ("", b"")
    assert (other.subject, other.root) == ("", root)


@pytest.mark.parametrize("has_changed", [False, True])
def test_an_ack_without_a_root_agrees_with_what_its_ping_has_shown_and_with_nothing_later(
    has_changed: bool,
) -> None:
    net = settled(2)
    swim = net.hosts["n0"].swim
    record = swim._table.get("n1")
    assert record is not None
    net.inject("n0", net.tagged(Ping(1, "n0", b"elsewise"), "n1", "n0"))
    assert net.count("n0", "out_of_step") == 1
    ping = swim._prober.check(record)
    if has_changed:
        swim.update_meta(b"changed", net.now)
    net.inject("n0", net.tagged(Ack(ping.sequence, "", b""), "n1", "n0"))
    assert net.count("n0", "out_of_step") == has_changed


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_ping_that_is_sent_once_more_with_an_introduction_shows_the_root_of_then(in_turn: bool) -> None:
    net = settled(2)
    swim = net.hosts["n0"].swim
    record = swim._table.get("n1")
    assert record is not None
    net.drop("n0", "n1")
    if in_turn:
        net.run_for(2 * net.config.probe_interval_s, until=lambda: swim._prober._probe is not None)
        probe = swim._prober._probe
        assert probe is not None
        sequence = probe.sequence
    else:
        sequence = swim._prober.check(record).sequence
    swim.update_meta(b"changed", net.now)
    net.inject("n0", Who(sequence), sender="n1")
    net.inject("n0", net.tagged(Ack(sequence, "", b""), "n1", "n0"))
    assert net.count("n0", "introductions") == 1
    assert net.count("n0", "out_of_step") == 0


def test_an_ack_without_a_root_that_answers_no_open_ping_agrees_with_nothing() -> None:
    net = settled(2)
    net.inject("n0", net.tagged(Ping(1, "n0", b"elsewise"), "n1", "n0"))
    net.inject("n0", net.tagged(Ack(99, "", b""), "n1", "n0"))
    assert net.count("n0", "out_of_step") == 1


def test_requests_frames_and_answers_of_strangers_are_dropped() -> None:
    net = settled(2)
    for message in (
        PingRequest(1, "n1", 100, bytes(8)),
        Ack(1, "", bytes(8), b"", bytes(8)),
        MapFrame(b"x"),
    ):
        net.inject("n0", message, sender="far")
    assert drops(net) == {"dropped_probe_of_stranger": 2, "dropped_frame_of_stranger": 1}
    assert net.sent == []


def test_frames_of_the_dead_are_dropped() -> None:
    net = settled(3)
    net.kill("n1")
    net.run_for(30, until=lambda: net.state("n0", "n1") is State.DEAD)
    for frame in (MapFrame(b"x"), RollFrame(b"x")):
        net.inject("n0", frame, sender="n1")
    assert drops(net) == {"dropped_frame_of_stranger": 2}


def test_a_question_about_a_ping_that_was_never_sent_is_not_answered() -> None:
    net = settled(2)
    for sequence in range(50):
        net.inject("n0", Who(sequence), sender="n1")
    assert net.sent == []


def test_a_coordinate_that_is_none_is_counted_and_the_answer_counts() -> None:
    net = settled(2)
    ack = net.tagged(Ack(1, "", bytes(8), b"nonsense"), "n1", "n0")
    net.inject("n0", ack)
    assert drops(net) == {"dropped_bad_coordinate": 1}


def test_news_is_taken_before_questions_are_answered() -> None:
    net = Net()
    swim = net.add("n0")
    other = Net(seed=2)
    newcomer = other.add("n9")
    ping = replace(
        Ping(7, "n0", bytes(8)), tag=newcomer._pairwise.tag(Ping(7, "n0", bytes(8)), swim.own.exchange_key)
    )
    net.inject("n0", ping, signed(newcomer.own, "n9"), sender="n9", source=("n9", 7946))
    assert any(isinstance(m, Ack) for s in net.sent for m in s.messages)
    assert net.up("n0") == ["n9"]
