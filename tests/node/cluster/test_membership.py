"""Membership in a simulated cluster: what survives a restart, what is told, what bad data on disk does."""

# ruff: noqa: TID251, ASYNC110 (the scenario runs in the simulator's virtual time)

import apsw
import cbor2
import pytest
import trio

from node.cluster import journal
from node.cluster.driving import advertised
from node.cluster.memory import ClusterMemory
from node.cluster.why import MemberNotFound
from node.errors import ConfigInvalid, StorageFailed
from node.samples import sample
from node.storage import snapshots
from simulations.cluster import SimulatedCluster
from simulations.kernel import run
from simulations.network import HostNetwork
from swim.events import PathLost, PathRestored
from swim.paths import LostPath
from swim.units import MAX_COUNTER

ECHO = sample("agents/echo.md").read_bytes()
ECHO_FILES = {"echo.wat": sample("agents/echo.wat").read_bytes()}


def simulate(scenario, directory):
    async def in_cluster(world):
        async with trio.open_nursery() as nursery:
            result = await scenario(SimulatedCluster(world, directory, nursery))
            nursery.cancel_scope.cancel()
        return result

    return run(in_cluster, 1, limit_s=900.0)


async def until(question, within_s=60.0):
    with trio.fail_after(within_s):
        while not question():
            await trio.sleep(0.05)


def stored(node, key):
    return node.storage.read(lambda c: snapshots.get(c, key))


def database_of(cluster, name):
    (found,) = cluster._data(name, 1).glob("*.db")
    return found


def memory(node):
    return node.membership.statistics()["memory"]


def test_a_restarted_node_finds_its_cluster_without_a_seed_and_a_member_lost_meanwhile_too(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        await cluster.start("beta", "alpha")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == 3)
        await trio.sleep(12)
        await cluster.crash("gamma")
        cluster.network.partition(("alpha", "gamma"), ("beta",))
        gamma = await cluster.start("gamma")
        await until(lambda: gamma.membership.alive_nodes() == ["alpha", "gamma"])
        await until(lambda: not alpha.membership.is_alive("beta"))
        assert gamma.membership.is_lost("beta")
        await trio.sleep(30)
        cluster.network.heal()
        await until(lambda: len(gamma.membership.alive_nodes()) == 3)

    simulate(scenario, tmp_path)


