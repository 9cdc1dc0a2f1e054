"""Only the subject raises its incarnation: to refute, to outbid its past, and to ask for patience."""

from dataclasses import replace

import pytest

from swim.events import (
    DuplicateName,
    Impaired,
    MemberDied,
    MemberRefuted,
    MemberSuspected,
    MemberUpdated,
)
from swim.members import MAX_INCARNATION_JUMP, State
from swim.messages import MAX_INCARNATION, MAX_PATIENCE_S, Address, Alive, Boot
from swim.own_word import (
    HEARTBEAT_S,
    IMPAIRED_REFUTATIONS,
    IMPAIRED_WINDOW_S,
    LONE_REFUTATION_GAP_S,
    MAX_REBASES,
    STALL_PATIENCE,
)
from tests.swim.net import WALL, Net, cluster, settled
from tests.swim.statements import doubt, stranger, verdict, word


def own(net: Net, name: str = "n1") -> Alive:
    return net.hosts[name].swim.own


def accuse(net: Net, *authors: str, name: str = "n1") -> None:
    """Let a member hear that these doubt its latest word."""
    net.inject(name, doubt(own(net, name), *authors), sender=authors[0])


# Refutation


def test_a_refutation_goes_straight_to_those_who_doubt() -> None:
    net = settled(8)
    accuse(net, "n2", "n5")
    told = [s.to for s in net.sent if s.at == net.now and own(net) in s.messages]
    assert told == ["n2", "n5"]
    assert own(net).incarnation == 1
    net.run_for(1)
    assert {net.hosts[n].swim.member("n1").incarnation for n in net.hosts if n != "n1"} == {1}  # type: ignore[union-attr]
    assert net.hosts["n1"].swim.why("n1")[-1].detail == "doubted by n2, n5"


def test_a_suspicion_ends_for_everybody_when_the_subject_refutes_it() -> None:
    net = settled(5)
    net.inject("n0", doubt(own(net), "n2", "n3"), sender="n2")
    assert net.state("n0", "n1") is State.SUSPECT
    net.run_for(2)
    assert all(net.state(name, "n1") is State.ALIVE for name in ("n0", "n2", "n3", "n4"))
    assert [(e.member.name, e.restarted) for e in net.told("n0", MemberRefuted)] == [("n1", False)]
    assert not net.all_told(MemberDied)


def test_what_is_not_signed_by_a_member_is_not_refuted() -> None:
    net = settled(4)
    about = own(net)
    real = doubt(about, "n2")
    for lie in (
        doubt(about, "nobody"),
        replace(real, authors=(("n3", real.authors[0][1]),)),
        doubt(replace(about, incarnation=1), "n2", "n3"),
        doubt(replace(about, boot=Boot(about.boot.time_ms + 1, about.boot.id)), "n2", "n3"),
        verdict(replace(about, incarnation=MAX_INCARNATION), "n2", "n3"),
    ):
        net.inject("n1", lie, sender="n2")
    assert own(net).incarnation == 0
    assert net.count("n1", "dropped_accusation_of_unseen_incarnation") == 3


def test_an_accuser_that_missed_the_latest_word_is_told_it_again() -> None:
    net = settled(4)
    past = own(net)
    net.hosts["n1"].swim.update_meta(b"later", net.now)
    net.run_for(5)
    assert net.count("n1", "rumours_waiting") == 0
    net.inject("n1", doubt(past, "n2", "n3"), sender="n2")
    assert own(net).incarnation == 1
    assert net.count("n1", "rumours_waiting") == 1


def test_one_liar_makes_nobody_shout_or_call_itself_impaired() -> None:
    net = settled(6)
    for _ in range(40):
        accuse(net, "n5")
        net.run_for(0.1)
    assert own(net).incarnation <= 1 + 4 / LONE_REFUTATION_GAP_S
    assert own(net).patience_s == 0
    assert net.count("n1", "health_penalty") == 0
    assert not net.all_told(MemberSuspected, Impaired)


