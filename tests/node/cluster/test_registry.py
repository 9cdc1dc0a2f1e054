"""The registry shows what owners publish, only while they are up, and believes nothing malformed."""

import random

import cbor2
import pytest

from node.cluster.provider import Offer
from node.cluster.registry import RTT_KEPT_S, CapabilityRegistry
from node.errors import ResourceLimitExceeded
from swim.map_events import EntryChanged, EventsLost
from swim.publisher import StateError


class HandClock:
    """A clock that stands where the test puts it."""

    def __init__(self, wall=0.0):
        self.at, self.wall_s = 0.0, wall

    def now(self):
        return self.at

    def wall(self):
        return self.wall_s


class FakeMaps:
    def __init__(self):
        self.held, self.dated, self.changes = {}, {}, []
        self.loads = {}

    def put(self, key, value, wall):
        self.put_many({key: value}, wall)

    def delete(self, key, wall):
        self.put_many({key: None}, wall)

    def put_many(self, changes, wall):
        self.check(changes)
        self.changes.append(dict(changes))
        for key, value in changes.items():
            self.dated["me", key] = wall
            self.held["me", key] = value
            if value is None:
                del self.held["me", key]

    def check(self, changes):
        if any(len(value or b"") > 1000 for value in changes.values()):
            raise StateError("entry_too_large", "an entry takes at most 1000 bytes")

    def entries(self, prefix=""):
        return ((o, k, v) for (o, k), v in sorted(self.held.items()) if k.startswith(prefix))

    def set_load(self, vector, now):
        self.loads["me"] = vector

    def load(self, owner):
        return self.loads.get(owner)


@pytest.fixture
def maps():
    return FakeMaps()


@pytest.fixture
def up():
    return {"me": True, "you": True}


@pytest.fixture
def registry(maps, up):
    return CapabilityRegistry(
        maps,
        "me",
        is_up=lambda node: up.get(node) is True,
        is_lost=lambda node: up.get(node) == "lost",
        flush=lambda: None,
        clock=HandClock(),
    )


def entry(owner, agent, capabilities, *, version="1.0.0", priority=50, health=255):
    return EntryChanged(owner, f"agent/{agent}/{version}", cbor2.dumps([capabilities, priority, health]))


def test_providers_are_found_by_capability_and_sorted(registry):
    registry.apply([entry("you", "b", ["sum"]), entry("me", "z", ["sum"]), entry("me", "a", ["sum", "max"])])
    assert [(p.node, p.agent) for p in registry.providers("sum")] == [("me", "a"), ("me", "z"), ("you", "b")]
    assert [(p.node, p.agent) for p in registry.providers("max")] == [("me", "a")]
    assert registry.providers("min") == []


def test_a_node_that_is_down_offers_nothing_and_comes_back_without_new_entries(registry, up):
    registry.apply([entry("you", "b", ["sum"])])
    up["you"] = False
    assert registry.providers("sum") == []
    assert registry.capabilities() == []
    assert registry.instances("b") == []
    up["you"] = True
    assert [p.agent for p in registry.providers("sum")] == ["b"]


def test_what_a_dead_node_offers_is_expected_back_and_what_a_departed_one_offered_is_not(registry, up):
    registry.apply([entry("you", "b", ["sum:v2"])])
    assert not registry.expects("sum")
    up["you"] = "lost"
    assert registry.expects("sum")
    assert registry.expects("sum:v2")
    assert registry.expects("b")
    assert not registry.expects("sum:v3")
    up["you"] = False
    assert not registry.expects("sum")


def test_a_version_asked_for_is_matched_with_what_it_leaves_open(registry):
    registry.apply(
        [entry("me", "old", ["sum:v1"]), entry("me", "new", ["sum:v2"]), entry("me", "any", ["sum"])]
    )
    assert [p.agent for p in registry.providers("sum:v2")] == ["new"]
    assert registry.providers("sum:v3") == []
    registry.apply([entry("me", "newer", ["sum:v2.1"])])
    assert [p.agent for p in registry.providers("sum:v2")] == ["new", "newer"]
    assert [p.agent for p in registry.providers("sum:v2.1")] == ["newer"]
    assert [p.agent for p in registry.providers("sum")] == ["any", "new", "newer", "old"]


