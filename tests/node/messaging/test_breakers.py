"""Agents that keep failing and nodes that cannot be reached are left alone, as long as there are others."""

import pytest

from node.breaker import BreakerLimits
from node.messaging import breakers as limits
from node.messaging.breakers import NODE_LIMITS, Breakers
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause

LIMITS = BreakerLimits(failures=3, open_s=10.0, probes=2)
QUICK = {"breaker": {"failures": 3, "open_s": 20.0, "probes": 2}}
A, B = ("worker", "a"), ("worker", "b")


def test_it_opens_after_failures_in_a_row_and_closes_after_trials_one_at_a_time():
    found = Breakers(LIMITS)
    assert [found.failed(A, 0.0) for _ in range(2)] == [False, False]
    found.succeeded(A, 0.0)
    assert [found.failed(A, 0.0) for _ in range(3)] == [False, False, True]
    assert "open for 10.0 s" in found.why_not(A, 0.0)
    assert found.why_not(B, 0.0) is None
    assert found.why_not(A, 10.0) is None  # half open
    found.chosen(A, 10.0)
    assert "being tried" in found.why_not(A, 10.0)
    found.succeeded(A, 11.0)
    assert found.why_not(A, 11.0) is None
    found.chosen(A, 11.0)
    found.succeeded(A, 12.0)
    assert found.are_all_closed
    assert found.statistics(12.0)["troubled"] == 0


def test_a_trial_that_fails_opens_it_anew_and_one_that_is_lost_is_repeated():
    found = Breakers(LIMITS)
    for _ in range(3):
        found.failed(A, 0.0)
    found.chosen(A, 10.0)
    assert found.failed(A, 11.0)
    assert "open for 10.0 s" in found.why_not(A, 11.0)
    found.chosen(A, 21.0)
    assert found.why_not(A, 30.9)
    assert found.why_not(A, 31.0) is None  # nobody ever said what became of it


def test_the_breaker_of_a_node_holds_for_its_agents_until_it_is_reached():
    found = Breakers(LIMITS)
    opened = [found.unreachable("b", 0.0) for _ in range(NODE_LIMITS.failures)]
    assert opened == [False] * 4 + [True]
    assert "its node's breaker" in found.why_not(B, 1.0)
    assert list(found.shown(1.0)) == ["@b"]
    found.reached("b", 2.0)
    assert found.why_not(B, 2.0) is None


def test_versions_change_when_somebody_is_left_out_or_let_in():
    found = Breakers(LIMITS)
    before = found.version(0.0)
    for _ in range(3):
        found.failed(A, 0.0)
    opened = found.version(1.0)
    assert opened != before
    assert found.version(9.9) == opened
    assert found.version(10.0) != opened


def test_how_many_are_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TROUBLED_LIMIT", 5)
    found = Breakers(LIMITS)
    for number in range(20):
        found.failed(("worker", f"n{number}"), 0.0)
    assert found.statistics(0.0)["troubled"] == 5


async def broken(delivery):
    raise RuntimeError("it does not work")


def moody(state, log):
    async def handle(delivery):
        if state["broken"]:
            raise RuntimeError("it does not work")
        return await echo("b", log)(delivery)

    return handle


async def ask(c, count, **fields):
    replies = []
    for _ in range(count):
        message = c["a"].message(capability="work", **fields)
        replies.append(await c["a"].bus.request(message, timeout_s=300))
    return replies


async def test_an_agent_that_keeps_failing_is_left_alone_and_tried_again(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=QUICK) as c:
        state, log = {"broken": True}, []
        c["a"].attach("spare", echo("a"), "work", priority=10)
        c["b"].attach("worker", moody(state, log), "work", priority=90)
        failed = [reply for reply in await ask(c, 3) if reply.performative is Performative.FAILURE]
        assert len(failed) == 3
        assert [reply.content["by"] for reply in await ask(c, 3)] == ["a"] * 3
        assert list(c["a"].bus.statistics()["breakers"]) == ["worker@b"]
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        excluded = (await c["a"].bus.investigation.explain(message.id)).as_json()["decisions"][0]["excluded"]
        assert "breaker is open" in str(excluded)
        state["broken"] = False
        await pause(20)
        assert [reply.content["by"] for reply in await ask(c, 3)] == ["b", "a", "a"]  # one trial at a time
        for _ in range(2):
            await pause(1)
            assert [reply.content["by"] for reply in await ask(c, 1)] == ["b"]
        await pause(1)
        assert [reply.content["by"] for reply in await ask(c, 3)] == ["b"] * 3
        assert c["a"].bus.statistics()["breakers"] == {}


async def test_where_nobody_else_is_left_it_is_asked_all_the_same(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=QUICK) as c:
        c["b"].attach("worker", broken, "work")
        replies = await ask(c, 5)
        assert {reply.performative for reply in replies} == {Performative.FAILURE}
        assert {reply.sender.partition("@")[0] for reply in replies} == {"system"}
        assert c["a"].bus.statistics()["outbox"]["breakers_ignored"] > 0


async def test_when_it_opens_the_agents_other_work_goes_to_another_in_order(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=QUICK) as c:
        log = []
        c["b"].attach("worker", broken, "work", priority=90)
        for number in range(10):
            message = c["a"].message(
                capability="work",
                performative=Performative.INFORM,
                content=number,
                conversation_id=f"c{min(number, 3)}",
            )
            await c["a"].bus.accept(message)
        c["a"].attach("spare", echo("a", log), "work", priority=10)
        await eventually(lambda: not c["a"].bus.statistics()["outbox"]["open"])
        assert log == list(range(3, 10))


@pytest.mark.parametrize("spare", [True, False])
async def test_a_node_that_cannot_be_reached_loses_its_work_to_others_if_there_are_any(
    tmp_path, autojump_clock, spare
):
    async with cluster(tmp_path, "a", "b", "d") as c:
        log = {"b": [], "d": []}
        c["b"].attach("worker", echo("b", log["b"]), "work", priority=90)
        if spare:
            c["d"].attach("worker", echo("d", log["d"]), "work", priority=10)
        c.partition("a", "b")  # which membership, over other ways, does not notice
        message = c["a"].message(capability="work", performative=Performative.INFORM, content="x")
        await c["a"].bus.accept(message)
        for _ in range(NODE_LIMITS.failures):
            c["a"].bus.on_unreachable("b", "a test said so")
        await pause(1)
        assert (log["d"] == ["x"]) is spare
        c.heal()
        await pause(1)
        assert (log["b"] == ["x"]) is not spare
        assert c["a"].bus.statistics()["breakers"] == {} or spare
