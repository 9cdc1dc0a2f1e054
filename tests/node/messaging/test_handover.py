"""Between agents of one node one transaction accepts and receives a message, or answers and settles it."""

import pytest
import trio

from node.messaging.delivery import Draft
from node.messaging.handover import HANDED_LIMIT
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause
from tests.node.messaging.test_crashes import crash_at, quiet, replies_of
from tests.node.messaging.test_faults import FullDisk

ACCEPT, FINISH = "Acceptance._write", "Settlement._end"


def commits(node):
    return node.storage.statistics()["commits"]


@pytest.mark.parametrize("durability", ["normal", "full"])
async def test_a_request_on_one_node_takes_two_commits(tmp_path, autojump_clock, durability):
    log = []
    async with cluster(tmp_path, "a", durability=durability) as c:
        c["a"].attach("worker", echo("w", log), "work")
        await c["a"].bus.request(c["a"].message(capability="work", content="warm"), timeout_s=5)
        await eventually(quiet(c))
        before = commits(c["a"])
        message = c["a"].message(capability="work", content="x")
        await c["a"].bus.request(message, timeout_s=5)
        await pause(1)
        assert commits(c["a"]) - before == 2
        assert await replies_of(c["a"], message) == ("settled", [("worker@a", "settled")])
        assert not c["a"].bus.statistics()["outbox"]["open"]
        assert not c["a"].bus.statistics()["inbox"]["held"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [ACCEPT, FINISH])
async def test_a_node_that_crashes_at_a_transition_has_both_sides_or_neither(
    tmp_path, autojump_clock, point, when
):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work")
        message = c["a"].message(capability="work", content="x")
        c.nursery.start_soon(crash_at, c, "a", point, when)
        await pause(0.1)
        c["a"].nursery.start_soon(c["a"].bus.accept, message)
        await eventually(lambda: "a" not in c.nodes)
        await pause(1)
        await c.start("a")
        if (point, when) == (ACCEPT, "before"):
            assert c["a"].bus.statistics()["inbox"]["rows"] == 0
            assert not c["a"].bus.statistics()["outbox"]["open"]
            return
        if point == ACCEPT:
            assert c["a"].bus.statistics()["inbox"]["held"] == 1
        c["a"].attach("worker", echo("w", log))
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@a", "settled")])
        assert log == (["x", "x"] if (point, when) == (FINISH, "before") else ["x"])


async def test_nothing_overtakes_what_went_the_ordinary_way_before_it(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work", capacity=4)
        sent = 0
        for size in (1, HANDED_LIMIT + 1, 1, 1, 3, HANDED_LIMIT + 5, 1, 2, 60, 1, 1, HANDED_LIMIT, 1):
            batch = [
                c["a"].message(capability="work", content=sent + number, conversation_id="t")
                for number in range(size)
            ]
            await c["a"].bus.accept_many(batch)
            sent += size
        await eventually(quiet(c))
        assert log == list(range(sent))


async def test_a_message_by_name_does_not_overtake_one_by_capability(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work")
        many = [
            c["a"].message(capability="work", content=number, conversation_id="t")
            for number in range(HANDED_LIMIT + 1)
        ]
        await c["a"].bus.accept_many(many)
        await c["a"].bus.accept(c["a"].message(receiver="worker@a", content="last", conversation_id="t"))
        await eventually(quiet(c))
        assert log == [*range(HANDED_LIMIT + 1), "last"]


async def test_a_message_that_is_known_already_is_not_received_again(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work")
        message = c["a"].message(capability="work", content="x")
        fresh = c["a"].message(capability="work", content="y")
        await c["a"].bus.accept(message)
        await eventually(quiet(c))
        receipt, refusal = await c["a"].bus.accept_many([fresh, message])
        await eventually(quiet(c))
        assert (receipt.status, refusal.code) == ("routed", "DUPLICATE_MESSAGE")
        assert log == ["x", "y"]
        assert c["a"].bus.statistics()["outbox"]["on_the_way"] == 0


async def test_a_write_that_fails_gives_its_places_in_the_window_back(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work")
        disk = FullDisk(c["a"].storage)
        disk.full = True
        for number in range(100):  # more than the window has places
            message = c["a"].message(capability="work", content=number)
            with pytest.raises(Exception, match="full"):
                await c["a"].bus.accept(message)
        disk.full = False
        assert c["a"].bus.statistics()["outbox"]["on_the_way"] == 0
        await c["a"].bus.request(c["a"].message(capability="work", content="x"), timeout_s=5)
        assert log == ["x"]


async def test_what_was_handled_in_time_has_not_expired_when_the_disk_is_slow_to_take_it(
    tmp_path, autojump_clock
):
    log = []
    async with cluster(tmp_path, "a") as c:
        disk = FullDisk(c["a"].storage)

        async def handle(delivery):
            await pause(0.5)
            disk.full = True
            return await echo("w", log)(delivery)

        c["a"].attach("worker", handle, "work")
        message = c["a"].message(capability="work", content="x")
        await c["a"].bus.accept(message, ttl_s=1.0)
        await pause(20)
        disk.full = False
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@a", "settled")])
        assert await c["a"].bus.letters.page(10) == []


async def test_agents_of_one_node_hand_their_messages_to_each_other(tmp_path, autojump_clock):
    log = []

    async def first(delivery):
        return [Draft(Performative.INFORM, delivery.message.content, capability="second")]

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("one", first, "first")
        c["a"].attach("two", echo("w", log), "second")
        await c["a"].bus.accept(c["a"].message(capability="first", content="x"))
        await eventually(quiet(c))
        assert log == ["x"]
        assert c["a"].bus.statistics()["local"] == 0


async def test_many_at_once_go_the_ordinary_way_and_all_are_answered(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w", log), "work", concurrency=4)
        replies = []

        async def ask(number):
            message = c["a"].message(capability="work", content=number)
            replies.append((await c["a"].bus.request(message, timeout_s=30)).content)

        before = commits(c["a"])
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        await eventually(quiet(c))
        assert sorted(log) == list(range(200))
        assert len(replies) == 200
        assert commits(c["a"]) - before < 200  # they share them
