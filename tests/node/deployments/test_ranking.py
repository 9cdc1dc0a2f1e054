"""The choice of nodes: alike for all that see the same, at most so many, and nothing moved without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.deployments.facts import NodeFacts
from node.deployments.ranking import plan, ranked
from tests.node.deployments.test_placing import NAMES, desired


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.integers(0, 5), st.text("abc", min_size=1, max_size=4))
def test_the_choice_has_no_node_twice_and_at_most_so_many(names, replicas, agent):
    where = plan(desired(agent, replicas=replicas), {name: NodeFacts() for name in names}, {})
    assert len(where.chosen) == len(set(where.chosen)) == min(replicas, len(names))
    assert where.spare not in where.chosen
    assert bool(where.spare) == (0 < replicas < len(names))


@given(st.permutations(NAMES), st.integers(1, 5))
def test_all_that_see_the_same_choose_alike_in_whatever_order_they_see_it(names, replicas):
    sees = plan(desired(replicas=replicas), {name: NodeFacts() for name in names}, {})
    assert sees == plan(desired(replicas=replicas), {name: NodeFacts() for name in sorted(names)}, {})


@given(
    st.sets(st.sampled_from(NAMES), min_size=2),
    st.integers(1, 5),
    st.text("abc", min_size=1, max_size=4),
    st.data(),
)
def test_whoever_goes_moves_its_own_replicas_and_no_others(names, replicas, agent, data):
    gone = data.draw(st.sampled_from(sorted(names)))
    before = plan(desired(agent, replicas=replicas), {name: NodeFacts() for name in names}, {})
    after = plan(desired(agent, replicas=replicas), {name: NodeFacts() for name in names - {gone}}, {})
    assert set(before.chosen) - {gone} <= set(after.chosen)
    if gone not in before.chosen:
        assert after.chosen == before.chosen
    elif before.spare:
        assert set(after.chosen) - set(before.chosen) == {before.spare}


def test_replicas_are_spread_evenly_over_the_nodes():
    counts = dict.fromkeys(NAMES, 0)
    for number in range(700):
        counts[ranked(f"agent-{number}", NAMES)[0]] += 1
    assert min(counts.values()) > 70
    assert max(counts.values()) < 130


def test_who_lacks_a_label_or_takes_none_or_has_failed_is_passed_over_and_told_why():
    facts = {
        "n1": NodeFacts((("gpu", "yes"),)),
        "n2": NodeFacts(),
        "n3": NodeFacts((("gpu", "yes"),), takes=False),
        "n4": NodeFacts((("gpu", "yes"),)),
        "n5": None,
    }
    where = plan(desired(requires=(("gpu", "yes"),)), facts, {"n4": "INVALID_WASM"})
    assert where.chosen == ("n1",)
    assert where.excluded == {
        "n2": "it lacks gpu=yes",
        "n3": "it takes no replicas",
        "n4": "it could not run it: INVALID_WASM",
        "n5": "it has not said that it takes replicas",
    }
    pinned = plan(desired(requires=(("node", "n4"),)), dict.fromkeys(facts, NodeFacts()), {})
    assert pinned.chosen == ("n4",)
