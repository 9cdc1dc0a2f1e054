import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cluster.provider import Provider
from node.messaging.explanation import decision
from node.messaging.router import CROWD, FAR, Ranking, addressed, nearness, ranked, score
from node.vocabulary import RoutingStrategy

PROVIDERS = st.lists(
    st.builds(
        Provider,
        agent=st.sampled_from("abc"),
        node=st.sampled_from("xyz"),
        version=st.just("1.0.0"),
        capabilities=st.just(("work",)),
        priority=st.integers(0, 1000),
        health=st.floats(0.1, 1.0),
        load=st.floats(0.0, 1.0),
    ),
    max_size=9,
    unique_by=lambda p: (p.agent, p.node),
)


def provider(name, **changes):
    return Provider(name, "n", "1.0.0", ("work",), **changes)


def decide(strategy, providers, in_flight=None, sticky=None, seed=0):
    counts = in_flight or {}
    ranking = Ranking(ranked(providers), in_flight=lambda target: counts.get(target[0], 0))
    return ranking.choose(strategy, random.Random(seed), sticky).decision


@given(PROVIDERS)
def test_best_match_takes_the_highest_score_whatever_the_order(providers):
    one = decide(RoutingStrategy.BEST_MATCH, providers)
    other = decide(RoutingStrategy.BEST_MATCH, providers[::-1])
    assert one.targets == other.targets
    if providers:
        [chosen] = [p for p in providers if (p.agent, p.node) == one.targets[0]]
        assert score(chosen) == max(map(score, providers))


def test_best_match_weighs_priority_health_and_load():
    best = provider("best", priority=60)
    assert decide(RoutingStrategy.BEST_MATCH, [provider("a"), best]).targets == (("best", "n"),)
    tired = provider("tired", priority=100, load=0.6)
    ill = provider("ill", priority=100, health=0.5)
    assert decide(RoutingStrategy.BEST_MATCH, [tired, ill, best]).targets == (("best", "n"),)


def test_equal_scores_are_split_by_what_is_in_flight():
    pair = [provider("a"), provider("b")]
    assert decide(RoutingStrategy.BEST_MATCH, pair, {"a": 1}).targets == (("b", "n"),)
    assert decide(RoutingStrategy.BEST_MATCH, pair, {}).targets == (("a", "n"),)


def test_load_balanced_never_takes_the_busier_of_its_two():
    pair = [provider("a", load=0.9), provider("b", load=0.1)]
    for seed in range(20):
        assert decide(RoutingStrategy.LOAD_BALANCED, pair, seed=seed).targets == (("b", "n"),)
        assert decide(RoutingStrategy.LOAD_BALANCED, pair, {"b": 5}, seed=seed).targets == (("a", "n"),)


def test_who_is_out_of_credit_is_passed_over_for_whoever_is_not():
    three = [provider("a", priority=90), provider("b", priority=80), provider("c", priority=70)]
    full = {"a", "b"}
    ranking = Ranking(ranked(three), in_flight=lambda _: 0, is_full=lambda t: t[0] in full)
    for strategy in (RoutingStrategy.BEST_MATCH, RoutingStrategy.LOAD_BALANCED):
        for seed in range(10):
            full.discard("c")
            chosen = ranking.choose(strategy, random.Random(seed), None).decision
            assert chosen.targets == (("c", "n"),)
            full.add("c")  # all are: the best one, as if none were
            assert len(ranking.choose(strategy, random.Random(seed), None).decision.targets) == 1
    sticky = ranking.choose(RoutingStrategy.BEST_MATCH, random.Random(), ("a", "n")).decision
    assert sticky.targets == (("a", "n"),)  # a conversation waits for its own provider
    best = Ranking(ranked(three), in_flight=lambda _: 0, is_full=lambda t: t[0] == "a")
    decision = best.choose(RoutingStrategy.BEST_MATCH, random.Random(), None).decision
    assert decision.reason == "has credit, which a@n has not"


def test_load_balanced_spreads_over_many():
    many = [provider(f"p{number}") for number in range(10)]
    in_flight = {}
    chance = random.Random(1)
    ranking = Ranking(ranked(many), in_flight=lambda t: in_flight.get(t[0], 0))
    for _ in range(1000):
        agent = ranking.choose(RoutingStrategy.LOAD_BALANCED, chance, None).decision.targets[0][0]
        in_flight[agent] = in_flight.get(agent, 0) + 1
    assert max(in_flight.values()) - min(in_flight.values()) <= 10


@given(PROVIDERS)
def test_broadcast_takes_all_in_a_fixed_order(providers):
    decision = decide(RoutingStrategy.BROADCAST, providers, sticky=("a", "x"))
    assert sorted(decision.targets) == sorted((p.agent, p.node) for p in providers)
    assert decision.targets == decide(RoutingStrategy.BROADCAST, providers[::-1]).targets


def test_a_conversation_stays_with_its_provider_while_that_is_there():
    weak, strong = provider("weak", priority=1), provider("strong", priority=100)
    for strategy in (RoutingStrategy.BEST_MATCH, RoutingStrategy.LOAD_BALANCED):
        decision = decide(strategy, [weak, strong], sticky=("weak", "n"))
        assert (decision.targets, decision.strategy) == ((("weak", "n"),), "sticky")
    assert decide(RoutingStrategy.BEST_MATCH, [strong], sticky=("weak", "n")).targets == (("strong", "n"),)


def test_nobody_is_chosen_from_nobody():
    for strategy in RoutingStrategy:
        assert decide(strategy, []).targets == ()


