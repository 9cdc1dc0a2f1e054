"""A goodbye is no death; the dead and the departed are forgotten on schedule, their addresses are not."""

from swim.events import MemberDied, MemberLeft, MemberReaped, MemberSuspected
from swim.members import State
from tests.swim.net import Net, settled


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


def test_who_has_left_may_come_back_as_a_new_life() -> None:
    net = settled(4)
    leave(net, "n1")
    net.run_for(5)
    net.add("n1", seeds=["n0:7946"])
    assert net.run_for(5, until=net.all_up) < 0.5
    net.run_for(20)
    assert net.all_up()


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


def test_departed_members_are_reaped_and_not_in_the_address_book() -> None:
    net = settled(3, reap_after_s=10.0)
    leave(net, "n1")
    net.run_for(15)
    assert net.state("n0", "n1") is None
    assert [name for name, _ in net.hosts["n0"].swim.address_book()] == ["n2"]
    assert net.total("reconnect_attempts") == 0
