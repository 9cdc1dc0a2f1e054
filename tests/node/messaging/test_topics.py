"""A message to a topic reaches whoever subscribes, or one of each queue group, and nobody is enough."""

import pytest

from node.errors import ValidationFailed
from node.messaging.delivery import Draft
from node.storage.dead_letters import Choice
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually, pause


def settled(c):
    return lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values())


def subscribe(node, agent, *topics, log=None, **provider):
    node.attach(agent, echo(agent, log), "work", topics=tuple((*t, "")[:2] for t in topics), **provider)


async def publish(node, topic="orders.eu.created", **fields):
    fields = {"performative": Performative.INFORM, "content": "news"} | fields
    return await node.bus.accept(node.message(topic=topic, **fields))


async def test_every_subscriber_gets_it_once_whatever_matches(tmp_path, autojump_clock):
    logs = {name: [] for name in "xyz"}
    async with cluster(tmp_path, "a", "b") as c:
        subscribe(c["a"], "xxx", ("orders.#",), ("orders.eu.*",), log=logs["x"])
        subscribe(c["b"], "yyy", ("*.eu.created",), log=logs["y"])
        subscribe(c["b"], "zzz", ("orders.us.#",), log=logs["z"])
        receipt = await publish(c["a"])
        assert (receipt.routed_to, receipt.status) == (("xxx@a", "yyy@b"), "routed")
        await eventually(settled(c))
        assert logs == {"x": ["news"], "y": ["news"], "z": []}


async def test_a_topic_that_nobody_subscribes_to_is_a_success_and_no_dead_letter(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        subscribe(c["a"], "xxx", ("orders.us.#",))
        receipt = await publish(c["a"])
        assert (receipt.routed_to, receipt.status) == ((), "settled")
        found = (await c["a"].bus.history(receipt.message_id)).as_json()
        assert (found["status"], found["reason"]) == ("settled", "nobody subscribes to it")
        [decided] = (await c["a"].bus.investigation.explain(receipt.message_id)).as_json()["decisions"]
        assert decided["wanted"] == "orders.eu.created"
        counts = c["a"].bus.statistics()
        assert (counts["outbox"]["settled"], counts["outbox"]["failed"]) == (1, 0)
        assert await c["a"].bus.letters.page(1, Choice()) == []


async def test_who_asks_a_topic_gathers_the_answers_of_its_subscribers(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        subscribe(c["a"], "xxx", ("orders.#",))
        subscribe(c["b"], "yyy", ("orders.#",))
        replies = await c["a"].bus.gather(c["a"].message(topic="orders.eu"), timeout_s=10)
        assert sorted(reply.sender for reply in replies) == ["xxx@a", "yyy@b"]
        before = c["a"].environment.clock.now()
        assert await c["a"].bus.gather(c["a"].message(topic="nothing"), timeout_s=10) == []
        assert c["a"].environment.clock.now() - before < 1


async def test_one_of_each_group_gets_it_and_whoever_has_none(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        for node, agent, group in (("a", "one", "billing"), ("b", "two", "billing"), ("b", "six", "stock")):
            subscribe(c[node], agent, ("orders.#", group))
        subscribe(c["a"], "any", ("orders.#",))
        seen = set()
        for _ in range(20):
            receipt = await publish(c["a"], routing_strategy=RoutingStrategy.LOAD_BALANCED)
            assert len(receipt.routed_to) == 3
            seen.update(receipt.routed_to)
        assert seen == {"one@a", "two@b", "six@b", "any@a"}
        assert len((await publish(c["a"])).routed_to) == 4


async def test_another_of_a_group_gets_what_one_lost_with_its_node(tmp_path, autojump_clock):
    log = []

    async def never(delivery):
        await pause(1e6)
        return []

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("one", never, "work", topics=(("orders.#", "billing"),))
        receipt = await publish(c["a"], routing_strategy=RoutingStrategy.LOAD_BALANCED)
        assert receipt.routed_to == ("one@b",)
        subscribe(c["c"], "two", ("orders.#", "billing"), log=log)
        await pause(1)
        assert log == []
        await c.crash("b")
        c.bury("b")
        await eventually(settled(c))
        assert log == ["news"]
        found = (await c["a"].bus.history(receipt.message_id)).as_json()
        assert (found["status"], found["routed_to"]) == ("settled", ["two@c"])


async def test_a_handler_may_publish(tmp_path, autojump_clock):
    log = []

    async def tell(delivery):
        return [Draft(Performative.INFORM, "told", topic="orders.eu")]

    async with cluster(tmp_path, "a", "b") as c:
        c["a"].attach("teller", tell, "tell")
        subscribe(c["b"], "xxx", ("orders.*",), log=log)
        await c["a"].bus.accept(c["a"].message(capability="tell"))
        await eventually(lambda: log == ["told"])


@pytest.mark.parametrize(
    "fields",
    [{"topic": "orders.*"}, {"topic": "orders..eu"}, {"topic": "orders", "capability": "work"},
     {"topic": "orders", "receiver": "x"}, {"topic": "orders", "fallback_versions": ("v1",)}],
)  # fmt: skip
async def test_a_wrong_topic_is_refused(tmp_path, autojump_clock, fields):
    async with cluster(tmp_path, "a") as c:
        with pytest.raises(ValidationFailed):
            await c["a"].bus.accept(c["a"].message(**fields))
