"""On the smaller side of a partition a capability is served, waits or is refused, as its providers say."""

from __future__ import annotations

import pytest

from node.messaging.placement import VIEW_S
from node.vocabulary import RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually, pause


def cut_off(c, side="minority"):
    """From now on nodes see themselves on this side."""
    c.world.side = side
    c.changed()


async def send(c, **fields):
    message = c["a"].message(**({"capability": "work", "content": "x"} | fields))
    await c["a"].bus.accept(message)
    return message


async def history(c, message):
    return (await c["a"].bus.history(message.id)).as_json()


@pytest.mark.parametrize("side", ["minority", "isolated"])
@pytest.mark.parametrize("strategy", list(RoutingStrategy))
async def test_a_message_that_is_queued_is_handled_when_the_partition_has_healed(
    tmp_path, autojump_clock, side, strategy
):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b", log), "work", minority="queue")
        cut_off(c, side)
        message = await send(c, routing_strategy=strategy)
        await pause(60)
        assert log == []
        shown = await history(c, message)
        assert shown["status"] == "waiting"
        explained = (await c["a"].bus.investigation.explain(message.id)).as_json()["decisions"][0]
        assert "waits until the partition has healed" in explained["reason"]
        assert explained["view"]["side"] == side
        assert "waits" in c["a"].bus.preview(message).reason
        cut_off(c, "majority")
        await eventually(lambda: log == ["x"])


async def test_a_queued_message_ends_when_its_time_is_up(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work", minority="queue")
        cut_off(c)
        message = await send(c, sender="client@a")
        reply = await c["a"].bus.request(c["a"].message(capability="work"), timeout_s=60, ttl_s=20)
        assert reply.content["code"] == "MESSAGE_DELIVERY_FAILED"
        assert f"`caxton trace {reply.in_reply_to}`" in reply.content["fix"]
        assert (await history(c, message))["status"] == "waiting"


@pytest.mark.parametrize("lost", [False, True])
async def test_a_message_that_is_refused_has_failed_at_once_with_a_code(tmp_path, autojump_clock, lost):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b", log), "work", minority="refuse")
        if lost:  # its provider is on the other side
            await c.crash("b")
            c.world.lost["b"] = None
            c.bury("b")
        cut_off(c)
        began = c["a"].environment.clock.now()
        reply = await c["a"].bus.request(c["a"].message(capability="work"), timeout_s=60)
        assert (reply.sender, reply.content["code"]) == ("system@a", "MINORITY_REFUSED")
        assert c["a"].environment.clock.now() - began < 2
        assert log == []
        cut_off(c, "majority")
        await pause(VIEW_S)  # for so long the cluster is taken to look as before
        if not lost:
            reply = await c["a"].bus.request(c["a"].message(capability="work"), timeout_s=60)
            assert reply.content["by"] == "b"


async def test_the_strictest_policy_of_a_capability_holds(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b", log), "work", "other")
        c["c"].attach("strict", echo("c", log), "work", minority="queue")
        cut_off(c)
        await send(c)
        await send(c, capability="other", content="other")
        await send(c, receiver="strict@c", capability=None, content="addressed")
        await pause(30)
        assert sorted(log) == ["addressed", "other"]
        c.withdraw("c", "strict")
        await eventually(lambda: "x" in log)


async def test_what_was_given_away_is_not_given_to_others_by_a_minority(tmp_path, autojump_clock):
    log = []

    async def never(delivery):
        await pause(1e6)

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=900, minority="queue")
        c["c"].attach("worker", echo("c", log), "work", minority="queue")
        await send(c)
        await pause(1)
        c.world.side = "minority"
        await c.crash("b")
        c.bury("b")
        await pause(30)
        assert log == []
        cut_off(c, "majority")
        await eventually(lambda: log == ["x"])
