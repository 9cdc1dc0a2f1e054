"""The live view: what is told, to whom, and what a slow reader costs."""

import pytest

from node.errors import ResourceLimitExceeded
from node.messaging import tail as tail_module
from node.messaging.tail import EVENTS, Filter
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause


async def taken(node, listener):
    return await listener.take(node.environment.clock, 1)


def steps(events, message_id):
    return [event["event"] for event in events if event["message_id"] == message_id]


async def test_each_node_tells_its_side_of_a_message(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        with c["a"].bus.tail.listen(Filter()) as at_a, c["b"].bus.tail.listen(Filter()) as at_b:
            message = c["a"].message(capability="work", content=1)
            reply = await c["a"].bus.request(message, timeout_s=10)
            await pause(1)
            from_a, from_b = await taken(c["a"], at_a), await taken(c["b"], at_b)
        assert steps(from_a, message.id) == ["accepted", "routed", "settled"]
        assert steps(from_a, reply.id) == ["received"]
        assert steps(from_b, message.id) == ["received", "handled"]
        assert steps(from_b, reply.id) == ["accepted", "routed", "settled"]
        assert from_a[1]["to"] == "worker@b"
        assert from_b[2]["in_reply_to"] == message.reply_with
        assert all("content" not in event for event in from_a + from_b)
        assert {event["event"] for event in from_a + from_b} < set(EVENTS)


async def test_ends_that_are_no_success_are_told_with_their_reason(tmp_path, autojump_clock):
    async def handle(delivery):
        raise ZeroDivisionError

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", handle, "work")
        with c["a"].bus.tail.listen(Filter(performative="request")) as listener:
            poison = c["a"].message(capability="work")
            await c["a"].bus.request(poison, timeout_s=30)
            lost = c["a"].message(capability="nobody-has-it")
            await c["a"].bus.request(lost, timeout_s=30)
            await pause(1)
            events = await taken(c["a"], listener)
        assert steps(events, poison.id) == ["accepted", "routed", "received", "failed", "dead"]
        assert steps(events, lost.id) == ["accepted", "dead"]
        assert "ZeroDivisionError" in events[3]["detail"]
        assert events[-1]["detail"] == "failed: no provider"


async def test_a_message_that_moves_or_is_given_back_is_told(tmp_path, autojump_clock):
    async def never(delivery):
        await pause(1_000)

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        with c["a"].bus.tail.listen(Filter()) as at_a, c["b"].bus.tail.listen(Filter()) as at_b:
            message = c["a"].message(capability="work")
            await c["a"].bus.accept(message)
            await pause(1)
            c["c"].attach("worker", echo("c"), "work")
            await c["b"].bus.detach("worker", drain_s=0)
            c.withdraw("b", "worker")
            await eventually(lambda: not c["a"].bus.statistics()["outbox"]["open"])
            from_a, from_b = await taken(c["a"], at_a), await taken(c["b"], at_b)
        assert [e["to"] for e in from_a if e["event"] == "routed"] == ["worker@b", "worker@c"]
        assert steps(from_b, message.id) == ["received", "refused"]


@pytest.mark.parametrize(
    ("wanted", "heard"),
    [
        (Filter(capability="work"), True),
        (Filter(capability="wor"), False),
        (Filter(agent="worker"), True),
        (Filter(agent="worker@a"), True),
        (Filter(agent="worker@b"), False),
        (Filter(agent="client"), True),
        (Filter(conversation="t"), True),
        (Filter(conversation="u"), False),
        (Filter(performative="request"), True),
        (Filter(performative="inform", capability="work"), False),
    ],
)
async def test_only_what_is_wanted_is_told(tmp_path, autojump_clock, wanted, heard):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo(), "work")
        with c["a"].bus.tail.listen(wanted) as listener:
            message = c["a"].message(capability="work", conversation_id="t")
            await c["a"].bus.request(message, timeout_s=10)
            events = await taken(c["a"], listener)
        assert bool(steps(events, message.id)) is heard


async def test_content_is_told_to_those_who_asked_unless_it_is_large(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        tail = c["a"].bus.tail
        with tail.listen(Filter(content=True)) as with_content, tail.listen(Filter()) as without:
            await c["a"].bus.accept(c["a"].message(receiver="client@a", content={"x": 1}))
            await c["a"].bus.accept(c["a"].message(receiver="client@a", content="x" * 10_000))
            shown = [e for e in await taken(c["a"], with_content) if e["event"] == "accepted"]
            plain = await taken(c["a"], without)
        assert shown[0]["content"] == {"x": 1}
        assert "content" not in shown[1]
        assert shown[1]["content_left_out_bytes"] > 10_000
        assert not any("content" in event for event in plain)


async def test_a_slow_reader_misses_events_by_number_and_keeps_nobody_waiting(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(tail_module, "BUFFER_LIMIT", 10)
    async with cluster(tmp_path, "a") as c:
        tail = c["a"].bus.tail
        with tail.listen(Filter(performative="inform")) as slow, tail.listen(Filter()) as other:
            for _ in range(10):
                message = c["a"].message(receiver="client@a", performative=Performative.INFORM)
                await c["a"].bus.accept(message)
            await pause(1)
            assert len(other._events) == 10
            events = await taken(c["a"], slow)
            told = tail.statistics()["told"]
            assert len(events) == 11
            assert events[-1]["event"] == "missed"
            assert events[-1]["count"] == told // 2 - 10 > 0
            assert tail.statistics()["missed"] == 2 * events[-1]["count"]
            assert await taken(c["a"], slow) == []


async def test_listeners_are_bounded_and_leave(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(tail_module, "LISTENER_LIMIT", 1)
    async with cluster(tmp_path, "a") as c:
        tail = c["a"].bus.tail
        with tail.listen(Filter()), pytest.raises(ResourceLimitExceeded), tail.listen(Filter()):
            pass
        assert tail.listeners == []
        with tail.listen(Filter()):
            assert tail.statistics()["listeners"] == 1


async def test_nothing_is_made_while_nobody_listens(tmp_path, autojump_clock, monkeypatch):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo(), "work")

        def fail(*_args, **_named):
            raise AssertionError("told to nobody")

        for verb in ("admitted", "routed", "ended", "received", "handled"):
            monkeypatch.setattr(c["a"].bus.tail, verb, fail)
        reply = await c["a"].bus.request(c["a"].message(capability="work"), timeout_s=10)
        assert reply.sender == "worker@a"
