"""Membership in a simulated cluster: what survives a restart, what is told, what bad data on disk does."""

# ruff: noqa: TID251, ASYNC110 (the scenario runs in the simulator's virtual time)

import apsw
import cbor2
import pytest
import trio

from node.cluster import membership
from node.cluster.memory import ClusterMemory
from node.errors import ConfigInvalid, StorageFailed
from node.samples import sample
from node.storage import snapshots
from simulations.cluster import SimulatedCluster
from simulations.kernel import run
from simulations.network import HostNetwork
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
            for key in ("members", "member_names", "maps"):
                snapshots.put(connection, key, garbage)
            snapshots.put(connection, "generation", b"\xff" * 8)
        connection.close()
        beta = await cluster.start("beta", "alpha")
        alpha = cluster.nodes["alpha"].node
        await until(lambda: alpha.membership.is_alive("beta") and beta.membership.is_alive("alpha"))
        await until(lambda: beta.membership.replicated.generation is not None)
        assert beta.membership.replicated.generation[0] < MAX_COUNTER
        return memory(beta)["unreadable"]

    assert simulate(scenario, tmp_path) in (1, 4)


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
    monkeypatch.setattr(membership, "RECENT_EVENTS", 16)

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


def test_a_name_to_be_reached_by_is_looked_up_once(tmp_path):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        cluster.network.host("beta")
        return [await alpha.membership._advertised(host) for host in (None, "10.9.8.7", "::1", "beta")], (
            cluster.network.host("beta").ip
        )

    found, beta = simulate(scenario, tmp_path)
    assert found == [None, "10.9.8.7", "::1", beta]


def test_a_name_without_an_address_is_an_error_that_names_its_key(tmp_path, monkeypatch):
    async def scenario(cluster):
        alpha = await cluster.start("alpha")

        async def fail(self, host, port):
            raise OSError("no such name")

        monkeypatch.setattr(HostNetwork, "resolve", fail)
        with pytest.raises(ConfigInvalid) as raised:
            await alpha.membership._advertised("nowhere.example")
        return raised.value.details

    assert simulate(scenario, tmp_path) == {"key": "cluster.advertise_host"}


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (cbor2.dumps([7947, "0.1.0"]), (7947, "0.1.0")),
        (cbor2.dumps([0, "0.1.0"]), (0, "")),
        (cbor2.dumps([70_000, "x"]), (0, "")),
        (cbor2.dumps(["7947", "x"]), (0, "")),
        (cbor2.dumps([7947, "\x1b[2Jevil"]), (7947, "")),
        (cbor2.dumps([7947, "9" * 100]), (7947, "9" * 32)),
        (b"\xd8\x1d\x00", (0, "")),
        (b"", (0, "")),
    ],
)
def test_what_a_peer_says_of_itself_is_read_or_ignored(meta, expected):
    assert membership._meta(meta) == expected
