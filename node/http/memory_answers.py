"""What the routes of the memory answer, as models for the description of the API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from node.http.answer import Answer
from node.http.answers import Time

Similarity = Annotated[float | None, Field(description="Cosine, 0 to 1; null without vectors.")]


class OutcomesView(Answer):
    """What came of the use of an observation."""

    used: int
    accepted: int
    corrected: int
    rejected: int


class MemoryObservationView(Answer):
    """Something that was observed about an entity."""

    observation_id: str
    text: str
    confidence: float
    created_at: Time
    valid_from: Time | None
    valid_to: Time | None
    superseded_by: str | None
    outcomes: OutcomesView
    embedded: bool
    metadata: dict[str, Any]
    source: dict[str, str]
    similarity_score: Similarity = None


class RelationView(Answer):
    """How one entity relates to another."""

    relation_id: str
    from_entity: str
    to_entity: str
    from_entity_id: str
    to_entity_id: str
    relation_type: str
    strength: float
    confidence: float
    bidirectional: bool
    version: int
    created_at: Time
    valid_from: Time | None
    valid_to: Time | None
    memory_scope: str
    metadata: dict[str, Any]


class EntityView(Answer):
    """An entity, with what is known about it and how it relates to others."""

    entity_id: str
    entity_name: str
    entity_type: str
    memory_scope: str
    owner: str | None
    agent_id: str | None
    confidence: float
    strength: float
    version: int
    created_at: Time
    updated_at: Time
    valid_from: Time | None
    valid_to: Time | None
    observation_count: int
    observations: list[MemoryObservationView]
    relations: list[RelationView]
    metadata: dict[str, Any]
    source: dict[str, str]


class EntitiesBody(Answer):
    """Entities by id, without observations."""

    entities: list[EntityView]
    next: Annotated[str | None, Field(description="The ``after`` of the page that follows.")]


class RememberedBody(Answer):
    """What became of an entity to remember."""

    entity_id: str
    entity_name: str
    version: int
    created: bool
    observation_ids: list[str]
    observation_count: int
    observations_added: int
    embedding_generated: bool


class BatchItemView(Answer):
    """What became of one entity of several."""

    model_config = ConfigDict(extra="allow")

    status: str


class RememberedBatchBody(Answer):
    """What became of several entities, in their order."""

    results: list[BatchItemView]
    stored: int
    refused: int


class RelatedBody(Answer):
    """What became of a relation to remember."""

    relation_id: str
    created: bool
    superseded_id: str | None


class WhyView(Answer):
    """Why an entity is in one of the lists that a search is made of."""

    rank: int
    terms: list[str] | None = None


class MemoryHitView(EntityView):
    """A result of a search."""

    score: float
    similarity_score: Similarity
    why: dict[str, WhyView]


class MemorySearchBody(Answer):
    """The results of a search, the best first."""

    results: list[MemoryHitView]
    total_results: int
    limit: int
    offset: int
    terms: Annotated[list[str], Field(description="The words that were searched, as the index has them.")]
    by_meaning: Annotated[bool, Field(description="Whether vectors were compared.")]
    degraded: Annotated[bool, Field(description="Whether the embedder failed: only words were searched.")]
    truncated: Annotated[bool, Field(description="Whether max_tokens has cut something off.")]
    search_time_ms: float


class GraphNodeView(Answer):
    """An entity of a walk."""

    model_config = ConfigDict(extra="allow")

    entity_id: str
    entity_name: str
    entity_type: str
    depth: int


class EdgeView(Answer):
    """A relation of a walk."""

    relation_id: str
    from_entity_id: str
    to_entity_id: str
    relation_type: str
    strength: float
    confidence: float
    bidirectional: bool


class GraphView(Answer):
    """What is around an entity."""

    nodes: list[GraphNodeView]
    edges: list[EdgeView]


class TraversalView(Answer):
    """How a walk went."""

    nodes_visited: int
    edges_traversed: int
    max_depth_reached: int
    truncated: bool
    entity_types: dict[str, int]
    relation_types: dict[str, int]


class GraphBody(Answer):
    """A walk."""

    graph: GraphView
    traversal_stats: TraversalView


class PathBody(Answer):
    """A shortest way between two entities; ``found`` is false where there is none within the bounds."""

    found: bool
    length: int | None = None
    nodes: list[GraphNodeView] = Field(default_factory=list)
    edges: list[EdgeView] = Field(default_factory=list)


class ClearedBody(Answer):
    """What was forgotten."""

    deleted_entities: int


class ScopeCountView(Answer):
    """What one scope of one owner holds."""

    memory_scope: str
    owner: str | None
    entities: int
    observations: int
    relations: int


class OriginView(Answer):
    """How much is held of the log of one node."""

    node: str
    log: str
    seen: int
    operations: int
    bytes: int
    digest: str


class PartnerView(Answer):
    """How far this node and another are from each other, in operations; those that became void count, too."""

    behind: int
    is_behind: int | None
    in_step: bool
    refused: int
    repairs: int


class ReplicationView(Answer):
    """How the shared memory is kept the same on all nodes. Two nodes with one ``digest`` hold the same."""

    partners: list[str]
    peers: dict[str, PartnerView]
    stalled: dict[str, str]
    digest: str | None
    origins: list[OriginView]
    logs: int
    operations: int
    bytes: int
    forgotten: int
    logs_limit: int | None = None
    forgotten_limit: int | None = None
    pages: int
    taken: int
    void: int
    refused: int
    vectors_refused: int
    malformed: int
    started_again: int


class MemoryStatsBody(Answer):
    """What the memory holds and costs; ``replication`` is null where it is switched off."""

    entities: int
    observations: int
    relations: int
    scopes: list[ScopeCountView]
    room: dict[str, Any]
    replication: ReplicationView | None = None
