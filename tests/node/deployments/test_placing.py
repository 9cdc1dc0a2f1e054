"""The decisions about replicas: alike on every node, at most so many, and nothing moved without need."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from node.deployments.desired import Desired
from node.deployments.facts import NodeFacts, Report
from node.deployments.placing import (
    FETCH_RETRY_S,
    RETRY_S,
    STOP_RETRY_S,
    WHOLE_SHARE,
    Fetch,
    Own,
    Placing,
    Start,
    Stop,
    View,
)
from node.deployments.ranking import ranked
from swim.partition import Side, judge

OLD, NEW = "a" * 64, "b" * 64
NAMES = [f"n{number}" for number in range(1, 8)]
SETTLE_S = 10.0


def desired(agent="triage", digest=OLD, replicas=2, **more):
    return Desired(agent, agent, "1.0.0", digest, 100, replicas, **more)


@dataclass
class Member:
    """One node: its decisions, and what became of them."""

    name: str
    core: Placing = field(init=False)
    own: dict[str, Own] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    facts: NodeFacts = field(default_factory=NodeFacts)
    cannot_run: set[str] = field(default_factory=set)
    alive: bool = True
    starts: int = 0
    stops: int = 0

    def __post_init__(self):
        self.core = Placing(self.name, SETTLE_S)


class Nodes:
    """A cluster whose gossip is perfect within a side, and whose time is a number."""

    def __init__(self, names=NAMES[:4], **wanted):
        self.members = {name: Member(name) for name in names}
        self.wanted = {each.agent: each for each in (wanted or {"one": desired()}).values()}
        self.withdrawn = frozenset()
        self.sides = [set(names)]
        self.now = 0.0
        self.missing = False

    def side_of(self, name):
        return next(side for side in self.sides if name in side)

    def view(self, name):
        up = {n for n in self.side_of(name) if self.members[n].alive}
        lost = self.members.keys() - up
        side = judge(name, up - {name}, lost, heard_nobody=False).side
        others = [self.members[n] for n in sorted(self.side_of(name)) if n != name]
        reports = {agent: {each.name: each.core.report(agent) for each in others} for agent in self.wanted}
        me = self.members[name]
        facts = {n: self.members[n].facts for n in self.members}
        return View(
            frozenset(up), len(self.members), side, True, facts, self.wanted, self.withdrawn, reports,
            dict(me.own), dict(me.held),
        )  # fmt: skip

    def step(self):
        """Everybody judges what it sees, and does at once what it decides."""
        for member in self.members.values():
            if not member.alive:
                continue
            member.core.receive(self.view(member.name), self.now)
            for effect in member.core.effects():
                self.carry_out(member, effect)
        for member in self.members.values():
            if member.alive:
                member.core.receive(self.view(member.name), self.now)
                for effect in member.core.effects():
                    self.carry_out(member, effect)

    def carry_out(self, member, effect):
        if isinstance(effect, Stop):
            member.stops += 1
            member.own.pop(effect.agent, None)
            member.core.finished(effect.agent, self.now)
            return
        wanted = effect.desired
        if self.missing:
            member.core.finished(wanted.agent, self.now, missing=True)
            return
        member.held[wanted.agent] = wanted.short
        if isinstance(effect, Start):
            if wanted.digest in member.cannot_run:
                member.core.finished(wanted.agent, self.now, failed="PROVIDER_ERROR")
                return
            member.starts += 1
            member.own[wanted.agent] = Own(wanted.short, "running")
        member.core.finished(wanted.agent, self.now)

    def run(self, seconds, every=1.0):
        end = self.now + seconds
        while self.now < end:
            self.now += every
            self.step()
        return self

    def running(self, agent="triage", digest=None):
        return sorted(
            member.name
            for member in self.members.values()
            if member.alive
            and (own := member.own.get(agent)) is not None
            and own.status == "running"
            and digest in (None, own.runs.ljust(64, own.runs[0]))
        )

    def kill(self, name):
        self.members[name].alive = False

    def revive(self, name):
        """Back with what it ran, which waits."""
        old = self.members[name]
        self.members[name] = new = Member(name, facts=old.facts, held=old.held)
        new.own = {agent: Own(own.runs, "waiting") for agent, own in old.own.items()}


# ---- over time ---------------------------------------------------------------------------------------


def test_so_many_run_as_are_wanted_and_where_everybody_says():
    nodes = Nodes().run(3)
    assert nodes.running() == sorted(ranked("triage", NAMES[:4])[:2])
    assert all(member.starts <= 1 and not member.stops for member in nodes.members.values())


def test_a_replica_moves_when_its_node_was_dead_for_long_enough_and_not_before():
    nodes = Nodes().run(3)
    first, second, third, _ = ranked("triage", NAMES[:4])
    nodes.kill(first)
    nodes.run(SETTLE_S - 2)
    assert nodes.running() == [second]
    nodes.run(4)
    assert nodes.running() == sorted([second, third])


def test_the_next_in_line_holds_the_package_in_advance():
    nodes = Nodes().run(3)
    third, fourth = ranked("triage", NAMES[:4])[2:]
    assert nodes.members[third].held == {"triage": desired().short}
    assert not nodes.members[fourth].held


def test_a_node_that_comes_back_gets_its_replica_again_and_the_one_too_many_stops():
    nodes = Nodes().run(3)
    first, second, third, _ = ranked("triage", NAMES[:4])
    nodes.kill(first)
    nodes.run(15)
    nodes.revive(first)
    nodes.run(2)
    assert nodes.running() == sorted([first, second])
    assert nodes.members[third].stops == 1


def test_a_restarted_node_runs_nothing_before_it_sees_a_majority():
    nodes = Nodes().run(3)
    first = ranked("triage", NAMES[:4])[0]
    nodes.kill(first)
    nodes.run(5)
    nodes.revive(first)
    nodes.sides = [{first}, set(NAMES[:4]) - {first}]
    nodes.run(60)
    assert first not in nodes.running()
    assert len(nodes.running()) == 2
    nodes.sides = [set(NAMES[:4])]
    nodes.run(2)
    assert first in nodes.running()
    assert len(nodes.running()) == 2


def test_an_island_goes_on_with_what_it_runs_and_starts_nothing():
    nodes = Nodes(NAMES[:5]).run(3)
    first, second, third, fourth, fifth = ranked("triage", NAMES[:5])
    nodes.sides = [{first, fifth}, {second, third, fourth}]
    nodes.run(60)
    assert nodes.running() == sorted([first, second, third])
    nodes.sides = [set(NAMES[:5])]
    nodes.run(3)
    assert nodes.running() == sorted([first, second])


def test_an_island_stops_where_the_deployment_says_so():
    nodes = Nodes(NAMES[:5], one=desired(minority="stop")).run(3)
    first, second, third, fourth, fifth = ranked("triage", NAMES[:5])
    nodes.sides = [{first, fifth}, {second, third, fourth}]
    nodes.run(SETTLE_S - 2)
    assert first in nodes.running()
    nodes.run(4)
    assert nodes.running() == sorted([second, third])


def test_a_new_package_is_taken_up_one_node_after_the_other_and_fewer_never_run():
    nodes = Nodes(one=desired(replicas=3)).run(3)
    chosen = ranked("triage", NAMES[:4])[:3]
    nodes.wanted = {"triage": desired(digest=NEW, replicas=3)}
    taken = []
    for _ in range(8):  # one judgement of one node each
        for name in sorted(NAMES[:4]):
            member = nodes.members[name]
            member.core.receive(nodes.view(name), nodes.now)
            for effect in member.core.effects():
                if isinstance(effect, Start):
                    taken.append(name)
                nodes.carry_out(member, effect)
            assert len(nodes.running()) == 3
    assert taken == chosen


def test_a_package_that_runs_nowhere_leaves_the_old_one_running():
    nodes = Nodes().run(3)
    before = nodes.running()
    for member in nodes.members.values():
        member.cannot_run = {NEW}
    nodes.wanted = {"triage": desired(digest=NEW)}
    nodes.run(20)
    assert nodes.running(digest=OLD) == before
    assert all(m.core.statistics()["failed"] == 1 for m in nodes.members.values())


def test_a_node_that_cannot_run_it_is_passed_over_and_tried_again_later():
    nodes = Nodes()
    first, second, third, _ = ranked("triage", NAMES[:4])
    nodes.members[first].cannot_run = {OLD}
    nodes.run(3)
    assert nodes.running() == sorted([second, third])
    assert nodes.members[first].core.report("triage") == Report(
        "", desired().short, desired().short, "PROVIDER_ERROR"
    )
    nodes.members[first].cannot_run = set()
    nodes.run(RETRY_S + 3)
    assert nodes.running() == sorted([first, second])


def test_a_replica_that_fails_while_it_runs_is_replaced():
    nodes = Nodes().run(3)
    first, second, third, _ = ranked("triage", NAMES[:4])
    nodes.members[first].own["triage"] = Own(desired().short, "error", "quarantined")
    nodes.run(3)
    assert nodes.running() == sorted([second, third])


def test_a_package_that_is_nowhere_is_asked_for_again_with_pauses():
    nodes = Nodes()
    nodes.missing = True
    nodes.run(FETCH_RETRY_S * 4)
    first = nodes.members[ranked("triage", NAMES[:4])[0]]
    assert 3 <= first.core.statistics()["missing"] <= 5
    assert first.core.why_waiting("triage") == "the package is on no node that can be reached"
    nodes.missing = False
    nodes.run(FETCH_RETRY_S + 1)
    assert len(nodes.running()) == 2


def test_fewer_wanted_stop_and_more_start():
    nodes = Nodes().run(3)
    nodes.wanted = {"triage": desired(replicas=4)}
    nodes.run(2)
    assert len(nodes.running()) == 4
    nodes.wanted = {"triage": desired(replicas=1)}
    nodes.run(2)
    assert nodes.running() == [ranked("triage", NAMES[:4])[0]]
    nodes.wanted = {"triage": desired(replicas=0)}
    nodes.run(2)
    assert nodes.running() == []


def test_what_was_deleted_stops_everywhere_also_on_an_island_and_what_is_unknown_goes_on():
    nodes = Nodes(NAMES[:5]).run(3)
    first, second = ranked("triage", NAMES[:5])[:2]
    nodes.wanted = {}
    nodes.run(20)
    assert nodes.running() == sorted([first, second])
    nodes.sides = [{first}, set(NAMES[:5]) - {first}]
    nodes.withdrawn = frozenset({"triage"})
    nodes.run(3)
    assert nodes.running() == []


def test_a_node_that_lacks_what_is_required_stops_at_once_whoever_runs_it():
    nodes = Nodes(one=desired(requires=(("region", "eu"),), replicas=1))
    for member in nodes.members.values():
        member.facts = NodeFacts((("region", "eu"),))
    nodes.run(3)
    (where,) = nodes.running()
    for member in nodes.members.values():
        member.facts = NodeFacts((("region", "us"),))
    nodes.run(3)
    assert nodes.running() == []
    assert nodes.members[where].stops == 1


def test_what_somebody_who_has_just_come_says_of_itself_is_waited_for():
    core = Placing("n1", SETTLE_S)
    view = View(
        frozenset({"n1", "n2"}), 2, Side.MAJORITY, True, {"n1": NodeFacts()}, {"triage": desired(replicas=1)}
    )
    core.receive(view, 0.0)
    assert core.effects() == []
    assert core.next_timer() == SETTLE_S * WHOLE_SHARE
    core.receive(view, 2.0)
    assert core.effects() == []
    assert core.next_timer() == SETTLE_S
    core.receive(replace(view, facts={"n1": NodeFacts(), "n2": NodeFacts((), takes=False)}), 3.0)
    assert core.effects() == [Start(desired(replicas=1))]
    other = Placing("n1", SETTLE_S)
    other.receive(view, 0.0)
    other.handle_timer(SETTLE_S)
    assert other.effects() == [Start(desired(replicas=1))]  # n2 is of a version that knows none


def test_nothing_is_begun_twice_and_the_more_urgent_comes_first():
    core = Placing("n1", SETTLE_S)
    low, high = desired("a", replicas=1), desired("z", replicas=1, priority=900)
    view = View(frozenset({"n1"}), 1, Side.MAJORITY, True, {"n1": NodeFacts()}, {"a": low, "z": high})
    core.receive(view, 0.0)
    core.handle_timer(SETTLE_S * WHOLE_SHARE)
    assert core.effects() == [Start(high), Start(low)]
    core.handle_timer(50.0)
    assert core.effects() == []


def test_a_node_alone_before_the_cluster_has_answered_starts_nothing():
    core = Placing("n1", SETTLE_S)
    view = View(frozenset({"n1"}), 1, Side.MAJORITY, False, {"n1": NodeFacts()}, {"triage": desired()})
    for now in range(0, 100, 5):
        core.receive(view, float(now))
        assert core.effects() == []


def test_the_package_of_a_replica_is_not_fetched_by_those_that_are_not_next():
    core = Placing(ranked("triage", NAMES[:4])[2], SETTLE_S)
    facts = {name: NodeFacts() for name in NAMES[:4]}
    core.receive(View(frozenset(NAMES[:4]), 4, Side.MAJORITY, True, facts, {"triage": desired()}), 0.0)
    assert core.effects() == []
    core.handle_timer(SETTLE_S * WHOLE_SHARE)
    assert core.effects() == [Fetch(desired())]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_all_converge_after_the_heal_and_never_two_run_on_a_node(data):
    count = data.draw(st.integers(3, 6))
    names = NAMES[:count]
    nodes = Nodes(names, one=desired(replicas=data.draw(st.integers(1, 3)))).run(3)
    for _ in range(data.draw(st.integers(1, 8))):
        what = data.draw(st.sampled_from(["kill", "revive", "split", "heal", "scale", "update"]))
        name = data.draw(st.sampled_from(names))
        if what == "kill" and sum(m.alive for m in nodes.members.values()) > 1:
            nodes.kill(name)
        elif what == "revive" and not nodes.members[name].alive:
            nodes.revive(name)
        elif what == "split":
            island = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=count - 1))
            nodes.sides = [island, set(names) - island]
        elif what == "heal":
            nodes.sides = [set(names)]
        elif what == "scale":
            old = nodes.wanted["triage"]
            nodes.wanted = {"triage": replace(old, replicas=data.draw(st.integers(1, 3)))}
        elif what == "update":
            nodes.wanted = {
                "triage": replace(nodes.wanted["triage"], digest=data.draw(st.sampled_from([OLD, NEW])))
            }
        nodes.run(data.draw(st.sampled_from([0.5, 3, 14])), every=0.5)
    nodes.sides = [set(names)]
    for name in names:
        if not nodes.members[name].alive:
            nodes.revive(name)
    nodes.run(20)
    wanted = nodes.wanted["triage"]
    assert nodes.running() == sorted(ranked("triage", names)[: wanted.replicas])
    assert nodes.running(digest=wanted.digest) == nodes.running()
    before = {name: (m.starts, m.stops) for name, m in nodes.members.items()}
    nodes.run(30)
    assert before == {name: (m.starts, m.stops) for name, m in nodes.members.items()}, "it is not at rest"


def test_a_node_that_has_just_joined_does_not_take_the_part_that_it_knows_for_the_whole() -> None:
    core = Placing("n1", SETTLE_S)
    facts = {name: NodeFacts() for name in ("n1", "n2", "n3")}
    wanted = {"triage": desired(replicas=1)}
    agent = ranked("triage", ["n1", "n2", "n3"])[0]
    part = View(frozenset({"n1", "n2"}), 2, Side.MAJORITY, True, facts, wanted)
    core.receive(part, 0.0)
    core.receive(replace(part, up=frozenset({"n1", "n2", "n3"}), remembered=3), 0.5)
    core.handle_timer(0.5 + SETTLE_S * WHOLE_SHARE / 2)
    assert core.effects() == []
    core.receive(replace(part, up=frozenset({"n1", "n2", "n3"}), remembered=3), SETTLE_S)
    assert (core.plans["triage"].chosen) == (agent,)


def test_a_replica_that_cannot_be_removed_is_tried_again_with_pauses() -> None:
    core = Placing("n1", SETTLE_S)
    gone = View(
        frozenset({"n1"}), 1, Side.MAJORITY, True, {"n1": NodeFacts()},
        withdrawn=frozenset({"triage"}), own={"triage": Own(desired().short, "running")},
    )  # fmt: skip
    core.receive(gone, 0.0)
    assert [type(effect) for effect in core.effects()] == [Stop]
    core.finished("triage", 0.0, failed="STORAGE_ERROR")
    core.receive(gone, STOP_RETRY_S / 2)
    assert core.effects() == []
    core.handle_timer(STOP_RETRY_S)
    assert [type(effect) for effect in core.effects()] == [Stop]


def test_the_successor_of_a_node_is_whoever_was_not_chosen_beside_it() -> None:
    nodes = Nodes().run(3)
    first, second, third, fourth = ranked("triage", NAMES[:4])
    nodes.kill(first)
    nodes.run(15)
    assert nodes.members[third].core.successor("triage") == ""
    nodes.revive(first)
    nodes.run(3)
    assert nodes.members[third].core.successor("triage") == first
    assert nodes.members[fourth].core.successor("triage") == first  # it never was chosen
    nodes = Nodes().run(3)
    nodes.kill(second)
    nodes.run(15)
    nodes.revive(second)
    nodes.run(3)
    assert nodes.members[third].core.successor("triage") == second
