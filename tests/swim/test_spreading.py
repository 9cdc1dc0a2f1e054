"""What is too much for gossip goes round over streams, reaches everybody, and leaves the packets alone."""

from collections import Counter
from types import SimpleNamespace

import pytest

from swim.config import SwimConfig
from swim.messages import MapFrame
from swim.replicated import Replicated
from swim.spreading import ENOUGH_AGREED, LITTLE_FRAMES, MAX_VISITS, MUCH_NEWS, PATIENCE_S, Spreading
from tests.swim.net import CLUSTER, WALL, Net
from tests.swim.test_batches import agents
from tests.swim.test_map_over_swim import a_map, admit_all

AGENTS = 600
"""Enough for buckets that are spread over streams."""


def quiet(members: int, **changes: object) -> tuple[Net, dict[str, Replicated]]:
    """Return members that know each other and have nothing more to say."""
    net = Net(config=SwimConfig.profile("local", label=CLUSTER, **changes))
    maps = {f"n{number}": a_map(f"n{number}") for number in range(members)}
    for name, held in maps.items():
        net.add(name, seeds=["n0:7946"] if name != "n0" else None, replicated=held)
        held.start(0, net.now, WALL)
    net.run_for(2)
    admit_all(net, maps)
    net.run_for(60, until=lambda: in_step(maps) and not any(held.queued() for held in maps.values()))
    net.run_for(5)
    net.forget()
    return net, maps


def in_step(maps: dict[str, Replicated]) -> bool:
    return len({held.root() for held in maps.values()}) == 1


def map_frames(net: Net) -> int:
    return sum(isinstance(message, MapFrame) for sent in net.sent for message in sent.messages)


def test_the_agents_of_many_nodes_at_once_reach_everybody_over_streams_alone() -> None:
    net, maps = quiet(6)
    for held in maps.values():
        held.put_many(agents(AGENTS))
    accepted = sum(held.statistics()["units_accepted"] for held in maps.values())
    assert net.run_for(2, until=lambda: in_step(maps)) < 0.5
    units = sum(len(held.own_units()) for held in maps.values())
    accepted = sum(held.statistics()["units_accepted"] for held in maps.values()) - accepted
    assert accepted == units * (len(maps) - 1)
    assert all(len(list(held.entries("agent/"))) == AGENTS * len(maps) for held in maps.values())
    net.run_for(2)
    assert map_frames(net) == 0
    assert net.total("streams_timed_out") == net.total("push_pulls_failed") == 0
    assert all(held.statistics()["in_bulk"] == 0 for held in maps.values())
    assert net.total("spreading") == 0


def test_whoever_got_much_passes_it_on_so_that_nobody_visits_everybody() -> None:
    net, maps = quiet(12)
    maps["n3"].put_many(agents(AGENTS))
    assert net.run_for(3, until=lambda: in_step(maps)) < 1.0
    net.run_for(3)
    visits = {name: net.count(name, "spreading_streams") for name in net.hosts}
    assert visits["n3"] < len(maps) - 1
    assert sum(count > 0 for count in visits.values()) > 2
    assert sum(visits.values()) <= len(maps) * (ENOUGH_AGREED + 2)
    assert max(visits.values()) <= MAX_VISITS


def test_a_small_change_opens_no_stream_and_a_newcomer_passes_nothing_on() -> None:
    net, maps = quiet(4)
    maps["n1"].put_many(agents(20))
    net.run_for(2, until=lambda: in_step(maps))
    assert in_step(maps)
    assert net.total("spreading_streams") == 0
    maps["n1"].put_many(agents(AGENTS))
    net.run_for(3)
    before = net.total("spreading_streams")
    maps["late"] = a_map("late")
    net.add("late", seeds=["n0:7946"], replicated=maps["late"])
    net.run_for(2)
    admit_all(net, maps)
    assert net.run_for(5, until=lambda: in_step(maps)) < 5
    assert net.total("spreading_streams") == before


def test_where_no_stream_can_be_opened_gossip_takes_over() -> None:
    net, maps = quiet(4)
    net.streams_refused = set(net.hosts)
    maps["n2"].put_many(agents(AGENTS))
    assert net.run_for(20, until=lambda: in_step(maps)) < 10
    assert map_frames(net) > 0
    assert max(len(sent.data) for sent in net.sent) <= 1400
    assert (maps["n2"].bulk_waits(), net.total("spreading")) == (0, 0)


def test_a_member_that_never_answers_holds_a_round_up_for_a_moment_only() -> None:
    net, maps = quiet(5)
    net.freeze("n4")
    maps["n0"].put_many(agents(AGENTS))
    rest = {name: held for name, held in maps.items() if name != "n4"}
    assert net.run_for(10, until=lambda: in_step(rest)) < PATIENCE_S + 0.5


def test_what_is_published_during_a_round_is_in_the_round() -> None:
    net, maps = quiet(5)
    for priority in range(10):
        maps["n0"].put_many(agents(AGENTS, priority))
        net.run_for(0.004)
    assert net.run_for(5, until=lambda: in_step(maps)) < 1.0
    net.run_for(2)
    assert map_frames(net) == 0
    assert maps["n0"].bulk_waits() == 0


