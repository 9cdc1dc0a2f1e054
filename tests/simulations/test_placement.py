"""Replicas of simulated nodes: bugs planted in production code fail the scenario on their property."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from node.deployments import memories, placing, ranking
from node.deployments import package as placing_package
from node.deployments.desired import Desired
from node.deployments.placing import Placing
from node.deployments.room import Deployments
from simulations.nodes.placing import AS_WANTED, MEMORY, ONE_EACH
from simulations.nodes.scenario import NodeScenario
from simulations.runner import OK, run
from simulations.scenario import ScenarioError, check, load

Patch = pytest.MonkeyPatch
BASE = {
    "name": "test",
    "about": "a test",
    "runs": "nodes",
    "members": 3,
    "safety_s": 20,
    "bounds": {"converge_s": 20},
}


def scenario() -> NodeScenario:
    found = load("replicas_move")
    assert isinstance(found, NodeScenario)
    return found


def those_too_many_go_on(patch: Patch) -> None:
    """Whoever runs a replica keeps it, wherever it belongs."""
    patch.setattr(Placing, "_why_stop", lambda *_: "")


def nobody_is_ever_gone(patch: Patch) -> None:
    """Who was there once keeps its replicas for ever."""
    original = Placing._settle

    def settle(core: Placing, view: placing.View) -> None:
        known = set(core._present)
        original(core, view)
        core._present |= known

    patch.setattr(Placing, "_settle", settle)


def one_more_than_wanted(patch: Patch) -> None:
    """The choice is one node too long."""

    def plan(desired: Desired, *others: object) -> ranking.Plan:
        return ranking.plan(replace(desired, replicas=desired.replicas + 1), *others)  # type: ignore[arg-type]

    patch.setattr(placing, "plan", plan)


def what_is_taken_is_not_kept(patch: Patch) -> None:
    """A memory is acknowledged, and thrown away."""

    async def take(*_: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    patch.setattr(memories, "take", take)


def nobody_gives_a_memory_away(patch: Patch) -> None:
    """A memory stays where its agent was."""
    patch.setattr(Deployments, "taker", lambda *_: "")


def a_replica_is_started_twice(patch: Patch) -> None:
    """A second agent of the same package stands beside the first."""
    original = Deployments._start

    async def start(room: Deployments, desired: Desired) -> bool:
        done = await original(room, desired)
        data = await room._packages.content(desired.digest)
        if done and data is not None:
            found = placing_package.decode(data)
            await room._agents.deploy(
                found.content,
                filename=found.filename,
                artifacts=found.files,
                name=f"{desired.name}Twin",
                workspace=found.workspace,
                deployment=desired.digest,
            )
        return done

    patch.setattr(Deployments, "_start", start)


@pytest.mark.parametrize(
    ("plant", "violated"),
    [
        (those_too_many_go_on, AS_WANTED),
        (one_more_than_wanted, AS_WANTED),
        (a_replica_is_started_twice, ONE_EACH),
        (what_is_taken_is_not_kept, MEMORY),  # the crash of seed 9 strikes the node that remembers
        (nobody_gives_a_memory_away, MEMORY),
    ],
)
def test_a_planted_bug_is_caught_by_the_scenario_as_it_is(
    plant: Callable[[Patch], None], violated: str, monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    failed = run(scenario(), 9)
    assert not failed.crash, failed.crash
    assert violated in failed.failed


def test_a_node_that_never_counts_as_gone_is_caught_when_it_does_not_come_back(monkeypatch: Patch) -> None:
    first = ranking.ranked("report-writer", [f"n{number}" for number in range(1, 5)])[0]
    dies = {"crash": {"members": [first], "at_s": 5}}
    placed = [{"agent": "report_writer", "replicas": 2}]
    tested = check(BASE | {"members": 4, "placed": placed, "faults": [dies]}, "test")
    healthy = run(tested, 1)
    assert healthy.failed == []
    assert healthy.checks[AS_WANTED] == 1
    assert healthy.checks[ONE_EACH] > 10
    nobody_is_ever_gone(monkeypatch)
    assert run(tested, 1).failed == [AS_WANTED]


def test_the_scenario_puts_its_properties_to_the_test_and_moves_replicas() -> None:
    healthy = run(scenario(), 9)
    assert (healthy.code, healthy.failed) == (OK, [])
    assert healthy.checks[AS_WANTED] > 0
    assert healthy.checks[ONE_EACH] > 100
    assert healthy.checks[MEMORY] == 1
    assert healthy.sometimes["sometimes_a_replica_was_started"] > 2
    assert healthy.sometimes["sometimes_a_replica_was_stopped"] > 0


@pytest.mark.parametrize(
    ("placed", "why"),
    [
        ({"agent": "nobody", "replicas": 1}, "cannot be read"),
        ({"agent": "triage", "replicas": 0}, "replicas"),
        ({"agent": "triage", "replicas": 1, "changes": [{"at_s": 5, "node": "n9"}]}, "n9 is no node"),
        ({"agent": "triage", "replicas": 1, "changes": [{"at_s": 1, "node": "n1"}]}, "at_s"),
    ],
)
def test_what_cannot_be_placed_is_refused(placed: dict[str, object], why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        check(BASE | {"placed": [placed]}, "test")
