"""Makes what runs out of what was deployed: reads an agent file on a worker, and builds its runtime.

Nothing is started or changed here, so whatever fails here has happened before anything else did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from node.agents.approvals import Approvals
from node.agents.blueprint import Blueprint, read_blueprint, unpack_artifacts
from node.agents.configured import ConfiguredAgent
from node.agents.definition import AgentDefinition
from node.agents.deployed import AgentBus, Runtime
from node.agents.journal import Journal
from node.agents.parking import ParkingAgent
from node.agents.settings import AgentSettings
from node.agents.wasm import Outside, WasmPolicy, WasmRuntime
from node.environment import Environment
from node.llm.registry import ProviderRegistry
from node.memory.room import MemoryRoom
from node.storage.agents import AgentRow
from node.telemetry.tracing import Tracing
from node.tools.host import ToolHost


class Workshop:
    """Builds the agents of one node; the arguments are the supervisor's.

    Args:
        wasm: Compiles modules.
        approvals: Keeps turns that wait for an operator.
        on_quarantine: Told the id of a WebAssembly agent that fails too often, and why.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        tools: ToolHost,
        providers: ProviderRegistry,
        bus: AgentBus,
        tracing: Tracing,
        settings: AgentSettings,
        wasm: WasmRuntime,
        memory: MemoryRoom | None,
        approvals: Approvals,
        on_quarantine: Callable[[str, str], None],
    ) -> None:
        self._environment, self._node = environment, node
        self._tools, self._providers, self._bus, self._tracing = tools, providers, bus, tracing
        self._settings, self._wasm, self._memory = settings, wasm, memory
        self._approvals, self._on_quarantine = approvals, on_quarantine

    async def read(
        self,
        content: bytes,
        filename: str,
        files: Mapping[str, bytes],
        name: str | None,
        now_s: float | None = None,
    ) -> Blueprint:
        """Read on a worker: a front matter of the largest size takes a noticeable time.

        Args:
            content: The agent file, or the module.
            filename: Its name.
            files: What is beside it, by name.
            name: Takes the place of the name in the file.
            now_s: As :func:`node.agents.blueprint.read_blueprint` takes it.

        Raises:
            CaxtonError: it cannot be an agent; says why.
        """
        return await self._environment.workers.run(
            "files",
            lambda: read_blueprint(
                content,
                filename=filename,
                artifacts=files,
                name=name,
                known_tools=self._tools.known(),
                settings=self._settings,
                now_s=now_s,
            ),
        )

    async def stored(self, row: AgentRow) -> Blueprint:
        """Read what was stored.

        Raises:
            CaxtonError: it cannot be an agent any more, or is damaged.
        """
        filename, files = unpack_artifacts(row.artifacts)
        return await self.read(row.content, filename, files, row.name)

    async def build(
        self, blueprint: Blueprint, journal: Journal, workspace: str, content: bytes
    ) -> tuple[AgentDefinition, Runtime]:
        """Make the runtime; nothing else changes. The definition gains what only the module knows.

        Raises:
            CaxtonError: it cannot be built here.
        """
        definition = blueprint.definition
        await self._tools.tools_for(definition.tools, definition.restricted_tools)
        if blueprint.module is not None:
            policy = WasmPolicy.of(definition, self._settings)
            agent = await self._wasm.load(
                blueprint.module,
                agent=definition.id,
                journal=journal,
                sha256="" if blueprint.signed is None else blueprint.signed.manifest.sha256,
                policy=policy,
                outside=Outside(
                    definition, policy, workspace, self._environment, self._tools, self._memory, journal
                ),
                on_quarantine=partial(self._on_quarantine, definition.id),
            )
            if blueprint.asks_module:
                definition = replace(definition, capabilities=await agent.capabilities())
            return definition, agent
        provider = self._providers.choose(definition.setting("llm", "provider"))
        configured = ConfiguredAgent(
            definition,
            node=self._node,
            environment=self._environment,
            provider=provider,
            tools=self._tools,
            tracing=self._tracing,
            bus=self._bus,
            journal=journal,
            settings=self._settings,
            workspace=workspace,
            memory=self._memory,
        )
        return definition, ParkingAgent(definition.id, content, self._node, configured, self._approvals)
