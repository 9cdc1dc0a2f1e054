"""Whoever names a ``reply_by`` is told once, durably, when nobody has answered by then."""

from __future__ import annotations

import pytest

from node.errors import NoReply
from node.messaging import expectations
from node.messaging.delivery import Draft
from node.messaging.settings import Timing
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, eventually, pause

P = Performative


class Scribe:
    """An agent that notes what it is handed, and answers requests after a while."""

    def __init__(self, *answers, after_s=0.0):
        self.seen, self.answers, self.after_s = [], answers, after_s

    async def __call__(self, delivery):
        message = delivery.message
        content = message.content
        self.seen.append(
            (message.performative, content.get("code") if isinstance(content, dict) else content)
        )
        if not message.expects_reply:
            return []
        await pause(self.after_s)
        return list(self.answers)


def expected(node):
    return node.bus.statistics()["expectations"]


async def ask(node, within_s, to="worker@b", **fields):
    by = node.environment.clock.wall() + within_s
    message = node.message(**({"receiver": to, "sender": "boss@a", "reply_by_s": by} | fields))
    await node.bus.accept(message)
    return message


async def history(node, message):
    return (await node.bus.history(message.id)).as_json()


async def pair(c, worker):
    boss = Scribe()
    c["a"].attach("boss", boss, "lead")
    c["b"].attach("worker", worker, "work")
    return boss


TIMEOUT = (P.FAILURE, "REPLY_TIMEOUT")


async def test_an_answer_in_time_is_all_there_is(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe(Draft(P.INFORM, "done"), after_s=5))
        await ask(c["a"], 10)
        await pause(60)
        assert boss.seen == [(P.INFORM, "done")]
        assert (expected(c["a"])["expected"], expected(c["a"])["reply_timeouts"]) == (0, 0)


@pytest.mark.parametrize("answers", [(), (Draft(P.AGREE),)])
async def test_a_message_that_was_handled_and_not_answered_has_failed_for_its_sender(
    tmp_path, autojump_clock, answers
):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe(*answers))
        message = await ask(c["a"], 10)
        await pause(9)
        assert TIMEOUT not in boss.seen
        await pause(3)
        assert boss.seen[-1] == TIMEOUT
        shown = await history(c["a"], message)
        assert (shown["status"], shown["answered_by"]) == ("settled", "system@a")
        reply = c["b"].message(
            performative=P.INFORM, sender="worker@b", receiver="boss@a", in_reply_to=message.id,
            conversation_id=message.conversation_id,
        )  # fmt: skip
        await c["b"].bus.accept(reply)
        await pause(60)
        assert boss.seen.count(TIMEOUT) == 1
        assert boss.seen[-1] == TIMEOUT
        shown = await history(c["a"], message)
        assert shown["replies"][-1] == {"message_id": reply.id, "from": "worker@b", "state": "late"}
        assert [event["event"] for event in shown["events"]] == ["late_reply"]


async def test_a_message_that_was_not_handled_in_time_is_told_with_the_same_code(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe(Draft(P.INFORM, "done"), after_s=20))
        message = await ask(c["a"], 10)
        await pause(60)
        assert boss.seen == [TIMEOUT]
        shown = await history(c["a"], message)
        assert (shown["status"], expected(c["a"])["expected"]) == ("expired", 0)
        assert ("worker@b", "late") in [(reply["from"], reply["state"]) for reply in shown["replies"]]


