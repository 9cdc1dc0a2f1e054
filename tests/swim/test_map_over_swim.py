"""The real replicated map over the real protocol: what one owner writes, all members read."""

import random

from swim.config import SwimConfig
from swim.events import MemberAlive, MemberJoined
from swim.replicated import Replicated
from tests.swim.net import CLUSTER, WALL, Net, authority, identity_of


def a_map(name: str) -> Replicated:
    rng = random.Random(name)
    return Replicated(identity_of(name), authority(), rng=rng, entropy=rng.randbytes)


def admit_all(net: Net, maps: dict[str, Replicated]) -> None:
    """Do what the room above does on MemberJoined and MemberAlive."""
    for name, host in net.hosts.items():
        for event in host.events:
            if isinstance(event, (MemberJoined, MemberAlive)):
                maps[name].admit_owner(event.member.name, WALL)


def test_five_hundred_entries_put_at_once_reach_five_members_within_two_seconds() -> None:
    net = Net(config=SwimConfig.profile("local", label=CLUSTER))
    maps = {f"n{number}": a_map(f"n{number}") for number in range(5)}
    for name, held in maps.items():
        net.add(name, seeds=["n0:7946"] if name != "n0" else None, replicated=held)
        held.start(0, net.now, WALL)
    net.run_for(2)
    admit_all(net, maps)
    net.run_for(5)
    for number in range(500):
        maps["n2"].put(f"agent/agent-{number}/1.0.0", net.rng.randbytes(60))
    assert maps["n2"].queued() > 40
    assert net.run_for(2, until=lambda: len({m.root() for m in maps.values()}) == 1) < 2
    assert sum(1 for owner, _, _ in maps["n4"].entries("agent/") if owner == "n2") == 500


def test_entries_reach_everybody_by_gossip_by_join_and_after_a_partition() -> None:
    net = Net(config=SwimConfig.profile("local", label=CLUSTER))
    maps = {f"n{number}": a_map(f"n{number}") for number in range(4)}
    for name in ("n0", "n1", "n2"):
        net.add(name, seeds=["n0:7946"] if name != "n0" else None, replicated=maps[name])
        maps[name].start(0, net.now, WALL)
    net.run_for(0.2)
    admit_all(net, maps)
    net.run_for(3)

    maps["n1"].put("agent/x", b"one")
    assert (
        net.run_for(5, until=lambda: all(maps[n].get("n1", "agent/x") == b"one" for n in ("n0", "n2"))) < 1.0
    )

    for number in range(300):
        maps["n2"].put(f"agent/{number}", b"v" * 100)
    net.run_for(5)
    net.add("n3", seeds=["n0:7946"], replicated=maps["n3"])
    net.run_for(1)
    admit_all(net, maps)
    net.run_for(3)
    assert all(maps["n3"].get("n2", f"agent/{number}") for number in range(300))

    net.partition(["n0", "n1"], ["n2", "n3"])
    maps["n2"].put("agent/x", b"two")
    net.run_for(60)
    assert maps["n0"].get("n2", "agent/x") is None
    net.heal()
    net.run_for(15)
    assert net.all_up()
    assert maps["n0"].get("n2", "agent/x") == maps["n1"].get("n2", "agent/x") == b"two"
    assert len({m.root() for m in maps.values()}) == 1
    assert max(len(sent.data) for sent in net.sent) <= 1400

    net.run_for(20)
    net.sent.clear()
    net.run_for(20)
    assert len(net.sent) <= 4 * 20 / net.config.probe_interval_s * 2 * 1.05  # idle again: only probes
