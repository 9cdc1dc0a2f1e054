import json
import random

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.cluster.provider import Provider
from node.errors import (
    AgentInvalid,
    MessageNotFound,
    MessageTooLarge,
    NoReply,
    ResourceLimitExceeded,
    StorageFailed,
    ValidationFailed,
)
from node.message import Attachment, Envelope
from node.messaging.delivery import Draft
from node.messaging.explanation import decision
from node.messaging.settings import HOP_LIMIT
from node.telemetry.tracing import Tracing
from node.transport.frames import DeliverItem
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import PROOF, VirtualClock, cluster, echo, eventually, pause

BOTH = pytest.mark.parametrize("durability", ["normal", "full"])


def settled(c):
    return lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values())


async def ask(node, timeout_s=30.0, **fields):
    return await node.bus.request(node.message(**({"capability": "work"} | fields)), timeout_s=timeout_s)


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


async def never(delivery):
    await pause(1e6)
    return []


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


async def test_messages_wait_on_disk_when_the_mailbox_is_full(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(0.05)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work", capacity=3)
        for number in range(40):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(0.5)
        assert c["b"].bus.statistics()["handlers"]["mailboxes"] <= 3
        assert c["b"].bus.statistics()["inbox"]["held"] > 20
        await eventually(settled(c))
        assert log == list(range(40))


async def test_a_full_inbox_refuses_and_the_origin_tries_again(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(0.5)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b", settings={"inbox_capacity": 5}) as c:
        c["b"].attach("worker", slow, "work")
        for number in range(15):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await eventually(settled(c), 600)
        assert sorted(set(log)) == list(range(15))
        assert c["b"].bus.statistics()["inbox"]["refused"] > 0
        assert await c["a"].bus.letters.page(10) == []


async def test_a_full_outbox_refuses_clients(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings={"outbox_capacity": 3}) as c:
        for _ in range(3):
            await c["a"].bus.accept(c["a"].message(capability="work"))
        with pytest.raises(ResourceLimitExceeded) as caught:
            await c["a"].bus.accept(c["a"].message(capability="work"))
        assert caught.value.details["capacity"] == 3


async def test_an_unsettled_message_expires_with_a_failure(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        reply = await c["a"].bus.request(message, timeout_s=100, ttl_s=20)
        assert reply.performative is Performative.FAILURE
        assert (await c["a"].bus.history(message.id)).as_json()["outcome"] == "expired"
        by = c["a"].message(capability="work", reply_by_s=c["a"].environment.clock.wall() + 5)
        started = c["a"].environment.clock.now()
        assert (await c["a"].bus.request(by, timeout_s=100)).performative is Performative.FAILURE
        assert c["a"].environment.clock.now() - started < 6


async def test_what_expired_in_the_mailbox_is_not_handled(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(10)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work")
        await c["a"].bus.accept(c["a"].message(capability="work", content="first"))
        await pause(1)
        await c["a"].bus.accept(c["a"].message(capability="work", content="second"), ttl_s=3)
        await pause(60)
        assert log == ["first"]
        assert c["b"].bus.statistics()["inbox"]["failed"] == 1


async def test_no_reply_within_the_time_leaves_the_message_on_its_way(tmp_path, autojump_clock):
    async def slow(delivery):
        await pause(10)
        return [Draft(Performative.INFORM, "late")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work")
        message = c["a"].message(capability="work")
        with pytest.raises(NoReply) as caught:
            await c["a"].bus.request(message, timeout_s=2)
        assert caught.value.details["message_id"] == message.id
        await eventually(settled(c))
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert [reply["from"] for reply in shown["replies"]] == ["worker@b"]
        talk = (await c["a"].bus.conversations.get(message.conversation_id)).as_json()
        assert [m["performative"] for m in talk["messages"]] == ["request", "inform"]
        assert talk["participants"] == ["client@a", "worker@b"]


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


async def test_detaching_gives_the_work_to_another_provider_in_order(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        for number in range(10):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(1)
        c["c"].attach("worker", echo("c", log), "work")
        c.withdraw("b", "worker")
        await c["b"].bus.detach("worker", drain_s=0.5)
        await eventually(settled(c))
        assert log == list(range(10))


async def test_detaching_waits_for_what_is_being_handled(tmp_path, autojump_clock):
    done = []

    async def slow(delivery):
        await pause(2)
        done.append(delivery.message.content)
        return []

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", slow, "work")
        for number in range(3):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number))
        await pause(0.1)
        await c["a"].bus.detach("worker", drain_s=60)
        assert sorted(done) == [0, 1, 2]
        c["a"].attach("worker", slow, "work")  # it may come back
        await c["a"].bus.accept(c["a"].message(capability="work", content=3))
        await eventually(lambda: 3 in done)


async def test_an_agent_that_loops_is_stopped_by_the_hop_limit(tmp_path, autojump_clock):
    hops = []

    async def again(delivery):
        hops.append(delivery.hops)
        return [Draft(Performative.REQUEST, capability="work")]

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", again, "work")
        await c["a"].bus.accept(c["a"].message(capability="work"))
        await pause(10)
        assert hops == list(range(HOP_LIMIT + 1))
        [letter] = await c["a"].bus.letters.page(10)
        assert "in one chain" in letter.reason
        with pytest.raises(ResourceLimitExceeded):
            await c["a"].bus.accept(c["a"].message(capability="work"), hops=HOP_LIMIT + 1)


async def test_bad_messages_are_refused_at_the_edge(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        node = c["a"]
        with pytest.raises(MessageTooLarge) as caught:
            await node.bus.accept(node.message(capability="work", content="x" * 2**21))
        assert caught.value.details["limit"] == 2**20
        with pytest.raises(ValidationFailed):
            await node.bus.accept(node.message(capability="Not A Capability"))
        with pytest.raises(ValidationFailed, match="not of this node"):
            await node.bus.accept(node.message(capability="work", sender="client@b"))
        message = node.message(capability="work")
        await node.bus.accept(message)
        with pytest.raises(ValidationFailed, match="accepted before"):
            await node.bus.accept(message)
        with pytest.raises(MessageNotFound):
            await node.bus.history("unknown")
        assert (await node.bus.conversations.get("unknown")).as_json()["message_count"] == 0


async def test_a_full_disk_refuses_the_client_and_nothing_is_routed(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        log = []
        c["a"].attach("worker", echo("w", log), "work")
        pages = await c["a"].storage.read(lambda k: k.execute("PRAGMA page_count").fetchall()[0][0])
        await c["a"].storage.write(lambda k: k.execute(f"PRAGMA max_page_count = {pages}").fetchall())
        with pytest.raises(StorageFailed):
            await c["a"].bus.accept(c["a"].message(capability="work", content="x" * 100_000))
        await c["a"].storage.write(lambda k: k.execute("PRAGMA max_page_count = 1000000").fetchall())
        assert (await ask(c["a"], content="now")).content["echo"] == "now"
        assert log == ["now"]


async def test_poison_is_answered_and_harms_nobody(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        log = []
        c["b"].attach("worker", echo("w", log), "work")
        good, stranger, elsewhere = (
            c["a"].message(capability="work", content="good"),
            c["a"].message(capability="work", sender="client@c"),
            c["a"].message(receiver="worker@z"),
        )
        items = [
            DeliverItem(Envelope("worker"), "m1", b"\xff garbage"),
            DeliverItem(Envelope("worker"), "another id", good.seal()),
            DeliverItem(Envelope("worker"), stranger.id, stranger.seal()),
            DeliverItem(Envelope("worker"), elsewhere.id, elsewhere.seal()),
            DeliverItem(Envelope("worker"), good.id, good.seal()),
        ]
        told = []
        c["b"].links.settle = lambda peer, outcomes: told.extend((peer, o.state) for o in outcomes)
        await c["b"].bus.on_deliver("a", items, PROOF)
        await eventually(lambda: log == ["good"])
        assert told[:4] == [("a", "failed")] * 4
        assert c["b"].bus.statistics()["inbox"]["poison"] == 4


async def test_statistics_name_their_bounds_and_are_json(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo(), "work")
        await ask(c["a"])
        found = c["a"].bus.statistics()
        assert json.loads(json.dumps(found)) == found
        assert {"open_limit", "sticky_limit"} <= set(found["outbox"])
        assert c["a"].bus.load() == 0.0


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


async def test_what_was_handled_at_the_hop_limit_is_still_answered(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work")
        message = c["a"].message(capability="work", content="far")
        reply = await c["a"].bus.request(message, timeout_s=30, hops=HOP_LIMIT)
        assert reply.performative is Performative.INFORM
        assert await c["b"].bus.letters.page(10) == []


async def test_a_lower_version_is_taken_when_nobody_has_the_wanted_one(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["a"].attach("old", echo("old"), "work:v1.4")
        c["b"].attach("new", echo("new"), "work:v2")
        fields = {"capability": "work:v3", "fallback_versions": ("v2", "1")}
        assert (await ask(c["a"], **fields)).content["by"] == "new"
        [route] = (await c["a"].bus.history((await send(c["a"], **fields)).message_id)).routes
        assert decision(route.decision).wanted == "work:v2"
        c["a"].cluster.withdraw("b", "new")
        assert (await ask(c["a"], **fields)).content["by"] == "old"


async def test_a_conversation_goes_back_to_the_wanted_version_when_it_is_there(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("old", echo("old"), "work:v1")
        fields = {"capability": "work:v2", "fallback_versions": ("v1",), "conversation_id": "talk"}
        assert (await ask(c["a"], **fields)).content["by"] == "old"
        c["a"].attach("new", echo("new"), "work:v2")
        assert (await ask(c["a"], **fields)).content["by"] == "new"


async def test_a_message_waits_when_no_version_it_is_content_with_is_there(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("old", echo("old"), "work:v1")
        reply = await ask(c["a"], capability="work:v3", fallback_versions=("v2",))
        assert (reply.performative, reply.content["code"]) == (Performative.FAILURE, "CAPABILITY_NOT_FOUND")


async def test_who_would_be_chosen_follows_versions(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["a"].attach("old", echo(), "work:v1")
        c["b"].attach("new", echo(), "work:v2")
        bus, message = c["a"].bus, c["a"].message
        assert bus.preview(message(capability="work")).targets == (("new", "b"),)
        assert bus.preview(message(capability="work:v1")).targets == (("old", "a"),)
        fallen = bus.preview(message(capability="work:v7", fallback_versions=("v3", "v1")))
        assert (fallen.targets, fallen.wanted) == ((("old", "a"),), "work:v1")
        assert bus.preview(message(capability="work:v7")).targets == ()


async def send(node, **fields):
    return await node.bus.accept(node.message(**fields))
