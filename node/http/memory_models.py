"""What callers send to the routes of the memory, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from node.errors import InvalidEntityData, ValidationFailed
from node.http.models import StrictBody, StrictQuery
from node.http.strict_json import strict_json
from node.memory.graph import DEPTH_LIMIT, EDGES_LIMIT, NODES_LIMIT, Direction, Order, Walk
from node.memory.model import (
    BATCH_LIMIT,
    NAME_LIMIT,
    REQUEST_OBSERVATIONS_LIMIT,
    STRENGTH,
    TYPE_LIMIT,
    EntityDraft,
    ObservationDraft,
    Period,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
    Timing,
)
from node.memory.question import LIMIT, OFFSET_LIMIT, QUERY_BYTES_LIMIT, TOKENS_LIMIT, Question, Weighing
from node.memory.reading import TYPES_LIMIT
from node.memory.scopes import OPERATOR, Aim, Viewer
from node.message import parse_time

OUTCOMES_LIMIT: Final = 100
"""Most observations of one outcome; the same as the memory's, which is not loaded before it is needed."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=TYPE_LIMIT)]
Time = Annotated[str | None, Field(description="ISO 8601 with an offset.")]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Names = Annotated[str | None, Field(max_length=8_192, description="Separated by commas.")]
ScopeName = Annotated[
    Name | None, Field(examples=["agent-only", "workspace", "global"], description="Or agent for agent-only.")
]


class _Placed(StrictBody):
    """Where something is to be remembered, and by whose word."""

    agent_id: Annotated[Name | None, Field(description="Who stores it, and the owner of agent-only.")] = None
    memory_scope: ScopeName = "agent-only"
    workspace: Annotated[Name | None, Field(description="The owner, in the scope workspace.")] = None
    conversation_id: Name | None = None
    message_id: Name | None = None

    def realm(self) -> Realm:
        """Where.

        Raises:
            ValidationFailed: there is no such scope, or its owner is missing.
        """
        scope = Scope.parse(self.memory_scope or "agent-only")
        if scope is Scope.GLOBAL:
            return Realm(scope)
        field, owner = ("agent_id", self.agent_id) if scope is Scope.AGENT else ("workspace", self.workspace)
        if owner is None:
            raise ValidationFailed(
                f"the scope {scope.label} needs {field}",
                why="it names the owner",
                fix=f"Give {field}, or use the scope global.",
                details={"field": field},
            )
        return Realm(scope, owner)

    def viewer(self) -> Viewer:
        """Who stores: the agent, in the workspace that is named, or the operator."""
        return viewer(self.agent_id, self.workspace)

    def source(self) -> Provenance:
        """By whose word."""
        return Provenance(self.agent_id or "", self.conversation_id or "", self.message_id or "")


class MemoryObservationBody(StrictBody):
    """Something to remember about an entity."""

    text: str
    confidence: Ratio = 1.0
    valid_from: Time = None
    valid_to: Time = None
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]

    def draft(self) -> ObservationDraft:
        """What the memory understands."""
        return ObservationDraft(
            self.text, self.confidence, _time(self.valid_from), _time(self.valid_to), self.metadata
        )


Told = Annotated[
    list[str | MemoryObservationBody],
    Field(max_length=REQUEST_OBSERVATIONS_LIMIT, description="Texts, or objects where there is more to say."),
]


class EntityItemBody(StrictBody):
    """An entity to remember, or to add to."""

    entity_name: Name
    entity_type: Kind
    observations: Annotated[Told, Field(default_factory=list)]
    metadata: dict[str, Any] | None = None
    confidence: Ratio = 1.0
    strength: Ratio = 1.0
    valid_from: Time = None
    valid_to: Time = None

    def draft(self) -> EntityDraft:
        """What the memory understands."""
        told = tuple(ObservationDraft(o) if isinstance(o, str) else o.draft() for o in self.observations)
        return EntityDraft(
            self.entity_name,
            self.entity_type,
            told,
            self.metadata,
            self.confidence,
            self.strength,
            _time(self.valid_from),
            _time(self.valid_to),
        )


