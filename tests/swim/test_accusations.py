"""From a failed probe to a verdict: no liar kills alone, and nobody dies without enough witnesses."""

from dataclasses import replace
from itertools import permutations

import pytest

from swim.accusations import TELL_PAUSE_S
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.events import MemberDied, MemberSuspected
from swim.members import State
from swim.messages import Alive, Boot, Dead, Nack, Ping, PingRequest, RollFrame, Suspect
from swim.probe import MAX_ASKED_AROUND_PER_S
from tests.swim.net import Net, Sent, cluster, settled
from tests.swim.statements import doubt, stranger, verdict

AT_ONCE_S = 0.001
"""Until a timer that is due has fired."""


def longest_s(config: SwimConfig) -> float:
    """Return when at the latest a silent member is dead to whoever can reach others."""
    verdict_s = config.probe_timeout_s * config.probe_verdict_mult
    return 2 * config.probe_interval_s + verdict_s + config.suspicion_max_s + config.doubt_margin_s


def own(net: Net, name: str):  # type: ignore[no-untyped-def]
    return net.hosts[name].swim.own


# Telling the subject


def test_whoever_is_doubted_is_told_so_with_every_ping() -> None:
    net = settled(4)
    net.mute.add("n1")
    net.run_for(10, until=lambda: net.state("n0", "n1") is State.SUSPECT)
    net.roundtrip()
    net.sent.clear()
    net.run_for(1.5)
    assert net.state("n0", "n1") is State.SUSPECT
    pings = [s.messages for s in net.sent if s.to == "n1" and any(isinstance(m, Ping) for m in s.messages)]
    assert len(pings) >= 2
    assert all(any(isinstance(m, Suspect) and m.name == "n1" for m in messages) for messages in pings)


def test_the_member_whose_own_probe_failed_tells_the_suspect_at_once() -> None:
    net = settled(6)
    swim, about = net.hosts["n0"].swim, own(net, "n1")
    record = swim._table.get("n1")
    assert record is not None
    net.sent.clear()
    swim._accusations.doubt(record, dict(doubt(about, "n2").authors), net.now)
    net.pump("n0")
    assert net.state("n0", "n1") is State.SUSPECT
    assert [s.to for s in net.sent if any(isinstance(m, Suspect) for m in s.messages)] == ["n1"]
    net.roundtrip()
    assert own(net, "n1").incarnation == 1


def test_what_is_not_believed_here_is_passed_on_to_its_subject_now_and_then_only() -> None:
    net = settled(6)
    swim, lie = net.hosts["n0"].swim, verdict(own(net, "n1"), "n2")
    for passed_on in (1, 1, 1, 2):
        swim._accusations.hear(lie, encode_message(lie), net.now, pass_on=True)
        assert net.count("n0", "subjects_told") == passed_on
        net.now += TELL_PAUSE_S / 2.5
    assert net.state("n0", "n1") is State.ALIVE


def test_a_relay_that_doubts_another_word_confirms_nothing() -> None:
    net = settled(6)
    swim, about = net.hosts["n0"].swim, own(net, "n1")
    record = swim._table.get("n1")
    assert record is not None
    earlier = replace(about, boot=Boot(about.boot.time_ms - 1, about.boot.id))
    swim._accusations.doubt(record, dict(doubt(earlier, "n2", "n3").authors), net.now)
    assert swim.doubters("n1") == ("n0",)
    assert net.count("n0", "nacks_about_another_word") == 2
    assert net.state("n0", "n1") is State.ALIVE


# Liars


@pytest.mark.parametrize("members", [4, 5, 8])
def test_one_liar_can_neither_kill_nor_make_suspect_anybody(members: int) -> None:
    net = settled(members)
    liar, *honest = reversed(net.hosts)
    for _ in range(30):
        for victim in honest:
            about = own(net, victim)
            for lie in (doubt(about, liar), verdict(about, liar)):
                for to in honest:
                    net.inject(to, lie, sender=liar)
        net.run_for(0.3)
    assert not net.all_told(MemberSuspected, MemberDied)
    assert all(net.count(name, "suspicions") == 0 for name in honest)
    assert all(net.count(name, "rumours_waiting") <= members for name in net.hosts)
    net.run_for(net.config.suspicion_max_s + 5)
    assert net.total("private_doubts") == 0
    assert not net.all_told(MemberSuspected, MemberDied)
    assert net.all_up()


