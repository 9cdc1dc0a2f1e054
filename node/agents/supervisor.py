"""Deploys, runs and keeps the agents of one node.

A deployment is atomic: everything that can fail (reading, permissions, compiling) happens before anything
changes; then the agent is stored durably, attached to the bus, and published to the registry, in that
order, so that no message is ever routed to an agent a restart would forget. Deployments and state
changes take turns; running agents never wait for them. A configured agent that is replaced while it runs goes
over without a gap (:mod:`node.agents.serving`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from node.agents.approvals import Approvals
from node.agents.blueprint import (
    Blueprint,
    check_room,
    check_sizes,
    pack_artifacts,
)
from node.agents.definition import AgentDefinition
from node.agents.deployed import AgentBus, AgentInfo, Runtime, Store, no_such_agent, refuse_placed
from node.agents.instance import Instance, offer_of
from node.agents.journal import AgentLogRecord, Journal
from node.agents.requirements import Offered, note_absent_providers
from node.agents.serving import Serving
from node.agents.settings import AgentSettings
from node.agents.tool_notes import note_absent, note_change
from node.agents.wasm import WasmAgent, WasmRuntime
from node.agents.wasm.serving import WasmServing
from node.agents.workshop import Workshop
from node.cluster.provider import RegistryWriter
from node.environment import Environment
from node.errors import CaxtonError
from node.llm.registry import ProviderRegistry
from node.memory.room import MemoryRoom
from node.messaging.delivery import BATCH_LIMIT, BatchHandler, Handler
from node.storage.agents import AgentRow, delete_agent, load_agents, save_agent, set_agent_status
from node.telemetry.tracing import Tracing
from node.tools.host import ToolHost

_log = logging.getLogger(__name__)
DRAIN_S: Final = 5.0
"""Time a stopping agent has to finish what it is handling, when the caller names none."""
_SHIELD_S: Final = 30.0
"""Longest time an atomic step holds off cancellation."""


class AgentSupervisor:
    """The agents of one node.

    Args:
        environment: Clock, identifiers, workers.
        node: Name of this node.
        storage: Where agents are kept across restarts.
        registry: Where their capabilities are published.
        bus: Delivers their messages.
        providers: The language models.
        tools: The tool host.
        tracing: Opens spans.
        settings: Bounds.
        wasm_cache: Where compiled WebAssembly is kept; None keeps it in memory only.
        memory: What agents remember; None lets none of them.
        offered: Whether anybody in the cluster offers a capability now.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Store,
        registry: RegistryWriter,
        bus: AgentBus,
        providers: ProviderRegistry,
        tools: ToolHost,
        tracing: Tracing,
        settings: AgentSettings | None = None,
        wasm_cache: Path | None = None,
        memory: MemoryRoom | None = None,
        offered: Offered = lambda _: True,
    ) -> None:
        self._environment, self._node, self._storage = environment, node, storage
        self._registry, self._bus, self._tools = registry, bus, tools
        self._settings = settings or AgentSettings()
        self.approvals = Approvals(environment=environment, node=node, storage=storage, bus=bus, tools=tools)
        self._offered = offered
        self._wasm = WasmRuntime(environment, node, tracing, storage, bus, wasm_cache)
        self._workshop = Workshop(
            environment=environment,
            node=node,
            tools=tools,
            providers=providers,
            bus=bus,
            tracing=tracing,
            settings=self._settings,
            wasm=self._wasm,
            memory=memory,
            approvals=self.approvals,
            on_quarantine=self._quarantine,
        )
        self._agents: dict[str, Instance] = {}
        self._turn = trio.Lock()
        self._deploying = ""  # the last one, which is over when nobody has the turn
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Restore the stored agents, say that they are there, and keep them until cancelled.

        An agent that cannot be restored is shown with the status ``error``; the others start.
        """
        self._tools.on_change = self._tell_of_tools
        try:
            async with trio.open_nursery() as self._nursery:
                async with self._turn:
                    for row in await self._storage.read(load_agents):
                        await self._restore(row)
                    self._announce_restored()
                await self._nursery.start(self.approvals.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._withdraw_all()

    async def deploy(
        self,
        content: bytes,
        *,
        filename: str = "",
        artifacts: Mapping[str, bytes] | None = None,
        name: str | None = None,
        workspace: str = "default",
        replace: bool = False,
        auto_start: bool = True,
        deployment: str = "",
    ) -> AgentInfo:
        """Deploy an agent file, or a WebAssembly module alone; all or nothing.

        Args:
            content: The agent file (Markdown), or the module.
            filename: Its name; names a module that is deployed without ``name``.
            artifacts: Files beside it, by name: the module of an agent file with ``runtime: wasm``.
            name: Takes the place of the name in the file.
            workspace: The workspace it belongs to.
            replace: Whether an agent of that name may be replaced.
            auto_start: Whether it is started at once.
            deployment: What the cluster's deployment runs, if this is a replica of one: it takes the place of
                an older replica, and of nothing else.

        Raises:
            AgentInvalid: the agent file has problems; all are listed.
            InvalidWasm: the module cannot be an agent.
            ArtifactUntrusted: it is not signed as this node wants it.
            AgentAlreadyExists: there is one of that name, and ``replace`` is false.
            AgentPlaced: a deployment runs one of that name here.
            NameConflict: a client's mailbox has that name.
            ResourceLimitExceeded: too many agents, or too large.
            ProviderNotFound: the file names a provider that is not configured.
            StorageFailed: nothing was deployed.
        """
        files = dict(sorted((artifacts or {}).items()))
        check_sizes(content, files, workspace, self._settings)
        async with self._turn:
            blueprint = await self._workshop.read(
                content, filename, files, name, self._environment.clock.wall()
            )
            self._deploying = blueprint.definition.id
            self._bus.mailboxes.refuse_agent(self._deploying)
            old = self._agents.get(blueprint.definition.id)
            replaced = replace if not deployment else old is not None and bool(old.row.deployment)
            known = None if old is None or replaced else (old.definition.version, old.row.status)
            if old is not None and not deployment:
                refuse_placed(old.row, "deployed anew")
            full = old is None and len(self._agents) >= self._settings.max_agents
            check_room(blueprint.definition.id, known, full_at=self._settings.max_agents if full else None)
            journal = old.journal if old else Journal(self._environment.clock, self._settings.log_records)
            definition, runtime = await self._workshop.build(blueprint, journal, workspace, content)
            if auto_start:
                self._registry.check(offer_of(definition))
            row = AgentRow(
                id=definition.id,
                name=definition.name,
                version=definition.version,
                kind=blueprint.kind,
                content=content,
                artifacts=pack_artifacts(filename, files),
                workspace=workspace,
                status="running" if auto_start else "stopped",
                deployed_at_s=self._environment.clock.wall(),
                deployment=deployment,
            )
            agent = Instance(row, definition, journal, self._environment.new_id(), signed=blueprint.signature)
            await self._storage.write(lambda connection: save_agent(connection, row))
            if auto_start and old is not None and old.serving is not None and row.kind != "wasm":
                await self._swap(old, old.serving, agent, runtime)
            else:
                with self._environment.clock.move_on_after(_SHIELD_S) as scope:
                    scope.shield = True
                    if old is not None:
                        await self._take_down(old, drain_s=DRAIN_S)
                self._agents[definition.id] = agent
                self.approvals.place(agent)
                if auto_start:
                    await self._begin(agent, runtime, is_new=old is None)
            journal.log("info", f"deployed {blueprint.provenance}", registration=agent.registration)
            for warning in definition.warnings:
                journal.log("warning", f"line {warning.line}: {warning.field} {warning.message}")
            note_absent(self._tools, definition, journal)
            note_absent_providers(definition, self._offered, journal)
            return agent.info(self._tools, self._offered)

    async def examine(
        self, content: bytes, filename: str, files: Mapping[str, bytes], name: str | None, workspace: str
    ) -> Blueprint:
        """What :meth:`deploy` would read, judged as strictly, and nothing more.

        Raises:
            CaxtonError: as there.
        """
        check_sizes(content, files, workspace, self._settings)
        return await self._workshop.read(content, filename, files, name, self._environment.clock.wall())

    def replicas(self) -> dict[str, tuple[str, str, str]]:
        """The replicas of deployments here: agent id -> (what it runs, its status, why that is ``error``)."""
        return {
            key: (agent.row.deployment, agent.row.status, agent.error)
            for key, agent in sorted(self._agents.items())
            if agent.row.deployment
        }

    def knows(self, name: str) -> bool:
        """Whether an agent has this id, or is being deployed under it."""
        return name in self._agents or (name == self._deploying and self._turn.locked())

    def list(self) -> list[AgentInfo]:
        """All agents, by id."""
        return [self._agents[key].info(self._tools, self._offered) for key in sorted(self._agents)]

    def get(self, agent: str) -> AgentInfo:
        """The agent of that id or name.

        Raises:
            AgentNotFound: there is none.
        """
        return self._find(agent).info(self._tools, self._offered)

    async def stop(self, agent: str, *, grace_s: float = DRAIN_S) -> AgentInfo:
        """Take an agent out of service; it stays deployed.

        Args:
            agent: Id or name.
            grace_s: Time for what it is handling.

        Raises:
            AgentNotFound: there is none.
            AgentPlaced: a deployment runs it.
        """
        async with self._turn:
            found = self._find(agent)
            refuse_placed(found.row, "stopped")
            if found.row.status != "stopped":
                await self._set_status(found, "stopped")
                await self._take_down(found, drain_s=grace_s)
                found.journal.log("info", "stopped")
            return found.info(self._tools, self._offered)

    async def start(self, agent: str) -> AgentInfo:
        """Bring a stopped or failed agent back into service.

        Raises:
            AgentNotFound: there is none.
            CaxtonError: it does not start; its state stays what it was.
        """
        async with self._turn:
            found = self._find(agent)
            if found.runtime is None or found.error:
                row, blueprint = found.row, await self._workshop.stored(found.row)
                built = await self._workshop.build(blueprint, found.journal, row.workspace, row.content)
                found.definition, runtime = built
                self._registry.check(offer_of(found.definition))
                await self._set_status(found, "running")
                await self._take_down(found, drain_s=DRAIN_S)
                self._take_up(found, runtime)
                found.error = ""
                found.journal.log("info", "started")
            return found.info(self._tools, self._offered)

    async def delete(
        self, agent: str, *, force: bool = False, grace_s: float = DRAIN_S, replica: bool = False
    ) -> None:
        """Remove an agent for good.

        Args:
            agent: Id or name.
            force: Whether not to wait for what it is handling.
            grace_s: Time for that otherwise.
            replica: Whether it is a deployment that removes its replica.

        Raises:
            AgentNotFound: there is none.
            AgentPlaced: a deployment runs it.
        """
        async with self._turn:
            found = self._find(agent)
            if not replica:
                refuse_placed(found.row, "removed")
            await self._storage.write(lambda connection: delete_agent(connection, found.row.id))
            await self._take_down(found, drain_s=0.0 if force else grace_s)
            del self._agents[found.row.id]
            self.approvals.remove(found.row.id)

    async def drain(self, *, grace_s: float = DRAIN_S) -> None:
        """Take all agents out of service because the node ends; they come back when it does.

        Args:
            grace_s: Time for what they are handling.
        """
        async with self._turn, trio.open_nursery() as nursery:
            self._withdraw_all()
            for agent in self._agents.values():
                nursery.start_soon(partial(self._take_down, agent, drain_s=grace_s))

    def logs(
        self, agent: str, *, tail: int = 100, since_s: float | None = None, level: str | None = None
    ) -> Sequence[AgentLogRecord]:
        """The last log records of an agent, oldest first.

        Args:
            agent: Id or name.
            tail: Most records.
            since_s: Unix time in seconds before which none is given.
            level: Lowest level: debug, info, warning or error.

        Raises:
            AgentNotFound: there is none.
        """
        return self._find(agent).journal.records(tail=tail, since_s=since_s, level=level)

    def statistics(self) -> dict[str, Any]:
        """How many agents there are, by status, and how full their logs are."""
        statuses: dict[str, int] = {}
        for agent in self._agents.values():
            statuses[agent.row.status] = statuses.get(agent.row.status, 0) + 1
        return {
            "agents": len(self._agents),
            "limit": self._settings.max_agents,
            "by_status": dict(sorted(statuses.items())),
            "log_records": sum(a.journal.statistics()["records"] for a in self._agents.values()),
            "bytes": sum(len(a.row.content) + len(a.row.artifacts) for a in self._agents.values()),
            "kept_conversations": sum(
                a.serving.statistics()["conversations"] for a in self._agents.values() if a.serving
            ),
            "wasm": self._wasm.statistics(),
            "approvals": self.approvals.statistics(),
        }

    async def _restore(self, row: AgentRow) -> None:
        journal = Journal(self._environment.clock, self._settings.log_records)
        agent = Instance(
            row,
            AgentDefinition(id=row.id, name=row.name, version=row.version),
            journal,
            self._environment.new_id(),
        )
        self._agents[row.id] = agent
        self.approvals.place(agent)
        try:
            blueprint = await self._workshop.stored(row)
            agent.definition, agent.signed = blueprint.definition, blueprint.signature
            if row.deployment:  # whether it runs here is for the cluster to say, which may have moved on
                agent.row = replace(row, status="waiting")
                journal.log("info", "restored; it waits until the cluster is seen")
                return
            agent.definition, runtime = await self._workshop.build(
                blueprint, journal, row.workspace, row.content
            )
        except CaxtonError as error:
            agent.fail(str(error))
            journal.log("error", f"cannot be restored: {error}", code=error.code)
            _log.warning("agent %s cannot be restored and offers nothing: %s", row.id, error)
            return
        if row.status != "stopped":
            self._attach(agent, runtime)
            agent.row = replace(row, status="running")
        journal.log("info", "restored")
        note_absent(self._tools, agent.definition, journal)

    def _announce_restored(self) -> None:
        """Announce all that run, as one change; where they do not all fit, those that do."""
        running = [agent for agent in self._agents.values() if agent.runtime is not None]
        try:
            self._registry.publish_many([offer_of(agent.definition) for agent in running])
        except CaxtonError:
            for agent in running:
                try:
                    self._publish(agent)
                except CaxtonError as error:
                    agent.fail(str(error))
                    agent.journal.log("error", f"cannot be announced: {error}", code=error.code)
                    _log.warning("agent %s offers nothing: %s", agent.row.id, error)

    def _withdraw_all(self) -> None:
        self._registry.withdraw(*(a.row.id for a in self._agents.values() if a.runtime is not None))

    async def _begin(self, agent: Instance, runtime: Runtime, *, is_new: bool) -> None:
        """Take up an agent that was just stored; a new one that cannot be announced was never there."""
        try:
            self._take_up(agent, runtime)
        except CaxtonError as error:  # the map has filled up since it was asked
            if is_new:
                with self._environment.clock.move_on_after(_SHIELD_S) as scope:
                    scope.shield = True
                    await self._take_down(agent, drain_s=0.0)
                    del self._agents[agent.row.id]
                    self.approvals.remove(agent.row.id)
                    await self._storage.write(lambda connection: delete_agent(connection, agent.row.id))
            else:
                agent.fail(str(error))
            raise

    async def _swap(self, old: Instance, serving: Serving, agent: Instance, runtime: Runtime) -> None:
        """Put an agent in the place of a running one; what that one has begun, it finishes."""
        try:
            self._publish(agent)
        except CaxtonError:
            await self._storage.write(lambda connection: save_agent(connection, old.row))
            raise
        kept = serving.renew(runtime)
        agent.runtime, agent.serving = runtime, serving
        self._agents[agent.row.id] = agent
        self.approvals.place(agent)
        if kept:
            agent.journal.log("info", f"{kept} conversations finish on the version that they began with")

    def _take_up(self, agent: Instance, runtime: Runtime) -> None:
        self._attach(agent, runtime)
        self._publish(agent)

    def _attach(self, agent: Instance, runtime: Runtime) -> None:
        agent.runtime = runtime
        self.approvals.place(agent)
        handler: Handler | BatchHandler
        clock, concurrency = self._environment.clock, self._settings.concurrency
        if isinstance(runtime, WasmAgent):  # several messages are one hop to a worker
            handler = WasmServing(agent.row.id, runtime, agent.journal, clock).handler
            concurrency, agent.serving = BATCH_LIMIT, None
            if self._nursery is not None:
                self._nursery.start_soon(runtime.run_timers)
        else:
            agent.serving = Serving(agent.row.id, runtime, agent.journal, clock)
            handler = agent.serving.handle
        room = self._settings.mailbox_capacity
        self._bus.attach(agent.row.id, handler, capacity=room, concurrency=concurrency)

    def _publish(self, agent: Instance) -> None:
        self._registry.publish_many((offer_of(agent.definition),))

    async def _take_down(self, agent: Instance, *, drain_s: float) -> None:
        runtime, agent.runtime, agent.serving = agent.runtime, None, None
        if runtime is None:
            return
        self._registry.withdraw(agent.row.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(self.approvals.drain, agent.row.id, drain_s=drain_s))
            await self._bus.detach(agent.row.id, drain_s=drain_s)
        if isinstance(runtime, WasmAgent):
            await runtime.aclose()

    def _quarantine(self, agent: str, reason: str) -> None:
        """Nobody new is sent to an agent that fails too often; it stays until an operator starts it again."""
        self._agents[agent].fail(reason)
        self._registry.withdraw(agent)

    def _tell_of_tools(self, server: str, level: str, what: str) -> None:
        for agent in self._agents.values():
            note_change(self._tools, agent.definition, agent.journal, (server, level, what))

    async def _set_status(self, agent: Instance, status: str) -> None:
        await self._storage.write(lambda connection: set_agent_status(connection, agent.row.id, status))
        agent.row = replace(agent.row, status=status)

    def _find(self, agent: str) -> Instance:
        found = self._agents.get(agent)
        if found is None:
            found = next((a for a in self._agents.values() if agent in (a.row.name, a.registration)), None)
        if found is None:
            raise no_such_agent(agent, [*self._agents, *(a.row.name for a in self._agents.values())])
        return found