class EntityBody(EntityItemBody, _Placed):
    """One entity, with its place."""

    idempotency_key: Annotated[Name | None, Field(description="The same request under it is done once.")] = (
        None
    )


class EntityBatchBody(_Placed):
    """Several entities of one place; each is stored or refused on its own."""

    entities: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=BATCH_LIMIT)]


class SupersedeBody(MemoryObservationBody):
    """What holds instead of an observation."""

    agent_id: Annotated[Name | None, Field(description="On whose behalf; only what it sees is there.")] = None
    workspace: Name | None = None
    conversation_id: Name | None = None
    message_id: Name | None = None


class RelationBody(_Placed):
    """How one entity relates to another."""

    from_entity: Name
    to_entity: Name
    relation_type: Kind
    strength: Ratio = STRENGTH
    confidence: Ratio = 1.0
    bidirectional: bool = False
    valid_from: Time = None
    valid_to: Time = None
    metadata: Annotated[dict[str, Any], Field(default_factory=dict)]

    def draft(self) -> RelationDraft:
        """What the memory understands."""
        return RelationDraft(
            self.from_entity,
            self.to_entity,
            self.relation_type,
            self.strength,
            self.confidence,
            self.bidirectional,
            _time(self.valid_from),
            _time(self.valid_to),
            self.metadata,
        )


class UsesBody(StrictBody):
    """What came of an answer that memories were used for."""

    observation_ids: Annotated[list[Name], Field(min_length=1, max_length=OUTCOMES_LIMIT)]
    outcome: Literal["used", "accepted", "corrected", "rejected"]
    agent_id: Name | None = None
    workspace: Name | None = None


class Asked(StrictQuery):
    """On whose behalf something is asked, and in which scopes."""

    agent_id: Annotated[
        Name | None, Field(description="Answer as this agent would be answered; everything is seen without.")
    ] = None
    workspace: Annotated[Name | None, Field(description="The workspace it is in, or that is meant.")] = None
    memory_scope: ScopeName = None

    def viewer(self) -> Viewer:
        """Who asks: the agent, or the operator."""
        return viewer(self.agent_id, self.workspace)

    def aim(self) -> Aim:
        """Which scopes are meant.

        Raises:
            ValidationFailed: there is no such scope.
        """
        if self.memory_scope is None:
            return Aim()
        scope = Scope.parse(self.memory_scope)
        owner = {Scope.AGENT: self.agent_id, Scope.WORKSPACE: self.workspace}.get(scope)
        return Aim(scope, owner)


class EntityQuery(Asked):
    """Which of several entities of a name is meant, and what of it."""

    temporal_filter: Literal["current", "all", "date_range"] = "current"
    start_date: Time = None
    end_date: Time = None
    offset: Annotated[int, Field(ge=0, le=1_000_000, description="Observations to leave out.")] = 0

    def period(self) -> Period:
        """The time that is asked about."""
        return Period(Timing(self.temporal_filter), _time(self.start_date), _time(self.end_date))


class EntityListQuery(Asked):
    """Which entities to list."""

    entity_types: Names = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: Annotated[Name, Field(description="The last id of the page before.")] = "ent_"

    def types(self) -> tuple[str, ...]:
        """The types that are asked for; none for all."""
        return _names(self.entity_types, "entity_types")


class ForgetQuery(Asked):
    """Which of several entities of a name is meant."""


