"""What the admin API answers, as models for its description; what only some answers have may be absent.

The rooms render themselves (``as_json``), so these models describe and never filter: a test calls every route
and holds the answer against its model.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[str, Field(description="ISO 8601, UTC.", examples=["2026-01-31T12:00:00.000Z"])]
Address = Annotated[str, Field(description="name@node")]


class HealthBody(BaseModel):
    """Whether the node lives and takes messages."""

    status: str
    version: str
    node: str
    agents_count: int
    uptime: float
    ready: bool


class StatusBody(HealthBody):
    """What every room of the node counts."""

    partition_state: str
    unsettled_by_node: dict[str, int]
    messaging: dict[str, Any]
    membership: dict[str, Any]
    http: dict[str, int]
    tracing: dict[str, Any]
    rooms: dict[str, Any]


class StoppingBody(BaseModel):
    """The node has begun to leave and end."""

    status: str
    node: str


class MemberView(BaseModel):
    """One member, with what else is known of it."""

    model_config = ConfigDict(extra="allow")

    name: str
    state: str


class MembersBody(BaseModel):
    """All members this node knows."""

    node: str
    partition_state: str
    members: list[MemberView]


class ClusterBody(MembersBody):
    """The cluster at a glance."""

    joined: bool
    members_by_state: dict[str, int]
    agents_count: int
    capabilities: Annotated[dict[str, int], Field(description="How many agents offer each.")]
    unsettled_by_node: dict[str, int]
    events: list[dict[str, Any]]


class ProviderView(BaseModel):
    """One agent that offers a capability."""

    agent: str
    node: str
    version: str
    capabilities: list[str]
    priority: int
    health: float
    load: float


class CapabilityBody(BaseModel):
    """Who offers one capability."""

    capability: str
    agents_count: int
    providers: list[ProviderView]


class CapabilitiesBody(BaseModel):
    """Every capability in the cluster."""

    capabilities: list[CapabilityBody]


class MessageView(BaseModel):
    """A FIPA-ACL message; what it does not have is left out."""

    model_config = ConfigDict(extra="allow")

    message_id: str
    performative: str
    sender: Address
    receiver: Address | None = None
    capability: str | None = None
    content: Any = None
    conversation_id: str


class ReceiptBody(BaseModel):
    """What became of a message that was sent."""

    message_id: str
    conversation_id: str
    routed_to: list[Address]
    routing_strategy: str
    status: str
    timestamp: Time
    reply: MessageView | None = None
    replies: list[MessageView] | None = None


class HistoryBody(BaseModel):
    """A message and what became of it."""

    model_config = ConfigDict(extra="allow")

    message: MessageView
    message_id: str
    conversation_id: str
    status: str
    routed_to: list[Address]
    states: list[dict[str, Any]]
    routes: list[dict[str, Any]]
    events: list[dict[str, Any]]
    received: list[dict[str, Any]]
    replies: list[dict[str, Any]]


class ConversationBody(BaseModel):
    """The messages of a conversation that this node has seen."""

    model_config = ConfigDict(extra="allow")

    conversation_id: str
    messages: list[MessageView]


class DeadLetterView(BaseModel):
    """One message that could not be delivered."""

    message_id: str
    at: Time
    reason: str
    history: dict[str, Any]


class DeadLettersBody(BaseModel):
    """What could not be delivered, newest first."""

    dead_letters: list[DeadLetterView]
    limit: int


class AgentBody(BaseModel):
    """One agent of this node; ``error`` only when its status is ``error``."""

    id: str
    name: str
    version: str
    kind: str
    status: Annotated[str, Field(examples=["running", "stopped", "error"])]
    description: str
    capabilities: list[str]
    workspace: str
    deployed_at: Time
    registration: str
    memory_enabled: bool
    tools: list[str]
    warnings: list[dict[str, Any]]
    execution_stats: dict[str, Any]
    error: str | None = None


class AgentsBody(BaseModel):
    """A page of the agents of this node."""

    agents: list[AgentBody]
    total: int
    limit: int
    offset: int


class LogRecordView(BaseModel):
    """One log record, with what else it says."""

    model_config = ConfigDict(extra="allow")

    time: Time
    level: str
    message: str


class LogsBody(BaseModel):
    """The last log records of an agent, oldest first."""

    agent: str
    records: list[LogRecordView]


class ErrorFacts(BaseModel):
    """The inner shape of an error."""

    code: str
    message: str
    why: str
    fix: str
    details: dict[str, Any]


class ErrorBody(BaseModel):
    """Every refusal: a stable code, what happened, why, and how to fix it."""

    error: ErrorFacts
    code: str
    details: dict[str, Any] | None = None
    timestamp: Time
    request_id: str
