"""What callers send to the routes that keep the memory, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from node.config.units import seconds
from node.errors import ValidationFailed
from node.http.memory_models import Asked, Name, ScopeName
from node.http.models import StrictBody
from node.memory.model import Realm, Scope
from node.memory.records import Retain

DAY_S: Final = 86_400.0
LEAST_SIMILARITY: Final = 0.8
"""The same as :data:`node.memory.dedup.LEAST_THRESHOLD`, which is not loaded before it is needed."""
SIMILARITY: Final = 0.95
"""The same as :data:`node.memory.dedup.THRESHOLD`."""

Merge = Annotated[
    Literal["update_existing", "skip_existing", "error_on_conflict"],
    Field(description="What becomes of values that are there and differ; facts are added in any case."),
]


class ExportQuery(Asked):
    """What to export, and how."""

    format: Annotated[
        Literal["jsonl", "json", "mcp"],
        Field(description="Lines, one document, or the lines of the MCP server server-memory."),
    ] = "jsonl"
    include_embeddings: Annotated[bool, Field(description="With vectors; not in the form mcp.")] = False


class ImportQuery(Asked):
    """Where lines belong that do not say so, and what becomes of what is there."""

    merge_strategy: Merge = "update_existing"

    def realm(self) -> Realm:
        """Where lines belong that do not say so: to the agent, or the workspace, that is named, else to all.

        Raises:
            ValidationFailed: there is no such scope, or its owner is missing.
        """
        return _realm(self.agent_id, self.workspace, self.memory_scope)


class ImportDataBody(StrictBody):
    """A document of an export, or one of one's own."""

    entities: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    relations: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    type: str = "header"
    format: str | None = None
    version: int | None = None
    node: str = ""
    exported_at: str = ""
    end: Annotated[dict[str, Any], Field(default_factory=dict)]

    def lines(self) -> list[tuple[int, object]]:
        """What it says, as the lines that it stands for."""
        head = {"type": "header", "format": self.format, "version": self.version}
        told: list[dict[str, Any]] = [head] if self.format is not None else []
        told += [{**each, "type": "entity"} for each in self.entities]
        told += [{**each, "type": "relation"} for each in self.relations]
        told += [{"type": "end"}] if self.end else []
        return list(enumerate(told, 1))


class ImportBody(StrictBody):
    """What to import."""

    data: ImportDataBody
    merge_strategy: Merge = "update_existing"
    agent_id: Annotated[Name | None, Field(description="On whose behalf.")] = None
    workspace: Name | None = None
    memory_scope: ScopeName = None

    def realm(self) -> Realm:
        """Where entities belong that do not say so.

        Raises:
            ValidationFailed: there is no such scope, or its owner is missing.
        """
        return _realm(self.agent_id, self.workspace, self.memory_scope)


class DedupBody(StrictBody):
    """Which observations say nearly the same."""

    threshold: Annotated[float, Field(ge=LEAST_SIMILARITY, le=1, allow_inf_nan=False)] = SIMILARITY
    dry_run: Annotated[bool, Field(description="Show only.")] = True
    after: Annotated[Name, Field(description="Entity after which to begin: the ``next`` of before.")] = "ent_"
    agent_id: Name | None = None
    workspace: Name | None = None
    memory_scope: ScopeName = None

    def asked(self) -> Asked:
        """On whose behalf, and in which scopes."""
        return Asked(agent_id=self.agent_id, workspace=self.workspace, memory_scope=self.memory_scope)


class RetentionPolicyBody(StrictBody):
    """How long what is remembered is kept."""

    max_age_days: Annotated[
        float | None, Field(gt=0, le=3_660, allow_inf_nan=False, description="Null for ever.")
    ] = None
    max_entities_per_agent: Annotated[
        int | None, Field(ge=1, le=10**9, description="Of one owner; null for any number.")
    ] = None
    cleanup_frequency: Annotated[str, Field(max_length=32, examples=["1h"])] = "1h"

    def retain(self) -> Retain:
        """What the memory understands.

        Raises:
            ValidationFailed: the frequency is no duration.
        """
        try:
            every_s = seconds(self.cleanup_frequency)
        except ValueError as error:
            raise ValidationFailed(
                "cleanup_frequency is no duration",
                why=str(error),
                details={"field": "retention_policy.cleanup_frequency"},
            ) from None
        age_s = None if self.max_age_days is None else self.max_age_days * DAY_S
        return Retain(age_s, self.max_entities_per_agent, every_s)


class MemoryConfigBody(StrictBody):
    """What of the memory is set at run time."""

    retention_policy: Annotated[
        RetentionPolicyBody | None, Field(description="Null for the policy of the configuration.")
    ]


def _realm(agent_id: str | None, workspace: str | None, name: str | None) -> Realm:
    if name is None:
        name = "workspace" if workspace is not None else "global" if agent_id is None else "agent-only"
    scope = Scope.parse(name)
    if scope is Scope.GLOBAL:
        return Realm(scope)
    field, owner = ("agent_id", agent_id) if scope is Scope.AGENT else ("workspace", workspace)
    if owner is None:
        raise ValidationFailed(
            f"the scope {scope.label} needs {field}",
            why="it names the owner",
            fix=f"Give {field}, or use the scope global.",
            details={"field": field},
        )
    return Realm(scope, owner)