class Around:
    """What a round needs, by hand: a map that says what waits, and members that are visited."""

    def __init__(self, members: int) -> None:
        self.waits = 0
        self.ended: list[bool] = []
        self.visited: list[str] = []
        names = [f"n{number}" for number in range(members)]
        self._records = [SimpleNamespace(alive=SimpleNamespace(address=(name, 1))) for name in names]
        self.spreading = Spreading(SwimConfig(), self, replicated=self, counts=Counter())  # type: ignore[arg-type]

    def bulk_waits(self) -> int:
        return self.waits

    def bulk_over(self, *, is_spread: bool) -> None:
        self.ended.append(is_spread)
        self.waits = 0

    def begin_stream(self, to: tuple[str, int], now: float) -> bool:
        self.visited.append(to[0])
        return True

    def choose(self, count: int) -> list[SimpleNamespace]:
        return self._records[:count]

    def size(self) -> int:
        return len(self._records) + 1

    def visit(self, *, given_frames: int) -> None:
        """Visit the next member, who lacks so much."""
        before = len(self.visited)
        self.spreading.handle_timer(0.0)
        assert len(self.visited) == before + 1
        sync = SimpleNamespace(address=(self.visited[-1], 1), given_frames=given_frames)
        self.spreading.done(sync, 0.0)  # type: ignore[arg-type]


def test_a_round_ends_after_enough_members_in_a_row_that_lacked_next_to_nothing() -> None:
    around = Around(20)
    around.waits = 1
    for given in (100, 0, LITTLE_FRAMES, LITTLE_FRAMES + 1, *([LITTLE_FRAMES] * ENOUGH_AGREED)):
        assert around.ended == []
        around.visit(given_frames=given)
    assert (around.ended, around.spreading.next_timer()) == ([True], None)


def test_a_member_that_was_visited_before_something_was_published_does_not_count() -> None:
    around = Around(20)
    around.waits = 1
    for _ in range(ENOUGH_AGREED - 1):
        around.visit(given_frames=0)
    around.spreading.handle_timer(0.0)
    around.waits = 2  # while the last visit goes on
    sync = SimpleNamespace(address=(around.visited[-1], 1), given_frames=0)
    around.spreading.done(sync, 0.0)  # type: ignore[arg-type]
    for _ in range(ENOUGH_AGREED):
        assert around.ended == []
        around.visit(given_frames=0)
    assert around.ended == [True]


def test_a_round_ends_although_all_that_began_it_was_replaced_meanwhile() -> None:
    around = Around(20)
    around.waits = 1
    around.visit(given_frames=100)
    around.waits = 0
    for _ in range(ENOUGH_AGREED):
        assert around.spreading.is_on
        around.visit(given_frames=0)
    assert (around.spreading.is_on, around.spreading.next_timer()) == (False, None)


def test_a_round_visits_only_so_many_members() -> None:
    around = Around(100)
    around.spreading.took(MUCH_NEWS - 1)
    assert around.spreading.next_timer() is None
    around.spreading.took(MUCH_NEWS)
    for _ in range(MAX_VISITS):
        around.visit(given_frames=100)
    around.spreading.handle_timer(0.0)
    assert len(around.visited) == len(dict.fromkeys(around.visited)) == MAX_VISITS
    assert around.ended == [True]


def test_a_node_alone_waits_for_company_without_waking_up_for_it() -> None:
    net = Net(config=SwimConfig.profile("local", label=CLUSTER, reconnect_interval_s=100, seed_refresh_s=100))
    held = a_map("n0")
    swim = net.add("n0", replicated=held)
    held.start(0, net.now, WALL)
    held.put_many(agents(AGENTS))
    net.run_for(1)
    assert swim._spreading.next_timer() is None
    assert held.bulk_waits() > 0
    other = a_map("n1")
    net.add("n1", seeds=["n0:7946"], replicated=other)
    net.run_for(1)
    admit_all(net, {"n0": held, "n1": other})
    assert net.run_for(5, until=lambda: len(list(other.entries("agent/"))) == AGENTS) < 5
    net.run_for(3)
    assert held.bulk_waits() == 0


@pytest.mark.parametrize("lost", [0.1, 0.3])
def test_lossy_paths_slow_a_round_down_and_lose_nothing(lost: float) -> None:
    net, maps = quiet(6)
    net.loss = lost
    maps["n5"].put_many(agents(AGENTS))
    maps["n4"].put_many(agents(AGENTS))
    assert net.run_for(30, until=lambda: in_step(maps)) < 30


def test_a_death_is_noticed_during_a_round() -> None:
    net, maps = quiet(5)
    for held in maps.values():
        held.put_many(agents(AGENTS))
    net.kill("n4")
    alive = {name: held for name, held in maps.items() if name != "n4"}
    net.run_for(20, until=lambda: all("n4" not in net.up(name) for name in alive))
    assert all("n4" not in net.up(name) for name in alive)
    assert net.all_up()


def test_a_cluster_at_rest_sends_nothing_but_probes_after_a_round() -> None:
    net, maps = quiet(5)
    maps["n1"].put_many(agents(AGENTS))
    net.run_for(10)
    net.forget()
    net.run_for(20)
    assert len(net.sent) <= 5 * 20 / net.config.probe_interval_s * 2 * 1.05
    assert net.total("spreading") == 0
