"""What the admin API tells operators about messages: dead letters, traces, decisions, and what passes by.

These models describe, as those of ``node.http.answers``, which they stand beside.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from node.http.answer import Answer
from node.http.answers import Address, ErrorFacts, MessageView, PartitionState, Time


class DeadLetterView(Answer):
    """One message that could not be delivered."""

    message_id: str
    seq: Annotated[int, Field(description="Its place among the letters of this node.")]
    at: Time
    reason: str
    capability: str | None
    bytes: int
    retried_as: Annotated[str | None, Field(description="The message by which it was sent again.")]
    retried_at: Time | None
    history: dict[str, Any]


class DeadLettersBody(Answer):
    """A page of what could not be delivered, newest first."""

    dead_letters: list[DeadLetterView]
    limit: int
    next: Annotated[int | None, Field(description="The before of the next page.")]
    count: Annotated[int, Field(description="How many letters this node has.")]
    bytes: Annotated[int, Field(description="What they weigh.")]


class RetryReceiptBody(Answer):
    """The new message by which a dead letter was sent again."""

    message_id: str
    retry_of: str
    conversation_id: str
    routed_to: list[Address]
    routing_strategy: str
    status: str
    timestamp: Time


class RetriedBody(Answer):
    """What became of many dead letters."""

    retried: int
    messages: Annotated[list[dict[str, str]], Field(description="retry_of and message_id of each.")]
    refused: Annotated[int, Field(description="How many could not be sent again; they stay as they are.")]
    refusals: Annotated[list[dict[str, str]], Field(description="The first 100 of them.")]
    last: Annotated[int | None, Field(description="The seq of the last letter that was tried.")]
    more: Annotated[bool, Field(description="Whether others of the choice were not tried.")]
    stopped_by: dict[str, str] | None


class DroppedBody(Answer):
    """How many dead letters were forgotten."""

    dropped: int
    more: Annotated[bool, Field(description="Whether there are others of the choice.")]


class StepView(Answer):
    """One step of a message."""

    node: Annotated[str, Field(description="Whose clock and whose word this is.")]
    at: Time
    ms: Annotated[float, Field(description="Since this node first had the message, by its own clock.")]
    event: Annotated[str, Field(examples=["accepted", "routed", "sent", "received", "started", "handled"])]
    detail: str


class TracedView(Answer):
    """One message of a trace, without its content, and what it caused."""

    message_id: str
    performative: str
    sender: Address
    to: str | None
    capability: str | None
    conversation_id: str
    in_reply_to: str | None
    cause: Annotated[str | None, Field(description="The message whose handling caused it.")]
    origin: str
    status: str
    reason: str
    ms: Annotated[float | None, Field(description="From its acceptance to its end, by its origin's clock.")]
    steps: list[StepView]
    away: Annotated[list[str], Field(description="Nodes concerned that have not said what they know.")]
    caused: list[TracedView]


class TraceBody(Answer):
    """The way of a message across the cluster, and of all that it caused."""

    node: str
    message_id: str
    complete: Annotated[bool, Field(description="Whether nothing is missing.")]
    away: list[str]
    questions: Annotated[int, Field(description="How many were asked of other nodes.")]
    trace: TracedView


class BidView(Answer):
    """One bid for a task, and what has become of it."""

    model_config = ConfigDict(serialize_by_alias=True)

    message_id: str
    from_: Annotated[Address, Field(alias="from")]
    content: Any
    value: Annotated[float | None, Field(description="What it was compared by.")]
    state: Annotated[str, Field(examples=["done", "failed", "rejected", "lapsed"])]
    reason: str
    stands_until: Time | None


class DeclinedView(Answer):
    """Somebody who was asked and made no bid."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: Annotated[Address, Field(alias="from")]
    performative: Annotated[str, Field(examples=["refuse"])]


class OutcomeBody(Answer):
    """What has become of a task: its bids, the award, and the result."""

    message_id: Annotated[str, Field(description="The call for proposals.")]
    conversation_id: str
    status: Annotated[str, Field(examples=["done", "partial", "failed", "no_bids"])]
    asked: list[Address]
    bids: Annotated[list[BidView], Field(description="Best first; then those that could not win.")]
    declined: list[DeclinedView]
    silent: Annotated[list[Address], Field(description="Who has not answered by the deadline.")]
    awarded: list[Address]
    results: list[MessageView]


class LineView(Answer):
    """One line of a stream: what became of a message, or the reply to it."""

    line: Annotated[int, Field(description="Its number, from 1; 0 tells of the stream itself.")]
    status: Annotated[str | None, Field(examples=["routed", "waiting", "duplicate", "refused"])] = None
    message_id: str | None = None
    conversation_id: str | None = None
    routed_to: list[Address] | None = None
    routing_strategy: str | None = None
    timestamp: Time | None = None
    error: ErrorFacts | None = None
    reply: MessageView | None = None
    replies: list[MessageView] | None = None


class CandidateView(Answer):
    """One provider that might have been chosen."""

    agent: str
    node: str
    score: Annotated[float, Field(description="priority x health x (1 - load) x nearness")]
    priority: int
    health: float
    load: float
    in_flight: Annotated[int, Field(description="Unsettled messages of this node when it was ranked.")]
    nearness: Annotated[float, Field(description="1.0 on the node that decided, 0.7 far away.")]
    offer: Annotated[str | None, Field(description="The capability with its version; none of an agent.")]


