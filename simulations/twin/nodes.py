"""Real nodes as the injector, the clients and the properties of the simulator have them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from node.config import load_config
from node.environment import system_environment
from node.errors import NodeUnreachable
from node.messaging.history import MessageHistory
from node.node import DATABASE
from node.security.authority import NodeSettings, create_cluster, issue_node
from simulations.nodes.observed import Request
from simulations.nodes.scenario import NodeScenario
from simulations.nodes.witness import Execution, Mood
from simulations.scenario import ScenarioError
from simulations.trace import Trace
from simulations.twin.admin import PORT, Admin
from simulations.twin.clock import RealTimeline
from simulations.twin.fabric import Fabric, WatchedLinks
from simulations.twin.member import (
    TwinNode,
    change_config,
    environment_in,
    executions_in,
    read_history,
)
from simulations.twin.process import write_whole

GOSSIP_PORT: Final = 7946
LINK_PORT: Final = 7947
READY_S: Final = 60.0
"""Longest start of a process, in seconds."""
GOODBYE_S: Final = 30.0
"""Longest time between SIGTERM and the end of a process, in seconds."""
ASK_S: Final = 2.0
"""How long a node may take to say what it sees, in seconds."""
_POLL_S: Final = 0.05


class TwinNodes:
    """The nodes of a twin, as :class:`simulations.nodes.observed.Nodes` and the injector's cluster.

    Args:
        scenario: What they run.
        directory: Where their files go; must be empty.
        fabric: Their network.
        timeline: The run they belong to.
        nursery: Where starts and ends go on; a process that fails its part breaks it with TwinFailed.

    Attributes:
        mood: How the agent ``witness`` behaves where no fault says otherwise.
        lost_disks: Lives of nodes that ended with the loss of their disk: name and boot.
    """

    def __init__(
        self,
        scenario: NodeScenario,
        directory: Path,
        fabric: Fabric,
        timeline: RealTimeline,
        nursery: trio.Nursery,
    ) -> None:
        self._scenario, self._fabric, self._timeline, self._nursery = scenario, fabric, timeline, nursery
        self.mood = Mood(next((deployed.takes_s for deployed in scenario.agents if deployed.is_witness), 0.0))
        self._directory = directory
        self.lost_disks: set[tuple[str, int]] = set()
        self._busy: set[str] = set()
        self._executions: list[Execution] = []
        self._retention_s: dict[str, float] = {}
        self._all = self._issue()

    # ---- what is asked of them -----------------------------------------------------------------

    @property
    def scenario(self) -> NodeScenario:
        """What they run."""
        return self._scenario

    @property
    def timeline(self) -> RealTimeline:
        """When things happen."""
        return self._timeline

    @property
    def lines(self) -> Trace:
        """What is told of it."""
        return self._timeline.trace

    @property
    def links(self) -> WatchedLinks:
        """Between any two of them."""
        return self._fabric.links

    @property
    def fabric(self) -> Fabric:
        """Their network."""
        return self._fabric

    @property
    def running(self) -> Mapping[str, TwinNode]:
        """Who runs, by name: neither starting nor ending."""
        return {
            name: node
            for name, node in self._all.items()
            if name not in self._busy and node.boot >= 0 and node.boot not in node.ended_s
        }

    @property
    def machines(self) -> list[str]:
        """All names."""
        return self._scenario.names()

    @property
    def executions(self) -> Sequence[Execution]:
        """Every run of the agent that is seen, once :meth:`read_executions` has been called."""
        return self._executions

    def live(self) -> Sequence[TwinNode]:
        """Who runs and has not said goodbye."""
        return list(self.running.values())

    def boot_of(self, name: str) -> int:
        """How often a node was started before its present life."""
        return self._all[name].boot

    def ended_s(self, name: str, boot: int) -> float | None:
        """When a life ended; None if it did not."""
        return self._all[name].ended_s.get(boot)

    def retention_s(self, name: str) -> float:
        """How long a node keeps what has ended."""
        return self._retention_s[name]

    async def accept(self, name: str, request: Request) -> str | None:
        """Give a request to a node; see :class:`simulations.nodes.observed.Nodes`."""
        node = self._all[name]
        boot = node.boot
        body = {
            "capability": request.capability,
            "content": request.content,
            "conversation_id": request.conversation,
            "routing_strategy": request.strategy.value,
            "ttl_s": request.ttl_s,
            "attachments": [
                {
                    "name": file.name,
                    "media_type": file.media_type,
                    "base64": base64.b64encode(file.data).decode(),
                }
                for file in request.attachments
            ],
        }
        try:
            receipt = await node.admin.call("POST", "/messages", body, timeout_s=request.ttl_s)
        except NodeUnreachable:
            if node.boot != boot or boot in node.ended_s or name in self._busy:
                return None  # the process died meanwhile, and its client has heard nothing
            raise
        return str(receipt["message_id"])

    async def history(self, name: str, message_id: str) -> MessageHistory | None:
        """What became of a message, as the file of a running node has it on disk."""
        return await trio.to_thread.run_sync(read_history, self._all[name].data / DATABASE, message_id)

    async def providers(self, name: str) -> set[str]:
        """The nodes that offer anything, in the eyes of a running node."""
        found = await self._all[name].admin.call("GET", "/capabilities", timeout_s=ASK_S)
        return {provider["node"] for offered in found["capabilities"] for provider in offered["providers"]}

    async def up(self, name: str) -> set[str]:
        """The nodes that are up, in the eyes of a running node."""
        found = await self._all[name].admin.call("GET", "/cluster/members", timeout_s=ASK_S)
        return {member["name"] for member in found["members"] if member["state"] in ("alive", "suspect")}

    async def statistics(self, name: str) -> Mapping[str, Any]:
        """What the rooms of a running node have counted."""
        found = await self._all[name].admin.call("GET", "/status", timeout_s=ASK_S)
        rooms: Mapping[str, Any] = found["rooms"]
        return rooms

    def read_executions(self) -> None:
        """Read what the agents have written down."""
        found: list[Execution] = []
        for node in self._all.values():
            for boot in range(node.boot + 1):
                file = node.executions(boot)
                if file.exists():
                    found += executions_in(
                        file.read_text(encoding="utf-8"), node.name, boot, self._timeline.of_monotonic
                    )
        self._executions = sorted(found, key=lambda execution: execution.began_s)

    # ---- what is done to them --------------------------------------------------------------------

    def pause(self, name: str) -> None:
        """Stop a process with SIGSTOP."""
        self._signal(name, signal.SIGSTOP)
        self._all[name].paused = True
        self._timeline.record(name, "paused")

    def resume(self, name: str) -> None:
        """Let it go on with SIGCONT."""
        if self._all[name].paused:
            self._signal(name, signal.SIGCONT)
            self._all[name].paused = False
            self._timeline.record(name, "resumed")

    def crash(self, name: str, *, power: bool = False) -> None:
        """End a process with SIGKILL; with ``power`` its wire is pulled before, so that it falls silent."""
        self._begin(name, partial(self._crash, self._all[name], power=power))

    def start(self, name: str, *, seeds: Sequence[str] = (), disk: bool = True) -> None:
        """Start a process again, with its agents."""
        if name not in self._busy:
            self._begin(name, partial(self.boot, name, [seed for seed in seeds if seed != name], disk=disk))

    def leave(self, name: str) -> None:
        """Let a process say goodbye and end, with SIGTERM."""
        self._begin(name, partial(self._leave, self._all[name]))

    def upgrade(self, name: str) -> None:
        """Let a node's next lives say that they are the next release."""
        self._all[name].is_next = True

    def set_mood(self, name: str, mood: Mood) -> None:
        """Let the agent of a node behave otherwise from its next message on."""
        write_whole(self._all[name].mood, json.dumps(asdict(mood)))

    def move(self, name: str) -> None:
        """Refuse: nodes keep their addresses, and their scenarios cannot ask for another."""
        raise ScenarioError(f"{name} cannot be moved: whole nodes keep their addresses")

    def set_clock(self, name: str, *, rate: float | None, wall_offset_s: float | None) -> None:
        """Refuse: all processes of a machine share its clocks, and such faults are left out before."""
        del rate, wall_offset_s
        raise ScenarioError(f"the clock of {name} cannot be set: it is the machine's")

    async def boot(self, name: str, seeds: Sequence[str] = (), *, disk: bool = True) -> None:
        """Start a node, and give it its agents if it has none of them on its disk.

        Raises:
            TwinFailed: it does not become ready.
        """
        node = self._all[name]
        if not disk:
            self.lost_disks.add((name, node.boot))
            await trio.to_thread.run_sync(partial(shutil.rmtree, node.data, ignore_errors=True))
        if node.unplugged:
            await self._fabric.plug_in(name)
            node.unplugged = False
        node.boot += 1
        self._set_seeds(node, seeds)
        self._spawn(node)
        self._nursery.start_soon(self._watch, node, node.boot)
        await self._ready(node)
        await self._deploy(node)
        self._timeline.record(name, "ready")

    def kill_all(self) -> None:
        """End all processes that are left, by their ids."""
        for node in self._all.values():
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
        for node in self._all.values():
            if node.process is not None:
                node.process.wait()

    # ---- inside ------------------------------------------------------------------------------

    def _issue(self) -> dict[str, TwinNode]:
        environment, home = system_environment(), self._directory / "cluster"
        files = create_cluster(home, environment=environment, cluster="twin")
        token = files.admin_token.read_text(encoding="ascii").strip()
        found = {}
        for name, address in self._fabric.addresses.items():
            settings = NodeSettings(
                bind_host=address, http_port=PORT, gossip_port=GOSSIP_PORT, link_port=LINK_PORT,
                profile=self._scenario.profile,
            )  # fmt: skip
            bundle = issue_node(home, name, environment=environment, settings=settings)
            admin = Admin(name, self._fabric.nodes[name], token)
            node = TwinNode(name, bundle.config.parent, self._directory / "run" / name, admin)
            node.directory.mkdir(parents=True, mode=0o700)
            agents_as_simulated = {"security.agents.require_signed": "never"}
            change_config(bundle.config, agents_as_simulated | dict(self._scenario.settings))
            write_whole(node.mood, json.dumps(asdict(self.mood)))
            self._retention_s[name] = load_config(bundle.config, environ={}).messaging.retention_s
            found[name] = node
        return found

    def _set_seeds(self, node: TwinNode, seeds: Sequence[str]) -> None:
        addresses = [f"{self._fabric.addresses[seed]}:{GOSSIP_PORT}" for seed in seeds]
        change_config(node.config, {"cluster.seeds": addresses})

    def _spawn(self, node: TwinNode) -> None:
        """Start the process; from the main thread, with whose end the kernel would end the child."""
        arguments = ["--parent", str(os.getpid()), "--name", node.name, "--boot", str(node.boot)]
        arguments += ["--config", str(node.config), "--ready-file", str(node.ready(node.boot))]
        arguments += ["--mood", str(node.mood)]
        if any(d.is_witness and node.name in d.on(self._scenario.names()) for d in self._scenario.agents):
            arguments += ["--executions", str(node.executions(node.boot))]
        if node.is_next:
            arguments += ["--next-release"]
        command = [sys.executable, "-P", "-m", "simulations.twin.process", *arguments]
        try:
            with node.log.open("ab") as log, self._fabric.nodes[node.name].entered():
                node.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment_in(node.directory),
                    start_new_session=True,
                )
        except OSError as error:
            raise node.failed(f"cannot be started ({error})") from error

    async def _ready(self, node: TwinNode) -> None:
        file = node.ready(node.boot)
        with trio.move_on_after(READY_S):
            while not file.exists():
                await trio.sleep(_POLL_S)
            return
        raise node.failed(f"is not ready after {READY_S:g} s")

    async def _deploy(self, node: TwinNode) -> None:
        """Give a node its agents, unless it has them from an earlier life."""
        names = self._scenario.names()
        wanted = [d for d in self._scenario.agents if not d.is_witness and node.name in d.on(names)]
        if not wanted or (await node.admin.call("GET", "/agents"))["total"]:
            return
        for deployment in wanted:
            agent, artifacts = deployment.read()
            body = {
                "content": agent.decode(),
                "filename": Path(deployment.agent).with_suffix(".md").name,
                "artifacts": {name: base64.b64encode(data).decode() for name, data in artifacts.items()},
            }
            await node.admin.call("POST", "/agents", body, timeout_s=READY_S)

    async def _watch(self, node: TwinNode, boot: int) -> None:
        """See that a process ends only when it is told to."""
        process = node.process
        while process is not None and process.poll() is None:
            await trio.sleep(_POLL_S)
        if boot in node.ended_s or process is None:
            return
        if node.name in self._busy:  # told to end, or about to fail its start
            node.ended_s[boot] = self._timeline.now()
            if node.ready(boot).exists():
                return
        raise node.failed(f"ended by itself with status {process.returncode}")

    async def _crash(self, node: TwinNode, *, power: bool) -> None:
        self._timeline.record(node.name, "lost power" if power else "crashed")
        if power:
            await self._fabric.unplug(node.name)
            node.unplugged = True
        self._signal(node.name, signal.SIGKILL)
        node.ended_s[node.boot] = self._timeline.now()
        node.paused = False
        while node.process is not None and node.process.poll() is None:
            await trio.sleep(_POLL_S)  # its directory is locked until it has gone

    async def _leave(self, node: TwinNode) -> None:
        self._timeline.record(node.name, "leaves")
        self._signal(node.name, signal.SIGTERM)
        with trio.move_on_after(GOODBYE_S):
            while node.boot not in node.ended_s:
                await trio.sleep(_POLL_S)
            self._timeline.record(node.name, "left")
            return
        raise node.failed(f"has not ended {GOODBYE_S:g} s after it was told to")

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._all[name].process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def _begin(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        self._busy.add(name)
        self._nursery.start_soon(self._act, name, action)

    async def _act(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        try:
            await action()
        finally:
            self._busy.discard(name)