def test_a_new_version_of_an_entry_replaces_the_old_and_deletion_removes_it(registry):
    registry.apply([entry("you", "b", ["sum", "max"])])
    registry.apply([entry("you", "b", ["max"])])
    assert registry.providers("sum") == []
    registry.apply([EntryChanged("you", "agent/b/1.0.0", None)])
    assert registry.providers("max") == []
    assert registry.statistics()["capabilities"] == 0


def test_an_entry_is_dated_so_that_peers_can_tell_how_long_it_was_on_its_way(maps):
    clock = HandClock(wall=1_800_000_000.0)
    registry = CapabilityRegistry(maps, "me", is_up=bool, is_lost=bool, flush=lambda: None, clock=clock)
    registry.publish("a", version="1.0.0", capabilities=("sum",), priority=50, health=1.0)
    assert maps.dated == {("me", "agent/a/1.0.0"): 1_800_000_000.0}


def test_publishing_another_version_leaves_one_entry(registry, maps):
    registry.publish("a", version="1.0.0", capabilities=("sum",), priority=50, health=1.0)
    registry.publish("a", version="2.0.0", capabilities=("sum",), priority=50, health=1.0)
    assert [key for _, key in maps.held] == ["agent/a/2.0.0"]
    registry.withdraw("a")
    registry.withdraw("a")
    assert maps.held == {}


def test_an_agent_that_changes_its_own_version_is_offered_all_the_time(registry):
    registry.apply([entry("you", "b", ["sum"], version="1.0.0")])
    registry.apply([entry("you", "b", ["sum"], version="2.0.0")])
    registry.apply([EntryChanged("you", "agent/b/1.0.0", None)])  # withdrawn after the new one was told
    assert [(p.agent, p.version) for p in registry.providers("sum")] == [("b", "2.0.0")]
    assert [p.version for p in registry.instances("b")] == ["2.0.0"]
    registry.apply([EntryChanged("you", "agent/b/2.0.0", None)])
    assert registry.providers("sum") == [] == registry.instances("b")
    assert registry.statistics()["capabilities"] == 0


def test_what_is_published_is_what_others_read(registry, maps):
    registry.publish("a", version="1.2.3", capabilities=("sum", "sum:v2"), priority=70, health=0.5)
    ((owner, key), value), *_ = maps.held.items()
    registry.apply([EntryChanged(owner, key, value)])
    [provider] = registry.providers("sum")
    assert (provider.version, provider.priority) == ("1.2.3", 70)
    assert provider.health == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", cbor2.dumps(1), cbor2.dumps([[], 50, 255]), cbor2.dumps([["Bad Name"], 50, 255]),
     cbor2.dumps([["sum"], -1, 255]), cbor2.dumps([["sum"], 50, 900]), cbor2.dumps([["sum"] * 65, 50, 255]),
     cbor2.dumps([[1], 50, 255]), cbor2.dumps(["sum", "x", 255])],
)  # fmt: skip
def test_malformed_entries_are_counted_and_not_believed(registry, value):
    registry.apply([EntryChanged("you", "agent/a/1.0.0", value), EntryChanged("you", "agent/odd", value)])
    assert registry.capabilities() == []
    assert registry.statistics()["malformed_entries"] == 2


def test_random_bytes_never_crash_the_view(registry):
    rng = random.Random(7)
    for _ in range(500):
        registry.apply([EntryChanged("you", "agent/a/1", rng.randbytes(rng.randrange(40)))])


def test_after_lost_events_the_view_is_built_anew(registry, maps):
    registry.apply([entry("you", "gone", ["sum"])])
    maps.held["you", "agent/b/1.0.0"] = cbor2.dumps([["max"], 50, 255])
    assert registry.apply([EventsLost()])
    assert [name for name, _ in registry.capabilities()] == ["max"]