def test_each_confirmation_of_a_suspicion_is_told_once_with_who_gave_it() -> None:
    net = settled(8)
    about, why = own(net, "n1"), net.hosts["n0"].swim.why
    net.inject("n0", doubt(about, "n2"), sender="n2")
    assert why("n1") == ()  # one alone is believed by nobody, and fills no memory
    net.inject("n0", doubt(about, "n3"), sender="n3")
    for authors in (("n2", "n4"), ("n4",), ("n3", "n5")):
        net.inject("n0", doubt(about, *authors), sender="n4")
    [suspected, *confirmed] = why("n1")
    assert suspected.what == "suspected"
    assert "doubted by n2, n3" in suspected.detail
    assert [(f.what, f.by) for f in confirmed] == [("confirmed", "n4"), ("confirmed", "n5")]


def test_verdicts_that_are_repeated_do_not_push_out_what_else_was_found() -> None:
    net = settled(6)
    net.freeze("n1")
    net.run_for(5, until=lambda: net.state("n0", "n1") is State.SUSPECT)
    about, found = own(net, "n1"), net.hosts["n0"].swim.why("n1")
    for authors in permutations(("n2", "n3", "n4", "n5")):
        for declarer in ("n2", "n5"):
            net.inject("n0", verdict(about, *authors, declarer=declarer), sender="n5")
    assert net.state("n0", "n1") is State.SUSPECT
    now_found = net.hosts["n0"].swim.why("n1")
    assert now_found[: len(found)] == found
    assert [f.by for f in now_found if f.what == "accused"] == ["n2", "n5"]
    assert len(now_found) <= len(found) + 5  # beside those, each of the others may have confirmed it once


def test_one_liar_cannot_use_the_doubts_of_others_to_cut_a_suspicion_short() -> None:
    net = settled(6)
    net.freeze("n1")
    at = net.now
    net.run_for(5, until=lambda: all(net.state(n, "n1") is State.SUSPECT for n in ("n0", "n2", "n3", "n4")))
    paused_s = net.now - at
    assert paused_s < net.config.suspicion_min_s
    about = own(net, "n1")
    for to in ("n0", "n2", "n3", "n4"):
        net.inject(to, verdict(about, "n0", "n2", "n3", declarer="n5"), sender="n5")
    assert not net.all_told(MemberDied)
    net.run_for(0.2)
    net.thaw("n1")
    net.run_for(5)
    assert not net.all_told(MemberDied)
    assert net.all_up()


def test_who_signs_for_others_is_found_out() -> None:
    net = settled(5)
    about = own(net, "n1")
    real = doubt(about, "n2")
    forged = replace(real, authors=(("n3", real.authors[0][1]), *real.authors))
    net.inject("n0", forged, sender="n2")
    assert net.count("n0", "dropped_bad_signature") == 1
    dead = verdict(about, "n2", "n3", "n4")
    net.inject("n0", replace(dead, declarer="n3"), sender="n2")  # the declarer has not signed it
    assert net.count("n0", "dropped_bad_signature") == 2
    assert net.state("n0", "n1") is State.ALIVE
    assert not net.all_told(MemberSuspected)


# What is counted and not believed


def heard(net: Net, *statements: Suspect | Dead) -> None:
    for statement in statements:
        net.inject("n0", statement, sender="n2")


