"""A simulated cluster with the verbs of an operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from node.deployments.package import Package
from node.deployments.room import Deployments
from node.deployments.wanted import Wanted
from node.samples import sample
from simulations import kernel
from simulations.cluster import SimulatedCluster
from simulations.kernel import World

TRIAGE = sample("agents/triage.md").read_bytes()
PACKAGE = Package(TRIAGE, "triage.md")


class Nodes:
    """The nodes of a run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster

    async def start(self, *names: str, settings: dict[str, object] | None = None) -> None:
        """Start nodes, one after the other."""
        seeds = list(self.cluster.nodes)
        for name in names:
            await self.cluster.start(name, *seeds[:2], settings=settings)
            seeds.append(name)

    def of(self, name: str) -> Deployments:
        """The deployments as a node sees them."""
        return self.cluster.nodes[name].node.deployments

    def running(self, agent: str = "triage") -> list[str]:
        """Where it runs, by what the nodes really run."""
        return sorted(
            name
            for name, each in self.cluster.nodes.items()
            if each.node.supervisor.replicas().get(agent, ("", "", ""))[1] == "running"
        )

    def providers(self, observer: str, capability: str) -> list[str]:
        """Who offers a capability, as a node sees it."""
        registry = self.cluster.nodes[observer].node.membership.registry
        return [provider.node for provider in registry.providers(capability)]

    async def until(self, condition: Callable[[], bool], within: float = 60.0) -> float:
        """Wait for something; returns how long it took."""
        began = self.cluster.world.now()
        while not condition():
            assert self.cluster.world.now() < began + within, "it did not come to be"
            await self.pass_(0.1)
        return self.cluster.world.now() - began

    async def pass_(self, seconds: float) -> None:
        """Let time go by, whoever runs."""
        over = trio.Event()
        self.cluster.world.at(self.cluster.world.now() + seconds, over.set)
        await over.wait()


def simulated(directory: Path, scenario: Any, seed: int = 1) -> None:
    """Run a scenario under a virtual clock."""

    async def main(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nodes = Nodes(SimulatedCluster(world, directory, nursery))
            await scenario(nodes)
            nursery.cancel_scope.cancel()

    kernel.run(main, seed)


async def deployed(nodes: Nodes, replicas: int = 2, package: Package = PACKAGE) -> dict[str, Any]:
    """Four nodes, of which so many run an agent."""
    await nodes.start("a", "b", "c", "d")
    await nodes.pass_(1.0)
    found = await nodes.of("a").deploy(package, Wanted(replicas), by="admin@a")
    await nodes.until(lambda: len(nodes.running(found["agent"])) == replicas)
    return found
