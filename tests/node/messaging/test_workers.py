"""Who takes the messages that a batch brings: workers wake each other, and no more of them than have work."""

import pytest
import trio

from node.message import Envelope
from node.messaging.handlers import STREAK
from node.messaging.receiver import ArrivalAction
from node.transport.frames import DeliverItem
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, eventually


async def accept(node, *contents):
    messages = [
        node.message(capability="work", content=content, performative=Performative.INFORM)
        for content in contents
    ]
    await node.bus.accept_many(messages)


@pytest.mark.parametrize("to", ["a", "b"])
async def test_handlers_that_wait_run_at_once_as_many_as_there_are_workers(tmp_path, autojump_clock, to):
    begun, goes_on = [], trio.Event()

    async def wait(delivery):
        begun.append(delivery.message.content)
        await goes_on.wait()
        return ()

    async with cluster(tmp_path, "a", "b") as c:
        c[to].attach("worker", wait, "work", concurrency=8)
        await accept(c["a"], *range(20))
        await eventually(lambda: len(begun) == 8)
        assert c[to].bus.statistics()["handlers"]["running"] == 8
        await accept(c["a"], *range(3))
        goes_on.set()
        await eventually(lambda: c["a"].bus.statistics()["outbox"]["open"] == 0)
    assert len(begun) == 23


async def test_what_comes_while_all_but_one_worker_wait_is_handled_by_that_one(tmp_path, autojump_clock):
    done, goes_on = [], trio.Event()

    async def handle(delivery):
        if delivery.message.content == "slow":
            await goes_on.wait()
        done.append(delivery.message.content)
        return ()

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work", concurrency=3)
        await accept(c["a"], "slow", "slow")
        await eventually(lambda: c["b"].bus.statistics()["handlers"]["running"] == 2)
        await accept(c["a"], *range(2 * STREAK))
        await eventually(lambda: len(done) == 2 * STREAK)
        goes_on.set()
        await eventually(lambda: c["a"].bus.statistics()["outbox"]["open"] == 0)
    assert len(done) == 2 * STREAK + 2


async def test_what_one_batch_brings_twice_is_held_under_the_higher_epoch(tmp_path, autojump_clock):
    """The agent is offered a message before it hears that it was routed anew."""
    goes_on = trio.Event()

    async def wait(delivery):
        await goes_on.wait()
        return ()

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", wait, "work", concurrency=1)
        inbox = c["b"].bus._inbox
        mailbox = c["b"].bus._handlers._agents["worker"].mailbox
        await eventually(lambda: not mailbox.spilled)  # else it is read from the disk, with its epoch
        told, links = [], c["b"].bus._outbox.links
        links.settle = lambda node, outcomes: told.extend(outcomes)
        message = c["a"].message(receiver="worker@b", performative=Performative.INFORM)
        actions = []
        stored = inbox.stored
        inbox.stored = lambda batch: (actions.extend(each.action for each in batch.items), stored(batch))
        await inbox.receive("a", [([(item(message, 0), None), (item(message, 2), None)], None)])
        assert actions == [ArrivalAction.STORE, ArrivalAction.RAISE_EPOCH]
        goes_on.set()
        await eventually(lambda: told)
    assert [outcome.key.epoch for outcome in told] == [2]


def item(message, epoch):
    return DeliverItem(Envelope("worker", route_epoch=epoch), message.id, message.seal())
