"""What the admin API answers, as models for its description; what only some answers have may be absent.

The rooms render themselves (``as_json``), so these models describe and never filter: a test calls every route
and holds the answer against its model.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from node.http.answer import Answer

Time = Annotated[str, Field(description="ISO 8601, UTC.", examples=["2026-01-31T12:00:00.000Z"])]
Address = Annotated[str, Field(description="name@node")]


class HealthBody(Answer):
    """Whether the node lives and takes messages."""

    status: str
    version: str
    node: str
    agents_count: int
    uptime: float
    ready: bool


PartitionState = Annotated[str, Field(examples=["majority", "minority", "isolated"])]


class PartitionView(Answer):
    """On which side of a partition the node finds itself, and of how many members."""

    state: PartitionState
    up: Annotated[int, Field(description="Members that are up, this node included.")]
    remembered: Annotated[int, Field(description="Members that have not said goodbye, lost ones included.")]


class StatusBody(HealthBody):
    """What every room of the node counts."""

    partition_state: PartitionState
    partition: PartitionView
    unsettled_by_node: dict[str, int]
    messaging: dict[str, Any]
    membership: dict[str, Any]
    http: dict[str, int]
    tracing: dict[str, Any]
    rooms: dict[str, Any]


class ModelView(Answer):
    """One language-model provider; what is reached over a network has an address, a model and a state."""

    name: str
    type: str
    base_url: str | None = None
    model: str | None = None
    has_key: bool | None = None
    stream: bool | None = None
    fallbacks: list[str] = Field(default_factory=list)
    state: dict[str, Any]


class ModelsBody(Answer):
    """The language-model providers of the node."""

    node: str
    default: str
    automatic: Annotated[str, Field(description="The variable that `auto` went by; empty unless it did.")]
    providers: list[ModelView]
    prices: list[str]
    budgets: dict[str, Any]


class StoppingBody(Answer):
    """The node has begun to leave and end."""

    status: str
    node: str


class ProviderView(Answer):
    """One agent that offers a capability."""

    agent: str
    node: str
    version: str
    capabilities: list[str]
    priority: int
    health: float
    load: float
    accepts: Annotated[
        str | None, Field(description="The expression that a content must meet; None for any content.")
    ]
    minority: Annotated[str, Field(description="serve, queue or refuse on the smaller side of a partition.")]
    labels: Annotated[dict[str, list[str]], Field(description="What messages may require of it.")]
    rtt_s: Annotated[float | None, Field(description="Estimated round trip from this node.")]
    offers: Annotated[str, Field(description="The capability with the version that would be taken.")]


class VersionView(Answer):
    """One version of a capability."""

    version: Annotated[str | None, Field(description="None for one without a version.")]
    agents_count: int


class SeenView(Answer):
    """The cluster as the node that decides sees it, and how old its registry is."""

    up: int
    remembered: int
    side: PartitionState
    registry_age_s: Annotated[float, Field(description="Seconds since the registry has changed here.")]


class ChosenView(Answer):
    """Who would get a message that began a conversation now; no target where chance decides."""

    targets: Annotated[list[Address], Field(description="Empty when nobody could be, or two are drawn.")]
    strategy: str
    reason: str
    view: SeenView | None


class OfferedBody(Answer):
    """Who offers one capability, in which versions."""

    capability: str
    agents_count: int
    versions: Annotated[list[VersionView], Field(description="The highest first.")]
    providers: list[ProviderView]


class CapabilityBody(OfferedBody):
    """Who offers one capability, and who would be chosen now."""

    chosen: ChosenView


class CapabilitiesBody(Answer):
    """Every capability in the cluster."""

    capabilities: list[OfferedBody]


class MessageView(Answer):
    """A FIPA-ACL message; what it does not have is left out."""

    model_config = ConfigDict(extra="allow")

    message_id: str
    performative: str
    sender: Address
    receiver: Address | None = None
    capability: str | None = None
    topic: str | None = None
    content: Any = None
    conversation_id: str


class ReceiptBody(Answer):
    """What became of a message that was sent."""

    message_id: str
    conversation_id: str
    routed_to: list[Address]
    routing_strategy: str
    status: str
    timestamp: Time
    reply: MessageView | None = None
    replies: list[MessageView] | None = None


class ErrorFacts(Answer):
    """The inner shape of an error."""

    code: str
    message: str
    why: str
    fix: str
    details: dict[str, Any]


class ItemView(Answer):
    """What became of one message of a batch: a receipt, or an error."""

    index: Annotated[int, Field(description="Its place in the batch, from 0.")]
    status: Annotated[str, Field(examples=["routed", "waiting", "duplicate", "refused"])]
    message_id: str | None = None
    conversation_id: str | None = None
    routed_to: list[Address] | None = None
    routing_strategy: str | None = None
    timestamp: Time | None = None
    error: ErrorFacts | None = None


class BatchAnswer(Answer):
    """What became of each message of a batch, in order."""

    batch_id: str | None
    accepted: int
    duplicates: Annotated[int, Field(description="Those whose id was accepted before.")]
    refused: int
    results: list[ItemView]


class HistoryBody(Answer):
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


class ConversationView(Answer):
    """A conversation in a list."""

    id: str
    conversation_id: Annotated[str, Field(description="The same.")]
    created_at: Time | None
    last_activity: Time | None
    participants: list[Address]
    message_count: Annotated[int, Field(description="At most 50 in a list, 500 of one conversation.")]
    truncated: Annotated[bool, Field(description="Whether there are more messages.")]
    status: Annotated[str, Field(examples=["active", "completed"])]
    closed: Annotated[
        str | None,
        Field(
            examples=["archived", "inactive", "lifetime"], description="Why it takes no messages, or null."
        ),
    ]
    archived_at: Time | None


class ConversationsBody(Answer):
    """A page of conversations, the one with the latest message first."""

    conversations: list[ConversationView]
    limit: int
    next: Annotated[str | None, Field(description="The before of the next page.")]


class ChainView(Answer):
    """One message in the tree of what answers what; they come in the order of a walk through it."""

    message_id: str
    performative: str
    answers: Annotated[str | None, Field(description="The message that it answers; null where it begins.")]
    depth: int


class ConversationBody(ConversationView):
    """A conversation with its messages, as this node has seen it."""

    parent_conversation: Annotated[str | None, Field(description="The one it came out of.")]
    branches: Annotated[list[str], Field(description="Those that came out of it.")]
    merge_conversations: Annotated[list[str], Field(description="Those that go on in it.")]
    merged_into: Annotated[list[str], Field(description="Those that it goes on in.")]
    message_chain: list[ChainView]
    messages: list[MessageView]


class ArchivedBody(Answer):
    """The conversations that were closed."""

    archived: int
    conversations: list[str]
    next: Annotated[str | None, Field(description="The after of the call that goes on; null at the end.")]


class SignatureBody(Answer):
    """Who answers for a module; ``signer`` is null where the key is not trusted here."""

    key: str
    signer: str | None
    expires: Time | None


class AgentBody(Answer):
    """One agent of this node; ``error`` only when its status is ``error``."""

    id: str
    name: str
    version: str
    kind: str
    status: Annotated[str, Field(examples=["running", "stopped", "waiting", "error"])]
    description: str
    capabilities: list[str]
    topics: list[dict[str, str | None]]
    workspace: str
    deployed_at: Time
    registration: str
    memory_enabled: bool
    tools: list[str]
    warnings: list[dict[str, Any]]
    execution_stats: dict[str, Any]
    requires: Annotated[list[str], Field(description="Capabilities of others that it may ask.")]
    waiting_for: Annotated[list[str], Field(description="Those of them that nobody offers now.")]
    labels: Annotated[dict[str, list[str]], Field(description="What messages may require of it.")]
    signature: Annotated[SignatureBody | None, Field(description="Null without a signed module.")]
    deployment: Annotated[str | None, Field(description="SHA-256 of what it is a replica of, or null.")]
    error: str | None = None


class AgentsBody(Answer):
    """A page of the agents of this node."""

    agents: list[AgentBody]
    total: int
    limit: int
    offset: int


class LogRecordView(Answer):
    """One log record, with what else it says."""

    model_config = ConfigDict(extra="allow")

    time: Time
    level: str
    message: str


class LogsBody(Answer):
    """The last log records of an agent, oldest first."""

    agent: str
    records: list[LogRecordView]


class ErrorBody(Answer):
    """Every refusal: a stable code, what happened, why, and how to fix it."""

    error: ErrorFacts
    code: str
    details: dict[str, Any] | None = None
    timestamp: Time
    request_id: str
