"""Messages go to those whose predicates take their content, and to nobody else."""

from __future__ import annotations

import random

from node.cluster.provider import Provider
from node.messaging import router
from node.messaging.audience import Audience
from node.messaging.router import Ranking
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually, pause

LARGE, SMALL = "content.amount > 100", "content.amount <= 100"


def ranking(*providers):
    return Ranking.of(providers, "work", in_flight=lambda target: 0, view=None)


def provider(agent, accepts="", **fields):
    return Provider(agent, "n", "1.0.0", ("work",), accepts=accepts, **fields)


def chosen(found, strategy=RoutingStrategy.BEST_MATCH, sticky=None):
    return found.choose(strategy, random.Random(1), sticky).decision


def test_who_does_not_take_the_content_is_left_out_and_told():
    found = ranking(
        provider("large", LARGE, priority=90), provider("small", SMALL, priority=80), provider("any")
    )
    decision = chosen(found.accepting({"amount": 7}))
    assert decision.targets == (("small", "n"),)
    assert decision.excluded == (("large", "n", f"it does not accept the content: {LARGE}"),)
    assert chosen(found.accepting({"amount": 700})).targets == (("large", "n"),)
    assert chosen(found.accepting("nothing of the kind")).targets == (("any", "n"),)
    everybody = chosen(found.accepting({"amount": 7}), RoutingStrategy.BROADCAST)
    assert everybody.targets == (("any", "n"), ("small", "n"))


def test_a_conversation_leaves_a_provider_that_does_not_take_its_content():
    found = ranking(provider("large", LARGE), provider("any", priority=1))
    assert chosen(found.accepting({"amount": 7}), sticky=("large", "n")).targets == (("any", "n"),)


def test_nobody_takes_it():
    decision = chosen(ranking(provider("large", LARGE)).accepting({"amount": 7}))
    assert (decision.targets, decision.reason) == ((), "nobody who offers it may be used")


def test_what_differs_is_kept_for_a_bounded_number_of_groups(monkeypatch):
    monkeypatch.setattr(router, "NARROWED_LIMIT", 2)
    found = ranking(*(provider(f"p{n}", f"content == {n}") for n in range(5)))
    narrowed = [found.accepting(n) for n in range(5)]
    assert [chosen(each).targets for each in narrowed] == [((f"p{n}", "n"),) for n in range(5)]
    assert [found.accepting(n) is each for n, each in enumerate(narrowed)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    without = ranking(provider("any"))
    assert without.accepting(1) is without


def test_a_topic_reaches_the_subscribers_that_take_its_content():
    subscribers = [
        Provider("large", "n", "1.0.0", (), topics=(("orders", "g"),), accepts=LARGE),
        Provider("small", "n", "1.0.0", (), topics=(("orders", "g"),), accepts=SMALL),
        Provider("any", "n", "1.0.0", (), topics=(("orders", ""),)),
    ]
    audience = Audience(subscribers, "orders", in_flight=lambda target: 0, view=None)
    for strategy in (RoutingStrategy.BEST_MATCH, RoutingStrategy.LOAD_BALANCED):
        decision = audience.accepting({"amount": 7}).choose(strategy, random.Random(1)).decision
        assert decision.targets == (("any", "n"), ("small", "n"))
        assert decision.excluded == (("large", "n", f"it does not accept the content: {LARGE}"),)
    assert audience.accepting({"amount": 7}) is audience.accepting({"amount": 8})


async def test_messages_find_who_takes_them_and_wait_for_who_will(tmp_path, autojump_clock):
    large, small = [], []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b", large), "work", accepts=LARGE)
        c["c"].attach("worker", echo("c", small), "work", accepts="content.amount < 10")
        for amount in (1, 500, 5, 50):
            message = c["a"].message(capability="work", content={"amount": amount})
            await c["a"].bus.accept(message)
        await pause(20)
        assert (large, small) == ([{"amount": 500}], [{"amount": 1}, {"amount": 5}])
        shown = (await c["a"].bus.investigation.explain(message.id)).as_json()
        assert len(shown["decisions"][0]["excluded"]) == 2
        preview = c["a"].bus.preview(c["a"].message(capability="work", content={"amount": 500}))
        assert preview.targets == (("worker", "b"),)
        c["c"].cluster.publish(Provider("worker", "c", "1.0.0", ("work",)))
        await eventually(lambda: {"amount": 50} in small)
        addressed = c["a"].message(
            receiver="worker@b", content={"amount": 1}, performative=Performative.INFORM
        )
        await c["a"].bus.accept(addressed)  # who names an agent has decided
        await eventually(lambda: {"amount": 1} in large)
