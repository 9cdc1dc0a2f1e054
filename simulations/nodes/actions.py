"""What the injector of faults asks of whole nodes, whose starts and ends take time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from node.config import NodeConfig
from node.environment import Environment
from node.errors import CaxtonError, MessageNotFound
from node.llm.provider import Provider
from node.message import Message
from node.messaging.history import MessageHistory
from node.telemetry.version import Release
from node.vocabulary import Performative
from simulations import faults
from simulations.cluster import SimulatedCluster, SimulatedNode
from simulations.faults import Agents, Disk, Fault, Reset, Restart
from simulations.injector import Injector
from simulations.kernel import World
from simulations.links import Links
from simulations.nodes import bills
from simulations.nodes.bills import Bills, Payer
from simulations.nodes.models import UnreliableProvider, Weather
from simulations.nodes.observed import Request
from simulations.nodes.scenario import NodeScenario
from simulations.nodes.witness import Execution, Mood, Witness
from simulations.scenario import ScenarioError
from simulations.trace import Trace
from simulations.truth import Spell
from swim.keyring import VERSIONS

NEXT: Final = Release("next", (VERSIONS[0], VERSIONS[1] + 1))
"""What a node says it is after an upgrade: it speaks a newer protocol beside the present one."""


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

    Attributes:
        witness: The agent whose every run is seen.
        weathers: What language models suffer from, by node.
        bills: What they cost.
        lost_disks: Lives of nodes that ended with the loss of their disk: name and boot.
    """

    cluster: SimulatedCluster
    scenario: NodeScenario
    witness: Witness
    weathers: dict[str, Weather]
    bills: Bills
    lost_disks: set[tuple[str, int]]

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, scenario: NodeScenario) -> None:
        self.cluster, self.scenario = cluster, scenario
        witness = next((deployment for deployment in scenario.agents if deployment.is_witness), None)
        self.witness = Witness() if witness is None else Witness(witness.takes_s, witness.capacity)
        self.weathers = {}
        self.bills = Bills()
        self.lost_disks = set()
        self._upgraded: set[str] = set()
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

    @property
    def executions(self) -> Sequence[Execution]:
        """Every run of the agent that is seen."""
        return self.witness.executions

    def boot_of(self, name: str) -> int:
        """How often a node was started before its present life."""
        return self.cluster.boot_of(name)

    def ended_s(self, name: str, boot: int) -> float | None:
        """When a life ended; None if it did not."""
        return next(life for life in self.cluster.lives if (life.name, life.boot) == (name, boot)).fenced_s

    def retention_s(self, name: str) -> float:
        """How long a node keeps what has ended."""
        return self.running[name].node.config.messaging.retention_s

    async def accept(self, name: str, request: Request) -> str | None:
        """Give a request to a node; see :class:`simulations.nodes.observed.Nodes`."""
        running = self.running[name]
        identifier = running.environment.new_id()
        message = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender=f"client@{name}",
            capability=request.capability,
            content=request.content,
            attachments=request.attachments,
            conversation_id=request.conversation,
            routing_strategy=request.strategy,
            reply_with=identifier,
            timestamp_s=running.environment.clock.wall(),
        )
        await running.node.bus.accept(message, ttl_s=request.ttl_s)
        # The process may have died meanwhile, and its client has then heard nothing.
        return None if running.host.fenced else identifier

    async def history(self, name: str, message_id: str) -> MessageHistory | None:
        """What became of a message, as a running node knows it."""
        try:
            return await self.running[name].node.bus.history(message_id)
        except MessageNotFound:
            return None

    async def providers(self, name: str) -> set[str]:
        """The nodes that offer anything, in the eyes of a running node."""
        offered = self.running[name].node.membership.registry.capabilities()
        return {provider.node for _, providers in offered for provider in providers}

    async def up(self, name: str) -> set[str]:
        """The nodes that are up, in the eyes of a running node."""
        return self.seen_up(name)

    def seen_up(self, name: str) -> set[str]:
        """The same, without waiting."""
        return set(self.running[name].node.membership.alive_nodes())

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

    def upgrade(self, name: str) -> None:
        """Let a node's next lives have the next version of the software."""
        self._upgraded.add(name)

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
        if not disk and name in self.weathers:
            self.lost_disks.add((name, self.boot_of(name)))
        node = await self.cluster.start(
            name,
            *seeds,
            settings={"cluster.profile": scenario.profile, **scenario.settings},
            disk=disk,
            release=NEXT if name in self._upgraded else None,
            models=partial(self._models, name),
        )
        running = self.cluster.nodes[name]
        is_known = bool(node.supervisor.statistics()["agents"])
        for deployment in scenario.agents:
            if name not in deployment.on(scenario.names()):
                continue
            if deployment.is_witness:
                self.witness.attach(node, running, self.cluster.boot_of(name))
            elif not is_known:
                agent, artifacts = deployment.read()
                await node.supervisor.deploy(agent, artifacts=artifacts)

    def _models(
        self, name: str, environment: Environment, config: NodeConfig
    ) -> Callable[[Provider], Provider]:
        """What is put around the language models of a node that starts: a bill, and the weather."""
        weather = self.weathers.setdefault(name, Weather())
        chance, clock = environment.randomness.stream("models"), environment.clock
        payer = Payer(name, self.boot_of(name), config.llm, clock, environment.randomness.stream("answers"))
        return lambda provider: UnreliableProvider(
            bills.around(payer, self.bills, provider), weather, clock, chance
        )

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
        self._actions.witness.moods.clear()
        for weather in self._actions.weathers.values():
            weather.fault = None

    def _apply(self, fault: Fault) -> None:
        if isinstance(fault, Disk):
            self._sicken(fault)
        elif isinstance(fault, Reset):
            self._break(fault)
        elif isinstance(fault, Agents):
            self._upset(fault)
        elif isinstance(fault, faults.Provider):
            self._cloud(fault)
        else:
            if isinstance(fault, Restart) and fault.upgrade:
                for name in fault.members:
                    self._actions.upgrade(name)
            super()._apply(fault)

    def _break(self, fault: Reset) -> None:
        everybody = self._actions.machines
        network = self._actions.cluster.network
        broken = network.break_streams(fault.sources or everybody, fault.targets or everybody)
        self._note("reset", f"{broken} connections")

    def _upset(self, fault: Agents) -> None:
        moods = self._actions.witness.moods
        mood = Mood(fault.takes_s or self._actions.witness.takes_s, fault.raises)
        self._note("agents", f"{','.join(fault.members)} begins")
        for name in fault.members:
            moods[name] = mood
            if fault.for_s is not None:
                self._later(fault.for_s, self._calm, name, mood)

    def _calm(self, name: str, mood: Mood) -> None:
        if self._actions.witness.moods.get(name) is mood:
            del self._actions.witness.moods[name]
            self._note("agents", f"{name} ends")

    def _cloud(self, fault: faults.Provider) -> None:
        self._note("provider", f"{','.join(fault.members)} begins")
        for name in fault.members:
            weather = self._actions.weathers.setdefault(name, Weather())
            weather.fault = fault
            if fault.for_s is not None:
                self._later(fault.for_s, self._clear, name, weather, fault)

    def _clear(self, name: str, weather: Weather, fault: faults.Provider) -> None:
        if weather.fault is fault:
            weather.fault = None
            self._note("provider", f"{name} ends")

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