# Incarnations


def test_a_word_that_is_far_ahead_within_one_boot_is_not_believed() -> None:
    net = settled(3)
    fine = word(net, "n1", incarnation=MAX_INCARNATION_JUMP)
    net.inject("n0", word(net, "n1", incarnation=MAX_INCARNATION_JUMP + 1))
    assert net.count("n0", "dropped_incarnation_jump") == 1
    assert net.hosts["n0"].swim.member("n1").incarnation == 0  # type: ignore[union-attr]
    net.inject("n0", fine)
    assert net.hosts["n0"].swim.member("n1").incarnation == MAX_INCARNATION_JUMP  # type: ignore[union-attr]


def test_the_highest_incarnation_does_not_keep_its_subject_from_refuting() -> None:
    net = settled(5)
    swim = net.hosts["n1"].swim
    swim._own._raise_incarnation(MAX_INCARNATION - 1, swim.own)
    last = swim.own
    assert last.incarnation == MAX_INCARNATION
    net.add("n5", seeds=["n1:7946"])  # who meets it now has no earlier word of it
    net.run_for(2)
    net.inject("n5", doubt(last, "n2", "n3"), sender="n2")
    assert net.state("n5", "n1") is State.SUSPECT
    net.run_for(5)
    assert (swim.own.boot, swim.own.incarnation) == (Boot(last.boot.time_ms + 1, last.boot.id), 0)
    assert net.all_up()
    assert all(net.hosts[n].swim.member("n1").boot == swim.own.boot for n in net.hosts if n != "n1")  # type: ignore[union-attr]
    assert not net.all_told(MemberDied)


def test_a_stolen_word_of_ones_own_boot_is_outbid() -> None:
    net = settled(3)
    for to in ("n0", "n1"):
        net.inject(to, word(net, "n1", incarnation=50, meta=b"not mine"), sender="n2")
    net.run_for(2)
    assert own(net).incarnation == 51
    assert net.hosts["n0"].swim.member("n1").meta == b""  # type: ignore[union-attr]


# Other lives under the same name


def test_a_restart_with_a_clock_set_back_rebases_on_what_the_peers_hold() -> None:
    net = cluster(3)
    net.kill("n1")
    net.run_for(10)
    net.add("n1", seeds=["n0:7946"], wall=WALL - 86_400)
    assert net.run_for(10, until=net.all_up) < 2.0
    assert net.count("n1", "rebases") == 1
    net.run_for(10)
    assert net.all_up()


def test_a_restart_with_a_clock_set_back_that_is_alone_for_long_is_not_taken_for_a_double() -> None:
    net = cluster(3)
    net.kill("n2")
    net.partition(["n0", "n1"], ["n2"])
    net.add("n2", seeds=["n0:7946"], wall=WALL - 5000.0)
    net.run_for(60)
    net.heal()
    net.run_for(30)
    assert net.all_up()
    assert not net.told("n2", DuplicateName)
    assert net.count("n2", "rebases") == 1


def test_a_living_double_makes_the_older_process_stop() -> None:
    net = settled(3)
    net.run_for(net.config.duplicate_grace_s + 5)
    net.add("n1", seeds=["n0:7946"], address=("double", 7946))
    net.run_for(5)
    assert net.told("n1", DuplicateName) == [DuplicateName("n1", ("double", 7946))]
    assert not net.told("double", DuplicateName)
    for name in ("n0", "n2"):
        assert net.hosts[name].swim.member("n1").address == ("double", 7946)  # type: ignore[union-attr]


def test_words_from_the_future_under_ones_own_name_are_outbid_a_few_times_only() -> None:
    net = settled(2)
    for step in range(1, MAX_REBASES + 2):
        later = Boot(own(net).boot.time_ms + 1000 * step, b"f" * 8)
        net.inject("n1", word(net, "n1", boot=later), sender="n0")
    assert net.count("n1", "rebases") == MAX_REBASES
    assert len(net.told("n1", DuplicateName)) == 1