def test_a_statement_by_strangers_about_strangers_or_of_an_invented_word_is_counted_and_not_believed() -> (
    None
):
    net = settled(5)
    about = own(net, "n1")
    for accused, authors, reason in (
        (about, ("nobody", "noone", "nowhere"), "accusation_by_stranger"),
        (about, ("n1", "nobody", "noone"), "accusation_by_stranger"),  # nobody accuses itself
        (stranger("far"), ("n2", "n3", "n4"), "accusation_of_stranger"),
        (replace(about, incarnation=1), ("n2", "n3", "n4"), "accusation_of_unseen_incarnation"),
        (replace(about, boot=Boot(about.boot.time_ms + 1, about.boot.id)), ("n2", "n3", "n4"),
         "accusation_of_unseen_incarnation"),
    ):  # fmt: skip
        before = net.count("n0", f"dropped_{reason}")
        heard(net, doubt(accused, *authors), verdict(accused, *authors))
        assert net.count("n0", f"dropped_{reason}") >= before + 2, reason
    assert net.state("n0", "n1") is State.ALIVE
    assert net.count("n0", "suspicions") == net.count("n0", "private_doubts") == 0
    net.run_for(3)
    assert own(net, "n1").incarnation == 0


def test_the_dead_accuse_nobody() -> None:
    net = settled(6)
    net.kill("n4")
    net.kill("n5")
    net.run_for(15, until=lambda: net.state("n0", "n4") is net.state("n0", "n5") is State.DEAD)
    about = own(net, "n1")
    net.forget()
    heard(net, doubt(about, "n4", "n5"))
    assert net.count("n0", "dropped_accusation_by_the_dead") >= 2
    assert not net.all_told(MemberSuspected)


def test_an_accusation_of_a_word_that_is_already_refuted_does_nothing() -> None:
    net = settled(5)
    past = own(net, "n1")
    net.hosts["n1"].swim.update_meta(b"later", net.now)
    net.run_for(2)
    heard(net, doubt(past, "n2", "n3"), verdict(past, "n2", "n3", "n4"))
    assert net.state("n0", "n1") is State.ALIVE
    assert net.count("n0", "private_doubts") == 0


@pytest.mark.parametrize("hears", ["n1", "n0"])
def test_who_spreads_an_accusation_that_is_answered_is_told_the_answer(hears: str) -> None:
    net = settled(5)
    past = own(net, "n1")
    net.hosts["n1"].swim.update_meta(b"later", net.now)
    net.run_for(5)
    lost = doubt(past, "n2", "n3")
    for copies in range(1, 4):  # an answer may be lost, so each copy is answered, though not in a flood
        net.sent.clear()
        for _ in range(3):
            net.inject(hears, lost, sender="n4")
        assert [s.to for s in net.sent if own(net, "n1") in s.messages] == ["n4"]
        assert net.count(hears, "corrections") == copies
        net.run_for(1)


def test_one_author_counts_once_however_often_it_signs() -> None:
    net = settled(5)
    about = own(net, "n1")
    for _ in range(5):
        heard(net, doubt(about, "n2"), verdict(about, "n2"))
    assert net.state("n0", "n1") is State.ALIVE
    assert net.count("n0", "private_doubts") == 1


# Quorums


def crowd(members: int) -> Net:
    """Return one process that takes so many for up, of which only itself exists."""
    net = Net()
    net.add("n0")
    for number in range(1, members):
        net.inject("n0", stranger(f"m{number}"), sender=f"m{number}")
    assert len(net.up("n0")) == members - 1
    return net


@pytest.mark.parametrize(
    ("members", "to_suspect", "to_die"), [(3, 1, 1), (4, 2, 2), (5, 2, 3), (6, 2, 3), (100, 2, 3)]
)
def test_it_takes_two_to_suspect_and_three_to_bury_or_all_others_but_two_where_they_are_fewer(
    members: int, to_suspect: int, to_die: int
) -> None:
    about = stranger("m1")
    authors = [f"m{number}" for number in range(2, members)]
    if to_suspect > 1:
        net = crowd(members)
        net.inject("n0", doubt(about, *authors[: to_suspect - 1]), sender="m2")
        assert net.state("n0", "m1") is State.ALIVE
    net = crowd(members)
    net.inject("n0", doubt(about, *authors[:to_suspect]), sender="m2")
    assert net.state("n0", "m1") is State.SUSPECT
    net.run_for(net.config.suspicion_min_s + 0.01)  # all of it: the declarer has just come
    if to_die > to_suspect:
        net.inject("n0", verdict(about, *authors[: to_die - 1], declarer="m2"), sender="m2")
        net.run_for(AT_ONCE_S)
        assert net.state("n0", "m1") is State.SUSPECT
    net.inject("n0", verdict(about, *authors[:to_die], declarer="m2"), sender="m2")
    net.run_for(AT_ONCE_S)
    assert net.state("n0", "m1") is State.DEAD


