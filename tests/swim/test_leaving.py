"""A goodbye is no death; the dead and the departed are forgotten on schedule, their addresses are not."""

from dataclasses import replace

import pytest

from swim.events import (
    DuplicateName,
    MemberDied,
    MemberForgotten,
    MemberLeft,
    MemberReaped,
    MemberSuspected,
)
from swim.members import MAX_INCARNATION_JUMP, State
from swim.messages import MAX_INCARNATION, Boot, Left
from swim.own_word import LONE_REFUTATION_GAP_S
from tests.swim.net import WALL, Net, settled
from tests.swim.statements import goodbye


def leave(net: Net, name: str) -> None:
    net.hosts[name].swim.leave(net.now)
    net.pump(name)


def test_leaving_is_not_dying() -> None:
    net = settled(5)
    leave(net, "n1")
    net.run_for(5)
    assert net.hosts["n1"].swim.has_left
    for name in ("n0", "n2", "n3", "n4"):
        assert net.state(name, "n1") is State.LEFT
        assert len(net.told(name, MemberLeft)) == 1
    assert not net.all_told(MemberSuspected, MemberDied)
    net.forget()
    net.run_for(60)
    assert not any(host.events for host in net.hosts.values())
    assert not [s for s in net.sent if s.to == "n1"]  # nobody tries to reach it any more


def test_a_goodbye_goes_to_each_of_a_few_dozen_members_at_once() -> None:
    net = settled(9)
    net.sent.clear()
    leave(net, "n1")
    told = [s.to for s in net.sent if s.source == "n1" and any(isinstance(m, Left) for m in s.messages)]
    assert sorted(told) == sorted(name for name in net.hosts if name != "n1")


def test_who_has_left_may_come_back_as_a_new_life() -> None:
    net = settled(4)
    leave(net, "n1")
    net.run_for(5)
    net.add("n1", seeds=["n0:7946"])
    assert net.run_for(5, until=net.all_up) < 0.5
    net.run_for(20)
    assert net.all_up()


def test_a_goodbye_that_its_living_subject_has_not_said_is_taken_back_by_it() -> None:
    net = settled(5)
    own = net.hosts["n1"].swim.own
    net.inject("n0", goodbye(own), sender="n2")
    assert net.run_for(1, until=lambda: net.state("n4", "n1") is State.LEFT) < 1
    assert net.run_for(10, until=net.all_up) < 3
    net.run_for(20)
    assert net.all_up()
    assert net.count("n1", "goodbyes_taken_back") == 1
    assert net.hosts["n1"].swim.own.boot == own.boot
    assert not net.all_told(MemberDied, MemberSuspected, DuplicateName)


def test_a_goodbye_of_a_later_life_is_outbid_by_the_one_that_lives() -> None:
    net = settled(4)
    later = Boot(net.hosts["n1"].swim.own.boot.time_ms + 3_600_000, b"l" * 8)
    ended = goodbye(replace(net.hosts["n1"].swim.own, boot=later))
    net.inject("n0", ended, sender="n2")
    assert net.state("n0", "n1") is State.LEFT
    assert net.run_for(10, until=net.all_up) < 3
    assert net.hosts["n1"].swim.own.boot.time_ms == later.time_ms + 1
    net.kill("n1")
    net.add("n1", seeds=["n0:7946"], wall=WALL + 100)  # the next life's clock is behind all of that
    assert net.run_for(10, until=net.all_up) < 3


def test_a_restart_with_a_clock_set_back_outbids_a_goodbye_whose_word_nobody_has_heard() -> None:
    net = settled(4)
    own = net.hosts["n1"].swim.own
    net.kill("n1")
    for name in ("n0", "n2", "n3"):
        net.inject(name, goodbye(replace(own, boot=Boot(own.boot.time_ms + 60_000, b"m" * 8))), sender="n2")
    net.add("n1", seeds=["n0:7946"], wall=WALL - 5000.0)
    assert net.run_for(10, until=net.all_up) < 3
    net.run_for(20)
    assert net.all_up()
    assert not net.told("n1", DuplicateName)


@pytest.mark.parametrize(
    ("incarnation", "boot_s", "reason"),
    [
        (MAX_INCARNATION_JUMP + 1, 0, "incarnation_jump"),
        (MAX_INCARNATION, 0, "incarnation_jump"),
        (0, 86_400 + 60, "boot_time_ahead"),
    ],
)
def test_a_goodbye_that_is_far_ahead_is_not_believed(incarnation: int, boot_s: int, reason: str) -> None:
    net = settled(3)
    own = net.hosts["n1"].swim.own
    boot = Boot(own.boot.time_ms + 1000 * boot_s, own.boot.id)
    ahead = goodbye(replace(own, boot=boot, incarnation=incarnation))
    net.inject("n0", ahead, sender="n2")
    assert net.state("n0", "n1") is State.ALIVE
    assert net.count("n0", f"dropped_{reason}") == 1


def test_a_goodbye_from_the_far_future_does_not_take_its_subject_there() -> None:
    net = settled(3)
    own = net.hosts["n1"].swim.own
    ahead = replace(own, boot=Boot(own.boot.time_ms + 86_400_000 * 365, own.boot.id))
    net.inject("n1", goodbye(ahead), sender="n2")
    assert net.hosts["n1"].swim.own == own
    assert net.count("n1", "dropped_boot_time_ahead") == 1


