"""Faults of one member's own links: they settle, and no healthy member is ever doubted for them."""

import pytest

from swim.events import MemberAlive, MemberDied, MemberRefuted, MemberSuspected, PathLost
from swim.members import State
from swim.messages import MAX_PATIENCE_S
from tests.swim.net import Net, settled

CHANGES = (MemberSuspected, MemberRefuted, MemberDied, MemberAlive)
ILL = "n3"


def changes_at_others(net: Net, about: str | None = None) -> list:  # type: ignore[type-arg]
    """Return the changes of state that the healthy have told, about one member or about healthy ones."""
    told = net.all_told(*CHANGES, by=[name for name in net.hosts if name != ILL])
    return [e for e in told if (e.member.name == ILL) == (about == ILL)]


def test_a_member_behind_a_link_that_loses_most_packets_is_shown_as_impaired_and_does_not_flap() -> None:
    net = settled(20)
    net.loss_at[ILL] = 0.8
    net.run_for(60)
    assert not changes_at_others(net)
    assert not net.all_told(MemberDied)
    net.forget()
    net.run_for(60)
    assert not net.all_told(*CHANGES)
    for name in net.hosts:
        if name != ILL:
            assert net.state(name, ILL) is State.ALIVE
            assert net.hosts[name].swim.member(ILL).patience_s == MAX_PATIENCE_S  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", ["mute", "deaf"])
def test_a_member_from_or_to_which_nothing_gets_through_dies_once(fault: str) -> None:
    net = settled(8)
    getattr(net, fault).add(ILL)
    net.run_for(60)
    assert not changes_at_others(net)
    assert [type(e) for e in changes_at_others(net, ILL)].count(MemberDied) == 7
    assert net.up(ILL) == []
    net.forget()
    net.run_for(60)
    assert not net.all_told(*CHANGES)
    net.heal()
    assert net.run_for(60, until=net.all_up) < 4 * net.config.reconnect_interval_s
    net.run_for(20)
    assert net.all_up()
    assert not net.all_told(MemberDied)


@pytest.mark.parametrize("direction", ["out", "in"])
def test_where_streams_still_pass_lost_paths_are_reported_and_nobody_is_doubted(direction: str) -> None:
    net = settled(6)
    for name in net.hosts:
        net.drop(*((ILL, name) if direction == "out" else (name, ILL)))
    net.run_for(30)
    assert not net.all_told(*CHANGES)
    for name in net.hosts:
        lost = {path.peer for path in net.hosts[name].swim.lost_paths()}
        assert lost == ({ILL} if name != ILL else set(net.hosts) - {ILL})
    net.forget()
    net.run_for(30)
    assert not net.all_told(*CHANGES, PathLost)
