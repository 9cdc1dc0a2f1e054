"""Whole nodes on disks of their own: what was accepted survives what its durability promises."""

import pytest
import trio

from node.errors import CaxtonError, MessageNotFound, StorageFailed
from node.message import Message
from node.vocabulary import Performative
from simulations.cluster import SimulatedCluster
from simulations.kernel import run

FULL = {"storage.durability": "full"}


def with_cluster(directory, seed=1):
    """Run a coroutine function on an empty cluster."""

    def runs(scenario):
        async def world_of(world):
            async with trio.open_nursery() as nursery:
                cluster = SimulatedCluster(world, directory, nursery)
                result = await scenario(cluster)
                nursery.cancel_scope.cancel()
            return result

        return run(world_of, seed, limit_s=600.0)

    return runs


async def accept(cluster, name, number):
    """Let a node accept a message for which there is no provider; return its id."""
    running = cluster.nodes[name]
    identifier = running.environment.new_id()
    message = Message(
        id=identifier,
        reply_with=identifier,
        performative=Performative.REQUEST,
        sender=f"client@{name}",
        capability="nobody-has-it",
        content={"number": number, "text": "x" * 700},
        conversation_id=f"c{number}",
        timestamp_s=running.environment.clock.wall(),
    )
    return (await running.node.bus.accept(message)).message_id


async def accept_until_refused(cluster, name):
    for number in range(1, 200):
        await accept(cluster, name, number)


async def known(cluster, name, identifiers):
    """How many of these messages a node knows."""
    found = 0
    for identifier in identifiers:
        try:
            await cluster.nodes[name].node.bus.history(identifier)
        except MessageNotFound:
            continue
        found += 1
    return found


@pytest.mark.parametrize(
    ("settings", "power", "survive"),
    [(FULL, True, "all"), ({}, False, "all"), ({}, True, "some")],
    ids=["full-power-loss", "normal-crash", "normal-power-loss"],
)
def test_what_was_accepted_survives_what_the_durability_promises(tmp_path, settings, power, survive):
    async def scenario(cluster):
        await cluster.start("alpha", settings=settings)
        accepted = [await accept(cluster, "alpha", number) for number in range(30)]
        await cluster.crash("alpha", power=power)
        await cluster.start("alpha", settings=settings)
        return await known(cluster, "alpha", accepted)

    left = [with_cluster(tmp_path / str(seed), seed)(scenario) for seed in (1, 2, 3)]
    if survive == "all":
        assert left == [30, 30, 30]
    else:
        assert min(left) < 30, "the disk had nothing to lose"


def test_a_full_disk_refuses_messages_with_a_reason_and_takes_them_again(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha")
        first = await accept(cluster, "alpha", 0)
        disk = cluster.nodes["alpha"].disk
        disk.capacity_bytes = disk.used_bytes()
        with pytest.raises(StorageFailed, match=r"caxton\.db"):
            await accept_until_refused(cluster, "alpha")
        disk.capacity_bytes = None
        later = await accept(cluster, "alpha", 999)
        return await known(cluster, "alpha", [first, later])

    assert with_cluster(tmp_path)(scenario) == 2


def test_an_fsync_that_fails_is_no_acknowledgement(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha", settings=FULL)
        kept = await accept(cluster, "alpha", 0)
        cluster.nodes["alpha"].disk.sync_fails = True
        with pytest.raises(CaxtonError):
            await accept(cluster, "alpha", 1)
        await cluster.crash("alpha", power=True)
        await cluster.start("alpha", settings=FULL)
        return await known(cluster, "alpha", [kept])

    assert with_cluster(tmp_path)(scenario) == 1


def test_a_slow_disk_keeps_the_whole_process_waiting(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha", settings=FULL)
        disk, took = cluster.nodes["alpha"].disk, []
        for sync_s in (0.0, 0.5):
            disk.sync_s = sync_s
            before = cluster.world.now()
            await accept(cluster, "alpha", sync_s)
            await cluster.nodes["alpha"].environment.clock.sleep(0.001)
            took.append(cluster.world.now() - before)
        return took

    fast, slow = with_cluster(tmp_path)(scenario)
    assert fast < 0.1
    assert slow >= 0.5
