"""Machines without power: their peers keep half of a connection until they give it up, or hear a reset."""

import pytest
import trio

from node.node import Node
from node.security import pki
from node.security.identity import NodeCredentials
from node.transport.handler import LinkLimits
from node.transport.links import Links
from simulations.cluster import SimulatedCluster
from simulations.environment import simulated_environment
from simulations.kernel import run
from simulations.links import Link
from simulations.network import STREAM_WINDOW_BYTES, VirtualNetwork
from tests.node.transport.peers import Room, item, until

DELAY_S = 0.01
PORT = 7947


class Pair:
    """Two machines, ``one`` and ``two``, 10 ms apart; ``two`` listens."""

    def __init__(self, world):
        self.world, self.network = world, VirtualNetwork(world)
        self.network.links.default = Link(DELAY_S, 0.0)
        self.one, self.two = self.boot("one"), self.boot("two")

    def boot(self, name):
        return simulated_environment(self.world, self.network, name)[0].network

    def goes_off(self, name):
        self.network.fence(self.network.hosts[name], power=True)

    async def connected(self):
        """Both ends of a connection, that of ``one`` first."""
        listener = await self.two.listen("", PORT)
        near = await self.one.connect(*listener.address)
        return near, await listener.accept()

    async def dial(self):
        return await self.one.connect(self.network.ip("two"), PORT)


def with_pair(scenario):
    async def in_world(world):
        return await scenario(Pair(world))

    return run(in_world, 1, limit_s=3_600.0)


async def hears_within(stream, seconds):
    """What a stream has to read, or None when that is nothing."""
    with trio.move_on_after(seconds):
        return await stream.receive_some()
    return None


@pytest.mark.parametrize("goes_off", ["one", "two"])
def test_the_peer_of_a_machine_without_power_is_told_nothing(goes_off):
    async def scenario(pair):
        near, far = await pair.connected()
        pair.goes_off(goes_off)
        survivor = far if goes_off == "one" else near
        assert await hears_within(survivor, 30) is None
        await survivor.send_all(b"anybody there?")
        assert await hears_within(survivor, 30) is None
        began_s = pair.world.now()
        await survivor.aclose()
        assert pair.world.now() == began_s

    with_pair(scenario)


def test_the_peer_of_a_process_that_was_killed_is_told_by_its_kernel():
    async def scenario(pair):
        near, _ = await pair.connected()
        pair.network.fence(pair.network.hosts["two"])
        with pytest.raises(trio.BrokenResourceError):
            await hears_within(near, 1)

    with_pair(scenario)


def test_what_a_closed_end_had_still_to_send_is_lost_with_the_power_of_its_machine():
    async def scenario(pair):
        near, far = await pair.connected()
        pair.network.partition(("one",), ("two",))
        await far.send_all(b"last words")
        await far.aclose()
        pair.goes_off("two")
        pair.boot("two")
        pair.network.heal()
        assert await hears_within(near, 30) is None

    with_pair(scenario)


def test_what_a_closed_end_had_still_to_send_is_not_lost_with_its_process():
    async def scenario(pair):
        near, far = await pair.connected()
        pair.network.partition(("one",), ("two",))
        await far.send_all(b"last words")
        await far.aclose()
        pair.network.fence(pair.network.hosts["two"])
        pair.network.heal()
        return await hears_within(near, 30)

    assert with_pair(scenario) == b"last words"