# Patience


def refute_often(net: Net, times: int = IMPAIRED_REFUTATIONS) -> None:
    for _ in range(times):
        accuse(net, "n2", "n3")
        net.run_for(1)


def test_who_has_to_refute_again_and_again_asks_for_all_the_patience_there_is() -> None:
    net = settled(5)
    refute_often(net, IMPAIRED_REFUTATIONS - 1)
    assert own(net).patience_s == 0
    refute_often(net, 1)
    assert own(net).patience_s == MAX_PATIENCE_S
    assert net.told("n1", Impaired) == [Impaired(MAX_PATIENCE_S)]
    for name in ("n0", "n2", "n3", "n4"):
        (updated,) = net.told(name, MemberUpdated)
        assert updated.member.patience_s == MAX_PATIENCE_S


def test_refutations_that_are_far_apart_are_no_impairment() -> None:
    net = settled(5)
    for _ in range(2 * IMPAIRED_REFUTATIONS):
        refute_often(net, 1)
        net.run_for(IMPAIRED_WINDOW_S / (IMPAIRED_REFUTATIONS - 1))
    assert own(net).incarnation >= 2 * IMPAIRED_REFUTATIONS
    assert not net.told("n1", Impaired)


def test_an_impaired_member_whose_probes_fail_too_speaks_up_by_itself() -> None:
    net = settled(5)
    refute_often(net)
    net.loss_at["n1"] = 0.7
    net.run_for(10, until=lambda: not net.hosts["n1"].swim._health.is_well)
    net.forget()
    before, beats = own(net).incarnation, net.count("n1", "heartbeats")
    net.run_for(3 * HEARTBEAT_S)
    assert net.count("n1", "heartbeats") - beats in {2, 3}
    assert own(net).incarnation == before + net.count("n1", "heartbeats") - beats
    assert not [e for e in net.all_told(MemberSuspected, MemberUpdated, MemberDied) if e.member.name == "n1"]


def test_an_impaired_member_whose_probes_are_answered_has_no_need_to() -> None:
    net = settled(5)
    refute_often(net)
    net.forget()
    before = own(net).incarnation
    net.run_for(3 * HEARTBEAT_S)
    assert own(net).incarnation == before
    assert not any(host.events for host in net.hosts.values())


def test_patience_is_taken_back_after_a_minute_without_cause() -> None:
    net = settled(5)
    refute_often(net)
    took = net.run_for(200, until=lambda: own(net).patience_s == 0)
    assert IMPAIRED_WINDOW_S - 2 <= took <= IMPAIRED_WINDOW_S + HEARTBEAT_S
    assert net.told("n1", Impaired)[-1] == Impaired(0)
    net.run_for(1)
    beats = net.count("n1", "heartbeats")
    net.run_for(3 * HEARTBEAT_S)
    assert net.count("n1", "heartbeats") == beats
    assert all(net.hosts[n].swim.member("n1").patience_s == 0 for n in ("n0", "n2", "n3", "n4"))  # type: ignore[union-attr]


def test_patience_is_kept_while_ones_own_probes_fail() -> None:
    net = settled(5)
    refute_often(net)
    net.loss_at["n1"] = 0.7
    net.run_for(2 * IMPAIRED_WINDOW_S)
    assert own(net).patience_s == MAX_PATIENCE_S
    net.heal()
    net.run_for(2 * IMPAIRED_WINDOW_S)
    assert own(net).patience_s == 0