def test_a_decision_is_explained_with_the_ten_best():
    many = [provider(f"p{number:02}", priority=number) for number in range(20)]
    shown = decision(decide(RoutingStrategy.BEST_MATCH, many).encode()).as_json()
    assert shown["strategy"] == "best_match"
    assert [c["agent"] for c in shown["candidates"]] == [f"p{number:02}" for number in range(19, 9, -1)]
    assert decision(addressed("a", "n").encode()).reason == "the sender addressed a@n"


def versioned(agent, offer, **changes):
    return Provider(agent, "n", "1.0.0", (offer,), **changes)


def choose_version(strategy, *providers, sticky=None, seed=0):
    ranking = Ranking(ranked(providers, "work"), in_flight=lambda _: 0, wanted="work")
    return ranking.choose(strategy, random.Random(seed), sticky).decision


@pytest.mark.parametrize("strategy", [RoutingStrategy.BEST_MATCH, RoutingStrategy.LOAD_BALANCED])
def test_the_highest_version_is_preferred_whatever_the_score(strategy):
    providers = [versioned("a", "work:v9", priority=1000), versioned("b", "work:v10"), versioned("c", "work")]
    for seed in range(20):
        assert choose_version(strategy, *providers, seed=seed).targets == (("b", "n"),)
    decision = choose_version(strategy, *providers, versioned("d", "work:v10"))
    assert "with v10" in decision.reason
    assert [c.offer for c in decision.candidates] == ["work:v10", "work:v10", "work:v9", "work"]


def test_a_lower_version_is_taken_when_all_of_the_highest_are_full():
    old, new = versioned("old", "work:v1"), versioned("new", "work:v2", load=1.0)
    assert choose_version(RoutingStrategy.BEST_MATCH, old, new).targets == (("old", "n"),)
    full = versioned("old", "work:v1", load=1.0)
    assert choose_version(RoutingStrategy.BEST_MATCH, full, new).targets == (("new", "n"),)


def test_a_broadcast_and_a_conversation_do_not_mind_the_version():
    old, new = versioned("old", "work:v1"), versioned("new", "work:v2")
    assert len(choose_version(RoutingStrategy.BROADCAST, old, new).targets) == 2
    assert choose_version(RoutingStrategy.BEST_MATCH, old, new, sticky=("old", "n")).targets == (
        ("old", "n"),
    )


def at(node, rtt_s, **changes):
    return Provider("worker", node, "1.0.0", ("work",), rtt_s=rtt_s, **changes)


HERE, NEAR, FAR_AWAY = at("here", 0.0), at("near", 0.004), at("far", 0.3)


def test_among_equals_this_node_is_preferred_then_near_ones_then_far_ones():
    assert decide(RoutingStrategy.BEST_MATCH, [FAR_AWAY, NEAR, HERE]).targets == (("worker", "here"),)
    assert decide(RoutingStrategy.BEST_MATCH, [FAR_AWAY, NEAR]).targets == (("worker", "near"),)
    unknown = at("new", None)
    assert decide(RoutingStrategy.BEST_MATCH, [FAR_AWAY, unknown]).targets == (("worker", "new"),)


@pytest.mark.parametrize("better", [{"priority": 72}, {"load": 0.0, "priority": 50}])
def test_a_far_provider_that_is_much_better_wins(better):
    here = at("here", 0.0, load=0.0 if better["priority"] == 72 else 0.4)
    assert decide(RoutingStrategy.BEST_MATCH, [here, at("far", 9.0, **better)]).targets == (
        ("worker", "far"),
    )


def test_a_crowd_at_the_near_provider_makes_far_ones_that_are_as_good_be_looked_at():
    ranking = Ranking(
        ranked([HERE, NEAR, FAR_AWAY, at("weak", 0.004, priority=49)]),
        in_flight=lambda target: {"here": CROWD, "near": 70, "far": 3, "weak": 0}[target[1]],
    )
    decision = ranking.choose(RoutingStrategy.BEST_MATCH, random.Random(0), None).decision
    assert decision.targets == (("worker", "far"),)
    assert "worker@here, which is nearer and has more in flight" in decision.reason


def test_the_near_provider_keeps_its_messages_while_all_others_are_as_crowded():
    ranking = Ranking(ranked([HERE, NEAR]), in_flight=lambda _: CROWD)
    assert ranking.choose(RoutingStrategy.BEST_MATCH, random.Random(0), None).decision.targets == (
        ("worker", "here"),
    )


def test_load_balanced_prefers_the_nearer_of_two_that_are_equally_loaded():
    for seed in range(20):
        assert decide(RoutingStrategy.LOAD_BALANCED, [FAR_AWAY, NEAR], seed=seed).targets == (
            ("worker", "near"),
        )
    busy = at("near", 0.004, load=0.1)
    assert decide(RoutingStrategy.LOAD_BALANCED, [FAR_AWAY, busy]).targets == (("worker", "far"),)


def test_distance_counts_for_nothing_when_locality_is_off():
    found = ranked([FAR_AWAY, NEAR, HERE], locality=False)
    assert [w.provider.node for w in found] == ["far", "here", "near"]
    assert {w.nearness for w in found} == {1.0}


def test_nearness_falls_with_the_round_trip_and_never_below_far():
    factors = [nearness(at("n", rtt_s)) for rtt_s in (0.0, 0.0005, 0.004, 0.02, 0.09, 0.5, 1e9)]
    assert factors == sorted(factors, reverse=True)
    assert (factors[0], factors[-1]) == (1.0, FAR)