def test_goodbyes_are_taken_back_at_most_once_a_second_and_only_those_the_member_has_signed() -> None:
    net = settled(4)
    swim = net.hosts["n1"].swim
    forged = goodbye(swim.own)
    net.inject("n1", replace(forged, signature=bytes(64)), sender="n2")
    assert swim.own.incarnation == 0
    net.inject("n1", forged, sender="n2")
    assert swim.own.incarnation == 1
    net.inject("n1", goodbye(swim.own), sender="n2")
    assert swim.own.incarnation == 1
    net.run_for(LONE_REFUTATION_GAP_S)
    net.inject("n1", goodbye(replace(swim.own, incarnation=5)), sender="n2")
    assert swim.own.incarnation == 6


def test_who_is_leaving_does_not_take_its_own_goodbye_back() -> None:
    net = settled(3)
    leave(net, "n1")
    said = net.hosts["n1"].swim.own
    net.inject("n1", goodbye(said), sender="n0")
    net.run_for(5)
    assert net.hosts["n1"].swim.own == said
    assert all(net.state(name, "n1") is State.LEFT for name in ("n0", "n2"))


def test_many_may_leave_at_once() -> None:
    net = settled(12)
    for number in range(6):
        leave(net, f"n{number}")
    net.run_for(5)
    for number in range(6):
        assert net.hosts[f"n{number}"].swim.has_left
        net.hosts[f"n{number}"].running = False
    assert net.all_up()
    assert not net.all_told(MemberDied)


def test_a_goodbye_that_nobody_heard_is_a_death() -> None:
    net = settled(4)
    net.mute.add("n1")
    leave(net, "n1")
    net.run_for(30)
    assert all(net.state(name, "n1") is State.DEAD for name in ("n0", "n2", "n3"))


def test_the_last_member_leaves_at_once() -> None:
    net = Net()
    swim = net.add("n0")
    swim.leave(net.now)
    assert swim.has_left
    assert swim.next_timer() is None
    swim.receive(b"too late", ("elsewhere", 1), net.now)
    assert net.count("n0", "dropped_not_running") == 1


def test_who_leaves_is_in_no_roll_and_differs_from_nobody() -> None:
    net = settled(4)
    leave(net, "n1")
    net.run_for(3)
    roots = {net.hosts[name].swim.root() for name in ("n0", "n2", "n3")}
    assert len(roots) == 1
    assert net.total("roll_comparisons") == 0


def test_dead_members_are_reaped_and_their_addresses_are_kept() -> None:
    net = settled(4, reap_after_s=30.0)
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    net.run_for(29)
    assert all(net.state(name, "n1") is State.DEAD for name in ("n0", "n2", "n3"))
    net.run_for(2)
    for name in ("n0", "n2", "n3"):
        assert net.state(name, "n1") is None
        assert [event.member.name for event in net.told(name, MemberReaped)] == ["n1"]
        assert net.count(name, "remembered_members") == 1
        assert ("n1", ("n1", 7946)) in net.hosts[name].swim.address_book()
    net.forget()
    net.run_for(60)
    assert not any(host.events for host in net.hosts.values())


@pytest.mark.parametrize("reap_after_s", [5.0, 1000.0], ids=["reaped", "dead"])
def test_who_is_given_up_counts_and_is_tried_no_more_until_it_comes_back(reap_after_s: float) -> None:
    net = settled(4, reap_after_s=reap_after_s, reconnect_interval_s=1.0)
    net.kill("n1")
    names = ("n0", "n2", "n3")
    gone = (None, State.DEAD)
    net.run_for(30, until=lambda: all(net.state(name, "n1") in gone for name in names))
    net.run_for(10)
    net.forget()
    for name in names:
        swim = net.hosts[name].swim
        life = swim.last_life("n1")
        assert life is not None
        assert not swim.forget("n1", replace(life, time_ms=life.time_ms - 1))  # an earlier life
        assert swim.partition(net.now).remembered == 4
        assert swim.forget("n1", life)
        assert not swim.forget("n1", life)
        assert swim.partition(net.now).remembered == 3
        assert swim.member("n1") is None
        assert "n1" not in dict(swim.address_book())
        net.pump(name)
        assert net.told(name, MemberForgotten) == [MemberForgotten("n1")]
    net.run_for(5)
    net.sent.clear()
    before = net.total("reconnect_attempts")
    net.run_for(20)
    assert not [s for s in net.sent if s.to == "n1"]
    assert net.total("reconnect_attempts") == before
    net.add("n1", seeds=["n0:7946"])
    net.run_for(10, until=net.all_up)
    assert net.all_up()
    assert not net.hosts["n0"].swim.forget("n1")  # it is up


def test_who_was_only_cut_off_comes_back_though_it_was_given_up() -> None:
    net = settled(4, reconnect_interval_s=1.0)
    net.partition(["n1"], ["n0", "n2", "n3"])
    net.run_for(60, until=lambda: net.up("n0") == ["n2", "n3"])
    for name in ("n0", "n2", "n3"):
        net.run_for(20, until=lambda name=name: net.state(name, "n1") is State.DEAD)  # type: ignore[misc]
        assert net.hosts[name].swim.forget("n1")
    net.heal()
    assert net.run_for(60, until=net.all_up) < 60
    assert not net.hosts["n0"].swim.forget("n1")
    assert not net.hosts["n0"].swim.forget("nobody")


def test_departed_members_are_reaped_and_not_in_the_address_book() -> None:
    net = settled(3, reap_after_s=10.0)
    leave(net, "n1")
    net.run_for(15)
    assert net.state("n0", "n1") is None
    assert [name for name, _ in net.hosts["n0"].swim.address_book()] == ["n2"]
    assert net.total("reconnect_attempts") == 0
