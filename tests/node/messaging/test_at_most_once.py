"""A message that is better lost than handled twice: no fault has it handled again, and its end is told."""

import pytest
import trio

from node.messaging.delivery import Draft
from node.vocabulary import DeliveryClass, Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually, pause
from tests.node.messaging.test_crashes import FINISH, STORE, crash_at, quiet, replies_of
from tests.node.messaging.test_topics import subscribe

ONCE = {"delivery": DeliveryClass.AT_MOST_ONCE}
BEGIN = "Inbox.count_attempt"


def slow(log, seconds=5.0):
    async def handle(delivery):
        log.append((delivery.message.content, delivery.attempt))
        await pause(seconds)
        return [Draft(Performative.INFORM, "done")]

    return handle


async def end_of(node, message):
    shown = (await node.bus.history(message.id)).as_json()
    return shown["outcome"], shown["reason"]


async def test_without_faults_it_is_delivered_as_any_other(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow(log), "work")
        message = c["a"].message(capability="work", content="x", **ONCE)
        await c["a"].bus.accept(message)
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])
        assert log == [("x", 1)]
        assert message.as_json()["delivery"] == "at_most_once"
        assert "delivery" not in c["a"].message(capability="work").as_json()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [STORE, BEGIN, FINISH])
async def test_a_crash_of_the_receiver_has_nothing_handled_twice(tmp_path, autojump_clock, point, when):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow(log, 0.1), "work")
        message = c["a"].message(capability="work", content="x", **ONCE)
        c.nursery.start_soon(crash_at, c, "b", point, when)
        await pause(0.1)
        await c["a"].bus.accept(message)
        await eventually(lambda: "b" not in c.nodes)
        await pause(1)
        await c.start("b")
        c["b"].attach("worker", slow(log, 0.1))
        await eventually(quiet(c))
        outcome, reason = await end_of(c["a"], message)
        ran = {(STORE, "after"): 1, (BEGIN, "before"): 1, (FINISH, "before"): 1, (FINISH, "after"): 1}
        assert len(log) == ran.get((point, when), 0)
        settled = (point, when) in [(STORE, "after"), (BEGIN, "before"), (FINISH, "after")]
        assert outcome == ("settled" if settled else "failed")
        assert settled or "at most once" in reason


async def test_a_crash_of_the_origin_has_nothing_handled_twice(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow(log), "work")
        message = c["a"].message(capability="work", content="x", **ONCE)
        await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("a")
        await c.start("a")
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])
        assert log == [("x", 1)]


@pytest.mark.parametrize("how", ["died", "lost its disk"])
async def test_what_a_lost_node_may_have_handled_goes_to_nobody_else(tmp_path, autojump_clock, how):
    log, others = [], []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", slow(log, 600.0), "work", priority=90)
        once = c["a"].message(capability="work", content="once", conversation_id="t", **ONCE)
        again = c["a"].message(capability="work", content="again", conversation_id="t")
        for message in (once, again):
            await c["a"].bus.accept(message)
        await pause(1)
        c["c"].attach("worker", echo("c", others), "work")
        await c.crash("b")
        if how == "died":
            c.bury("b")
        else:
            c.lose_disk("b")
            await c.start("b")
            c["b"].attach("worker", slow(log, 0.1))
        await eventually(quiet(c))
        outcome, reason = await end_of(c["a"], once)
        assert outcome == "failed"
        assert "may have been handled" in reason
        assert log[0] == ("once", 1)
        assert [content for content, _ in log[1:]] + others == ["again"]
        (letter,) = await c["a"].bus.letters.page(5)
        assert letter.message_id == once.id


