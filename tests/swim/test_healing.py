"""Two halves that declared each other dead merge when the network does, without seeds and without help."""

import pytest

from swim.events import MemberAlive, MemberDied, MemberJoined
from swim.members import State
from tests.swim.net import Net, settled

HEAL_S = 60.0
"""The promise: one view so soon after the network is whole again."""
SPLITS = {"halves": 5, "one of ten": 1, "three of ten": 3}


def split(net: Net, left: int) -> tuple[list[str], list[str]]:
    names = list(net.hosts)
    net.partition(names[:left], names[left:])
    return names[:left], names[left:]


def only_see(net: Net, side: list[str]) -> bool:
    """Say whether nobody on one side takes anybody elsewhere for up."""
    return all(net.up(name) == sorted(set(side) - {name}) for name in side)


def heals(net: Net, deaths: int | None = None) -> None:
    """Heal, and require one view soon, without any further death."""
    net.heal()
    net.forget()
    assert net.run_for(HEAL_S, until=net.all_up) < HEAL_S
    net.run_for(15)
    assert net.all_up()
    assert len(net.all_told(MemberDied)) == (deaths or 0)


@pytest.mark.parametrize("left", SPLITS.values(), ids=SPLITS)
def test_a_partition_that_ends_before_anybody_is_buried_leaves_no_dead(left: int) -> None:
    net = settled(10)
    split(net, left)
    net.run_for(0.8 * net.config.suspicion_min_s)
    assert not net.all_told(MemberDied)
    heals(net)


@pytest.mark.parametrize("left", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_partition_in_which_both_sides_have_buried_each_other_heals(left: int, seed: int) -> None:
    net = settled(10, seed=seed)
    one, other = split(net, left)
    net.run_for(120, until=lambda: only_see(net, one) and only_see(net, other))
    assert only_see(net, one)
    assert only_see(net, other)
    heals(net)
    for name in net.hosts:  # everybody who was buried had to refute, and did
        came_back = {event.member.name for event in net.told(name, MemberAlive)}
        assert came_back == set(other if name in one else one)


@pytest.mark.parametrize("left", SPLITS.values(), ids=SPLITS)
def test_a_partition_that_ends_while_the_verdicts_are_being_passed_heals(left: int) -> None:
    net = settled(10)
    split(net, left)
    net.run_for(60, until=lambda: bool(net.all_told(MemberDied)))
    net.heal()
    assert net.run_for(HEAL_S, until=net.all_up) < HEAL_S
    net.run_for(2 * net.config.suspicion_max_s)
    net.forget()
    net.run_for(10)
    assert net.all_up()
    assert not net.all_told(MemberDied)


@pytest.mark.parametrize("left", SPLITS.values(), ids=SPLITS)
def test_a_partition_in_which_both_sides_have_forgotten_each_other_heals(left: int) -> None:
    net = settled(10, reap_after_s=10.0)
    one, other = split(net, left)
    net.run_for(
        120, until=lambda: all(net.state(a, b) is net.state(b, a) is None for a in one for b in other)
    )
    assert all(net.state(a, b) is net.state(b, a) is None for a in one for b in other)
    heals(net)
    assert {event.member.name for event in net.told(one[0], MemberJoined)} == set(other)


def test_three_parts_heal_into_one() -> None:
    net = settled(9, reap_after_s=10.0)
    names = list(net.hosts)
    net.partition(names[:3], names[3:6], names[6:])
    net.run_for(50)
    assert all(len(net.up(name)) == 2 for name in names)
    heals(net)


def test_a_partition_heals_in_a_lossy_network() -> None:
    net = settled(10)
    split(net, 4)
    net.run_for(30)
    net.heal()
    net.loss = 0.05
    assert net.run_for(HEAL_S, until=net.all_up) < HEAL_S


@pytest.mark.parametrize("profile", ["lan", "edge"])
def test_other_profiles_heal_as_soon(profile: str) -> None:
    net = settled(6, profile=profile)
    split(net, 3)
    net.run_for(100)
    assert net.up("n0") == ["n1", "n2"]
    heals(net)


def test_members_that_died_on_one_side_while_it_was_cut_off_stay_dead() -> None:
    net = settled(8)
    split(net, 4)
    net.run_for(30)
    net.kill("n1")
    net.kill("n6")
    net.run_for(30)
    net.heal()
    assert net.run_for(HEAL_S, until=net.all_up) < HEAL_S
    net.run_for(10)
    assert net.all_up()
    assert all(net.state(name, "n1") is not State.ALIVE for name in net.running())


def test_trying_the_lost_costs_little_however_many_they_are() -> None:
    net = settled(10)
    split(net, 3)
    net.run_for(30)
    net.forget()
    before = net.total("reconnect_attempts")
    net.run_for(60)
    attempts = net.total("reconnect_attempts") - before
    # Each side tries as often as it has lost members, but nobody more than once per interval.
    assert 10 <= attempts <= 10 * 60 / net.config.reconnect_interval_s * 1.3
    idle = 10 * 60 / net.config.probe_interval_s * 2
    assert len(net.sent) <= idle * 1.1


def test_a_dead_members_address_that_somebody_else_has_now_leads_to_that_one() -> None:
    net = settled(3)
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    net.add("other", address=("n1", 7946))
    assert net.run_for(HEAL_S, until=lambda: net.up("n0") == ["n2", "other"]) < HEAL_S
