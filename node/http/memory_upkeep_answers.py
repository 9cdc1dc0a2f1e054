"""What the routes that keep the memory answer, as models for the description of the API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from node.http.answer import Answer
from node.http.answers import Time


class ExportedBody(Answer):
    """The memory as one document; the lines of the other forms say the same."""

    type: str
    format: str
    version: int
    node: str
    exported_at: Time
    entities: list[dict[str, Any]]
    relations: list[dict[str, Any]]
    end: dict[str, int]


class RefusedLineView(Answer):
    """A line that was not taken, and why."""

    line: int
    error: dict[str, Any]


class ImportedBody(Answer):
    """What an import has done."""

    lines: int
    entities_created: int
    entities_known: int
    observations_added: int
    observations_known: int
    relations_added: int
    relations_known: int
    vectors_taken: int
    refused: int
    errors: Annotated[list[RefusedLineView], Field(description="The first of them, by line.")]
    errors_limit: int
    complete: Annotated[bool, Field(description="Whether the last line of an export was seen.")]
    stopped_by: Annotated[RefusedLineView | None, Field(description="What the rest was not read for.")]


class LastCheckView(Answer):
    """What the last check found."""

    at_s: float
    ok: bool
    findings: int


class MemoryHealthBody(Answer):
    """How the memory does; what is not known, since nothing was ever stored, is null."""

    status: Annotated[str, Field(description="healthy, degraded (words only) or unhealthy.")]
    database_connectivity: bool
    database_error: str | None
    embedding_model_loaded: bool | None
    embedding_error: str | None
    index_integrity: bool | None
    orphaned_relations: int | None
    without_vectors: int | None
    last_check: LastCheckView | None


class FindingView(Answer):
    """Something that is not as it should be."""

    check: str
    what: str
    count: int
    examples: list[str]


class MemoryFindingsView(Answer):
    """What a check has found."""

    ok: bool
    findings: list[FindingView]
    entities: int
    observations: int
    relations: int
    unembedded: int


class MemoryCheckBody(MemoryFindingsView):
    """What a check of the memory has found."""


class MemoryRepairBody(Answer):
    """What a repair has found, and what is left."""

    found: MemoryFindingsView
    left: MemoryFindingsView


class ReembeddingBody(Answer):
    """How far the memory's vectors are of the present model."""

    state: str
    model: str | None
    model_digest: str | None
    done: int
    total: int
    remaining: int
    embedded_per_s: float
    refused: int
    failure: str | None


class PairView(Answer):
    """Two observations that say nearly the same."""

    entity_id: str
    entity_name: str
    kept_id: str
    kept: str
    superseded_id: str
    superseded: str
    similarity: float


class DedupBodyView(Answer):
    """Observations that say nearly the same, and what was done about them."""

    pairs: list[PairView]
    superseded: int
    dry_run: bool
    next: Annotated[str | None, Field(description="The ``after`` of the call that goes on.")]


class RetentionPolicyView(Answer):
    """How long what is remembered is kept."""

    max_age_days: float | None
    max_entities_per_agent: int | None
    cleanup_frequency: str
    set_at_run_time: bool


class MemorySettingsView(Answer):
    """Figures that are not set."""

    batch_size: int
    max_concurrent_searches: int
    cache_size_mb: int


class MemoryConfigView(Answer):
    """What holds for the memory."""

    retention_policy: RetentionPolicyView
    performance_settings: MemorySettingsView
