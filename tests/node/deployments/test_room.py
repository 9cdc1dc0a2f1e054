"""Deployments on whole nodes under a virtual clock: where they run, what moves them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from node.deployments.package import Package, decode
from node.deployments.ranking import ranked
from node.deployments.wanted import Wanted
from node.errors import (
    AgentPlaced,
    CaxtonError,
    DeploymentConflict,
    DeploymentNotFound,
    ResourceLimitExceeded,
    ValidationFailed,
)
from node.samples import sample
from simulations.links import Change, separate
from tests.node.deployments.nodes import PACKAGE, TRIAGE, Nodes, deployed, simulated

ECHO = Package(
    sample("agents/echo.md").read_bytes(), "echo.md", {"echo.wat": sample("agents/echo.wat").read_bytes()}
)
NEWER = Package(TRIAGE.replace(b"version: 1.", b"version: 9.", 1), "triage.md")


def test_so_many_nodes_run_it_and_every_node_says_which(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first = await deployed(nodes)
        assert first["replicas"] == 2
        where = nodes.running()
        await nodes.pass_(2.0)
        for name in "abcd":
            found = nodes.of(name).get("triage")
            assert (found["running"], found["state"], found["why"]) == (2, "running", None)
            assert sorted(each["node"] for each in found["nodes"]) == where
            assert found["by"] == "admin@a"
            assert sorted(nodes.providers(name, "triage")) == where
        assert nodes.of("b").all()[0]["agent"] == "triage"
        assert [each["node"] for each in nodes.of("c").nodes()] == list("abcd")

    simulated(tmp_path, scenario)


def test_a_killed_node_s_replica_moves_and_comes_back_without_one_too_many(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes)
        before = nodes.running()
        victim = before[0]
        await nodes.cluster.crash(victim)
        took = await nodes.until(lambda: len(nodes.running()) == 2)
        assert took >= 10.0, "it has to be dead for some time first"
        assert before[1] in nodes.running(), "the other one does not move"
        survivors = [name for name in "abcd" if name != victim]
        await nodes.cluster.start(victim, *survivors[:2])
        assert victim not in nodes.running(), "whether it runs is not for itself to say"
        await nodes.until(lambda: nodes.running() == before)
        await nodes.pass_(20.0)
        assert nodes.running() == before
        found = nodes.of(survivors[0]).get("triage")
        assert (found["running"], found["state"]) == (2, "running")

    simulated(tmp_path, scenario)


def test_the_only_replica_and_the_author_may_die_and_it_still_moves(tmp_path: Path) -> None:
    """Whoever is next in line has the package already."""

    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c", "d")
        await nodes.pass_(1.0)
        first, second = ranked("triage", "abcd")[:2]
        await nodes.of(first).deploy(PACKAGE, Wanted(1), by="admin")
        await nodes.until(lambda: nodes.running() == [first])
        await nodes.until(lambda: nodes.of(second).statistics()["fetched"] == 1)
        await nodes.cluster.crash(first)
        await nodes.until(lambda: nodes.running() == [second])

    simulated(tmp_path, scenario)


def test_a_partition_leaves_the_island_running_and_the_extras_stop_after_the_heal(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c", "d", "e")
        await nodes.pass_(1.0)
        await nodes.of("a").deploy(PACKAGE, Wanted(2), by="admin@a")
        await nodes.until(lambda: len(nodes.running()) == 2)
        before = nodes.running()
        others = [name for name in "abcde" if name not in before]
        island = {before[0], others[0]}
        rest = set("abcde") - island
        cut = separate([island, rest], Change(cut=True))
        nodes.cluster.network.links.add(cut)
        await nodes.until(lambda: len(nodes.running()) == 3)
        assert before[0] in nodes.running(), "an island goes on with what it runs"
        assert others[0] not in nodes.running(), "and starts nothing"
        found = nodes.of(others[0]).get("triage")
        assert "sees no majority" in found["why"]
        nodes.cluster.network.links.remove(cut)
        await nodes.until(lambda: nodes.running() == before, within=90.0)

    simulated(tmp_path, scenario)


def test_a_new_version_replaces_the_old_one_and_some_run_all_the_time(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first = await deployed(nodes)
        with pytest.raises(DeploymentConflict):
            await nodes.of("b").deploy(NEWER, Wanted(2), by="admin@b")
        with pytest.raises(DeploymentConflict):
            await nodes.of("b").deploy(NEWER, Wanted(2), by="admin@b", replace=True, based_on=1)
        revision = int(first["revision"])
        await nodes.of("b").deploy(NEWER, Wanted(2), by="admin@b", replace=True, based_on=revision)

        def is_new() -> bool:
            assert len(nodes.running()) == 2
            found = nodes.of("c").get("triage")
            return found["version"].startswith("9.") and found["running"] == 2

        await nodes.until(is_new)
        found = nodes.of("c").get("triage")
        assert {each["state"] for each in found["nodes"]} == {"running"}
        for name in nodes.running():
            assert nodes.cluster.nodes[name].node.supervisor.get("triage").version.startswith("9.")

    simulated(tmp_path, scenario)


def test_scale_and_undeploy_from_any_node(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes, 1)
        await nodes.of("d").scale("Triage", 3, by="x@d")
        await nodes.until(lambda: len(nodes.running()) == 3)
        await nodes.of("c").scale("triage", 1, by="x@c")
        await nodes.until(lambda: len(nodes.running()) == 1)
        await nodes.of("b").undeploy("triage", by="x")
        await nodes.until(lambda: nodes.running() == [])
        with pytest.raises(DeploymentNotFound):
            nodes.of("a").get("triage")
        for each in nodes.cluster.nodes.values():
            assert each.node.supervisor.list() == []

    simulated(tmp_path, scenario)


def test_a_node_that_was_away_learns_that_its_replica_is_not_wanted_any_more(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes)
        victim = nodes.running()[0]
        await nodes.cluster.crash(victim)
        other = next(name for name in "abcd" if name != victim)
        await nodes.of(other).undeploy("triage", by="x")
        await nodes.until(lambda: nodes.running() == [])
        await nodes.cluster.start(victim, other)
        agents = nodes.cluster.nodes[victim].node.supervisor
        await nodes.until(lambda: agents.list() == [])

    simulated(tmp_path, scenario)


def test_what_was_deployed_survives_the_death_of_all_nodes_at_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes, 2)
        before = nodes.running()
        await nodes.pass_(12.0)  # those who were told have written it down as well
        for name in "abcd":
            await nodes.cluster.crash(name)
        await nodes.start("a", "b", "c", "d")
        await nodes.until(lambda: nodes.running() == before)

    simulated(tmp_path, scenario)


def test_what_was_acknowledged_survives_its_author_killed_at_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a")
        await nodes.of("a").deploy(PACKAGE, Wanted(1), by="admin@a")
        await nodes.cluster.crash("a")
        await nodes.start("a")
        await nodes.until(lambda: nodes.running() == ["a"])

    simulated(tmp_path, scenario)


def test_only_nodes_with_the_labels_run_it_and_the_others_are_named(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.start("c", settings={"cluster.labels": {"gpu": "yes", "region": ["eu", "ch"]}})
        await nodes.start(
            "d", settings={"cluster.placement.enabled": False, "cluster.labels": {"gpu": "yes"}}
        )
        await nodes.pass_(1.0)
        gpu = (("gpu", "yes"),)
        await nodes.of("a").deploy(PACKAGE, Wanted(2, gpu), by="admin@a")
        await nodes.until(lambda: nodes.running() == ["c"])
        await nodes.pass_(15.0)
        found = nodes.of("b").get("triage")
        assert nodes.running() == ["c"]
        assert (found["state"], found["why"]) == ("short", "of 4 nodes 1 can run it, and 2 are wanted")
        assert {each["node"]: each["why"] for each in found["excluded"]} == {
            "a": "it lacks gpu=yes",
            "b": "it lacks gpu=yes",
            "d": "it takes no replicas",
        }
        assert nodes.of("a").nodes()[2] == {
            "node": "c", "takes": True, "labels": ["gpu=yes", "region=ch", "region=eu"],
        }  # fmt: skip

    simulated(tmp_path, scenario)


def test_a_module_goes_along_and_runs(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes, 3, ECHO)
        assert len(nodes.running("echo-agent")) == 3

    simulated(tmp_path, scenario)


def test_a_node_that_leaves_hands_its_replica_over_at_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes)
        leaver = nodes.running()[0]
        await nodes.cluster.leave(leaver)
        took = await nodes.until(lambda: len(nodes.running()) == 2)
        assert took < 5.0

    simulated(tmp_path, scenario)


def test_a_replica_is_not_changed_by_hand_and_takes_no_other_s_place(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes)
        agents = nodes.cluster.nodes[nodes.running()[0]].node.supervisor
        assert agents.get("triage").as_json()["deployment"] == nodes.of("a").get("triage")["digest"]
        with pytest.raises(AgentPlaced):
            await agents.stop("triage")
        with pytest.raises(AgentPlaced):
            await agents.delete("triage")
        with pytest.raises(AgentPlaced):
            await agents.deploy(TRIAGE, filename="triage.md", replace=True)

    simulated(tmp_path, scenario)


def test_of_two_nodes_the_last_one_takes_over_when_the_other_is_given_up_as_lost(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.pass_(1.0)
        await nodes.of("a").deploy(PACKAGE, Wanted(1), by="admin@a")
        await nodes.until(lambda: len(nodes.running()) == 1)
        [lost] = nodes.running()
        await nodes.pass_(5.0)  # the other one gets the package in advance
        await nodes.cluster.crash(lost)
        await nodes.pass_(60.0)
        assert nodes.running() == []
        [left] = nodes.cluster.nodes
        await nodes.cluster.nodes[left].node.membership.forgetting.forget(lost, force=True)
        await nodes.until(lambda: nodes.running() == [left])

    simulated(tmp_path, scenario)


def test_an_agent_of_one_node_alone_keeps_its_name_there_and_replicas_go_elsewhere(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        await nodes.pass_(1.0)
        for name in "ab":
            await nodes.cluster.nodes[name].node.supervisor.deploy(TRIAGE, filename="triage.md")
        with pytest.raises(DeploymentConflict):
            await nodes.of("a").deploy(PACKAGE, Wanted(2), by="admin@a")
        await nodes.of("c").deploy(PACKAGE, Wanted(2), by="admin@c")
        await nodes.until(lambda: nodes.running() == ["c"])
        await nodes.pass_(5.0)
        excluded = {each["node"]: each["why"] for each in nodes.of("c").get("triage")["excluded"]}
        assert excluded == dict.fromkeys("ab", "it could not run it: AGENT_ALREADY_EXISTS")

    simulated(tmp_path, scenario)


@pytest.mark.parametrize(
    ("package", "wanted", "error"),
    [
        (Package(b"---\nnonsense: 1\n---\n"), Wanted(), CaxtonError),
        (PACKAGE, Wanted(-1), ValidationFailed),
        (PACKAGE, Wanted(101), ValidationFailed),
        (PACKAGE, Wanted(priority=1001), ValidationFailed),
        (PACKAGE, Wanted(minority="perhaps"), ValidationFailed),
        (PACKAGE, Wanted(requires=tuple((f"l{n}", "x") for n in range(9))), ValidationFailed),
        (PACKAGE, Wanted(requires=tuple((f"l{n}" * 15, "x" * 64) for n in range(8))), ResourceLimitExceeded),
        (Package(b"x" * 5_000_000), Wanted(), ResourceLimitExceeded),
        (dataclasses.replace(PACKAGE, name="x" * 65), Wanted(), ValidationFailed),
        (dataclasses.replace(PACKAGE, workspace="x" * 65), Wanted(), ValidationFailed),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, package, wanted, error) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a")
        with pytest.raises(error):
            await nodes.of("a").deploy(package, wanted, by="admin@a" * 18)
        assert nodes.of("a").all() == []
        with pytest.raises(DeploymentNotFound):
            await nodes.of("a").scale("triage", 2, by="admin@a")
        with pytest.raises(DeploymentNotFound):
            await nodes.of("a").undeploy("triage", by="x")

    simulated(tmp_path, scenario)


@pytest.mark.parametrize("data", [b"", b"\x00", Package(b"x").encode()[:-1], b"\x86" + b"\x01" * 6])
def test_a_package_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationFailed):
        decode(data)


def test_a_package_comes_back_as_it_was_and_has_one_encoding() -> None:
    package = Package(b"x", "x.md", {"b": b"2", "a": b"1"}, "Name", "lab")
    assert decode(package.encode()) == package
    assert package.encode() == Package(b"x", "x.md", {"a": b"1", "b": b"2"}, "Name", "lab").encode()
