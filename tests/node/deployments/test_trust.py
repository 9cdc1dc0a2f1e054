"""Who is believed what: concurrent writes, packages that are not what was said, and signatures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from node.deployments.desired import Desired
from node.deployments.package import Package
from node.deployments.wanted import Wanted
from node.samples import sample
from simulations.links import Change, separate
from tests.node.deployments.nodes import PACKAGE, Nodes, deployed, simulated

ECHO = Package(
    sample("agents/echo.md").read_bytes(), "echo.md", {"echo.wat": sample("agents/echo.wat").read_bytes()}
)


async def claimed(nodes: Nodes, name: str, agent: str, package: Package) -> str:
    """Have a node claim that a package is of some agent, as a node that lies would; returns the digest."""
    node = nodes.cluster.nodes[name].node
    data = package.encode()
    digest = await node.bus.blobs.keep(data)
    lie = Desired(agent, agent, "1.0.0", digest, len(data), 2)
    node.membership.replicated.cluster_put(lie.key, lie.encode(), node.environment.clock.wall())
    node.membership.flush()
    return digest


def test_of_two_concurrent_writes_the_later_counts_everywhere_and_the_other_stays_visible(
    tmp_path: Path,
) -> None:
    async def scenario(nodes: Nodes) -> None:
        await deployed(nodes, 1)
        cut = separate([{"a", "b"}, {"c", "d"}], Change(cut=True))
        nodes.cluster.network.links.add(cut)
        await nodes.pass_(2.0)
        await nodes.of("a").scale("triage", 3, by="early@a")
        await nodes.pass_(1.0)
        await nodes.of("c").scale("triage", 2, by="late@c")
        await nodes.pass_(15.0)
        nodes.cluster.network.links.remove(cut)
        await nodes.until(lambda: {nodes.of(n).get("triage")["by"] for n in "abcd"} == {"late@c"})
        await nodes.until(lambda: len(nodes.running()) == 2)
        lost = [nodes.of(name).get("triage")["conflicts"] for name in "abcd"]
        assert any([(each["author"], each["replicas"]) for each in found] == [("a", 3)] for found in lost)
        await nodes.of("b").scale("triage", 1, by="settled@b")
        await nodes.until(lambda: len(nodes.running()) == 1)
        assert nodes.of("b").get("triage")["conflicts"] == []

    simulated(tmp_path, scenario)


def test_a_package_of_another_agent_than_was_said_runs_nowhere(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        await nodes.pass_(1.0)
        await claimed(nodes, "a", "data-analyzer", PACKAGE)
        await nodes.until(lambda: len(nodes.of("a").get("data-analyzer")["excluded"]) == 3)
        why = {each["why"] for each in nodes.of("a").get("data-analyzer")["excluded"]}
        assert why == {"it could not run it: VALIDATION_ERROR"}
        assert nodes.of("a").get("data-analyzer")["why"] == "of 3 nodes none can run it, and 2 are wanted"
        assert all(each.node.supervisor.list() == [] for each in nodes.cluster.nodes.values())

    simulated(tmp_path, scenario)


def test_bytes_that_are_no_package_run_nowhere_and_stop_no_node(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b", "c")
        await nodes.pass_(1.0)
        node = nodes.cluster.nodes["a"].node
        digest = await node.bus.blobs.keep(b"\xff" * 100)
        lie = Desired("triage", "Triage", "1.0.0", digest, 100, 3)
        node.membership.replicated.cluster_put(lie.key, lie.encode(), node.environment.clock.wall())
        wrong_size = dataclasses.replace(lie, agent="other", size=99)
        node.membership.replicated.cluster_put(
            wrong_size.key, wrong_size.encode(), node.environment.clock.wall()
        )
        node.membership.flush()
        await nodes.until(lambda: len(nodes.of("a").get("triage")["excluded"]) == 3)
        await nodes.pass_(10.0)
        assert nodes.running("triage") == nodes.running("other") == []
        await nodes.of("c").undeploy("triage", by="x")
        await nodes.of("c").deploy(PACKAGE, Wanted(3), by="x")
        await nodes.until(lambda: len(nodes.running()) == 3)

    simulated(tmp_path, scenario)


def test_each_node_judges_the_signature_as_if_the_agent_had_been_deployed_there(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        await nodes.start("a", "b")
        await nodes.start("c", settings={"security.agents.require_signed": "always"})
        await nodes.pass_(1.0)
        await nodes.of("a").deploy(ECHO, Wanted(3), by="x")
        await nodes.until(lambda: nodes.running("echo-agent") == ["a", "b"])
        await nodes.until(lambda: len(nodes.of("a").get("echo-agent")["excluded"]) == 1)
        found = nodes.of("a").get("echo-agent")
        assert found["excluded"] == [{"node": "c", "why": "it could not run it: ARTIFACT_UNTRUSTED"}]
        assert found["state"] == "short"

    simulated(tmp_path, scenario)
