"""Messages through the bus: who is asked, who answers, and what becomes of what nobody can answer."""

import random

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.cluster.provider import Provider
from node.errors import (
    AgentInvalid,
    NoReply,
)
from node.message import Attachment
from node.messaging.delivery import Draft
from node.telemetry.tracing import Tracing
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.asking import ask, never, settled
from tests.node.messaging.rooms import VirtualClock, cluster, echo, eventually, pause

BOTH = pytest.mark.parametrize("durability", ["normal", "full"])


@BOTH
async def test_a_request_is_answered_on_its_own_node(tmp_path, autojump_clock, durability):
    async with cluster(tmp_path, "a", durability=durability) as c:
        c["a"].attach("worker", echo("w"), "work")
        reply = await ask(c["a"], content=[1])
        assert (reply.performative, reply.content) == (Performative.INFORM, {"echo": [1], "by": "w"})
        assert (reply.sender, reply.receiver) == ("worker@a", "client@a")


@BOTH
async def test_a_request_is_answered_across_nodes_with_its_attachments(tmp_path, autojump_clock, durability):
    async def measure(delivery):
        [file] = delivery.message.attachments
        return [Draft(Performative.INFORM, len(file.data), attachments=(Attachment("r", "t/x", b"!"),))]

    async with cluster(tmp_path, "a", "b", durability=durability) as c:
        c["b"].attach("worker", measure, "work")
        reply = await ask(c["a"], attachments=(Attachment("f.csv", "text/csv", b"x" * 200_000),))
        assert (reply.content, reply.attachments[0].data) == (200_000, b"!")
        await eventually(settled(c))


async def test_the_delivery_tells_where_it_comes_from(tmp_path, autojump_clock):
    seen = []

    async def handle(delivery):
        seen.append(delivery)
        return []

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work")
        await c["a"].bus.accept(c["a"].message(capability="work"), hops=3, ttl_s=60)
        await eventually(lambda: seen)
        [delivery] = seen
        assert (delivery.sender_node, delivery.attempt, delivery.hops) == ("a", 1, 3)
        assert 55 < delivery.deadline - c["b"].environment.clock.now() <= 60