def test_related_capabilities_share_a_word_or_look_alike(registry):
    registry.apply([entry("me", "a", ["data-analysis"]), entry("you", "b", ["data-analysis", "weather"])])
    assert registry.related("data-analytics") == [("data-analysis", 2)]
    assert registry.related("wether") == [("weather", 1)]
    assert registry.related("zzz") == []


def test_load_is_quantised_and_shown_with_the_provider(registry, maps):
    registry.apply([entry("me", "a", ["sum"])])
    registry.set_load(0.5, now=0.0)
    assert registry.providers("sum")[0].load == pytest.approx(0.5)


def test_an_entry_that_does_not_fit_is_answered_with_the_reason(registry, maps):
    long = Offer("a", "1.0.0", ("sum",), accepts="x" * 1000)
    for refused in (lambda: registry.publish_many([Offer("b", "1.0.0", ("sum",)), long]),
                    lambda: registry.check(long)):  # fmt: skip
        with pytest.raises(ResourceLimitExceeded, match="at most 1000 bytes"):
            refused()
    assert (maps.held, registry.statistics()["own_agents"]) == ({}, 0)


def test_many_agents_are_offered_and_withdrawn_as_one_change_of_the_map(registry, maps):
    agents = [f"agent-{number}" for number in range(100)]
    registry.publish_many([Offer(agent, "1.0.0", ("sum",)) for agent in agents])
    registry.withdraw(*agents, "stranger")
    assert [len(change) for change in maps.changes] == [100, 100]
    assert (maps.held, registry.statistics()["own_agents"]) == ({}, 0)


def test_of_many_agents_that_change_their_version_none_is_ever_missing(registry, maps):
    agents = [f"agent-{number}" for number in range(10)]
    for version in ("1.0.0", "1.0.0", "2.0.0"):
        registry.publish_many([Offer(agent, version, ("sum",)) for agent in agents])
    *_, added, removed = maps.changes
    assert added.keys() == {f"agent/{agent}/2.0.0" for agent in agents}
    assert removed == {f"agent/{agent}/1.0.0": None for agent in agents}
    assert len(maps.changes) == 4


def test_a_version_grows_with_what_concerns_it_and_with_nothing_else(registry, maps):
    registry.apply([entry("you", "b", ["sum:v2"]), entry("me", "a", ["max"])])
    seen = {name: registry.version(name) for name in ("sum", "sum:v2", "b", "max", "a")}
    registry.set_load(0.5, now=0.0)
    registry.apply([entry("you", "b", ["sum:v2"], health=9)])
    assert {name for name in seen if registry.version(name) > seen[name]} == {"sum", "sum:v2", "b"}
    assert {name for name in seen if registry.version(name) < seen[name]} == set()


def test_a_version_grows_when_the_last_provider_goes_and_when_one_comes_back(registry):
    versions = [registry.version("sum")]
    for _ in range(3):
        registry.apply([entry("you", "b", ["sum"])])
        versions.append(registry.version("sum"))
        registry.apply([EntryChanged("you", "agent/b/1.0.0", None)])
        versions.append(registry.version("sum"))
    assert versions == sorted(set(versions))
    assert registry._changed == {}  # nothing is kept of names that nobody has


def test_a_version_grows_when_a_node_comes_or_goes(registry):
    registry.apply([entry("you", "b", ["sum"])])
    before = registry.version("sum")
    registry.liveness_changed()
    assert registry.version("sum") > before


def test_providers_are_shown_with_the_round_trip_to_their_node_which_is_kept_for_a_while(maps):
    asked, clock = [], HandClock()
    registry = CapabilityRegistry(
        maps, "me", is_up=lambda _: True, is_lost=bool, flush=lambda: None, clock=clock,
        rtt=lambda node: asked.append(node) or 0.02,
    )  # fmt: skip
    registry.apply([entry("you", "b", ["sum"]), entry("you", "c", ["sum"]), entry("me", "a", ["sum"])])
    assert [p.rtt_s for p in registry.providers("sum")] == [0.0, 0.02, 0.02]
    assert [p.rtt_s for p in registry.instances("b")] == [0.02]
    assert asked == ["you"]
    clock.at += RTT_KEPT_S
    registry.providers("sum")
    assert asked == ["you", "you"]