class RoutingView(Answer):
    """What the router would do with a message now."""

    strategy: str
    reason: str
    routed_to: Annotated[
        list[Address], Field(description="Nobody where the message would wait, or chance decides.")
    ]
    candidates: list[CandidateView]


class CheckedBody(Answer):
    """Whether a message would be accepted, and where it would go."""

    valid: bool
    errors: list[ErrorFacts]
    message: MessageView | None
    routing: RoutingView | None


class ClusterSeenView(Answer):
    """The cluster as the node saw it when it decided."""

    up: int
    remembered: int
    side: PartitionState
    registry_age_s: Annotated[float, Field(description="Since the registry had last changed there.")]


class DecisionView(Answer):
    """One decision about a message."""

    epoch: Annotated[int, Field(description="Grows with every re-routing.")]
    at: Time
    targets: Annotated[list[Address], Field(description="Empty when nobody could be chosen.")]
    strategy: str
    reason: str
    wanted: Annotated[str | None, Field(description="The capability, in the version that was looked for.")]
    considered: int
    candidates: Annotated[list[CandidateView], Field(description="The best ten.")]
    sticky: Annotated[Address | None, Field(description="Who had the conversation before.")]
    excluded: Annotated[list[dict[str, str]], Field(description="Who could not be chosen, and why.")]
    view: ClusterSeenView | None


class ExplanationBody(Answer):
    """Why a message went where it went."""

    node: str
    message_id: str
    wanted: str | None
    status: str
    reason: str
    decisions: list[DecisionView]


class TailEventView(Answer):
    """One line of the tail."""

    model_config = ConfigDict(extra="allow")

    event: Annotated[
        str,
        Field(
            examples=["accepted", "routed", "received", "handled", "refused", "settled", "failed", "dead"],
            description="Also listening, idle, and missed with its count.",
        ),
    ]
    at: Time


class MailboxView(Answer):
    """A client's mailbox."""

    name: str
    address: Address
    owner: Annotated[str, Field(description="Name of the token that made it.")]
    held: Annotated[int, Field(description="Messages that were not acknowledged.")]
    held_limit: int
    topics: Annotated[list[dict[str, str | None]], Field(description="What it subscribes to.")]
    connected: Annotated[bool, Field(description="Whether a client reads it now.")]
    created_at: Time
    last_used: Time
    idle_s: Annotated[float, Field(description="Seconds without use until it goes.")]


class MailboxesBody(Answer):
    """Mailboxes of clients, by name."""

    node: str
    mailboxes: list[MailboxView]


class AcknowledgedBody(Answer):
    """What an acknowledgement has done."""

    acknowledged: Annotated[int, Field(description="Messages that were held until now.")]
    held: Annotated[int, Field(description="Those that still are.")]


class HeldView(Answer):
    """One message of a mailbox, as the data of an event."""

    mailbox: str
    id: Annotated[str, Field(description="Acknowledges this message and all before it.")]
    message: MessageView


class PieceView(Answer):
    """More of an answer while it is made, as the data of an event ``partial`` or ``restart``."""

    message_id: str
    sequence: Annotated[int, Field(description="Numbers the events of both kinds, from 0.")]
    attempt: Annotated[int, Field(description="1 at first, one more after each restart.")]
    turn: Annotated[int, Field(description="The turn of the model that speaks.")]
    text: Annotated[str | None, Field(description="What comes next; of a partial only.")] = None
    is_cut: Annotated[bool | None, Field(description="Whether the rest of the turn is not shown.")] = None


class HappenedView(Answer):
    """Something that happened to a message, as the data of an event."""

    message_id: str
    state: Annotated[str | None, Field(examples=["accepted", "routed", "received", "settled"])] = None
    at: Time | None = None
    detail: str | None = None
    reply: MessageView | None = None
    status: Annotated[str | None, Field(description="How it ended, with the event end.")] = None


class WebhookView(Answer):
    """A webhook, and how it fares; counts are since the start of the node."""

    id: str
    url: str
    events: list[str]
    filter: dict[str, str]
    owner: Annotated[str, Field(description="Name of the token that made it.")]
    created_at: Time
    queued: Annotated[int, Field(description="Deliveries that wait.")]
    queued_limit: int
    watched: Annotated[int, Field(description="Conversations that are not complete yet.")]
    dead: Annotated[int, Field(description="Deliveries that were given up, and are kept.")]
    dead_limit: int
    missed: Annotated[int, Field(description="Messages that were forgotten before they were looked at.")]
    delivered: int
    failures: Annotated[int, Field(description="Attempts that failed.")]
    breaker: Literal["closed", "open", "half_open"]
    last_delivered: Time | None
    last_error: str | None


class DeadDeliveryView(Answer):
    """A delivery that was given up."""

    delivery_id: str
    event: str
    about: Annotated[str, Field(description="The message or conversation.")]
    attempts: int
    reason: str
    created_at: Time


class WebhookDetailBody(WebhookView):
    """One webhook with the deliveries that were given up."""

    dead_deliveries: list[DeadDeliveryView]


class WebhookMadeBody(WebhookDetailBody):
    """A webhook that was made, with its secret, which is never shown again."""

    secret: str


class WebhooksBody(Answer):
    """The webhooks of one node, the oldest first."""

    node: str
    webhooks: list[WebhookView]


class BlobBody(Answer):
    """How much of a blob is here."""

    blob: Annotated[str, Field(description="SHA-256 of its content, hexadecimal.")]
    size_bytes: int
    received_bytes: Annotated[int, Field(description="Where to go on.")]
    complete: Annotated[bool, Field(description="Whether messages may name it.")]
