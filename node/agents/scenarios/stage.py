"""Everything around the agents of one run, and what is noted of the one that is tried out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from node.agents.ask import question_tool
from node.agents.scenarios.bus import NODE, TrialBus
from node.agents.scenarios.judging import ToolUse
from node.agents.settings import AgentSettings
from node.agents.supervisor import AgentSupervisor
from node.agents.trial_rooms import trial_memory
from node.config import ToolsConfig
from node.environment import Environment
from node.errors import CaxtonError
from node.llm.builtin import BuiltinProvider
from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, OnDelta, Provider
from node.llm.registry import ProviderRegistry
from node.telemetry.tracing import Tracing
from node.tools.approval import ApprovalNeeded
from node.tools.builtin_servers import ToolServer, builtin_servers
from node.tools.host import CallContext, ToolHost, ToolSettings


@dataclass(slots=True)
class Watch:
    """What the agent that is tried out does with one message; ``agent`` is its id."""

    agent: str = ""
    uses: list[ToolUse] = field(default_factory=list)
    turns: int = 0
    tokens: int = 0

    def begin(self) -> None:
        """Forget what was before the next message."""
        self.uses = []
        self.turns = self.tokens = 0

    def used(self, agent: str, tool: str, result: Any, error: str) -> None:
        """Note a call of a tool."""
        if agent == self.agent:
            self.uses.append(ToolUse(tool, result, error))

    def asked(self, agent: str, capability: str, answer: Any, error: str) -> None:
        """Note a question to another agent, by the name of the tool that asks it."""
        self.used(agent, question_tool(capability), answer, error)


@dataclass(frozen=True, slots=True)
class Stage:
    """The rooms of one run."""

    supervisor: AgentSupervisor
    bus: TrialBus
    watch: Watch


@asynccontextmanager
async def stage(
    provider: Provider, environment: Environment, tools: ToolsConfig, directory: Path
) -> AsyncIterator[Stage]:
    """Build the rooms, and take them down at the end.

    Args:
        provider: Answers for the agent that is tried out.
        environment: Clock, identifiers, workers.
        tools: The bounds of tools, and how far they reach.
        directory: Of the run alone.
    """
    tracing, watch = Tracing.off(), Watch()
    memory = trial_memory(environment, directory, NODE)
    host = _WatchedTools(
        watch,
        environment=environment,
        tracing=tracing,
        settings=ToolSettings.from_config(tools),
        servers=builtin_servers(memory, environment=environment, config=tools),
    )
    bus = TrialBus(environment, watch.asked)
    supervisor = AgentSupervisor(
        environment=environment,
        node=NODE,
        storage=bus.store,
        registry=bus.registry,
        bus=bus,
        providers=_OneProvider(_Cast(provider, watch)),
        tools=host,
        tracing=tracing,
        settings=AgentSettings(),
        memory=memory,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(memory.run)
            await nursery.start(host.run)
            await nursery.start(supervisor.run)
            yield Stage(supervisor, bus, watch)
            nursery.cancel_scope.cancel()
    finally:
        memory.close()


class _Cast:
    """The given provider for the agent that is tried out, whose use is counted; ``builtin`` for others."""

    def __init__(self, provider: Provider, watch: Watch) -> None:
        self.name = provider.name
        self._provider = provider
        self._others = BuiltinProvider()
        self._watch = watch

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer one turn.

        Raises:
            ProviderFailed: the provider did.
        """
        if request.agent != self._watch.agent:
            return await self._others.complete(request, on_delta=on_delta)
        self._watch.turns += 1
        try:
            completion = await self._provider.complete(request, on_delta=on_delta)
        except RequestFailed as error:
            self._watch.tokens += error.usage.total_tokens
            raise
        self._watch.tokens += completion.usage.total_tokens
        return completion


class _OneProvider(ProviderRegistry):
    """Whatever an agent file names, the provider of the run answers."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(default=provider.name, providers={provider.name: provider})

    def choose(self, name: str | None) -> Provider:
        """The one provider."""
        del name
        return super().choose(None)


class _WatchedTools(ToolHost):
    """A tool host whose calls are noted."""

    def __init__(
        self,
        watch: Watch,
        *,
        environment: Environment,
        tracing: Tracing,
        settings: ToolSettings,
        servers: tuple[ToolServer, ...],
    ) -> None:
        super().__init__(environment=environment, tracing=tracing, settings=settings, servers=servers)
        self._watch = watch

    async def call(self, name: str, arguments: Mapping[str, Any], context: CallContext) -> Any:
        """Call a tool, and note what came of it.

        Raises:
            ToolFailed: it did.
        """
        try:
            result = await super().call(name, arguments, context)
        except ApprovalNeeded:  # it was not called, and may be later
            raise
        except CaxtonError as error:
            self._watch.used(context.agent, name, None, str(error))
            raise
        self._watch.used(context.agent, name, result, "")
        return result