def test_a_member_that_stalls_asks_for_patience_and_its_next_stall_goes_unnoticed() -> None:
    net = settled(5)
    stall_s = net.config.suspicion_min_s / 2
    net.pause("n1", stall_s)
    net.run_for(2)
    assert stall_s * 0.5 < own(net).patience_s <= STALL_PATIENCE * stall_s + 1
    assert net.told("n1", Impaired) == [Impaired(own(net).patience_s)]
    net.forget()
    net.pause("n1", stall_s)
    net.run_for(5)
    assert not net.all_told(MemberSuspected, MemberDied)


def test_a_short_hiccup_is_no_stall() -> None:
    net = settled(5)
    net.pause("n1", net.config.suspicion_min_s / 4)
    net.hosts["n1"].swim.loop_lagged(net.config.suspicion_min_s / 4, net.now)
    net.run_for(5)
    assert own(net).patience_s == 0
    assert not net.told("n1", Impaired)


@pytest.mark.parametrize("lag_s", [1.0, 5.0, 500.0])
def test_a_lag_of_the_loop_asks_for_patience_within_its_bound(lag_s: float) -> None:
    net = settled(3)
    net.hosts["n1"].swim.loop_lagged(lag_s, net.now)
    assert own(net).patience_s == min(MAX_PATIENCE_S, -(-lag_s * STALL_PATIENCE // 1))
    net.hosts["n1"].swim.loop_lagged(lag_s / 2, net.now)  # a shorter one changes nothing
    assert own(net).incarnation == 1


def test_a_pause_shorter_than_the_shortest_suspicion_is_survived_on_both_sides() -> None:
    for seed in range(3):
        net = settled(6, seed=seed)
        net.pause("n1", 0.9 * net.config.suspicion_min_s)
        net.run_for(20)
        assert net.all_up()
        assert not net.all_told(MemberDied)
        assert net.count("n1", "stalls") >= 1


def test_a_long_pause_ends_in_a_death_that_is_taken_back() -> None:
    net = settled(5)
    net.pause("n1", 30)
    assert all(net.state(name, "n1") is State.DEAD for name in ("n0", "n2", "n3", "n4"))
    net.run_for(10, until=net.all_up)
    assert net.all_up()
    assert not net.told("n1", MemberDied)
    net.run_for(30)
    assert net.all_up()


# What a member says


def test_metadata_and_address_reach_everybody_with_a_higher_incarnation() -> None:
    net = settled(5)
    swim = net.hosts["n1"].swim
    swim.update_meta(b"new", net.now)
    swim.update_address(("n1", 7947), net.now)
    net.run_for(2)
    assert swim.own.incarnation == 2
    for name in ("n0", "n2", "n3", "n4"):
        member = net.hosts[name].swim.member("n1")
        assert member is not None
        assert (member.meta, member.address) == (b"new", ("n1", 7947))
        assert net.told(name, MemberUpdated)
    net.run_for(10)
    assert net.all_up()
    swim.update_meta(b"new", net.now)  # nothing new
    assert swim.own.incarnation == 2
    with pytest.raises(ValueError, match="meta"):
        swim.update_meta(b"x" * 513, net.now)


@pytest.mark.parametrize("address", [("", 1), ("h" * 65, 1), ("h\n", 1), ("n1", 0), ("n1", 65_536)])
def test_an_address_that_nobody_would_take_is_refused(address: Address) -> None:
    net = settled(2)
    before = own(net)
    with pytest.raises(ValueError, match="address"):
        net.hosts["n1"].swim.update_address(address, net.now)
    assert own(net) == before
    with pytest.raises(ValueError, match="address"):
        net.add("n2", address=address)


def test_a_word_under_our_name_that_is_not_ours_changes_nothing() -> None:
    net = settled(2)
    before = own(net)
    later = Boot(before.boot.time_ms + 1000, b"f" * 8)
    net.inject("n1", replace(word(net, "n1", boot=later), meta=b"forged"), sender="n0")
    net.inject("n1", replace(stranger("n9", boot=later), name="n1"), sender="n0")
    assert own(net) == before
    assert not net.told("n1", DuplicateName)