async def test_what_nobody_was_sent_yet_goes_to_another(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", slow([], 600.0), "work", priority=90)
        await pause(0.1)
        c.partition("a", "b")
        message = c["a"].message(capability="work", content="x", **ONCE)
        await c["a"].bus.accept(message)
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        c["c"].attach("worker", echo("c", log), "work")
        c.bury("b")
        await eventually(quiet(c))
        assert log == ["x"]
        assert (await end_of(c["a"], message))[0] == "settled"


async def test_one_that_a_node_refused_goes_to_another(tmp_path, autojump_clock):
    log, begun = [], []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", slow(begun, 600.0), "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        await c["b"].bus.detach("worker", drain_s=0.0)
        message = c["a"].message(capability="work", content="x", **ONCE)
        await c["a"].bus.accept(message)
        await eventually(quiet(c))
        assert (begun, log) == ([], ["x"])


async def test_an_agent_that_is_stopped_while_it_handles_one_is_the_last_to_have_it(tmp_path, autojump_clock):
    log, others = [], []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", slow(log, 600.0), "work", priority=90)
        c["c"].attach("worker", echo("c", others), "work")
        begun = c["a"].message(capability="work", content="begun", conversation_id="t", **ONCE)
        held = c["a"].message(capability="work", content="held", conversation_id="t", **ONCE)
        for message in (begun, held):
            await c["a"].bus.accept(message)
        await pause(1)
        await c["b"].bus.detach("worker", drain_s=1.0)
        await eventually(quiet(c))
        assert log == [("begun", 1)]
        assert others == ["held"]
        assert (await end_of(c["a"], begun))[0] == "failed"


async def test_a_handler_that_raises_is_not_run_again(tmp_path, autojump_clock):
    log = []

    async def broken(delivery):
        log.append(delivery.attempt)
        await trio.lowlevel.checkpoint()
        raise RuntimeError("no")

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", broken, "work")
        message = c["a"].message(capability="work", **ONCE)
        await c["a"].bus.accept(message)
        await eventually(quiet(c))
        outcome, reason = await end_of(c["a"], message)
        assert (outcome, log) == ("failed", [1])
        assert "RuntimeError: no" in reason


async def test_an_acknowledgement_that_is_lost_makes_it_no_second_message(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow(log, 0.1), "work")
        c["b"].links.lose_acknowledgements = c["b"].links.lose_outcomes = True
        message = c["a"].message(capability="work", content="x", **ONCE)
        await c["a"].bus.accept(message)
        await pause(30)
        c["b"].links.lose_acknowledgements = c["b"].links.lose_outcomes = False
        c.cut("a", "b")
        await eventually(quiet(c))
        assert log == [("x", 1)]
        assert (await end_of(c["a"], message))[0] == "settled"


async def test_no_other_of_a_queue_group_gets_what_a_lost_node_may_have_handled(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("one", slow(log, 600.0), "work", topics=(("orders.#", "billing"),))
        await pause(0.1)
        message = c["a"].message(
            topic="orders.new", content="x", routing_strategy=RoutingStrategy.LOAD_BALANCED, **ONCE
        )
        await c["a"].bus.accept(message)
        await pause(1)
        subscribe(c["c"], "two", ("orders.#", "billing"), log=log)
        await c.crash("b")
        c.bury("b")
        await eventually(quiet(c))
        assert log == [("x", 1)]
        assert (await end_of(c["a"], message))[0] == "failed"


async def test_a_client_is_given_it_once_whether_or_not_it_acknowledges(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        mailboxes = c["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        for content, how in (("once", ONCE), ("again", {})):
            await c["b"].bus.accept(
                c["b"].message(
                    performative=Performative.INFORM,
                    receiver="alice@a",
                    content=content,
                    conversation_id="t",
                    **how,
                )
            )
        await pause(1)
        for expected in (["once", "again"], ["again"]):
            with mailboxes.consume("alice") as consumer:
                given = [entry.message.content for entry in await consumer.take(5)]
                while len(given) < len(expected):
                    given += [entry.message.content for entry in await consumer.take(5)]
                assert given == expected
                assert sum(map(consumer.waits_for, range(1, 10))) == 1
        assert mailboxes.shown("alice")["held"] == 1
