"""What a member comes to believe of others, and what it is told that it does not believe."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim.codec import encode_message
from swim.events import (
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefused,
    MemberSuspected,
    MemberUpdated,
)
from swim.keyring import VERSIONS
from swim.learning import MAX_KNOCKS, MAX_REFUSED
from swim.members import State
from swim.messages import Ack, Boot, Dead, Suspect
from tests.swim.net import WALL, Net, cluster, identity_of, settled
from tests.swim.statements import BOOT, doubt, goodbye, signed, stranger, verdict, word

STRANGERS_CA = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)


def reaped(*, left: bool = False) -> Net:
    """Return a cluster of four in which n1 is gone and not in any table any more."""
    net = settled(4, reap_after_s=15.0, reconnect_interval_s=1000.0)
    if left:
        net.hosts["n1"].swim.leave(net.now)
        net.pump("n1")
        net.run_for(2)
    net.kill("n1")
    net.run_for(60, until=lambda: all(net.state(name, "n1") is None for name in ("n0", "n2", "n3")))
    assert all(len(net.told(name, MemberReaped)) == 1 for name in ("n0", "n2", "n3"))
    net.forget()
    return net


# What proves itself


def test_an_alive_that_is_not_its_subjects_own_word_is_counted_and_dropped() -> None:
    net = settled(2)
    own = net.hosts["n1"].swim.own
    later = replace(own, incarnation=7)
    far = replace(own, boot=Boot(int((WALL + 2 * 86_400 + 1000) * 1000), own.boot.id))
    for alive, reason in (
        (later, "bad_signature"),
        (replace(signed(later, "n1"), host="evil"), "bad_signature"),
        (replace(signed(later, "n1"), patience_s=30), "bad_signature"),
        (replace(signed(later, "n1"), exchange_key=bytes(32)), "bad_signature"),
        (signed(later, "n7"), "credential_of_another"),
        (signed(later, "n1", STRANGERS_CA), "credential_refused"),
        (replace(later, credential=b"nonsense"), "credential_refused"),
        (signed(far, "n1"), "boot_time_ahead"),
    ):
        before = net.count("n0", f"dropped_{reason}")
        net.inject("n0", alive)
        assert net.count("n0", f"dropped_{reason}") == before + 1
    assert net.hosts["n0"].swim.member("n1").incarnation == 0  # type: ignore[union-attr]
    net.inject("n0", signed(later, "n1"))
    assert net.hosts["n0"].swim.member("n1").incarnation == 7  # type: ignore[union-attr]


def test_a_clock_that_was_never_set_is_no_judge_of_the_future() -> None:
    net = Net()
    net.add("n0", wall=1000.0)
    net.inject("n0", stranger("far"))
    assert net.up("n0") == ["far"]


def test_metadata_longer_than_this_member_takes_is_refused() -> None:
    net = Net()
    net.add("n0", max_meta_bytes=10)
    net.inject("n0", stranger("far", b"m" * 11))
    assert net.up("n0") == []
    assert net.count("n0", "dropped_meta_too_long") == 1


def test_a_full_table_refuses_further_names() -> None:
    net = cluster(3, max_members=2)
    net.add("n3", seeds=["n0:7946"])
    net.run_for(5)
    assert net.state("n0", "n3") is None
    assert net.count("n0", "dropped_member_table_full") > 0


def test_a_full_table_takes_nobody_back_either() -> None:
    net = Net()
    swim = net.add("n0", max_members=3)
    words = [encode_message(stranger(f"m{number}")) for number in range(9)]
    assert swim.load(words, net.now) == 3
    assert len(swim.members()) == 3


def test_who_answers_a_knock_when_the_table_is_full_stays_outside() -> None:
    net = reaped()
    swim = net.hosts["n0"].swim
    net.hosts["n1"].running = True
    net.inject("n0", net.hosts["n1"].swim.own, sender="n2")
    assert net.count("n0", "knocks_waiting") == 1
    swim._table._max_members = len(swim.members())
    net.run_for(1)
    assert net.count("n0", "knocks_waiting") == 0
    assert net.state("n0", "n1") is None


def test_the_dead_are_not_raised_by_old_rumours() -> None:
    net = settled(4)
    rumour = net.hosts["n1"].swim.own
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    net.forget()
    for name in ("n0", "n2", "n3"):
        net.inject(name, rumour, sender="n1")
        net.inject(name, doubt(rumour, "n0", "n2", "n3"), sender="n2")
        assert net.state(name, "n1") is State.DEAD
    net.run_for(30)
    assert not net.all_told(MemberAlive, MemberSuspected)


# Goodbyes


def test_a_goodbye_counts_only_from_its_subject() -> None:
    net = settled(3)
    own = net.hosts["n1"].swim.own
    net.inject("n0", goodbye(own, identity_of("n2")), sender="n2")
    assert net.count("n0", "dropped_bad_signature") == 1
    net.inject("n0", goodbye(stranger("far")), sender="n2")
    assert net.count("n0", "dropped_goodbye_of_stranger") == 1
    assert net.state("n0", "n1") is State.ALIVE
    net.inject("n0", goodbye(own), sender="n2")
    assert net.state("n0", "n1") is State.LEFT
    assert [e.member.name for e in net.told("n0", MemberLeft)] == ["n1"]


# Those who were reaped


@pytest.mark.parametrize("left", [False, True], ids=["died", "left"])
def test_an_old_rumour_does_not_resurrect_who_was_reaped_and_nobody_hears_of_it(left: bool) -> None:
    net = reaped(left=left)
    rumour = net.hosts["n1"].swim.own
    for name in ("n0", "n2", "n3"):
        net.inject(name, rumour, verdict(rumour, "n2", "n3", "n0"), sender="n9")
        assert net.state(name, "n1") is None
    asked = [s.to for s in net.sent if s.at == net.now]
    assert asked == ["n1"] * 3  # each has asked the subject itself
    net.run_for(20)
    assert not net.all_told(MemberJoined, MemberAlive)
    assert all(net.state(name, "n1") is None for name in ("n0", "n2", "n3"))


@pytest.mark.parametrize("left", [False, True], ids=["died", "left"])
def test_a_later_life_of_who_was_reaped_is_taken_up_at_once(left: bool) -> None:
    net = reaped(left=left)
    net.add("n1", seeds=["n0:7946"])
    assert net.run_for(10, until=net.all_up) < 1
    assert [e.member.name for e in net.told("n0", MemberJoined)] == ["n1"]


def test_hearsay_of_a_past_life_is_shown_once_its_subject_has_answered() -> None:
    net = reaped()
    host = net.hosts["n1"]
    host.running = True  # it lives after all, and is not aware of anything
    net.inject("n0", host.swim.own, sender="n2")
    assert net.state("n0", "n1") is None
    assert net.count("n0", "knocks_waiting") == 1
    net.run_for(4 * net.delay_s)
    assert net.state("n0", "n1") is State.ALIVE
    assert net.count("n0", "knocks_waiting") == 0
    assert net.run_for(10, until=net.all_up) < 2


def test_who_was_reaped_comes_back_by_its_own_word() -> None:
    net = reaped()
    host = net.hosts["n1"]
    host.running = True
    net.inject("n0", host.swim.own, sender="n1")
    assert net.state("n0", "n1") is State.ALIVE


def test_only_the_one_that_is_asked_can_answer_the_knock() -> None:
    net = reaped()
    net.inject("n0", net.hosts["n1"].swim.own, sender="n2")
    (asked,) = [s for s in net.sent if s.at == net.now and s.to == "n1"]
    sequence = next(m.sequence for m in asked.messages if hasattr(m, "sequence"))
    net.inject("n0", Ack(sequence, "", bytes(8), b"", b"guessed!"), sender="n1")
    net.inject("n0", net.tagged(Ack(sequence, "n1", bytes(8), b""), "n2", "n0"), sender="n2")
    assert net.state("n0", "n1") is None


def test_the_number_of_those_asked_is_bounded() -> None:
    net = Net()
    swim = net.add("n0", reap_after_s=1.0)
    words = [stranger(f"m{number}") for number in range(MAX_KNOCKS + 20)]
    for alive in words:
        net.inject("n0", alive, sender=alive.name)
        net.inject("n0", goodbye(alive), sender=alive.name)
    net.run_for(3)
    assert swim.members() == []
    for alive in words:
        net.inject("n0", alive, sender="n9")
    assert net.count("n0", "knocks_waiting") == MAX_KNOCKS
    assert swim.members() == []


# Protocol versions

BOTH = (VERSIONS[0], VERSIONS[1] + 1)
"""Those of a release that still speaks what this one does."""


def test_a_node_that_speaks_no_common_version_is_refused_and_reported_once() -> None:
    net = Net()
    net.add("n0", versions=BOTH)
    for incarnation in range(3):
        for number, versions in enumerate([(BOTH[1] + 1, BOTH[1] + 2), (BOTH[0] - 1, BOTH[0] - 1)]):
            name = f"far-{number}"
            lowest, highest = versions
            said = replace(stranger(name), incarnation=incarnation)
            alive = signed(replace(said, lowest_version=lowest, highest_version=highest), name)
            net.inject("n0", encode_message(alive), sender=name)
    assert net.up("n0") == []
    assert [e.name for e in net.told("n0", MemberRefused)] == ["far-0", "far-1"]
    assert "version" in net.told("n0", MemberRefused)[0].reason
    assert net.count("n0", "dropped_protocol_version") == 6


def test_the_names_that_were_reported_are_bounded() -> None:
    net = Net()
    swim = net.add("n0")
    for number in range(MAX_REFUSED + 5):
        name = f"far-{number}"
        net.inject("n0", signed(replace(stranger(name), lowest_version=9, highest_version=9), name))
    assert len(net.told("n0", MemberRefused)) == MAX_REFUSED + 5
    assert len(swim._learning._refused) == MAX_REFUSED


@pytest.mark.parametrize("keys", [None, [b"k" * 32]], ids=["plain", "encrypted"])
def test_two_ranges_of_versions_agree_on_the_newest_common_one_and_speak_newer_once_all_can(
    keys: list[bytes] | None,
) -> None:
    net = Net()
    net.add("n0", versions=BOTH, keys=keys)
    net.add("n1", versions=BOTH, keys=keys, seeds=["n0:7946"])
    net.run_for(3)
    assert net.hosts["n0"].swim.protocol_version() == BOTH[1]
    net.add("n2", versions=VERSIONS, keys=keys, seeds=["n0:7946"])
    net.run_for(10, until=net.all_up)
    assert net.all_up()
    assert [host.swim.protocol_version() for host in net.hosts.values()] == [VERSIONS[1]] * 3
    net.sent.clear()
    net.run_for(10)
    assert {s.data[0] for s in net.sent} == {VERSIONS[1]}
    assert not net.all_told(MemberSuspected)
    net.hosts["n2"].swim.leave(net.now)
    net.pump("n2")
    net.run_for(5)
    net.sent.clear()
    net.run_for(2)
    assert {s.data[0] for s in net.sent} == {BOTH[1]}


@pytest.mark.parametrize("keys", [None, [b"k" * 32]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("newer", [BOTH, (VERSIONS[0] - 1, VERSIONS[1] + 1)])
def test_a_newcomer_that_is_ahead_of_its_cluster_finds_a_version_that_is_read_there(
    keys: list[bytes] | None, newer: tuple[int, int]
) -> None:
    net = Net()
    net.add("n0", keys=keys)
    net.add("n1", keys=keys, seeds=["n0:7946"])
    net.run_for(3)
    net.add("n2", versions=newer, keys=keys, seeds=["n0:7946", "nobody:7946"])
    assert net.run_for(10, until=net.all_up) < 2
    net.run_for(10)
    assert net.all_up()
    assert not net.all_told(MemberSuspected)


@pytest.mark.parametrize("keys", [None, [b"k" * 32]], ids=["plain", "encrypted"])
def test_a_member_that_returns_with_an_older_or_a_newer_version_before_anybody_has_noticed_is_understood(
    keys: list[bytes] | None,
) -> None:
    net = Net()
    for number in range(4):
        net.add(f"n{number}", versions=BOTH, keys=keys, seeds=["n0:7946"] if number else [])
    net.run_for(3)
    for versions in (VERSIONS, BOTH):
        net.kill("n3")
        net.add("n3", versions=versions, keys=keys, seeds=["n0:7946"])
        net.run_for(10)
        assert net.all_up()
        net.sent.clear()
        net.run_for(2)
        assert {s.data[0] for s in net.sent} == {versions[1]}
    assert not net.all_told(MemberSuspected)


def test_a_partition_in_the_middle_of_an_upgrade_heals_and_the_reaped_hold_nobody_back() -> None:
    net = Net()
    for number in range(4):
        net.add(f"n{number}", versions=VERSIONS if number == 3 else BOTH, reap_after_s=300.0,
                seeds=["n0:7946"] if number else [])  # fmt: skip
    net.run_for(3)
    for apart_s, spoken in ((100, VERSIONS[1]), (400, BOTH[1])):
        net.partition(["n3"], ["n0", "n1", "n2"])
        net.run_for(apart_s)
        assert net.up("n0") == ["n1", "n2"]
        net.sent.clear()
        net.run_for(2)
        assert {s.data[0] for s in net.sent if s.source != "n3"} == {spoken}
        net.heal()
        assert net.run_for(60, until=net.all_up) < 20
        assert net.hosts["n0"].swim.protocol_version() == VERSIONS[1]


# Allowed networks


def test_members_of_other_networks_are_dropped_unread_and_not_believed_by_hearsay() -> None:
    net = Net()
    swim = net.add("n0", allowed_networks=("10.0.0.0/8", "fd00::/8"))
    net.inject("n0", stranger("near", host="10.1.2.3"), source=("10.1.2.3", 7946))
    net.inject("n0", stranger("six", host="fd00::7"), source=("fd00::7", 7946))
    assert net.up("n0") == ["near", "six"]
    checks = net.hosts["n0"].checks
    for host in ("192.168.0.1", "11.0.0.1", "fe80::1", "name.example", ""):
        net.inject("n0", stranger("far", host="10.1.2.4"), source=(host, 7946))
    assert net.count("n0", "dropped_network_not_allowed") == 5
    net.inject("n0", stranger("far", host="192.168.0.1"), source=("10.1.2.3", 7946))
    assert net.count("n0", "dropped_network_not_allowed") == 6
    assert net.hosts["n0"].checks == checks
    swim.stream_accepted(100, ("192.168.0.1", 7946), net.now)
    assert net.count("n0", "streams_open") == 0
    assert net.up("n0") == ["near", "six"]


# Taking back what was known


def test_words_that_were_kept_are_taken_back_and_lead_to_the_others_without_seeds() -> None:
    net = settled(4)
    kept = net.hosts["n1"].swim.words()
    assert len(kept) == 4
    net.kill("n1")
    net.run_for(1)
    swim = net.add("n1")
    assert swim.load([b"nonsense", kept[1][:-1] + b"?", *kept], net.now) == 3
    assert net.run_for(5, until=net.all_up) == 0.0
    assert net.run_for(10, until=lambda: net.hosts["n0"].swim.member("n1").boot == swim.own.boot) < 2  # type: ignore[union-attr]
    net.run_for(10)
    assert net.all_up()
    assert not net.all_told(MemberDied)
    assert sum(v for k, v in swim.statistics().items() if k.startswith("dropped_")) >= 2


def test_a_restart_that_nobody_noticed_is_told_as_an_update() -> None:
    net = settled(4)
    net.kill("n1")
    net.add("n1", seeds=["n0:7946"], meta=b"second life")
    net.run_for(3)
    assert [e.restarted for e in net.told("n0", MemberUpdated)] == [True]
    assert net.hosts["n2"].swim.member("n1").meta == b"second life"  # type: ignore[union-attr]
    net.run_for(20)
    assert not net.all_told(MemberDied)


def test_a_word_that_is_no_news_changes_nothing() -> None:
    net = settled(3)
    own = net.hosts["n1"].swim.own
    net.inject("n0", own, word(net, "n1", boot=BOOT), sender="n2")
    assert net.hosts["n0"].swim.member("n1").boot == own.boot  # type: ignore[union-attr]
    assert net.count("n0", "rumours_waiting") == 0
    assert net.hosts["n0"].events == []


def test_who_missed_an_end_that_the_others_have_forgotten_is_told_of_it_and_keeps_no_ghost() -> None:
    net = settled(6, reap_after_s=8.0, reconnect_interval_s=1000.0, seed_refresh_s=1000.0)
    net.hosts["n0"].swim._prober.stop()  # it shall not find out by itself
    net.censor = lambda sent: sent.to == "n0" and any(isinstance(m, (Suspect, Dead)) for m in sent.messages)
    net.streams_refused.update(net.hosts)
    net.kill("n1")
    others = [f"n{number}" for number in range(2, 6)]
    net.run_for(60, until=lambda: all(net.state(name, "n1") is None for name in others))
    net.run_for(2)
    assert net.state("n0", "n1") is State.ALIVE
    net.heal()
    net.run_for(30, until=lambda: net.state("n0", "n1") is State.DEAD)
    assert [event.member.name for event in net.told("n0", MemberDied)] == ["n1"]
    assert not net.all_told(MemberJoined)  # and nobody took the ghost for a member


@pytest.mark.parametrize("forgotten", [False, True])
def test_who_comes_back_from_its_disk_with_an_older_word_of_the_dead_learns_how_it_ended(
    forgotten: bool,
) -> None:
    net = settled(5, reap_after_s=10.0, reconnect_interval_s=1000.0, seed_refresh_s=1000.0)
    kept = net.hosts["n0"].swim.words()
    net.kill("n0")
    net.hosts["n1"].swim.update_meta(b"a later word", net.now)
    net.run_for(2)
    net.kill("n1")
    others = ["n2", "n3", "n4"]
    held = None if forgotten else State.DEAD
    net.run_for(60, until=lambda: all(net.state(name, "n1") is held for name in others))
    swim = net.add("n0")
    assert swim.load(kept, net.now) == 4
    net.run_for(2 * net.config.suspicion_min_s + 5, until=lambda: net.state("n0", "n1") is State.DEAD)
    assert net.state("n0", "n1") is State.DEAD
