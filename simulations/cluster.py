"""A cluster of production nodes in one process: start, pause, crash and restart them by name.

The node is :class:`node.node.Node`, with every room but the admin API; nothing of it is replaced except the
four things of its environment. Its SQLite file is real, on a disk of its own (:mod:`simulations.disk`).
What a process leaves behind when it dies is what the file held at that instant, and what a machine leaves
when it loses its power is what the disk makes of that: a crash copies the file first, and only then lets the
old node's tasks unwind, so that whatever their cleanup still writes goes nowhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from node.config import NodeConfig, load_config
from node.environment import Environment
from node.errors import CaxtonError, invariant
from node.llm.provider import Provider
from node.node import Node, first_error
from node.recording.tape import RecordTo
from node.security.authority import create_cluster, issue_node
from node.security.identity import NodeCredentials, SecurityPaths
from node.security.tokens import Tokens
from node.telemetry.version import Release, software_version
from simulations.disk import SimulatedDisk
from simulations.environment import SimulatedClock, simulated_environment
from simulations.kernel import World
from simulations.network import Host, VirtualNetwork

Models = Callable[[Environment, NodeConfig], Callable[[Provider], Provider]]
"""What is put around the language models of a node, by its environment and its configuration."""

GOSSIP_PORT = 7946
LINK_PORT = 7947


@dataclass(slots=True)
class SimulatedNode:
    """One node of a simulated cluster, in its present life.

    Attributes:
        disk: Where its data lies; its attributes are faults.
        boot: How often its node was started before.
        held: Whether it stands still until it is told to go on.
        waits_until: The end of what its disk has kept it waiting for.
        stands_since_s: Since when it stands still, if it does.
        fenced_s: When its process ended.
    """

    node: Node
    environment: Environment
    host: Host
    disk: SimulatedDisk
    scope: trio.CancelScope
    boot: int
    held: bool = False
    waits_until: float = 0.0
    stands_since_s: float = 0.0
    fenced_s: float | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        """Whose it is."""
        return self.host.name

    @property
    def paused(self) -> bool:
        """Whether it stands still until it is told to go on."""
        return self.held


class SimulatedCluster:
    """Nodes by name.

    Args:
        world: The run they belong to.
        directory: Where their files go; must be empty.
        nursery: Owns their tasks.

    Attributes:
        nodes: Those that run.
        lives: All that ever ran, one entry for each life.
        on_start: Is told of each life before it begins.
    """

    def __init__(self, world: World, directory: Path, nursery: trio.Nursery) -> None:
        self.world, self.network = world, VirtualNetwork(world)
        self.nodes: dict[str, SimulatedNode] = {}
        self.lives: list[SimulatedNode] = []
        self.on_start: Callable[[SimulatedNode], None] | None = None
        self._directory, self._nursery = directory, nursery
        self._boots: dict[str, int] = {}
        self._wall_offsets: dict[str, float] = {}
        self._operator, _ = simulated_environment(world, self.network, "operator")
        create_cluster(directory / "cluster", environment=self._operator, cluster="simulated")

    async def start(
        self,
        name: str,
        *seeds: str,
        settings: Mapping[str, object] | None = None,
        disk: bool = True,
        release: Release | None = None,
        record: Path | None = None,
        models: Models = lambda *_: lambda provider: provider,
    ) -> Node:
        """Start a node, for the first time or again, and return it once it is ready.

        Args:
            name: Its name.
            seeds: Names of nodes to join through.
            settings: Configuration keys beside those of the simulation.
            disk: Whether it still has what it kept in its earlier life.
            release: What it says it is.
            record: Where to record what goes into its cores.
            models: What is put around its language models.

        Raises:
            CaxtonError: it cannot start.
        """
        boot = self._boots[name] = self._boots.get(name, -1) + 1
        if not disk:
            shutil.rmtree(self._data(name), ignore_errors=True)
        bundle = self._directory / "cluster" / "nodes" / name
        if boot == 0:
            issue_node(self._directory / "cluster", name, environment=self._operator)
        environment, host = simulated_environment(
            self.world, self.network, name, boot=boot, clock_offset_s=self._wall_offsets.get(name, 0.0)
        )
        config = load_config(
            bundle / "node.yaml",
            environ={},
            overrides={
                "cluster.bind_host": host.ip,
                "cluster.bind_port": GOSSIP_PORT,
                "cluster.link_port": LINK_PORT,
                "cluster.profile": "local",
                "memory.embedding.provider": "hash",  # whose vectors are the same on every processor
                "cluster.seeds": [f"{self.network.ip(seed)}:{GOSSIP_PORT}" for seed in seeds],
                "security.agents.require_signed": "never",  # agents are tried out before they are signed
                "storage.data_dir": str(self._data(name)),
                **(settings or {}),
            },
        )
        recorder = None
        if record is not None:
            recorder = RecordTo(record).begin(name, software_version(), environment.clock)
        node = Node(
            config,
            environment=environment,
            credentials=NodeCredentials.load(SecurityPaths.of_bundle(bundle), environment),
            tokens=Tokens(),
            serve_http=False,
            release=release,
            recorder=recorder,
            around_models=models(environment, config),
        )
        disk_ = SimulatedDisk(self._data(name))
        running = SimulatedNode(node, environment, host, disk_, trio.CancelScope(), boot)
        running.disk.took = partial(self._wait_for_disk, running)
        self.world.disks.plug_in(running.disk)
        self.nodes[name] = running
        self.lives.append(running)
        if self.on_start is not None:
            self.on_start(running)
        await self._nursery.start(self._run, running)
        self.world.record(name, "ready")
        return node

    async def _run(self, running: SimulatedNode, *, task_status: trio.TaskStatus[None]) -> None:
        """Run a node to its end; what it cannot go on with ends it, as it ends a process."""
        is_ready = False
        try:
            with running.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(running.node.run)
                    is_ready = True
                    task_status.started()
        except* CaxtonError as group:
            error = first_error(group)
            if not running.host.fenced:
                self.world.record(running.name, f"stopped {error.code}")
                self._fence(running)
                self._keep(running, power=False)
            if not is_ready:
                raise error from group
        finally:
            running.ended.set()

    def boot_of(self, name: str) -> int:
        """How often a node was started before its present life."""
        return self._boots[name]

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: it neither hears, nor acts, nor dies."""
        self.world.record(name, "paused")
        running = self.nodes[name]
        running.held = True
        self._stand_still(running)

    def resume(self, name: str) -> None:
        """Let a paused process go on."""
        self.world.record(name, "resumed")
        running = self.nodes[name]
        running.held = False
        self._go_on(running)

    def set_wall_offset(self, name: str, offset_s: float) -> None:
        """Set a node's wall clock so far ahead of the true time, now and in later lives."""
        self.world.record(name, f"clock {offset_s:g}")
        self._wall_offsets[name] = offset_s
        running = self.nodes.get(name)
        if running is not None and isinstance(running.environment.clock, SimulatedClock):
            running.environment.clock.offset_s = offset_s

    async def leave(self, name: str) -> None:
        """Let a node say goodbye and end, as SIGTERM does."""
        running = self.nodes[name]
        self.world.record(name, "leaves")
        running.node.shutdown()
        await running.ended.wait()
        if not running.host.fenced:
            self.world.record(name, "left")
            self._fence(running)
            self._keep(running, power=False)

    async def crash(self, name: str, *, power: bool = False) -> None:
        """End a process as SIGKILL does, or, with ``power``, as pulling the plug of its machine does."""
        running = self.nodes[name]
        invariant(not running.host.fenced, f"{name} has crashed already")
        self.world.record(name, "lost power" if power else "crashed")
        self._fence(running, power=power)
        self._keep(running, power=power)
        running.scope.cancel()
        await running.ended.wait()

    def _fence(self, running: SimulatedNode, *, power: bool = False) -> None:
        self.nodes.pop(running.name, None)
        running.fenced_s = self.world.now()
        self.network.fence(running.host, power=power)

    def _keep(self, running: SimulatedNode, *, power: bool) -> None:
        """Put what a node leaves on its disk where its next life finds it."""
        before, after = self._data(running.name, 0), self._data(running.name, 1)
        after.mkdir(parents=True)
        for file in sorted(before.iterdir()):
            if file.suffix not in {".db", ".db-wal"}:
                continue
            if power:
                left = running.disk.after_power_loss(file, self.world.stream(before.name, "power", file.name))
                (after / file.name).write_bytes(left)
            else:
                shutil.copy2(file, after / file.name)

    def _wait_for_disk(self, running: SimulatedNode, seconds: float) -> None:
        """The process waits in the system for its disk: nothing of it happens meanwhile."""
        now = self.world.now()
        is_waiting = running.waits_until > now
        running.waits_until = max(running.waits_until, now) + seconds
        if not is_waiting:
            self._stand_still(running)
            self.world.at(running.waits_until, partial(self._go_on, running))

    def _stand_still(self, running: SimulatedNode) -> None:
        if not running.host.paused:
            running.host.paused = True
            running.stands_since_s = self.world.now()

    def _go_on(self, running: SimulatedNode) -> None:
        if running.held or running.host.fenced:
            return
        if running.waits_until > self.world.now():
            self.world.at(running.waits_until, partial(self._go_on, running))
        elif running.host.paused:
            stood_s = self.world.now() - running.stands_since_s
            running.host.stood_still_s = max(running.host.stood_still_s, stood_s)
            self.world.resume(running.host)

    def _data(self, name: str, ahead: int = 0) -> Path:
        return self._directory / "data" / f"{name}.{self._boots[name] + ahead}"
