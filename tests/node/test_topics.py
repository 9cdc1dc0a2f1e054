import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.cluster.subscriptions import Subscriptions
from node.errors import ValidationFailed
from node.topics import LEVELS_LIMIT, check_pattern, is_topic, matches

LEVELS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(
    lambda levels, rest: ".".join([*levels, *rest]) or "#",
    st.lists(LEVELS | st.just("*"), max_size=5),
    st.sampled_from([[], ["#"]]),
)


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [("orders.eu.created", "orders.eu.created"), ("orders.*.created", "orders.eu.created"),
     ("orders.#", "orders"), ("orders.#", "orders.eu"), ("orders.#", "orders.eu.created"), ("#", "orders.eu"),
     ("*.eu.#", "orders.eu"), ("*", "orders")],
)  # fmt: skip
def test_a_pattern_subscribes(pattern, topic):
    assert matches(pattern, topic)


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [("orders.*", "orders"), ("orders.*", "orders.eu.created"), ("orders", "orders.eu"),
     ("orders.#", "order"), ("*.eu.#", "orders"), ("Orders", "orders")],
)  # fmt: skip
def test_a_pattern_does_not_subscribe(pattern, topic):
    assert not matches(pattern, topic)


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "a b", "a.#.b", "#.a", "a*", "a.*b", "ä", "a/b", 7, None, "a\n",
             ".".join("a" * (LEVELS_LIMIT + 2)), "a" * 256],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValidationFailed):
        check_pattern(text)
    assert not (isinstance(text, str) and is_topic(text))


def test_a_topic_has_no_wildcards():
    assert is_topic("orders.eu_1.created-now")
    assert not is_topic("orders.*")
    assert not is_topic("#")
    assert is_topic(".".join("a" * LEVELS_LIMIT))


@given(st.lists(st.tuples(PATTERNS, st.sampled_from("xyz")), max_size=12), TOPICS, st.data())
def test_the_trie_finds_what_matching_one_by_one_finds(subscribed, topic, data):
    trie = Subscriptions()
    for pattern, name in subscribed:
        trie.add(check_pattern(pattern), (name, "key"))
    left = dict.fromkeys(subscribed)
    for gone in data.draw(st.lists(st.sampled_from(subscribed or [("a", "x")]), max_size=6)):
        trie.remove(gone[0], (gone[1], "key"))
        left.pop(gone, None)
    assert trie.holders(topic) == sorted({(name, "key") for pattern, name in left if matches(pattern, topic)})
    assert len(trie) == len(left)


def test_a_trie_that_was_emptied_keeps_nothing():
    trie = Subscriptions()
    patterns = ["a.b.c", "a.*.c", "a.#", "#", "*", "a.b"]
    for pattern in patterns:
        trie.add(pattern, ("x", "y"))
    for pattern in patterns:
        trie.remove(pattern, ("x", "y"))
        trie.remove(pattern, ("x", "y"))
    assert trie._root.is_empty
    assert len(trie) == 0


def test_hostile_patterns_cost_no_more_than_they_are():
    trie = Subscriptions()
    for number in range(2**10):
        levels = ["*" if number >> bit & 1 else "a" for bit in range(10)]
        trie.add(".".join([*levels, "b"]), (str(number), "key"))
    assert len(trie.holders(".".join("a" * 10 + "b"))) == 2**10
    assert trie.holders(".".join("a" * 16)) == []