def subscriber(owner, agent, *topics, capabilities=(), version="1.0.0"):
    value = cbor2.dumps([list(capabilities), 50, 255, [list(topic) for topic in topics]])
    return EntryChanged(owner, f"agent/{agent}/{version}", value)


def test_subscribers_of_a_topic_are_found_by_their_patterns(registry, up):
    registry.apply(
        [
            subscriber("you", "b", ("orders.#", "billing")),
            subscriber("me", "a", ("*.eu", ""), ("orders.eu", "")),
        ]
    )
    assert [(p.agent, p.topics[0]) for p in registry.subscribers("orders.eu")] == [
        ("a", ("*.eu", "")), ("b", ("orders.#", "billing")),
    ]  # fmt: skip
    assert [p.agent for p in registry.subscribers("orders")] == ["b"]
    up["you"] = False
    assert registry.subscribers("orders") == []


def test_subscriptions_follow_their_entry(registry):
    versions = [registry.topics_version()]
    registry.apply([subscriber("you", "b", ("orders.#", ""), capabilities=["sum"])])
    versions.append(registry.topics_version())
    registry.apply([entry("you", "c", ["sum"])])
    assert registry.topics_version() == versions[-1]
    registry.apply(
        [subscriber("you", "b", ("stock.#", ""), version="2.0.0"), EntryChanged("you", "agent/b/1.0.0", None)]
    )
    versions.append(registry.topics_version())
    assert registry.subscribers("orders") == []
    assert [p.version for p in registry.subscribers("stock.eu")] == ["2.0.0"]
    registry.apply([EntryChanged("you", "agent/b/2.0.0", None)])
    versions.append(registry.topics_version())
    assert versions == sorted(set(versions))
    assert registry.statistics()["subscriptions"] == 0


def test_published_subscriptions_are_what_others_read(registry, maps):
    registry.publish(
        "a",
        version="1.0.0",
        capabilities=("sum",),
        priority=50,
        health=1.0,
        topics=(("orders.#", "billing"),),
    )
    ((owner, key), value), *_ = maps.held.items()
    registry.apply([EntryChanged(owner, key, value)])
    [provider] = registry.subscribers("orders.eu")
    assert (provider.capabilities, provider.topics) == (("sum",), (("orders.#", "billing"),))


@pytest.mark.parametrize(
    "topics",
    [
        [],
        7,
        [["a.#.b", ""]],
        [["a", "two words"]],
        [["a"]],
        ["a"],
        [["a", ""]] * 17,
        [[1, ""]],
        [["a", None]],
    ],
)
def test_malformed_subscriptions_are_counted_and_not_believed(registry, topics):
    registry.apply([EntryChanged("you", "agent/a/1.0.0", cbor2.dumps([[], 50, 255, topics]))])
    assert registry.subscribers("a") == []
    assert registry.statistics()["malformed_entries"] == 1


def test_a_predicate_travels_with_its_entry_and_is_seen_with_load_and_distance(registry, maps):
    text = "content.amount > 100"
    registry.publish("a", version="1.0.0", capabilities=("sum",), priority=50, health=1.0, accepts=text)
    registry.apply([EntryChanged("me", "agent/a/1.0.0", maps.held["me", "agent/a/1.0.0"])])
    registry.set_load(0.5, now=0.0)
    [found] = registry.providers("sum")
    assert (found.accepts, found.topics, found.load > 0) == (text, (), True)
    registry.publish("a", version="1.0.0", capabilities=("sum",), priority=50, health=1.0)
    registry.apply([EntryChanged("me", "agent/a/1.0.0", maps.held["me", "agent/a/1.0.0"])])
    assert [p.accepts for p in registry.providers("sum")] == [""]


