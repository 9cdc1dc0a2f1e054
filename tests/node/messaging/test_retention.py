"""What was received is remembered for as long as a duplicate can follow, and no longer."""

from __future__ import annotations

import pytest
import trio

from node.errors import MessageNotFound
from node.messaging import settings as bounds
from node.messaging.settings import Timing
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause

TIMING = Timing(retention_every_s=1.0)


def rows(node):
    return node.bus.statistics()["inbox"]["rows"]


async def send(node, several, **changes):
    for _ in range(several):
        await node.bus.accept(node.message(**changes))


async def test_what_an_origin_has_confirmed_goes_soon_and_the_rest_waits(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr("node.messaging.inbox.KEEP_ROWS", 3)
    async with cluster(tmp_path, "a", "b", timing=TIMING) as c:
        c["b"].attach("worker", quiet, "work")
        await send(c["a"], 20, capability="work", performative=Performative.INFORM)
        await eventually(lambda: rows(c["b"]) == 20)
        await pause(30)
        assert rows(c["b"]) == 20  # nobody has said that the ends have arrived
        c["b"].links.confirmed_s["a"] = c["b"].environment.clock.wall()
        await pause(bounds.CONFIRMED_MARGIN_S)
        assert rows(c["b"]) == 3
        await send(c["a"], 20, capability="work", performative=Performative.INFORM)
        await pause(30)
        assert rows(c["b"]) >= 20  # the new ones were told after that


async def test_an_end_that_is_owed_is_not_forgotten(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr("node.messaging.inbox.KEEP_ROWS", 0)
    async with cluster(tmp_path, "a", "b", timing=TIMING) as c:
        c["b"].attach("worker", echo("w"), "work")
        c["b"].links.window = 0  # answers do not get away, so the ends of requests are held back
        await send(c["a"], 5, capability="work")
        await eventually(lambda: c["b"].bus.statistics()["inbox"]["owed"] == 5)
        await pause(20)
        c["b"].links.confirmed_s["a"] = c["b"].environment.clock.wall()
        await pause(20)
        assert rows(c["b"]) == 5
        c["b"].links.window = 100
        await eventually(lambda: c["b"].bus.statistics()["inbox"]["owed"] == 0, 60)
        c["b"].links.confirmed_s["a"] = c["b"].environment.clock.wall()
        await pause(20)
        assert rows(c["b"]) == 0


async def test_what_an_origin_took_before_an_end_was_told_does_not_count_for_it(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr("node.messaging.inbox.KEEP_ROWS", 0)
    async with cluster(tmp_path, "a", "b", timing=TIMING) as c:
        b = c["b"]
        b.attach("worker", quiet, "work")
        write, stall = b.storage.write, trio.Event()

        async def slow(job):
            if "Settlement" in job.__qualname__:
                result = await write(job)
                await stall.wait()  # on disk, and not told yet
                return result
            return await write(job)

        b.storage.write = slow
        await send(c["a"], 5, capability="work", performative=Performative.INFORM)
        await pause(20)
        b.links.confirmed_s["a"] = b.environment.clock.wall()
        await pause(5)
        assert rows(b) == 5
        stall.set()
        await pause(20)
        assert rows(b) == 5  # told now, but what the origin has said is older than that
        b.links.confirmed_s["a"] = b.environment.clock.wall()
        await pause(5)
        assert rows(b) == 0


async def test_a_node_forgets_its_own_messages_when_their_ends_are_written(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr("node.messaging.inbox.KEEP_ROWS", 2)
    async with cluster(tmp_path, "a", timing=TIMING) as c:
        c["a"].attach("worker", quiet, "work")
        await send(c["a"], 9, capability="work", performative=Performative.INFORM)
        await pause(20)
        await send(c["a"], 1, capability="work", performative=Performative.INFORM)  # confirms those before
        await pause(20)
        assert rows(c["a"]) == 2


async def test_old_messages_are_forgotten(tmp_path, autojump_clock, monkeypatch):
    settings = {"retention": "60s", "dead_letter_retention": "60s", "default_ttl": "50s"}
    async with cluster(tmp_path, "a", "b", settings=settings, timing=Timing(retention_every_s=10)) as c:
        c["b"].attach("worker", echo(), "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.request(message, timeout_s=5)
        await c["a"].bus.request(c["a"].message(capability="nothing"), timeout_s=30)
        assert len(await c["a"].bus.letters.page(5)) == 1
        await pause(300)
        with pytest.raises(MessageNotFound):
            await c["a"].bus.history(message.id)
        assert await c["a"].bus.letters.page(5) == []
        assert c["b"].bus.statistics()["inbox"]["rows"] == 0


async def quiet(delivery):
    return []
