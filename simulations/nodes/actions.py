"""What the injector of faults asks of whole nodes, whose starts and ends take time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import trio

from node.errors import CaxtonError
from simulations.cluster import SimulatedCluster, SimulatedNode
from simulations.faults import Disk, Fault
from simulations.injector import Injector
from simulations.kernel import World
from simulations.links import Links
from simulations.nodes.scenario import NodeScenario
from simulations.scenario import ScenarioError
from simulations.trace import Trace
from simulations.truth import Spell


class NoExcuses:
    """Whole nodes are judged when everything is healed, so nobody needs an excuse."""

    def begin(self, *_: object, **__: object) -> Spell:
        """Begin a spell that excuses nothing."""
        return Spell(frozenset(), None, frozenset(), is_own_fault=False, from_us=0)

    def end(self, spell: Spell) -> None:
        """End it."""


class NodeActions:
    """The nodes of a cluster as :class:`simulations.injector.Cluster` has them.

    Starting and ending take virtual time, so they are begun here and go on by themselves. A node that is
    starting does not count as running, nor does one that is ending.

    Args:
        cluster: The nodes.
        nursery: Where starts and ends go on.
        scenario: Says what a node runs.
    """

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, scenario: NodeScenario) -> None:
        self.cluster, self.scenario = cluster, scenario
        self._nursery = nursery
        self._busy: set[str] = set()

    @property
    def timeline(self) -> World:
        """When things happen."""
        return self.cluster.world

    @property
    def lines(self) -> Trace:
        """What is told of it."""
        return self.cluster.world.trace

    @property
    def links(self) -> Links:
        """Between any two of them."""
        return self.cluster.network.links

    @property
    def running(self) -> Mapping[str, SimulatedNode]:
        """Who runs, by name."""
        return {name: node for name, node in self.cluster.nodes.items() if name not in self._busy}

    @property
    def machines(self) -> list[str]:
        """All names."""
        return self.scenario.names()

    def live(self) -> Sequence[SimulatedNode]:
        """Who runs and has not said goodbye."""
        return list(self.running.values())

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does."""
        self.cluster.pause(name)

    def resume(self, name: str) -> None:
        """Let it go on."""
        if self.cluster.nodes[name].held:
            self.cluster.resume(name)

    def crash(self, name: str, *, power: bool = False) -> None:
        """End a process as SIGKILL does, or its machine."""
        self._begin(name, partial(self.cluster.crash, name, power=power))

    def start(self, name: str, *, seeds: Sequence[str] = (), disk: bool = True) -> None:
        """Start a process again, with its agents."""
        if name not in self._busy:
            self._begin(name, partial(self.boot, name, [seed for seed in seeds if seed != name], disk=disk))

    def leave(self, name: str) -> None:
        """Let a process say goodbye and end."""
        self._begin(name, partial(self.cluster.leave, name))

    def move(self, name: str) -> None:
        """Refuse: nodes keep their addresses, and their scenarios cannot ask for another."""
        raise ScenarioError(f"{name} cannot be moved: whole nodes keep their addresses")

    def set_clock(self, name: str, *, rate: float | None, wall_offset_s: float | None) -> None:
        """Set a node's wall clock off; its rate is the world's."""
        del rate
        if wall_offset_s is not None:
            self.cluster.set_wall_offset(name, wall_offset_s)

    async def boot(self, name: str, seeds: Sequence[str] = (), *, disk: bool = True) -> None:
        """Start a node, and give it its agents if it has none of them on its disk."""
        scenario = self.scenario
        node = await self.cluster.start(
            name, *seeds, settings={"cluster.profile": scenario.profile, **scenario.settings}, disk=disk
        )
        if node.supervisor.statistics()["agents"]:
            return
        for deployment in scenario.agents:
            if name in deployment.on(scenario.names()):
                agent, artifacts = deployment.read()
                await node.supervisor.deploy(agent, artifacts=artifacts)

    def _begin(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        self._busy.add(name)
        self._nursery.start_soon(self._act, name, action)

    async def _act(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        try:
            await action()
        except* CaxtonError:
            pass  # a node that cannot start has said why in the trace, and does not run
        finally:
            self._busy.discard(name)


class NodeInjector(Injector):
    """The faults of membership, and those of disks.

    Args:
        actions: The nodes.
        seeds: Names of the nodes that others join through.
    """

    def __init__(self, actions: NodeActions, seeds: Sequence[str]) -> None:
        super().__init__(actions, NoExcuses(), seeds)
        self._actions = actions

    def heal(self) -> None:
        """End everything that goes wrong, sick disks too."""
        super().heal()
        for node in self._actions.cluster.nodes.values():
            node.disk.recover()

    def _apply(self, fault: Fault) -> None:
        if isinstance(fault, Disk):
            self._sicken(fault)
        else:
            super()._apply(fault)

    def _sicken(self, fault: Disk) -> None:
        for name in fault.members:
            node = self._actions.running.get(name)
            if node is None:
                continue
            disk = node.disk
            disk.capacity_bytes = disk.used_bytes() if fault.full else None
            disk.sync_fails, disk.read_fails = fault.sync_fails, fault.read_fails
            disk.read_s, disk.write_s, disk.sync_s = fault.read_s, fault.write_s, fault.sync_s
            self._note("disk", f"{name} begins")
            if fault.for_s is not None:
                self._later(fault.for_s, self._recover, node)

    def _recover(self, node: SimulatedNode) -> None:
        node.disk.recover()
        self._note("disk", f"{node.name} ends")