@pytest.mark.parametrize("accepts", ["content.", "__import__('os')", 7, None, ["content.a == 1"], "x" * 500])
def test_broken_predicates_are_counted_and_not_believed(registry, accepts):
    registry.apply([EntryChanged("you", "agent/a/1.0.0", cbor2.dumps([["sum"], 50, 255, [], accepts]))])
    assert registry.providers("sum") == []
    assert registry.statistics()["malformed_entries"] == 1


def test_an_entry_with_more_than_it_may_have_is_not_believed(registry):
    value = cbor2.dumps([["sum"], 50, 255, [], "content.a == 1", "serve", "more"])
    registry.apply([EntryChanged("you", "agent/a/1.0.0", value)])
    assert registry.statistics()["malformed_entries"] == 1


def policy(owner, agent, minority, capability="sum"):
    return EntryChanged(owner, f"agent/{agent}/1.0.0", cbor2.dumps([[capability], 50, 255, [], "", minority]))


def test_the_strictest_policy_for_minorities_counts_also_of_the_lost(registry, up, maps):
    assert registry.minority("sum") == "serve"
    registry.apply(
        [entry("you", "a", ["sum:v2"]), policy("you", "b", "queue"), policy("me", "c", "refuse", "max")]
    )
    assert [registry.minority(name) for name in ("sum", "sum:v2", "max", "min")] == [
        "queue", "serve", "refuse", "serve",
    ]  # fmt: skip
    up["you"] = "lost"
    assert registry.minority("sum") == "queue"
    up["you"] = False  # it has left by its own word
    assert registry.minority("sum") == "serve"
    registry.publish("d", version="1", capabilities=("sum",), priority=50, health=1.0, minority="refuse")
    registry.apply([EntryChanged("me", "agent/d/1", maps.held["me", "agent/d/1"])])
    registry.set_load(0.5, now=0.0)
    assert (registry.minority("sum"), registry.providers("sum")[0].minority) == ("refuse", "refuse")


@pytest.mark.parametrize("minority", ["", "Serve", None, 1, ["serve"]])
def test_a_policy_that_is_none_is_counted_and_not_believed(registry, minority):
    registry.apply([policy("you", "a", minority)])
    assert registry.providers("sum") == []
    assert registry.statistics()["malformed_entries"] == 1


def test_a_mailbox_is_found_by_its_topics_and_not_by_its_name(registry, maps):
    before = registry.version("alice"), registry.version("anything"), registry.topics_version()
    value = cbor2.dumps([[], 50, 255, [["orders.#", ""]]])
    registry.apply([EntryChanged("you", "agent/alice/mailbox", value)])
    assert [(p.agent, p.node) for p in registry.subscribers("orders.eu")] == [("alice", "you")]
    assert registry.instances("alice") == []
    assert (registry.version("alice"), registry.version("anything")) == before[:2]  # no ranking is void
    assert registry.topics_version() > before[2]
    registry.apply([EntryChanged("you", "agent/alice/mailbox", None)])
    assert registry.subscribers("orders.eu") == []


def test_labels_are_announced_and_cost_nothing_where_there_are_none(registry, maps):
    labels = (("region", "eu"), ("region", "us"))
    for shown in (labels, ()):
        registry.publish("a", version="1", capabilities=("sum",), priority=50, health=1.0, labels=shown)
        registry.apply([EntryChanged("me", "agent/a/1", maps.held["me", "agent/a/1"])])
        registry.set_load(0.5, now=0.0)
        assert registry.providers("sum")[0].labels == shown
    assert maps.held["me", "agent/a/1"] == cbor2.dumps([["sum"], 50, 255])


@pytest.mark.parametrize("labels", [7, "a", [["A", "b"]], [["a"]], [["a", str(n)] for n in range(17)]])
def test_labels_that_are_none_are_counted_and_not_believed(registry, labels):
    value = cbor2.dumps([["sum"], 50, 255, [], "", "serve", labels])
    registry.apply([EntryChanged("you", "agent/a/1.0.0", value)])
    assert registry.providers("sum") == []
    assert registry.statistics()["malformed_entries"] == 1
