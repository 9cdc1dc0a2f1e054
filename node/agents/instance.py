"""One deployed agent as its supervisor keeps it: what was stored, what runs, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from node.agents.definition import AgentDefinition
from node.agents.deployed import AgentInfo, Runtime
from node.agents.journal import Journal
from node.agents.parking import ParkingAgent
from node.agents.requirements import Offered, absent_providers, waited_for
from node.agents.resuming import Resumable
from node.agents.serving import Serving
from node.agents.tool_notes import absent_tools
from node.cluster.provider import Offer
from node.storage.agents import AgentRow
from node.tools.host import ToolHost


@dataclass(slots=True)
class Instance:
    """One deployed agent; ``runtime`` is None unless it is running, ``serving`` unless it can be swapped."""

    row: AgentRow
    definition: AgentDefinition
    journal: Journal
    registration: str
    runtime: Runtime | None = None
    serving: Serving | None = None
    error: str = ""
    signed: dict[str, Any] | None = None

    @property
    def resumable(self) -> Resumable | None:
        """Goes on with its parked turns; None unless it is running and could have any."""
        return self.runtime.inner if isinstance(self.runtime, ParkingAgent) else None

    def fail(self, reason: str) -> None:
        """Show it as failed, and why."""
        self.error, self.row = reason, replace(self.row, status="error")

    def info(self, tools: ToolHost, offered: Offered) -> AgentInfo:
        """What is shown of it."""
        definition = self.definition
        return AgentInfo(
            id=self.row.id,
            name=self.row.name,
            version=definition.version,
            kind=self.row.kind,
            status=self.row.status,
            capabilities=definition.capabilities,
            topics=definition.topics,
            workspace=self.row.workspace,
            deployed_at_s=self.row.deployed_at_s,
            registration=self.registration,
            memory_enabled=definition.memory_enabled,
            tools=tuple(tool.name for tool in tools.visible(definition.tools, definition.restricted_tools)),
            warnings=(
                *(w.as_json() for w in definition.warnings),
                *absent_tools(tools, definition),
                *absent_providers(definition, offered),
            ),
            requires=definition.requires,
            waiting_for=waited_for(definition, offered),
            labels=definition.labels,
            execution_stats=self.journal.execution_stats,
            description=definition.description,
            error=self.error,
            signature=self.signed,
            deployment=self.row.deployment,
        )


def offer_of(definition: AgentDefinition) -> Offer:
    """What the cluster is told of an agent."""
    return Offer(
        definition.id,
        definition.version,
        definition.capabilities,
        definition.priority,
        topics=definition.topics,
        accepts=definition.accepts,
        minority=definition.minority,
        labels=definition.labels,
    )