class MemorySearchQuery(Asked):
    """What to search for."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=QUERY_BYTES_LIMIT)]
    entity_types: Names = None
    limit: Annotated[int, Field(ge=1, le=LIMIT)] = 10
    offset: Annotated[int, Field(ge=0, le=OFFSET_LIMIT)] = 0
    min_similarity: Annotated[
        float | None, Field(ge=0, le=1, allow_inf_nan=False, description="Cosine, 0 to 1, of every result.")
    ] = None
    include_relations: bool = False
    temporal_filter: Literal["current", "all", "date_range"] = "current"
    start_date: Time = None
    end_date: Time = None
    max_tokens: Annotated[int | None, Field(ge=1, le=TOKENS_LIMIT)] = None
    metadata: Annotated[
        str | None, Field(max_length=4_096, description="A JSON object: only what has these values.")
    ] = None
    recency_weight: Ratio = 0.0
    use_weight: Ratio = 0.0
    outcome_weight: Ratio = 0.5

    def question(self) -> Question:
        """What the memory understands."""
        return Question(
            self.query,
            aim=self.aim(),
            types=_names(self.entity_types, "entity_types"),
            period=Period(Timing(self.temporal_filter), _time(self.start_date), _time(self.end_date)),
            metadata=_object(self.metadata),
            limit=self.limit,
            offset=self.offset,
            min_similarity=self.min_similarity,
            relations=self.include_relations,
            max_tokens=self.max_tokens,
            weighing=Weighing(self.recency_weight, use=self.use_weight, outcomes=self.outcome_weight),
        )


class GraphQuery(Asked):
    """How to walk along relations."""

    max_depth: Annotated[int, Field(ge=0, le=DEPTH_LIMIT)] = 3
    relation_types: Names = None
    direction: Literal["out", "in", "both"] = "both"
    min_strength: Ratio = 0.0
    traversal_strategy: Literal["breadth_first", "depth_first"] = "breadth_first"
    include_observations: bool = False
    max_nodes: Annotated[int, Field(ge=1, le=NODES_LIMIT)] = 200
    max_edges: Annotated[int, Field(ge=1, le=EDGES_LIMIT)] = EDGES_LIMIT

    def walk(self) -> Walk:
        """What the memory understands."""
        return Walk(
            depth=self.max_depth,
            types=_names(self.relation_types, "relation_types"),
            direction=Direction(self.direction),
            min_strength=self.min_strength,
            order=Order(self.traversal_strategy),
            nodes=self.max_nodes,
            edges=self.max_edges,
            aim=self.aim(),
            observations=self.include_observations,
        )


class PathQuery(GraphQuery):
    """How to walk to another entity."""

    to: Annotated[Name, Field(description="Name or id of the entity to reach.")]


class ClearQuery(StrictQuery):
    """What of an agent's memory is forgotten."""

    memory_scope: ScopeName = "agent-only"
    entity_types: Names = None
    confirm: Annotated[bool, Field(description="Must be true: what is forgotten is gone.")] = False

    def aim(self, agent_id: str) -> Aim:
        """What is meant.

        Raises:
            ValidationFailed: it is not confirmed, or the scope is shared with others.
        """
        if not self.confirm:
            raise ValidationFailed(
                "forgetting an agent's memory must be confirmed",
                why="what is forgotten is gone for good",
                fix="Add confirm=true.",
                details={"field": "confirm"},
            )
        if Scope.parse(self.memory_scope or "agent-only") is not Scope.AGENT:
            raise ValidationFailed(
                "only the scope agent-only belongs to one agent",
                why="the others remember for several",
                fix="Leave memory_scope out, or forget single entities.",
                details={"field": "memory_scope"},
            )
        return Aim(Scope.AGENT, agent_id)

    def types(self) -> tuple[str, ...]:
        """The types that are meant; none for all."""
        return _names(self.entity_types, "entity_types")


def viewer(agent_id: str | None, workspace: str | None) -> Viewer:
    """Who asks by this API: an agent, as far as it is named, else the operator, who sees everything."""
    if agent_id is None:
        return OPERATOR
    return Viewer(agent_id, () if workspace is None else (workspace,))


def _names(text: str | None, field: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if len(names) > TYPES_LIMIT:
        raise InvalidEntityData(
            f"{field} names {len(names)} types",
            why=f"at most {TYPES_LIMIT} are taken",
            details={"field": field},
        )
    return names


def _object(text: str | None) -> dict[str, Any]:
    """The JSON object of a parameter.

    Raises:
        ValidationFailed: it is none.
    """
    try:
        found = {} if text is None else strict_json(text.encode("utf-8", "replace"))
    except ValueError as error:
        raise ValidationFailed(
            "metadata is no JSON", why=str(error)[:200], details={"field": "metadata"}
        ) from None
    if not isinstance(found, dict):
        raise ValidationFailed("metadata is no JSON object", details={"field": "metadata"})
    return found


def _time(text: str | None) -> float | None:
    return None if text is None else parse_time(text)
