"""Who is killed is declared dead in time, and who lives is not, in clusters of every size."""

import pytest

from swim.events import MemberDied, MemberSuspected
from swim.members import State
from tests.swim.net import Net, cluster, settled


def bound_s(net: Net, members: int) -> float:
    """Return how long a crash may take to be known to all, from the configuration."""
    config = net.config
    probe_s = config.probe_timeout_s * config.probe_verdict_mult
    suspicion_s = config.suspicion_max_s if members <= 3 else config.suspicion_min_s
    spread_s = 5 * config.gossip_interval_s
    return 2 * config.probe_interval_s + probe_s + suspicion_s + config.doubt_margin_s + spread_s


@pytest.mark.parametrize("profile", ["local", "lan", "edge"])
@pytest.mark.parametrize("members", [2, 3, 5, 20])
def test_a_killed_member_is_declared_dead_by_everybody_in_time(members: int, profile: str) -> None:
    net = cluster(members, profile=profile, seed=members)
    net.run_for(8)
    net.kill("n1")
    killed_at = net.now
    took = net.run_for(100, until=net.all_up)
    assert took < bound_s(net, members)
    for name in net.running():
        (died,) = net.told(name, MemberDied)
        assert died.member.name == "n1"
        assert (
            died.silent_for_s
            >= net.hosts[name].told_at[net.hosts[name].events.index(died)] - killed_at - 1e-9
        )


def test_several_that_crash_at_once_are_all_found() -> None:
    net = settled(12)
    for name in ("n1", "n2", "n3", "n4"):
        net.kill(name)
    assert net.run_for(60, until=net.all_up) < bound_s(net, 12) + net.config.suspicion_max_s
    assert {event.member.name for event in net.all_told(MemberDied)} == {"n1", "n2", "n3", "n4"}


def test_nobody_is_suspected_in_a_quiet_network() -> None:
    net = settled(10)
    net.run_for(60)
    assert not net.all_told(MemberSuspected)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_dies_in_a_lossy_network(seed: int) -> None:
    net = cluster(5, seed=seed)
    net.loss = 0.1
    net.run_for(120)
    assert not net.all_told(MemberDied)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_few_members_at_the_edge_find_a_crash_and_bury_nobody_who_lives(members: int) -> None:
    net = settled(members, profile="edge")
    net.loss = 0.05
    net.run_for(600)
    assert not net.all_told(MemberDied)
    net.kill("n1")
    net.run_for(60, until=lambda: all(net.state(name, "n1") is State.DEAD for name in net.running()))
    assert {event.member.name for event in net.all_told(MemberDied)} == {"n1"}
    assert net.all_up()


def test_short_pauses_of_many_members_kill_nobody() -> None:
    net = settled(12)
    for round_ in range(6):
        frozen = [f"n{(round_ + step) % 12}" for step in (0, 3, 6)]
        for name in frozen:
            net.freeze(name)
        net.run_for(0.8 * net.config.suspicion_min_s)
        for name in frozen:
            net.thaw(name)
        net.run_for(1)
    assert not net.all_told(MemberDied)
    net.run_for(10)
    assert net.all_up()
