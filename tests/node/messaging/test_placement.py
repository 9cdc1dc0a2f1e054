"""What is ranked once serves many messages, and no longer than the registry says the same."""

import random
from types import SimpleNamespace

import pytest

from node.breaker import BreakerLimits
from node.cluster.provider import ClusterView, Provider
from node.message import Message
from node.messaging import placement as limits
from node.messaging.breakers import Breakers
from node.messaging.explanation import decision
from node.messaging.letters import Letter
from node.messaging.placement import Placement
from node.messaging.router import CHOICES_LIMIT, EQUALS_LIMIT, Ranking, ranked
from node.vocabulary import Performative, RoutingStrategy


class Registry:
    def __init__(self, *providers):
        self.found, self.number, self.asked = list(providers), 1, 0

    def version(self, wanted):
        return self.number

    def providers(self, capability):
        self.asked += 1
        return self.found

    instances = providers


def provider(name, **changes):
    return Provider(name, "n", "1.0.0", ("work",), **changes)


def letter(number, *, strategy=RoutingStrategy.BEST_MATCH, conversation=None, **fields):
    to = {"capability": "work"} if "receiver" not in fields else {}
    message = Message(
        id=f"m{number}", performative=Performative.REQUEST, sender="client@n", reply_with=f"m{number}",
        conversation_id=conversation or f"c{number}", routing_strategy=strategy, **to, **fields,
    )  # fmt: skip
    return Letter(number, message, b"", "", 0, 0.0, 60.0, 60.0)


def placement_of(registry, in_flight=None):
    counts = {} if in_flight is None else in_flight
    return Placement(
        time=None,
        chance=random.Random(1),
        node="n",
        registry=registry,
        membership=SimpleNamespace(is_alive=bool, view=lambda: ClusterView(1, 1, "majority", 0.0)),
        in_flight=lambda target: counts.get(target[0], 0),
        breakers=Breakers(BreakerLimits()),
    )


def chosen(placement, number, now=0.0, **fields):
    choice = placement.decide(letter(number, **fields), now)
    assert decision(choice.encoded).as_json() == choice.decision.as_json()
    return choice.decision.targets


def test_a_ranking_serves_many_messages_and_is_made_anew_when_the_registry_has_changed():
    registry = Registry(provider("a"))
    placement = placement_of(registry)
    assert {chosen(placement, number) for number in range(100)} == {(("a", "n"),)}
    assert registry.asked == 1
    registry.found, registry.number = [provider("a"), provider("b", priority=99)], 2
    assert chosen(placement, 100) == (("b", "n"),)
    registry.found, registry.number = [], 3
    assert chosen(placement, 101) == ()


def test_loads_are_looked_at_again_after_a_while_though_the_version_is_the_same():
    registry = Registry(provider("a"), provider("b"))
    placement = placement_of(registry)
    assert chosen(placement, 1) == (("a", "n"),)
    registry.found = [provider("a", load=0.5), provider("b")]
    assert chosen(placement, 2, now=limits.RANKED_S * 0.9) == (("a", "n"),)
    assert chosen(placement, 3, now=limits.RANKED_S * 1.1) == (("b", "n"),)


def test_the_same_decision_is_not_made_and_encoded_again():
    placement = placement_of(Registry(provider("a")))
    one, other = (placement.decide(letter(number), 0.0) for number in (1, 2))
    assert one is other
    one, other = (placement.decide(letter(number, receiver="a@n"), 0.0) for number in (3, 4))
    assert one is other
    assert placement.decide(letter(5, receiver="a@n"), limits.VIEW_S) is not one


@pytest.fixture
def choices(monkeypatch):
    """How often a ranking is asked to choose."""
    made, choose = [], Ranking.choose
    monkeypatch.setattr(Ranking, "choose", lambda *given: made.append(given) or choose(*given))
    return made


def test_messages_alike_of_one_moment_are_decided_once(choices):
    placement = placement_of(Registry(provider("a"), provider("b")))
    assert {chosen(placement, number, now=1.0) for number in range(100)} == {(("a", "n"),)}
    assert len(choices) == 1
    assert placement.sticky("c99", "work") == ("a", "n")
    chosen(placement, 100, now=1.001)
    assert len(choices) == 2


@pytest.mark.parametrize(
    "different",
    [
        {"conversation": "c1"},
        {"strategy": RoutingStrategy.LOAD_BALANCED},
        {"fallback_versions": ("v1",)},
        {"require": (("zone", "x"),)},
        {"receiver": "a"},
    ],
)
def test_a_message_that_asks_for_more_is_decided_by_itself(choices, different):
    placement = placement_of(Registry(provider("a")))
    chosen(placement, 1)
    chosen(placement, 2, **different)
    assert len(choices) > 1


def test_what_changes_within_a_moment_is_seen(choices):
    registry, in_flight = Registry(provider("a"), provider("b")), {}
    placement = placement_of(registry, in_flight)
    assert chosen(placement, 1) == (("a", "n"),)
    in_flight["a"] = 1
    assert chosen(placement, 2) == (("b", "n"),)
    registry.found, registry.number = [provider("c")], 2
    assert chosen(placement, 3) == (("c", "n"),)
    refused = letter(4)
    refused.exclude(("c", "n"), 5.0)
    assert placement.decide(refused, 0.0).decision.targets == ()
    assert len(choices) == 4