async def test_accepted_is_durable_and_says_where_it_went(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work")
        message = c["a"].message(capability="work")
        receipt = await c["a"].bus.accept(message)
        assert (receipt.message_id, receipt.routed_to, receipt.status) == (
            message.id,
            ("worker@b",),
            "routed",
        )
        assert (receipt.routing_strategy, receipt.timestamp_s) == ("best_match", message.timestamp_s)
        waiting = await c["a"].bus.accept(c["a"].message(capability="nothing"))
        assert (waiting.routed_to, waiting.status) == ((), "waiting")


async def test_receivers_are_addressed_with_and_without_a_node(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("at b"), "work")
        c["c"].attach("worker", echo("at c"), "work", priority=90)
        reply = await ask(c["a"], receiver="worker@b", capability=None)
        assert reply.content["by"] == "at b"
        reply = await ask(c["a"], receiver="worker", capability=None)
        assert reply.content["by"] == "at c"


async def test_broadcasts_gather_the_replies_of_all_providers(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        for name in "abc":
            c[name].attach("worker", echo(name), "work")

        def broadcast():
            return c["a"].message(capability="work", routing_strategy=RoutingStrategy.BROADCAST)

        message = broadcast()
        replies = await c["a"].bus.gather(message, timeout_s=10)
        assert sorted(reply.content["by"] for reply in replies) == ["a", "b", "c"]
        assert len(await c["a"].bus.gather(broadcast(), timeout_s=10, quorum=2)) >= 2
        await eventually(settled(c))
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert shown["routed_to"] == ["worker@a", "worker@b", "worker@c"]
        assert (shown["status"], len(shown["replies"])) == ("settled", 3)


async def test_a_broadcast_does_not_wait_for_a_provider_that_died(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work")
        c["c"].attach("worker", never, "work")
        message = c["a"].message(capability="work", routing_strategy=RoutingStrategy.BROADCAST)
        found = []

        async def gather():
            found.extend(await c["a"].bus.gather(message, timeout_s=1000))

        c.nursery.start_soon(gather)
        await pause(1)
        await c.crash("c")
        c.bury("c")
        started = c["a"].environment.clock.now()
        await eventually(lambda: found)
        assert [reply.content["by"] for reply in found] == ["b"]
        assert c["a"].environment.clock.now() - started < 5


async def test_a_broadcast_that_waited_for_its_providers_gathers_them_all(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        message = c["a"].message(capability="work", routing_strategy=RoutingStrategy.BROADCAST)
        found = []

        async def gather():
            found.append(await c["a"].bus.gather(message, timeout_s=60))

        c.nursery.start_soon(gather)
        await pause(1)
        for name in "bc":  # known in one go: nobody is asked before both are there
            c[name].bus.attach("worker", echo(name), capacity=100, concurrency=1)
            c.world.providers_[name, "worker"] = Provider("worker", name, "1.0.0", ("work",))
        c.changed()
        await eventually(lambda: found, 10)
        assert sorted(reply.content["by"] for reply in found[0]) == ["b", "c"]


async def test_load_balanced_uses_all_providers(tmp_path, autojump_clock):
    logs = {name: [] for name in "bc"}
    async with cluster(tmp_path, "a", "b", "c") as c:
        for name in "bc":
            c[name].attach("worker", echo(name, logs[name]), "work")
        for number in range(40):
            message = c["a"].message(
                capability="work", content=number, routing_strategy=RoutingStrategy.LOAD_BALANCED
            )
            await c["a"].bus.accept(message)
        await eventually(settled(c))
        assert sorted(logs["b"] + logs["c"]) == list(range(40))
        assert min(len(log) for log in logs.values()) >= 10


async def test_a_conversation_stays_with_one_provider_in_order(tmp_path, autojump_clock):
    logs = {name: [] for name in "bcd"}
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        for name in "bcd":
            c[name].attach("worker", echo(name, logs[name]), "work", concurrency=4)
        for number in range(30):
            message = c["a"].message(
                capability="work",
                conversation_id="talk",
                content=number,
                routing_strategy=RoutingStrategy.LOAD_BALANCED,
            )
            await c["a"].bus.accept(message)
        await eventually(settled(c))
        assert sorted(map(tuple, logs.values()))[2] == tuple(range(30))


async def test_agents_talk_to_agents_and_ask_in_the_middle_of_their_work(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:

        async def boss(delivery):
            question = c["a"].message(sender="boss@a", capability="work", content=delivery.message.content)
            reply = await c["a"].bus.request(question, timeout_s=10, hops=delivery.hops + 1)
            return [Draft(Performative.INFORM, {"boss heard": reply.content["echo"]})]

        c["a"].attach("boss", boss, "lead")
        c["b"].attach("worker", echo(), "work")
        reply = await ask(c["b"], capability="lead", content="x")
        assert reply.content == {"boss heard": "x"}


async def test_nobody_is_called_so_ends_in_a_failure_that_speaks_of_agents(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work")
        told = (await c["a"].bus.request(c["a"].message(receiver="nobody"), timeout_s=30)).content
        assert (told["code"], told["what"]) == (
            "CAPABILITY_NOT_FOUND",
            "no agent of the cluster is called 'nobody'",
        )
        told = (await c["a"].bus.request(c["a"].message(receiver="work"), timeout_s=30)).content
        assert "'work' is a capability" in told["fix"]


async def test_nobody_offers_it_ends_in_a_failure_that_names_what_is_there(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "data-analysis", "data-cleaning")
        message = c["a"].message(capability="data-mining")
        started = c["a"].environment.clock.now()
        reply = await c["a"].bus.request(message, timeout_s=30)
        assert 5 <= c["a"].environment.clock.now() - started < 6
        assert reply.performative is Performative.FAILURE
        assert (reply.content["code"], reply.content["details"]["wanted"]) == (
            "CAPABILITY_NOT_FOUND",
            "data-mining",
        )
        related = {entry["capability"]: entry["agents"] for entry in reply.content["details"]["related"]}
        assert related == {"data-analysis": 1, "data-cleaning": 1}
        [letter] = await c["a"].bus.letters.page(10)
        shown = letter.as_json()
        assert (shown["message_id"], shown["reason"]) == (message.id, "no provider")
        assert [state["state"] for state in shown["history"]["states"]] == ["accepted", "failed"]


async def test_a_message_waits_for_a_provider_that_comes_in_time(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        log = []
        for number in range(3):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(3)
        c["b"].attach("worker", echo("late", log), "work")
        await eventually(settled(c))
        assert log == [0, 1, 2]
        assert await c["a"].bus.letters.page(10) == []


async def test_an_unknown_agent_of_a_living_node_is_refused_at_once(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        await pause(60)  # nobody waits for agents of the last run any more
        reply = await ask(c["a"], receiver="nobody@b", capability=None)
        assert (reply.performative, reply.content["code"]) == (
            Performative.FAILURE,
            "MESSAGE_DELIVERY_FAILED",
        )
        assert "no such agent" in reply.content["why"]


async def test_a_handler_that_raises_a_caxton_error_has_answered(tmp_path, autojump_clock):
    runs = []

    async def handle(delivery):
        runs.append(delivery.attempt)
        raise AgentInvalid("bad agent", why="it is", fix="mend it", details={"line": 3})

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work")
        reply = await ask(c["a"])
        assert (reply.performative, reply.sender) == (Performative.FAILURE, "worker@b")
        assert reply.content | {"reason": ""} == {
            "code": "AGENT_INVALID", "reason": "", "what": "bad agent", "why": "it is", "fix": "mend it",
            "details": {"line": 3},
        }  # fmt: skip
        assert runs == [1]
        await eventually(settled(c))
        assert await c["a"].bus.letters.page(10) == []


async def test_a_handler_that_raises_is_tried_three_times_then_the_message_fails(tmp_path, autojump_clock):
    runs = []

    async def handle(delivery):
        runs.append((delivery.message.content, delivery.attempt))
        if delivery.message.content == "bad" or delivery.attempt < 2:
            raise ZeroDivisionError
        return [Draft(Performative.INFORM, "done")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work")
        reply = await ask(c["a"], content="bad")
        assert (reply.performative, reply.sender) == (Performative.FAILURE, "system@a")
        assert "raised 3 times" in reply.content["why"]
        assert (await ask(c["a"], content="shaky")).content == "done"
        assert runs == [("bad", 1), ("bad", 2), ("bad", 3), ("shaky", 1), ("shaky", 2)]
        assert len(await c["a"].bus.letters.page(10)) == 1


@pytest.mark.parametrize(
    "draft",
    [
        Draft(Performative.INFORM, {"not json": {1, 2}}),
        Draft(Performative.INFORM, "x" * 2_000_000),
        Draft(Performative.INFORM, receiver="a@b", capability="both"),
        Draft(Performative.INFORM, attachments=("not an attachment",)),
        Draft("inform", b"bytes"),
        "no draft at all",
    ],
)
async def test_an_answer_that_is_no_message_becomes_a_failure(tmp_path, autojump_clock, draft):
    async def handle(delivery):
        return [draft]

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", handle, "work")
        reply = await ask(c["a"])
        assert (reply.performative, reply.sender) == (Performative.FAILURE, "worker@a")
        assert reply.content["reason"]


@pytest.mark.parametrize("nodes", [("a",), ("a", "b")])
async def test_an_agree_does_not_end_the_wait_for_the_result(tmp_path, autojump_clock, nodes):
    async def handle(delivery):
        return [Draft(Performative.AGREE, "soon"), Draft(Performative.INFORM, "done")]

    async with cluster(tmp_path, *nodes) as c:
        c[nodes[-1]].attach("worker", handle, "work")
        reply = await ask(c["a"])
        assert (reply.performative, reply.content) == (Performative.INFORM, "done")
        gathered = await c["a"].bus.gather(
            c["a"].message(capability="work", routing_strategy=RoutingStrategy.BROADCAST), timeout_s=30
        )
        assert [each.content for each in gathered] == ["done"]


async def test_an_agree_is_the_reply_to_a_subscription(tmp_path, autojump_clock):
    async def handle(delivery):
        return [Draft(Performative.AGREE, "from now on")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work")
        reply = await ask(c["a"], performative=Performative.SUBSCRIBE)
        assert reply.performative is Performative.AGREE
        with pytest.raises(NoReply):
            await ask(c["a"], timeout_s=5)


async def test_a_reply_nobody_waits_for_any_more_stays_out_of_the_mailbox(tmp_path, autojump_clock):
    heard = []

    async with cluster(tmp_path, "a", "b") as c:

        async def boss(delivery):
            heard.append(delivery.message.performative)
            question = c["a"].message(sender="boss@a", capability="work")
            with pytest.raises(NoReply):
                await c["a"].bus.request(question, timeout_s=1)
            return []

        async def slow(delivery):
            await pause(5)
            return [Draft(Performative.INFORM, "late")]

        c["a"].attach("boss", boss, "lead")
        c["b"].attach("worker", slow, "work")
        await c["a"].bus.accept(c["a"].message(capability="lead"))
        await pause(30)
        assert heard == [Performative.REQUEST]


async def test_one_trace_leads_through_both_nodes(tmp_path, autojump_clock):
    exporter = InMemorySpanExporter()
    tracing = Tracing.create(
        node="n", enabled=True, clock=VirtualClock(), id_source=random.Random(1), exporter=exporter
    )
    async with cluster(tmp_path, "a", "b", tracing=tracing) as c:
        c["b"].attach("worker", echo(), "work")
        parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        message = c["a"].message(capability="work")
        await c["a"].bus.request(message, timeout_s=5, traceparent=parent)
    spans = exporter.get_finished_spans()
    assert sorted(span.name for span in spans) == ["message.accept", "message.handle"]
    assert {format(span.context.trace_id, "032x") for span in spans} == {"1" * 32}
    handle, accept = sorted(spans, key=lambda span: span.name, reverse=True)
    assert handle.parent.span_id == accept.context.span_id