def test_who_goes_on_sending_into_silence_is_blocked_when_the_window_is_full():
    async def scenario(pair):
        near, _ = await pair.connected()
        pair.goes_off("two")
        sent = 0
        with trio.move_on_after(60) as scope:
            while sent < 100:
                await near.send_all(bytes(STREAM_WINDOW_BYTES // 10))
                sent += 1
        assert scope.cancelled_caught
        return sent

    assert 10 <= with_pair(scenario) <= 11


def test_the_machine_that_is_back_answers_the_first_segment_with_a_reset_after_a_round_trip():
    async def scenario(pair):
        near, _ = await pair.connected()
        pair.goes_off("two")
        await trio.sleep(20)
        pair.boot("two")
        assert await hears_within(near, 20) is None
        began_s = pair.world.now()
        await near.send_all(b"anybody there?")
        with pytest.raises(trio.BrokenResourceError):
            await hears_within(near, 20)
        return pair.world.now() - began_s

    assert with_pair(scenario) == pytest.approx(2 * DELAY_S)


def test_a_sender_that_is_blocked_is_released_when_the_machine_is_back():
    async def scenario(pair):
        near, _ = await pair.connected()
        pair.goes_off("two")

        async def send_for_ever():
            while True:
                await near.send_all(bytes(STREAM_WINDOW_BYTES // 10))

        async def come_back():
            await trio.sleep(10)
            pair.boot("two")

        with pytest.RaisesGroup(trio.BrokenResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_for_ever)
                nursery.start_soon(come_back)
        return pair.world.now()

    assert 10 < with_pair(scenario) < 25  # it tries again less and less often


def test_connecting_to_a_machine_without_power_hangs_until_the_caller_gives_up():
    async def scenario(pair):
        await pair.two.listen("", PORT)
        pair.goes_off("two")
        with trio.move_on_after(5) as scope:
            await pair.dial()
        assert scope.cancelled_caught
        began_s = pair.world.now()
        with pytest.raises(OSError, match="timed out"):
            await pair.dial()
        assert pair.world.now() - began_s > 100  # as long as a kernel repeats its request
        pair.boot("two")
        with pytest.raises(ConnectionRefusedError):
            await pair.dial()

    with_pair(scenario)


def test_a_machine_that_was_never_started_is_silent_and_others_know_its_address():
    async def scenario(pair):
        address = pair.network.ip("three")
        assert await pair.one.resolve("three", PORT) == [(address, PORT)]
        with trio.move_on_after(5) as scope:
            await pair.one.connect(address, PORT)
        assert scope.cancelled_caught
        with pytest.raises(OSError, match="No route"):
            await pair.one.connect("192.0.2.1", PORT)

    with_pair(scenario)


@pytest.mark.parametrize("power", [True, False], ids=["power", "crash"])
def test_a_listener_that_dies_after_it_has_answered_leaves_half_a_connection_or_resets_it(power):
    async def scenario(pair):
        listener = await pair.two.listen("", PORT)
        opened = []

        async def dial():
            opened.append(await pair.dial())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await trio.sleep(1.5 * DELAY_S)  # the answer is on its way
            pair.network.fence(pair.network.hosts["two"], power=power)
        assert await hears_none_accepted(listener)
        if power:
            assert await hears_within(opened[0], 30) is None
        else:
            with pytest.raises(trio.BrokenResourceError):
                await hears_within(opened[0], 30)

    with_pair(scenario)


def test_who_dials_and_goes_off_before_it_is_answered_is_never_accepted():
    async def scenario(pair):
        listener = await pair.two.listen("", PORT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.dial)
            await trio.sleep(1.5 * DELAY_S)
            pair.goes_off("one")
            assert await hears_none_accepted(listener)
            nursery.cancel_scope.cancel()

    with_pair(scenario)


async def hears_none_accepted(listener):
    with trio.move_on_after(5) as scope:
        await listener.accept()
    return scope.cancelled_caught


def test_breaking_connections_tells_both_ends_at_once_half_open_ones_too():
    async def scenario(pair):
        near, far = await pair.connected()
        assert pair.network.break_streams(["one"], ["two"]) == 1
        for end in (near, far):
            with pytest.raises(trio.BrokenResourceError):
                await hears_within(end, DELAY_S / 2)
        await near.aclose()
        await far.aclose()
        listener = pair.network.hosts["two"].listeners[PORT]
        near = await pair.one.connect(*listener.address)
        pair.goes_off("two")
        assert pair.network.break_streams(["two"], ["one"]) == 0  # who is off has none
        assert await hears_within(near, 1) is None
        assert pair.network.break_streams(["one"], ["two"]) == 1
        with pytest.raises(trio.BrokenResourceError):
            await hears_within(near, DELAY_S / 2)

    with_pair(scenario)


# ---- the links of production nodes ----------------------------------------------------------------------


class Linked:
    """Production links on simulated machines, with nobody who would tell them of a death."""

    def __init__(self, world, nursery):
        self.world, self.network, self._nursery = world, VirtualNetwork(world), nursery
        self._operator = simulated_environment(world, self.network, "operator")[0]
        self._secrets = pki.new_cluster(self._operator, "prod")
        self._scopes = {}

    async def start(self, name, room=None):
        """A node of that name, with what it has kept."""
        environment, host = simulated_environment(self.world, self.network, name)
        room = room or Room(name)
        room.links = Links(
            environment=environment,
            credentials=NodeCredentials.ephemeral(name, environment, secrets=self._secrets),
            resolve=lambda peer: (self.network.ip(peer), PORT),
            handler=room,
        )
        scope = self._scopes[name] = trio.CancelScope()

        async def live(*, task_status):
            with scope:
                await room.links.run(host.ip, PORT, task_status=task_status)

        await self._nursery.start(live)
        return room

    def goes_off(self, name):
        self.network.fence(self.network.hosts[name], power=True)
        self._scopes[name].cancel()

    async def until(self, condition):
        await until(condition, self._operator.clock)


def with_links(scenario):
    async def in_world(world):
        async with trio.open_nursery() as nursery:
            result = await scenario(Linked(world, nursery))
            nursery.cancel_scope.cancel()
        return result

    return run(in_world, 1, limit_s=3_600.0)


def test_a_link_notices_by_its_own_time_out_and_no_message_is_lost():
    async def scenario(linked):
        alpha, beta = await linked.start("alpha"), await linked.start("beta")
        first, later = [item(n) for n in range(5)], [item(n) for n in range(5, 10)]
        alpha.send("beta", *first)
        await linked.until(lambda: not alpha.outbox)
        heard_s = linked.world.now()
        linked.goes_off("beta")
        assert all(alpha.send("beta", *later)), "the link is not taken for a dead one yet"
        await linked.until(lambda: alpha.events[-1] == ("beta", False))
        silent_s = linked.world.now() - heard_s
        assert alpha.reasons[-1] == f"the peer was silent for {LinkLimits().dead_s:g} s"
        await trio.sleep(30)
        assert alpha.events[-1] == ("beta", False)
        await linked.start("beta", beta)
        await linked.until(lambda: not alpha.outbox)
        assert beta.arrivals == [each.key for each in first + later]
        return silent_s

    assert with_links(scenario) == pytest.approx(LinkLimits().dead_s, abs=0.1)


def test_a_link_whose_peer_is_back_soon_ends_with_the_next_ping():
    async def scenario(linked):
        alpha, beta = await linked.start("alpha"), await linked.start("beta")
        alpha.send("beta", item(1))
        await linked.until(lambda: not alpha.outbox)
        heard_s = linked.world.now()
        linked.goes_off("beta")
        await linked.start("beta", beta)
        await linked.until(lambda: alpha.events[-1] == ("beta", False))
        assert alpha.reasons[-1] == "the connection broke"
        ended_s = linked.world.now() - heard_s
        alpha.send("beta", item(2))
        await linked.until(lambda: not alpha.outbox)
        assert beta.arrivals == [item(1).key, item(2).key]
        return ended_s

    assert with_links(scenario) == pytest.approx(LinkLimits().ping_s, abs=0.1)


def test_an_accepted_link_ends_by_its_own_time_out_too():
    async def scenario(linked):
        alpha, beta = await linked.start("alpha"), await linked.start("beta")
        alpha.send("beta", item(1))
        await linked.until(lambda: not alpha.outbox)
        heard_s = linked.world.now()
        linked.goes_off("alpha")
        await trio.sleep(LinkLimits().ping_s)
        assert beta.links.statistics()["inbound"] == 1
        await linked.until(lambda: beta.links.statistics()["inbound"] == 0)
        return linked.world.now() - heard_s

    assert with_links(scenario) == pytest.approx(LinkLimits().dead_s, abs=0.1)


def test_a_node_that_dials_a_machine_without_power_gives_up_by_its_own_time_out():
    async def scenario(linked):
        alpha, beta = await linked.start("alpha"), await linked.start("beta")
        linked.goes_off("beta")
        alpha.send("beta", item(1))
        await trio.sleep(2 * LinkLimits().handshake_s)
        timeouts = alpha.links.statistics()["rejects"]["timeout"]
        await linked.start("beta", beta)
        await linked.until(lambda: not alpha.outbox)
        return timeouts

    assert with_links(scenario) == 1


# ---- whole nodes ------------------------------------------------------------------------------------------


def in_cluster(directory, scenario, seed):
    """Run a scenario on three nodes that know each other."""

    async def in_world(world):
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(world, directory, nursery)
            for name in ("n1", "n2", "n3"):
                await cluster.start(name, "n1", "n2")
            clock = cluster.nodes["n1"].environment.clock
            await until(lambda: all(len(up(cluster, name)) == 3 for name in cluster.nodes), clock)
            result = await scenario(cluster)
            nursery.cancel_scope.cancel()
        return result

    return run(in_world, seed, limit_s=600.0)


def up(cluster, name):
    return set(cluster.nodes[name].node.membership.alive_nodes()) | {name}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_machine_without_power_is_declared_dead_before_links_would_notice(tmp_path, seed):
    async def scenario(cluster):
        await cluster.crash("n3", power=True)
        began_s = cluster.world.now()
        clock = cluster.nodes["n1"].environment.clock
        await until(lambda: not any("n3" in up(cluster, name) for name in ("n1", "n2")), clock)
        return cluster.world.now() - began_s

    assert 1 < in_cluster(tmp_path, scenario, seed) < LinkLimits().dead_s


def test_who_looks_for_its_seeds_does_not_turn_a_machine_on(tmp_path):
    async def scenario(cluster):
        await cluster.crash("n2", power=True)
        await cluster.crash("n3")
        assert isinstance(await cluster.start("n3", "n1", "n2"), Node)
        assert cluster.network.is_silent("n2")
        assert not cluster.network.is_silent("n3")
        await cluster.start("n2", "n1")
        assert not cluster.network.is_silent("n2")

    in_cluster(tmp_path, scenario, 1)