async def test_of_a_broadcast_those_missing_are_named_and_late(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        boss = Scribe()
        contents = []

        async def told(delivery):
            if delivery.message.performative is P.FAILURE:
                contents.append(delivery.message.content)
            return await boss(delivery)

        c["a"].attach("boss", told)
        c["b"].attach("worker", Scribe(Draft(P.INFORM, "b")), "work")
        c["c"].attach("worker", Scribe(Draft(P.AGREE)), "work")
        c["d"].attach("worker", Scribe(), "work")
        message = await ask(c["a"], 10, None, capability="work", routing_strategy=RoutingStrategy.BROADCAST)
        await pause(12)
        assert [each for each in boss.seen if each[0] is not P.AGREE] == [(P.INFORM, "b"), TIMEOUT]
        assert contents[0]["details"]["missing"] == ["worker@c", "worker@d"]
        assert contents[0]["details"]["promised"] == ["worker@c"]
        await c["d"].bus.accept(
            c["d"].message(
                performative=P.INFORM,
                sender="worker@d",
                receiver="boss@a",
                in_reply_to=message.id,
                content="d",
            )
        )
        await pause(5)
        assert (P.INFORM, "d") not in boss.seen


async def test_a_broadcast_that_somebody_is_still_busy_with_is_told_once(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        boss = Scribe()
        c["a"].attach("boss", boss)
        c["b"].attach("worker", Scribe(Draft(P.INFORM, "b")), "work")
        c["c"].attach("worker", Scribe(Draft(P.INFORM, "c"), after_s=20), "work")
        await ask(c["a"], 10, None, capability="work", routing_strategy=RoutingStrategy.BROADCAST)
        await pause(60)
        assert boss.seen == [(P.INFORM, "b"), TIMEOUT]


async def test_a_topic_that_nobody_hears_is_not_answered_either(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe())
        await ask(c["a"], 10, None, topic="orders.eu")
        await pause(12)
        assert boss.seen == [TIMEOUT]


@pytest.mark.parametrize(
    "fields",
    [{"sender": "client@a"}, {"performative": P.SUBSCRIBE}, {"performative": P.INFORM}, {"reply_by_s": None}],
    ids=["client", "subscribe", "inform", "no reply_by"],
)
async def test_who_is_not_told(tmp_path, autojump_clock, fields):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe())
        message = await ask(c["a"], 10, **fields)
        await pause(1)
        assert expected(c["a"])["expected"] == 0
        await pause(30)
        assert boss.seen == []
        assert (await history(c["a"], message))["replies"] == []


async def test_a_bidder_is_told_that_nobody_has_decided(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = Scribe()
        c["a"].attach("boss", boss)
        by = c["b"].environment.clock.wall() + 20
        worker = Scribe(Draft(P.PROPOSE, 5, reply_by_s=by))
        c["b"].attach("worker", worker)
        await c["a"].bus.accept(c["a"].message(performative=P.CFP, sender="boss@a", receiver="worker@b"))
        await pause(30)
        assert worker.seen[1:] == [TIMEOUT]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_it_is_told_once_whatever_crashes(tmp_path, autojump_clock, when):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe())
        await ask(c["a"], 10)
        await pause(5)
        setattr(c["a"].storage, f"crash_{when}", "Expectations._end")
        await eventually(c["a"].storage.frozen.is_set)
        await c.crash("a")
        assert boss.seen == []
        await c.start("a")
        c["a"].attach("boss", boss)
        await pause(30)
        assert boss.seen == [TIMEOUT]


async def test_time_that_passes_while_the_node_is_down_counts(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe())
        await ask(c["a"], 10)
        await pause(5)
        await c.crash("a")
        await pause(20)
        await c.start("a")
        c["a"].attach("boss", boss)
        await pause(5)
        assert boss.seen == [TIMEOUT]


async def test_an_agent_that_waited_in_vain_is_handed_no_answer_after_a_restart(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss = await pair(c, Scribe(Draft(P.INFORM, "done"), after_s=20))
        question = c["a"].message(receiver="worker@b", sender="boss@a")
        with pytest.raises(NoReply):
            await c["a"].bus.request(question, timeout_s=5)
        await c.crash("a")
        await c.start("a")
        c["a"].attach("boss", boss)
        await pause(60)
        assert boss.seen == []
        assert [reply["state"] for reply in (await history(c["a"], question))["replies"]] == ["late"]


async def test_a_client_that_waited_in_vain_finds_the_answer(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        await pair(c, Scribe(Draft(P.INFORM, "done"), after_s=20))
        question = c["a"].message(receiver="worker@b")
        with pytest.raises(NoReply):
            await c["a"].bus.request(question, timeout_s=5)
        await pause(60)
        assert [reply["state"] for reply in (await history(c["a"], question))["replies"]] == ["settled"]


async def test_what_is_expected_is_bounded_and_kept_until_its_time(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(expectations, "EXPECTED_LIMIT", 2)
    monkeypatch.setattr("node.messaging.retention.KEEP_ROWS", 0)
    async with cluster(tmp_path, "a", "b", timing=Timing(retention_every_s=1.0)) as c:
        boss = await pair(c, Scribe())
        for _ in range(3):
            await ask(c["a"], 30)
        assert (expected(c["a"])["expected"], expected(c["a"])["unwatched"]) == (2, 1)
        await pause(60)
        assert boss.seen == [TIMEOUT] * 2