def test_of_two_members_each_has_its_own_word_alone_and_waits_the_longest() -> None:
    net = settled(2)
    net.kill("n1")
    took = net.run_for(60, until=lambda: net.state("n0", "n1") is State.DEAD)
    assert net.config.suspicion_max_s < took < longest_s(net.config)
    (died,) = net.told("n0", MemberDied)
    assert died.accusers == ("n0",)


def test_a_verdict_that_two_signed_suffices_among_four() -> None:
    net = settled(4)
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    assert net.all_up()
    assert all(len(event.accusers) >= 2 for event in net.all_told(MemberDied))


# Our own signature, as it comes back


def test_ones_own_doubt_counts_when_it_comes_back_in_the_accusation_of_another() -> None:
    net = settled(5)
    about = own(net, "n1")
    net.freeze("n1")
    net.inject("n0", doubt(about, "n0", "n2"), sender="n2")  # n0 has signed it as the relay of n2
    assert net.state("n0", "n1") is State.SUSPECT
    assert net.hosts["n0"].swim._accusations.doubters("n1") == ("n0", "n2")


def test_a_doubt_that_an_earlier_life_has_signed_or_somebody_in_our_name_does_not_count() -> None:
    net = settled(5)
    about = own(net, "n1")
    forged = replace(doubt(about, "n0", "n2"), authors=(("n0", bytes(64)), *doubt(about, "n2").authors))
    net.inject("n0", forged, sender="n2")
    assert net.state("n0", "n1") is State.ALIVE
    assert net.hosts["n0"].swim._accusations.doubters("n1") == ("n2",)


# Alone, or together with few


def test_a_member_that_hears_nobody_judges_by_its_own_probes() -> None:
    net = settled(5)
    net.partition(["n0"], ["n1", "n2", "n3", "n4"])
    bound_s = longest_s(net.config) + net.config.isolation_s + 10 * net.config.probe_interval_s * 4
    took = net.run_for(120, until=lambda: not net.up("n0"))
    assert net.config.suspicion_max_s < took < bound_s
    assert all(event.accusers == ("n0",) for event in net.told("n0", MemberDied))


def test_two_that_are_cut_off_together_judge_by_each_others_word() -> None:
    net = settled(6)
    net.partition(["n0", "n1"], ["n2", "n3", "n4", "n5"])
    bound_s = longest_s(net.config) + net.config.isolation_s + 10 * net.config.probe_interval_s * 4
    took = net.run_for(120, until=lambda: net.up("n0") == ["n1"] and net.up("n1") == ["n0"])
    assert took < bound_s
    assert all(set(event.accusers) == {"n0", "n1"} for event in net.told("n0", MemberDied))
    assert net.up("n3") == ["n2", "n4", "n5"]


def alone_in_doubt(sent: Sent) -> bool:
    """Say whether a datagram is a probe of n1 by n0, or its request to a relay."""
    return sent.source == "n0" and any(
        isinstance(message, (Ping, PingRequest)) and message.target == "n1" for message in sent.messages
    )


def test_what_one_cannot_reach_alone_stays_private_for_as_long_as_it_hears_others() -> None:
    net = settled(6, stream_probes=False)
    net.censor = alone_in_doubt
    net.run_for(3 * net.config.suspicion_max_s)
    assert net.count("n0", "probes_failed") > 3
    assert not net.all_told(MemberSuspected, MemberDied)
    assert not [s for s in net.sent for m in s.messages if isinstance(m, (Suspect, Dead))]


