"""A conversation stays together while it moves: no handler gets an earlier message after a later one."""

import pytest
import trio

from node.messaging.breakers import NODE_LIMITS
from tests.node.messaging.rooms import cluster, echo, eventually, pause

ACCEPT = "_write"


def gated(storage, gate, *, after):
    """Keep what accepts messages from going on, before or after it is on disk, until the gate opens."""
    write = storage.write

    async def slow(job):
        is_acceptance = ACCEPT in getattr(job, "__qualname__", "")
        if is_acceptance and not after:
            await gate.wait()
        result = await write(job)
        if is_acceptance and after:
            await gate.wait()
        return result

    storage.write = slow


async def accept(node, numbers):
    for number in numbers:
        await node.bus.accept(node.message(capability="work", conversation_id="t", content=number))


def stop_reaching(node, name):
    for _ in range(NODE_LIMITS.failures):
        node.bus.on_unreachable(name, "no answer")


async def never(delivery):
    await trio.sleep_forever()


@pytest.mark.parametrize("after", [False, True], ids=["before it is written", "after it is written"])
async def test_what_was_being_written_follows_a_conversation_that_moved_meanwhile(
    tmp_path, autojump_clock, after
):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", never, "work")
        await accept(c["a"], [1, 2, 3])
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 3}
        gate = trio.Event()
        gated(c["a"].storage, gate, after=after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, c["a"], [4])
            await pause(1)
            c["a"].links.links["b"].scope.cancel()
            stop_reaching(c["a"], "b")
            await pause(1)
            gate.set()
        await accept(c["a"], [5])
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"c": 5}
        await c["b"].bus.detach("worker", drain_s=0)
        c["b"].attach("worker", echo("b", log), "work")
        await c.crash("c")
        c.bury("c")
        await eventually(lambda: not c["a"].bus.unsettled_by_node())
        assert log == sorted(log)
        assert set(log) == {1, 2, 3, 4, 5}


async def test_a_conversation_that_a_crash_has_left_apart_is_brought_together(tmp_path, autojump_clock):
    """The origin dies between the write of what was astray and the round that gives it to the others."""
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        await accept(c["a"], [1, 2, 3])
        await pause(1)
        c["c"].links.links.clear()
        c.partition("a", "c")
        gate = trio.Event()
        gated(c["a"].storage, gate, after=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, c["a"], [4])
            await pause(1)
            c.partition("a", "b")
            stop_reaching(c["a"], "b")
            await pause(1)
            assert c["a"].bus.unsettled_by_node() == {"c": 3}
            await c.crash("a")  # what it was about to do with the fourth is not done
            nursery.cancel_scope.cancel()
        await c.start("a")
        assert c["a"].bus.unsettled_by_node() == {"b": 1, "c": 3}
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"c": 4}
        c.heal()
        await eventually(lambda: not c["a"].bus.unsettled_by_node())
        assert log == [1, 2, 3, 4]
