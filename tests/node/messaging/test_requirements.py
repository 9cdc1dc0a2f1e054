"""A message goes only to those who have what it requires, and its sender is told when nobody has."""

from node.cluster.provider import Provider
from node.labels import labels_of
from node.messaging.explanation import decision
from node.messaging.router import Ranking
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually

EU, US = labels_of({"region": "eu"}), labels_of({"region": "us"})


def test_who_lacks_a_label_is_left_out_and_told():
    found = Ranking.of(
        [
            Provider("one", "n", "1.0.0", ("work",), priority=90, labels=US),
            Provider("other", "n", "1.0.0", ("work",), labels=EU),
            Provider("third", "n", "1.0.0", ("work",)),
        ],
        "work",
        in_flight=lambda target: 0,
        view=None,
    )
    chosen = found.meeting(EU).choose(RoutingStrategy.BROADCAST, None, None).decision
    assert chosen.targets == (("other", "n"),)
    assert chosen.excluded == (("one", "n", "it has not region=eu"), ("third", "n", "it has not region=eu"))
    nobody = found.meeting((*EU, *US)).choose(RoutingStrategy.BEST_MATCH, None, None).decision
    assert nobody.targets == ()
    assert ("other", "n", "it has not region=us") in nobody.excluded
    here = found.meeting(labels_of({"node": "n"})).choose(RoutingStrategy.BROADCAST, None, None).decision
    assert len(here.targets) == 3


async def test_messages_go_to_who_has_what_they_require_and_wait_for_nobody_else(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        logs = {"b": [], "c": []}
        c["b"].attach("worker", echo(log=logs["b"]), "work", labels=EU)
        c["c"].attach("worker", echo(log=logs["c"]), "work", priority=90, labels=US)
        for number in range(10):
            sent = c["a"].message(
                capability="work", content=number, require=EU, performative=Performative.INFORM
            )
            await c["a"].bus.accept(sent)
        await eventually(lambda: len(logs["b"]) == 10)
        assert logs["c"] == []
        assert c["a"].bus.preview(sent).targets == (("worker", "b"),)
        explained = (await c["a"].bus.investigation.explain(sent.id)).as_json()
        [left_out] = explained["decisions"][0]["excluded"]
        assert (left_out["node"], left_out["reason"]) == ("c", "it has not region=eu")


async def test_a_conversation_goes_elsewhere_when_a_message_requires_it(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        logs = {"b": [], "c": []}
        c["b"].attach("worker", echo(log=logs["b"]), "work", labels=EU)
        c["c"].attach("worker", echo(log=logs["c"]), "work", priority=90, labels=US)
        for number, required in enumerate([(), EU, (), EU]):
            sent = c["a"].message(
                capability="work",
                content=number,
                conversation_id="one",
                require=required,
                performative=Performative.INFORM,
            )
            await c["a"].bus.accept(sent)
        await eventually(lambda: len(logs["b"]) + len(logs["c"]) == 4)
        assert {1, 3} <= set(logs["b"])
        assert 0 in logs["c"]


async def test_the_sender_is_told_when_nobody_has_what_is_required(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work", labels=US)
        reply = await c["a"].bus.request(c["a"].message(capability="work", require=EU), timeout_s=30.0)
        assert reply.performative is Performative.FAILURE
        assert "'work' with region=eu" in reply.content["reason"]
        assert reply.content["details"]["require"] == {"region": ["eu"]}


async def test_an_agent_that_loses_a_label_is_given_no_more_of_what_requires_it(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c.world.lost["b"] = None
        c.publish(Provider("worker", "b", "1.0.0", ("work",), labels=EU))
        await c.crash("b")  # before anything is sent to it
        sent = c["a"].message(capability="work", require=EU)
        await c["a"].bus.accept(sent)
        c.world.lost.pop("b")
        await c.start("b")
        c["b"].attach("worker", echo(), "work", labels=US)
        await eventually(lambda: c["a"].bus.statistics()["outbox"]["failed"] == 1)


def test_decisions_about_requirements_are_kept_as_others_are():
    ranking = Ranking.of([Provider("w", "n", "1.0.0", ("work",))], "work", in_flight=lambda _: 0, view=None)
    choice = ranking.meeting(EU).choose(RoutingStrategy.BEST_MATCH, None, None)
    assert decision(choice.encoded).excluded == choice.decision.excluded