def test_a_private_doubt_ends_with_the_next_answer() -> None:
    net = settled(6, stream_probes=False)
    net.censor = alone_in_doubt
    net.run_for(20, until=lambda: net.count("n0", "private_doubts") == 1)
    assert net.hosts["n0"].swim.why("n1")[-1].what == "probe_failed"
    net.heal()
    swim = net.hosts["n0"].swim
    swim.check(swim._table.get("n1"), net.now)  # type: ignore[arg-type]
    net.pump("n0")
    net.roundtrip()
    assert net.count("n0", "private_doubts") == 0
    net.run_for(net.config.suspicion_max_s)
    assert not net.all_told(MemberSuspected)
    assert not [s for s in net.sent for m in s.messages if isinstance(m, (Suspect, Dead))]


# Confirmations


def test_the_relays_of_a_failed_probe_confirm_it_at_once() -> None:
    net = settled(6)
    net.kill("n1")
    net.run_for(10, until=lambda: net.total("probes_failed") > 0)
    (prober,) = (name for name in net.running() if net.count(name, "probes_failed"))
    assert net.state(prober, "n1") is State.SUSPECT
    assert net.count(prober, "private_doubts") == 0
    suspicion = next(f for f in net.hosts[prober].swim.why("n1") if f.what == "suspected")
    assert len(suspicion.detail.split(";")[0].split(",")) >= net.config.indirect_probes


def test_one_relay_suffices_to_find_a_witness() -> None:
    net = settled(6, indirect_probes=1)
    net.kill("n1")
    assert net.run_for(60, until=net.all_up) < longest_s(net.config)
    assert all(len(event.accusers) >= 3 for event in net.all_told(MemberDied))


@pytest.mark.parametrize("members", [3, 5, 12])
def test_a_confirmed_crash_is_a_death_to_all_after_the_shortest_suspicion(members: int) -> None:
    net = settled(members)
    config = net.config
    net.kill("n1")
    took = net.run_for(60, until=net.all_up)
    verdict_s = config.probe_timeout_s * config.probe_verdict_mult
    spread_s = 2 * config.gossip_interval_s + 10 * net.delay_s
    shortest_s = config.suspicion_min_s if members > 3 else 0.0  # one of two cannot be confirmed by more
    bound_s = 2 * config.probe_interval_s + verdict_s + config.doubt_margin_s + spread_s
    assert shortest_s < took < bound_s + (config.suspicion_min_s if members > 3 else config.suspicion_max_s)


def test_whoever_answers_us_is_not_declared_dead_by_us_even_if_it_never_refutes() -> None:
    net = settled(5)
    net.hosts["n1"].swim.about_self = lambda statement, now: ()  # type: ignore[method-assign]
    about = own(net, "n1")
    for _ in range(40):
        for to in ("n0", "n2", "n3", "n4"):
            net.inject(to, doubt(about, *({"n0", "n2", "n3", "n4"} - {to})), sender="n2")
        net.run_for(0.5)
    assert net.state("n0", "n1") is State.SUSPECT
    assert not net.all_told(MemberDied)
    assert "alive_after_all" in [finding.what for finding in net.hosts["n0"].swim.why("n1")]


# Patience


def test_a_member_that_asks_for_patience_is_doubted_in_silence_for_that_long() -> None:
    net = settled(5)
    swim = net.hosts["n1"].swim
    swim._own._raise_incarnation(0, replace(swim.own, patience_s=8))
    net.run_for(3)
    net.kill("n1")
    net.forget()
    net.run_for(7.5)
    assert net.total("probes_failed") > 5
    assert net.total("private_doubts") >= 3
    assert not net.all_told(MemberSuspected)
    assert not [s for s in net.sent for m in s.messages if isinstance(m, (Suspect, Dead))]
    took = net.run_for(60, until=net.all_up)
    assert net.all_up()
    assert took < longest_s(net.config)


# Time that was lost


def test_a_stall_of_the_accuser_gives_the_suspicion_its_time_back() -> None:
    net = settled(2)
    net.kill("n1")
    net.run_for(60, until=lambda: net.state("n0", "n1") is State.SUSPECT)
    suspected_at = net.now
    net.pause("n0", 0.9 * net.config.suspicion_max_s)
    net.run_for(60, until=lambda: net.state("n0", "n1") is State.DEAD)
    assert net.count("n0", "stalls") >= 1
    lost_s = 0.9 * net.config.suspicion_max_s - net.config.probe_interval_s
    assert net.now - suspected_at > net.config.suspicion_max_s + lost_s