def test_whoever_keeps_what_the_registry_said_sees_that_a_node_came_or_went(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        registry, versions = alpha.membership.registry, []
        for begins in (True, False, True):
            versions.append(registry.version("what-nobody-offers"))
            await (cluster.start("beta", "alpha") if begins else cluster.crash("beta"))
            await until(lambda begins=begins: alpha.membership.is_alive("beta") is begins)
        versions.append(registry.version("what-nobody-offers"))
        assert versions == sorted(set(versions))

    simulate(scenario, tmp_path)


def alone(cluster, name):
    """Cut every link of a node, for packets and streams."""
    for other in cluster.network.hosts:
        if other != name:
            cluster.network.link(name, other).cut = cluster.network.link(other, name).cut = True


def test_a_restarted_node_knows_its_members_before_it_has_heard_of_anybody(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        await cluster.start("beta", "alpha")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == 3)
        await until(lambda: alpha.membership.swim.rtt("alpha", "gamma") is not None)
        addresses = {view.name: view.link_address for view in gamma.membership.members()}
        await trio.sleep(12)
        await cluster.crash("gamma")
        alone(cluster, "gamma")
        gamma = await cluster.start("gamma")
        assert gamma.membership.alive_nodes() == ["alpha", "beta", "gamma"]
        assert gamma.membership.link_address("beta") == addresses["beta"]
        partition = gamma.membership.partition()
        assert (partition.side, partition.up, partition.remembered) == ("majority", 3, 3)
        cluster.network.heal()
        boot = gamma.membership.swim.own.boot
        await until(lambda: alpha.membership.swim.member("gamma").boot == boot, within_s=10)
        await trio.sleep(20)
        assert gamma.membership.alive_nodes() == alpha.membership.alive_nodes() == ["alpha", "beta", "gamma"]
        assert [event["event"] for event in gamma.membership.recent_events()].count("MemberDied") == 0

    simulate(scenario, tmp_path)


def test_a_member_that_was_forged_on_disk_is_not_known(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        await until(lambda: beta.membership.is_alive("alpha"))
        await trio.sleep(12)
        await cluster.crash("beta")
        connection = apsw.Connection(str(database_of(cluster, "beta")))
        words = cbor2.loads(snapshots.get(connection, "words"))
        words = [word[:-1] + bytes([word[-1] ^ 1]) for word in words]
        with connection:
            snapshots.put(connection, "words", cbor2.dumps([*words, 7, b"x"]))
        connection.close()
        alone(cluster, "beta")
        beta = await cluster.start("beta")
        assert beta.membership.alive_nodes() == ["beta"]
        assert beta.membership.partition().remembered == 2
        cluster.network.heal()
        await until(lambda: beta.membership.is_alive("alpha"))
        return beta.membership.statistics()["swim"]["dropped_bad_signature"]

    assert simulate(scenario, tmp_path) >= 1


def test_a_partition_is_judged_by_who_is_remembered(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        for name in ("beta", "gamma", "delta", "epsilon"):
            await cluster.start(name, "alpha")
        await until(lambda: len(alpha.membership.alive_nodes()) == 5)
        judged = [alpha.membership.partition()]
        for side in (("alpha", "beta"), ("alpha",)):
            cluster.network.heal()
            others = tuple(name for name in cluster.nodes if name not in side)
            cluster.network.partition(side, others)
            await until(lambda side=side: alpha.membership.alive_nodes() == list(side))
            judged.append(alpha.membership.partition())
        return [(str(p.side), p.up, p.remembered) for p in judged]

    assert simulate(scenario, tmp_path) == [("majority", 5, 5), ("minority", 2, 5), ("isolated", 1, 5)]


def test_who_cannot_reach_whom_is_known_to_all_and_nobody_is_declared_dead_for_it(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == len(beta.membership.alive_nodes()) == 3)
        await until(lambda: all(n.membership.replicated.generation for n in (alpha, beta, gamma)))
        cluster.network.link("alpha", "beta").loss = 1.0  # of datagrams; streams have none

        def rows(node):
            found = node.membership.unreachable()["unreachable"]
            return {row["node"]: row["cannot_reach"] for row in found}

        await until(lambda: rows(gamma) == {"alpha": ["beta"], "beta": ["alpha"]})
        [path] = alpha.membership.unreachable()["lost_paths"]
        assert (path["member"], path["reached_by"] in ("relay", "stream")) == ("beta", True)
        assert gamma.membership.unreachable()["lost_paths"] == []
        lost = [event for event in alpha.membership.recent_events() if event["event"] == "PathLost"]
        assert [event["node"] for event in lost] == ["beta"]
        writes = alpha.membership.statistics()["reachability"]["writes"]
        await trio.sleep(30)
        assert alpha.membership.statistics()["reachability"]["writes"] == writes == 1
        cluster.network.link("alpha", "beta").loss = 0.0
        await until(lambda: rows(alpha) == rows(gamma) == {})
        events = [
            event["event"] for node in (alpha, beta, gamma) for event in node.membership.recent_events()
        ]
        assert "PathRestored" in events
        assert "MemberDied" not in events

    simulate(scenario, tmp_path)


def test_paths_that_come_and_go_are_told_at_most_once_a_second(tmp_path, monkeypatch):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        membership = alpha.membership
        await until(lambda: membership.replicated.generation is not None)
        lost = []
        monkeypatch.setattr(membership.swim, "lost_paths", lambda: list(lost))
        for _ in range(50):
            lost[:] = [] if lost else [LostPath("beta", 0.0, "relay")]
            membership._on_event(PathLost("beta", "relay") if lost else PathRestored("beta"))
            await trio.sleep(0.09)
        lost[:] = [LostPath("gamma", 0.0, "relay")]
        membership._on_event(PathLost("gamma", "relay"))
        await trio.sleep(1.1)
        assert membership.reachability.rows()[0].members == ("gamma",)
        return membership.statistics()["reachability"]["writes"]

    assert 2 <= simulate(scenario, tmp_path) <= 7


def test_whom_a_node_could_not_reach_is_taken_back_when_that_member_leaves(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == len(beta.membership.alive_nodes()) == 3)
        cluster.network.link("alpha", "beta").loss = 1.0
        await until(lambda: len(gamma.membership.unreachable()["unreachable"]) == 2)
        beta.shutdown()
        await cluster.nodes["beta"].ended.wait()
        await until(lambda: gamma.membership.unreachable()["unreachable"] == [])

    simulate(scenario, tmp_path)


def test_why_a_member_is_dead_is_told_with_who_doubted_it(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        await cluster.start("beta", "alpha")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: len(gamma.membership.alive_nodes()) == 3)
        assert gamma.membership.why("beta").as_json()["findings"] == []
        await cluster.crash("beta")
        await until(lambda: gamma.membership.why("beta").member.state == "suspect")
        assert set(gamma.membership.why("beta").doubted_by) <= {"alpha", "gamma"}
        await until(lambda: not gamma.membership.is_alive("beta"))
        story = gamma.membership.why("beta").as_json()
        assert story["member"]["state"] == "dead"
        assert story["doubted_by"]
        assert set(story["doubted_by"]) <= {"alpha", "gamma"}
        what = [finding["what"] for finding in story["findings"]]
        assert (what[-1], "suspected" in what) == ("dead", True)
        ago = [finding["seconds_ago"] for finding in story["findings"]]
        assert ago == sorted(ago, reverse=True)
        times = [finding["time"] for finding in story["findings"]]
        assert times == sorted(times)
        await cluster.start("beta", "alpha")
        await until(lambda: alpha.membership.is_alive("beta") and gamma.membership.is_alive("beta"))
        assert gamma.membership.why("beta").doubted_by == ()
        with pytest.raises(MemberNotFound) as raised:
            gamma.membership.why("betta")
        return raised.value.fix

    assert simulate(scenario, tmp_path) == "Did you mean 'beta'?"


def test_a_seed_name_is_looked_up_again_until_it_leads_somewhere(tmp_path, monkeypatch):
    async def scenario(cluster):
        asked = lookups(monkeypatch, "seed.example", ["10.77.0.1"])
        alpha = await cluster.start("alpha")
        beta = await cluster.start("beta", settings={"cluster.seeds": ["seed.example:7946"]})
        await until(lambda: len(asked) >= 3)
        assert not beta.membership.joined
        asked.addresses[:] = [cluster.network.host("alpha").ip]
        await until(lambda: beta.membership.is_alive("alpha") and alpha.membership.is_alive("beta"))
        assert beta.membership.joined

    simulate(scenario, tmp_path)


def test_a_seed_name_is_visited_again_after_joining_and_what_it_leads_to_by_then_is_found(
    tmp_path, monkeypatch
):
    async def scenario(cluster):
        await cluster.start("alpha")
        gamma = await cluster.start("gamma")
        asked = lookups(monkeypatch, "seed.example", [cluster.network.host("alpha").ip])
        beta = await cluster.start("beta", settings={"cluster.seeds": ["seed.example:7946"]})
        await until(lambda: beta.membership.alive_nodes() == ["alpha", "beta"])
        await trio.sleep(60)
        assert beta.membership.alive_nodes() == ["alpha", "beta"]
        before = len(asked)
        asked.addresses[:] = [cluster.network.host("gamma").ip]
        await until(lambda: gamma.membership.alive_nodes() == ["alpha", "beta", "gamma"])
        assert len(asked) > before

    simulate(scenario, tmp_path)


class Lookups(list):
    """When a name was looked up, and where it leads now."""

    def __init__(self, addresses):
        super().__init__()
        self.addresses = addresses


def lookups(monkeypatch, name, addresses):
    asked = Lookups(addresses)
    resolve = HostNetwork.resolve

    async def fake(self, host, port):
        if host != name:
            return await resolve(self, host, port)
        asked.append(self.network.world.now())
        await trio.lowlevel.checkpoint()
        return [(address, port) for address in asked.addresses]

    monkeypatch.setattr(HostNetwork, "resolve", fake)
    return asked


def test_a_node_that_loses_power_soon_after_it_has_joined_finds_its_cluster_without_seeds(tmp_path):
    async def scenario(cluster):
        settings = {"storage.durability": "full"}
        await cluster.start("alpha", settings=settings)
        await cluster.start("beta", "alpha", settings=settings)
        await trio.sleep(3)
        for name in ("alpha", "beta"):
            await cluster.crash(name, power=True)
        alpha = await cluster.start("alpha", settings=settings)
        await cluster.start("beta", settings=settings)
        await until(lambda: alpha.membership.alive_nodes() == ["alpha", "beta"])

    simulate(scenario, tmp_path)


def test_the_settings_of_membership_reach_swim(tmp_path):
    async def scenario(cluster):
        settings = {
            "cluster.allowed_networks": ["10.0.0.2/31", "10.0.0.4/32"],
            "cluster.stream_probes": False,
            "cluster.no_stream_probes": ["gamma"],
            "cluster.swim.suspicion_min_s": 3,
        }
        alpha = await cluster.start("alpha", settings=settings)
        config = alpha.membership.swim.config
        assert (config.allowed_networks, config.stream_probes) == (("10.0.0.2/31", "10.0.0.4/32"), False)
        assert alpha.membership.swim.statistics()["stream_probes_off"] == 1
        assert (config.suspicion_min_s, config.suspicion_max_s, config.label) == (3.0, 5.0, "simulated")
        addresses = {}
        for name in ("beta", "gamma", "delta"):
            await cluster.start(name, "alpha")
            addresses[name] = cluster.network.host(name).ip
        assert addresses == {"beta": "10.0.0.3", "gamma": "10.0.0.4", "delta": "10.0.0.5"}
        await until(lambda: len(alpha.membership.alive_nodes()) == 3)
        await trio.sleep(30)
        assert alpha.membership.alive_nodes() == ["alpha", "beta", "gamma"]
        return alpha.membership.statistics()["swim"]["dropped_network_not_allowed"]

    assert simulate(scenario, tmp_path) > 0


def test_statistics_have_whatever_swim_and_the_maps_count(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        counted = alpha.membership.statistics()
        assert set(alpha.membership.swim.statistics()) <= set(counted["swim"])
        assert set(alpha.membership.replicated.statistics()) <= set(counted["maps"])

    simulate(scenario, tmp_path)


def test_a_change_of_a_map_is_told_at_once_and_an_idle_cluster_writes_nothing(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        await until(lambda: alpha.membership.is_alive("beta"))
        await trio.sleep(25)
        writes = memory(alpha)["writes"]
        await trio.sleep(60)
        assert memory(alpha)["writes"] == writes
        began = cluster.world.now()
        await beta.supervisor.deploy(ECHO, artifacts=ECHO_FILES)
        deployed = cluster.world.now()
        with trio.fail_after(5):
            while not alpha.membership.registry.providers("echo"):
                await trio.sleep(0.005)
        assert cluster.world.now() - deployed < 0.3
        assert began <= deployed
        await trio.sleep(15)
        assert memory(alpha)["writes"] == writes + 1

    simulate(scenario, tmp_path)


@pytest.mark.parametrize("garbage", [b"\xff\xfe", cbor2.dumps({"a": 1}), cbor2.dumps([1, None, "x", [2]])])
def test_a_snapshot_that_cannot_be_read_does_not_stop_the_node(tmp_path, garbage):
    async def scenario(cluster):
        await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        await until(lambda: beta.membership.is_alive("alpha"))
        await trio.sleep(12)
        await cluster.crash("beta")
        connection = apsw.Connection(str(database_of(cluster, "beta")))
        with connection:
            for key in ("members", "member_names", "maps", "words"):
                snapshots.put(connection, key, garbage)
            snapshots.put(connection, "generation", b"\xff" * 8)
        connection.close()
        beta = await cluster.start("beta", "alpha")
        alpha = cluster.nodes["alpha"].node
        await until(lambda: alpha.membership.is_alive("beta") and beta.membership.is_alive("alpha"))
        await until(lambda: beta.membership.replicated.generation is not None)
        assert beta.membership.replicated.generation[0] < MAX_COUNTER
        return memory(beta)["unreadable"]

    assert simulate(scenario, tmp_path) in (1, 5)


def test_the_generation_is_on_disk_before_anything_is_published_under_it(tmp_path, monkeypatch):
    seen = []

    async def scenario(cluster):
        reserve = ClusterMemory.reserve_generation

        async def watched(self):
            before = await reserve(self)
            found = await self._storage.read(lambda c: snapshots.get(c, "generation"))
            seen.append((before, int.from_bytes(found, "big"), self._replicated.generation))
            return before

        monkeypatch.setattr(ClusterMemory, "reserve_generation", watched)
        for _ in range(2):
            alpha = await cluster.start("alpha")
            await until(lambda node=alpha: node.membership.replicated.generation is not None)
            assert alpha.membership.replicated.generation[0] == seen[-1][1]
            await cluster.crash("alpha")

    simulate(scenario, tmp_path)
    assert seen == [(0, 1, None), (1, 2, None)]


def test_wrong_seeds_do_not_push_other_events_out(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "RECENT_EVENTS", 16)

    async def scenario(cluster):
        await cluster.start("alpha", "nobody", "nowhere", "never")
        await cluster.start("beta", "alpha")
        await trio.sleep(120)
        alpha = cluster.nodes["alpha"].node.membership
        await until(lambda: alpha.is_alive("beta"))
        events = alpha.recent_events()
        assert len(events) <= 16
        failures = [event for event in events if event["event"] == "SeedUnreachable"]
        assert sorted(event["attempt"] > 4 for event in failures) == [True] * 12
        return [event["node"] for event in events if event["event"] == "MemberJoined"]

    assert simulate(scenario, tmp_path) == ["beta"]


def test_a_disk_that_fails_costs_the_snapshot_and_not_the_node(tmp_path, monkeypatch):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        await until(lambda: alpha.membership.replicated.generation is not None)

        async def fail(self, expected):
            raise StorageFailed("the disk is full", why="no space is left")

        monkeypatch.setattr(ClusterMemory, "save", fail)
        await trio.sleep(25)
        assert memory(alpha)["failures"] == 2
        alpha.shutdown()
        await cluster.nodes["alpha"].ended.wait()

    simulate(scenario, tmp_path)


def advertised_as(node, host):
    return advertised(node.environment, node.config.cluster.model_copy(update={"advertise_host": host}))


def test_a_name_to_be_reached_by_is_looked_up_once(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        cluster.network.host("beta")
        hosts = (None, "10.9.8.7", "::1", "beta")
        return [await advertised_as(alpha, host) for host in hosts], cluster.network.host("beta").ip

    found, beta = simulate(scenario, tmp_path)
    assert found == [None, "10.9.8.7", "::1", beta]


def test_a_name_without_an_address_is_an_error_that_names_its_key(tmp_path, monkeypatch):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")

        async def fail(self, host, port):
            raise OSError("no such name")

        monkeypatch.setattr(HostNetwork, "resolve", fail)
        with pytest.raises(ConfigInvalid) as raised:
            await advertised_as(alpha, "nowhere.example")
        return raised.value.details

    assert simulate(scenario, tmp_path) == {"key": "cluster.advertise_host"}