def test_a_content_that_is_not_accepted_is_decided_by_itself():
    placement = placement_of(Registry(provider("a", accepts="content.amount > 100"), provider("b")))
    big, small = ({"amount": amount} for amount in (200, 1))
    assert [chosen(placement, number, content=c) for number, c in enumerate((big, small, big))] == [
        (("a", "n"),), (("b", "n"),), (("a", "n"),)
    ]  # fmt: skip


def test_a_provider_without_a_rival_is_not_weighed_again_for_as_long_as_any_ranking_counts():
    registry = Registry(provider("a"))
    placement = placement_of(registry)
    chosen(placement, 1)
    chosen(placement, 2, now=limits.RANKED_LIMIT_S * 0.9)
    assert registry.asked == 1
    chosen(placement, 3, now=limits.RANKED_LIMIT_S * 1.1)
    assert registry.asked == 2


def test_who_refused_one_message_still_gets_the_others():
    placement = placement_of(Registry(provider("a", priority=60), provider("b")))
    refused = letter(1)
    refused.exclude(("a", "n"), 5.0)
    found = placement.decide(refused, 0.0).decision
    assert found.targets == (("b", "n"),)
    assert found.excluded == (("a", "n", "left out for 5.0 s"),)
    assert chosen(placement, 2) == (("a", "n"),)
    assert placement.decide(refused, 5.0).decision.targets == (("b", "n"),)  # it has the conversation now
    placement.unstick(refused)
    assert placement.decide(refused, 5.0).decision.targets == (("a", "n"),)


def test_one_without_health_is_never_chosen_and_told():
    placement = placement_of(Registry(provider("a", health=0.0), provider("b", priority=1)))
    found = placement.decide(letter(1), 0.0).decision
    assert (found.targets, found.excluded) == ((("b", "n"),), (("a", "n", "its health is 0"),))


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "RANKINGS_LIMIT", 3)
    monkeypatch.setattr(limits, "ADDRESSED_LIMIT", 3)
    placement = placement_of(Registry(provider("a")))
    for number in range(10):
        chosen(placement, number, receiver=f"agent{number}")
        chosen(placement, number, receiver=f"agent{number}@n")
    assert placement.statistics()["rankings"] == 3
    assert len(placement._addressed) == 3


@pytest.mark.parametrize("count", [2, EQUALS_LIMIT, 5 * EQUALS_LIMIT])
def test_equal_ones_share_the_work_however_many_they_are(count):
    in_flight = {}
    ranking = Ranking(
        ranked([provider(f"p{n:03}") for n in range(count)]), in_flight=lambda t: in_flight.get(t[0], 0)
    )
    for _ in range(20 * count):
        agent = ranking.choose(RoutingStrategy.BEST_MATCH, random.Random(0), None).decision.targets[0][0]
        in_flight[agent] = in_flight.get(agent, 0) + 1
    assert len(in_flight) == count
    assert max(in_flight.values()) - min(in_flight.values()) <= 2


def test_decisions_that_are_kept_with_a_ranking_are_bounded_and_name_the_chosen():
    ranking = Ranking(ranked([provider(f"p{n:03}") for n in range(500)]), in_flight=lambda target: 0)
    chance = random.Random(1)
    for _ in range(2_000):
        found = ranking.choose(RoutingStrategy.LOAD_BALANCED, chance, None).decision
        assert found.targets[0][0] in {candidate.agent for candidate in found.candidates}
    assert len(ranking._choices) == CHOICES_LIMIT


def test_a_conversation_keeps_its_provider_whatever_its_load_until_it_is_let_go():
    registry = Registry(provider("a"), provider("b"))
    placement = placement_of(registry)
    assert chosen(placement, 1, conversation="talk") == (("a", "n"),)
    registry.found, registry.number = [provider("a", load=0.9), provider("b")], 2
    assert chosen(placement, 2, now=9.0, conversation="talk") == (("a", "n"),)
    assert chosen(placement, 3, now=9.0, conversation="other") == (("b", "n"),)
    placement.unstick(letter(4, conversation="talk"))
    assert chosen(placement, 4, now=9.0, conversation="talk") == (("b", "n"),)


def test_a_conversation_goes_to_another_provider_when_its_own_is_ill_gone_or_refuses():
    for gone in ([provider("a", health=0.0), provider("b")], [provider("b")]):
        registry = Registry(provider("a"), provider("b"))
        placement = placement_of(registry)
        chosen(placement, 1, conversation="talk")
        registry.found, registry.number = gone, 2
        assert chosen(placement, 2, conversation="talk") == (("b", "n"),)
        registry.found, registry.number = [provider("a"), provider("b")], 3
        assert chosen(placement, 3, conversation="talk") == (("b", "n"),)
    placement = placement_of(Registry(provider("a"), provider("b")))
    refused = letter(1, conversation="talk")
    placement.decide(refused, 0.0)
    refused.exclude(("a", "n"), 5.0)
    assert placement.decide(refused, 1.0).decision.targets == (("b", "n"),)


def test_only_so_many_conversations_are_remembered_and_the_longest_unused_is_forgotten(monkeypatch):
    monkeypatch.setattr(limits, "STICKY_LIMIT", 2)
    registry = Registry(provider("a"))
    placement = placement_of(registry)
    for number, talk in enumerate(["one", "two", "one", "three"]):
        chosen(placement, number, conversation=talk)
    registry.found, registry.number = [provider("a", load=0.5), provider("b")], 2
    assert placement.statistics()["sticky"] == 2
    assert chosen(placement, 8, now=9.0, conversation="one") == (("a", "n"),)
    assert chosen(placement, 9, now=9.0, conversation="two") == (("b", "n"),)
