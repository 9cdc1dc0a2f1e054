"""What a verdict of others is worth: it is believed by whoever suspects already, and after all was read."""

import pytest

from swim.events import MemberDied, MemberRefuted
from swim.members import State
from swim.messages import Alive, RollFrame
from tests.swim.net import Net, settled
from tests.swim.statements import doubt, verdict, word

AT_ONCE_S = 0.001
"""Until a timer that is due has fired."""


def own(net: Net, name: str):  # type: ignore[no-untyped-def]
    return net.hosts[name].swim.own


def test_who_has_answered_since_it_was_suspected_is_not_buried_on_the_word_of_others() -> None:
    net = settled(6, stream_probes=False)
    about = own(net, "n1")
    # Probes pass, but nothing that would tell n0 of the refutation.
    net.censor = lambda s: s.to == "n0" and any(isinstance(m, (Alive, RollFrame)) for m in s.messages)
    net.streams_refused.add("n0")
    net.inject("n0", doubt(about, "n2", "n3"), sender="n2")
    why = net.hosts["n0"].swim.why
    waited_s = net.run_for(5, until=lambda: why("n1")[-1].what == "alive_after_all")
    assert net.config.suspicion_min_s / 2 < waited_s < net.config.suspicion_min_s
    net.inject("n0", verdict(about, "n2", "n3", "n4"), sender="n2")
    assert net.state("n0", "n1") is State.SUSPECT
    net.heal()
    net.run_for(20)
    assert not net.all_told(MemberDied)
    assert net.state("n0", "n1") is State.ALIVE


@pytest.mark.parametrize("members", [5, 9])
def test_a_verdict_out_of_the_blue_is_taken_for_a_suspicion_and_its_subject_refutes(members: int) -> None:
    net = settled(members)
    dead = verdict(own(net, "n1"), "n2", "n3", "n4")
    net.inject("n0", dead, sender="n2")
    assert net.state("n0", "n1") is State.SUSPECT
    net.run_for(3)
    assert net.state("n0", "n1") is State.ALIVE
    assert net.told("n0", MemberRefuted)
    assert own(net, "n1").incarnation == 1
    assert not net.all_told(MemberDied)
    assert "declared dead elsewhere" in net.hosts["n0"].swim.why("n1")[0].detail


def test_whoever_already_suspects_believes_a_verdict_that_proves_itself() -> None:
    net = settled(6, suspicion_max_s=60.0, suspicion_confirmations=8)
    about = own(net, "n1")
    net.kill("n1")
    net.run_for(20, until=lambda: net.state("n0", "n1") is State.SUSPECT)
    net.run_for(net.config.suspicion_min_s)
    assert net.state("n0", "n1") is State.SUSPECT
    net.inject("n0", verdict(about, "n2", "n3", "n4"), sender="n2")
    net.run_for(AT_ONCE_S)
    assert net.state("n0", "n1") is State.DEAD
    (died,) = net.told("n0", MemberDied)
    assert died.author == "n2"


@pytest.mark.parametrize("word_first", [False, True])
@pytest.mark.parametrize("what", ["confirmations", "a verdict"])
def test_who_has_stood_still_reads_all_that_has_arrived_before_it_buries(what: str, word_first: bool) -> None:
    net = settled(8, suspicion_max_s=30.0)
    about = own(net, "n1")
    net.inject("n0", doubt(about, "n2", "n3"), sender="n2")
    assert net.state("n0", "n1") is State.SUSPECT
    net.forget()
    net.now += 20.0  # no timer has fired, and this has come meanwhile
    accusers = ("n2", "n3", "n4", "n5")
    said = verdict(about, *accusers) if what == "a verdict" else doubt(about, *accusers)
    arrived = [(said, "n4"), (word(net, "n1", incarnation=1), "n1")]
    for statement, sender in reversed(arrived) if word_first else arrived:
        net.inject("n0", statement, sender=sender)
    net.run_for(5)
    assert net.state("n0", "n1") is State.ALIVE
    assert not net.told("n0", MemberDied)


def test_the_verdict_of_somebody_who_has_just_come_back_does_not_cut_the_suspicion_short() -> None:
    settings = {"suspicion_min_s": 4.0, "suspicion_max_s": 20.0, "suspicion_confirmations": 8}
    net = settled(6, **settings)
    net.run_for(25)
    about = own(net, "n1")
    net.kill("n1")
    net.run_for(20, until=lambda: net.state("n0", "n1") is State.SUSPECT)
    net.run_for(0.7 * net.config.suspicion_min_s)
    later = word(net, "n2", incarnation=1)
    net.inject("n0", later, doubt(later, "n3", "n4"), sender="n3")
    assert net.state("n0", "n2") is State.SUSPECT
    net.inject("n0", word(net, "n2", incarnation=2), sender="n2")
    net.inject("n0", verdict(about, "n2", "n3", "n4"), sender="n2")
    net.run_for(AT_ONCE_S)
    assert net.state("n0", "n1") is State.SUSPECT
    net.inject("n0", verdict(about, "n3", "n2", "n4"), sender="n3")
    net.run_for(AT_ONCE_S)
    assert net.state("n0", "n1") is State.DEAD