# Evidence


def test_the_evidence_names_paths_confirmers_and_local_health() -> None:
    net = settled(5)
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    for name in net.running():
        why = net.hosts[name].swim.why("n1")
        assert [f.what for f in why if f.what in {"suspected", "dead"}] == ["suspected", "dead"]
        dead = why[-1]
        assert dead.what == "dead"
        assert dead.by in net.running()
        assert "local health penalty 0" in dead.detail
        assert "doubted by" in dead.detail
        for finding in why:
            if finding.what == "probe_failed":
                assert "local health penalty 0" in finding.detail
                assert "no direct answer within" in finding.detail
                assert "relay" in finding.detail
                assert "stream" in finding.detail
    assert any(f.what == "probe_failed" for name in net.running() for f in net.hosts[name].swim.why("n1"))
    assert net.hosts["n0"].swim.why("n2") == ()


def test_a_death_says_who_accused_who_declared_and_how_long_the_member_was_silent() -> None:
    net = settled(5)
    net.kill("n1")
    killed_at = net.now
    net.run_for(20, until=net.all_up)
    for name in net.running():
        (died,) = net.told(name, MemberDied)
        assert died.author in net.running()
        assert len(set(died.accusers)) == len(died.accusers) >= 3
        at = net.hosts[name].told_at[net.hosts[name].events.index(died)]
        assert at - killed_at <= died.silent_for_s <= at - killed_at + 10 * net.config.probe_interval_s


def test_cases_are_counted() -> None:
    net = cluster(5)
    assert net.count("n0", "suspicions") == net.count("n0", "private_doubts") == 0


def test_two_of_many_that_are_cut_off_together_give_up_all_others_before_long() -> None:
    net = settled(40)
    net.partition(["n0", "n1"], [f"n{number}" for number in range(2, 40)])
    net.run_for(150, until=lambda: not (set(net.up("n0")) | set(net.up("n1"))) - {"n0", "n1"})
    assert net.up("n0") == ["n1"]
    assert net.up("n1") == ["n0"]
    assert set(net.up("n2")) == {f"n{number}" for number in range(3, 40)}


# The last question


def test_who_has_missed_a_refutation_hears_of_it_before_it_buries() -> None:
    net = settled(6, stream_probes=False)
    net.freeze("n1")
    net.run_for(5, until=lambda: all(net.state(n, "n1") is State.SUSPECT for n in net.hosts if n != "n1"))

    def is_missed(sent: Sent) -> bool:
        """Say whether a datagram would tell n0 in another way than by a relay's answer."""
        words = [m for m in sent.messages if isinstance(m, (Alive, RollFrame))]
        told = [m for m in words if isinstance(m, RollFrame) or m.name == "n1"]
        return (sent.source == "n1" or bool(told)) and not any(isinstance(m, Nack) for m in sent.messages)

    net.censor = lambda sent: sent.to == "n0" and is_missed(sent)
    net.thaw("n1")
    net.run_for(1.5)
    assert [n for n in net.hosts if net.state(n, "n1") is State.SUSPECT] == ["n0"]
    net.freeze("n1")
    net.run_for(net.config.suspicion_max_s, until=lambda: net.state("n0", "n1") is not State.SUSPECT)
    assert net.state("n0", "n1") is State.ALIVE
    assert not net.told("n0", MemberDied)


def test_others_are_asked_about_few_at_a_time() -> None:
    net = settled(4)
    swim = net.hosts["n0"].swim
    before = len(net.sent)
    for _ in range(2 * MAX_ASKED_AROUND_PER_S):
        swim.check(swim._table.get("n1"), net.now)  # type: ignore[arg-type]
    net.pump("n0")
    asked = [m for sent in net.sent[before:] for m in sent.messages if isinstance(m, PingRequest)]
    assert len(asked) == MAX_ASKED_AROUND_PER_S * min(net.config.indirect_probes, 2)
