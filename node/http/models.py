"""What callers send to the admin API, checked at the edge; what they get is in ``node.http.answers``.

Unknown keys are refused with the nearest valid one: a misspelt ``capabilty`` must not become a message
to nobody.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from node.environment import Environment
from node.errors import ValidationFailed, nearest
from node.http.attachments import attachment_from_json
from node.http.strategies import LOAD_ALGORITHMS, read_strategy
from node.labels import REQUIRED_LIMIT, SPECIALIZATION, Labels, check_labels, labels_of
from node.message import ATTACHMENT_LIMIT, FALLBACK_LIMIT, MERGE_LIMIT, Message, check, parse_time
from node.messaging.acceptance import BATCH_LIMIT
from node.messaging.letterbox import BULK_LIMIT
from node.messaging.settings import TTL_LIMIT_S
from node.messaging.tail import Filter
from node.storage.dead_letters import Choice
from node.vocabulary import DeliveryClass, Performative

STREAM_WAIT_S: Final = 60.0
"""How long a request with ``stream`` waits for the reply if it does not say, in seconds."""
WAIT_LIMIT_S: Final = 300.0
"""Longest time a request may wait for a reply, in seconds."""
KEY_TIMEOUT_LIMIT_S: Final = 60.0
"""Longest time that members may be given to answer about gossip keys, in seconds."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=512)]
LogLevel = Literal["debug", "info", "warning", "error"]

_DURATION: Final = re.compile(r"^(\d{1,9})(s|m|h|d)$")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class StrictQuery(BaseModel):
    """Refuses unknown keys, by their nearest valid name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    guess = nearest(str(key)[:80], cls.model_fields)
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key; valid keys are {valid}",
                        {
                            "key": str(key)[:80],
                            "nearest": guess or "",
                            "valid": ", ".join(sorted(cls.model_fields)),
                        },
                    )
        return data


class StrictBody(StrictQuery):
    """The same for JSON bodies, which have types of their own: no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AttachmentBody(StrictBody):
    """A file that travels with a message: a name, and its content as text, base64 or the digest of a blob."""

    name: Label
    media_type: Label = "application/octet-stream"
    text: str | None = None
    base64: str | None = None
    blob: Annotated[
        str | None, Field(description="SHA-256 of content that this node has (PUT /blobs/{digest}).")
    ] = None


class PreferencesBody(StrictBody):
    """Another place for the name of a strategy, and what the provider must be."""

    strategy: Label | None = None
    require: Annotated[
        dict[Label, Label | list[Label]],
        Field(
            max_length=REQUIRED_LIMIT,
            examples=[{"region": "eu"}],
            description="Labels that the provider must have, each a text or several.",
        ),
    ] = {}
    required_specializations: Annotated[
        list[Label],
        Field(max_length=REQUIRED_LIMIT, description="The same as require with the label specialization."),
    ] = []

    def requirements(self) -> Labels:
        """The labels that the provider must have.

        Raises:
            ValidationFailed: they are no labels, or too many.
        """
        given = labels_of(self.require, REQUIRED_LIMIT)
        special = labels_of({SPECIALIZATION: self.required_specializations}, REQUIRED_LIMIT)
        return check_labels([*given, *special], REQUIRED_LIMIT)


class ItemBody(StrictBody):
    """A FIPA-ACL message to send; exactly one of receiver, capability and topic."""

    message_id: Annotated[
        str | None,
        StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"),
        Field(description="Accepted once, so that it can be sent again; the node makes one otherwise."),
    ] = None
    performative: Annotated[
        Label, Field(examples=["request"], description=f"Any case, - or _: {', '.join(Performative)}.")
    ] = "request"
    sender: Annotated[Label | None, Field(description="Defaults to client@NODE.")] = None
    receiver: Annotated[Label | None, Field(description="name or name@node")] = None
    capability: Annotated[Label | None, Field(examples=["data-analysis"])] = None
    topic: Annotated[
        Label | None, Field(examples=["orders.eu.created"], description="Every subscriber gets it.")
    ] = None
    content: Annotated[Any, Field(description="Any JSON value.")] = None
    conversation_id: Label | None = None
    reply_with: Label | None = None
    in_reply_to: Label | None = None
    reply_by: Annotated[Label | None, Field(description="ISO 8601 with an offset.")] = None
    protocol: Label | None = None
    language: Label = "json"
    ontology: Label = "caxton-v1"
    routing_strategy: Annotated[
        Label | None, Field(examples=["best_match", "load_balanced", "broadcast"], description="Or an alias.")
    ] = None
    load_algorithm: Annotated[
        Label | None, Field(description=f"{', '.join(LOAD_ALGORITHMS)}; goes with load_balanced.")
    ] = None
    routing_preferences: PreferencesBody | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    attachments: Annotated[list[AttachmentBody], Field(max_length=ATTACHMENT_LIMIT)] = []
    fallback_versions: Annotated[
        list[Label],
        Field(
            max_length=FALLBACK_LIMIT,
            examples=[["v1"]],
            description="Versions of the capability to take when nobody can be given the wanted one.",
        ),
    ] = []
    parent_conversation: Annotated[Label | None, Field(description="The one it came out of.")] = None
    merge_conversations: Annotated[
        list[Label], Field(max_length=MERGE_LIMIT, description="Those that go on in it.")
    ] = []
    delivery: Annotated[
        Literal["at_least_once", "at_most_once"],
        Field(description="at_most_once: better lost than handled twice, when something fails on its way."),
    ] = "at_least_once"
    ttl_s: Annotated[
        float | None, Field(gt=0, le=TTL_LIMIT_S, allow_inf_nan=False, description="Its life in seconds.")
    ] = None

    def build(self, environment: Environment, node: str) -> Message:
        """The message as it enters the cluster.

        Raises:
            ValidationFailed: a field breaks one of the rules every message keeps.
        """
        identifier = self.message_id or environment.new_id()
        message = Message(
            id=identifier,
            performative=Performative.parse(self.performative),
            sender=sender_of(self.sender, node),
            receiver=self.receiver,
            capability=self.capability,
            topic=self.topic,
            content=self.content,
            conversation_id=self.conversation_id or identifier,
            reply_with=self.reply_with or identifier,
            in_reply_to=self.in_reply_to,
            reply_by_s=None if self.reply_by is None else parse_time(self.reply_by),
            protocol=self.protocol,
            language=self.language,
            ontology=self.ontology,
            routing_strategy=read_strategy(
                self.routing_strategy,
                preferred=None if self.routing_preferences is None else self.routing_preferences.strategy,
                load_algorithm=self.load_algorithm,
            ),
            priority=self.priority,
            timestamp_s=environment.clock.wall(),
            attachments=tuple(
                attachment_from_json(a.model_dump(exclude_none=True)) for a in self.attachments
            ),
            fallback_versions=tuple(self.fallback_versions),
            parent_conversation=self.parent_conversation,
            merge_conversations=tuple(self.merge_conversations),
            delivery=DeliveryClass(self.delivery),
            require=() if self.routing_preferences is None else self.routing_preferences.requirements(),
        )
        check(message)
        return message


class MessageBody(ItemBody):
    """A FIPA-ACL message to send, and how long to wait for its reply."""

    wait_s: Annotated[float | None, Field(gt=0, le=WAIT_LIMIT_S, allow_inf_nan=False)] = None
    stream: Annotated[bool, Field(description="Answer with events: the reply while it is made.")] = False


class BatchBody(StrictBody):
    """Messages to send, each accepted or refused by itself."""

    messages: Annotated[list[SkipValidation[ItemBody]], Field(min_length=1, max_length=BATCH_LIMIT)]
    batch_id: Annotated[Label | None, Field(description="Given back with the answer.")] = None


def sender_of(sender: str | None, node: str) -> str:
    """The full address of a client of this node's API.

    Raises:
        ValidationFailed: the address is of another node, for which this one cannot speak.
    """
    if sender is None:
        return f"client@{node}"
    name, at, where = sender.partition("@")
    if at and where != node:
        raise ValidationFailed(
            f"the sender {sender[:80]!r} is not of this node",
            why=f"this is {node!r}, and a node signs only what its own clients and agents send",
            fix=f"Leave the sender out, or write {name[:80] + '@' + node!r}.",
            details={"field": "sender"},
        )
    return f"{name}@{node}"


class StopBody(StrictBody):
    """How to stop an agent."""

    grace_period_seconds: Annotated[float, Field(ge=0, le=WAIT_LIMIT_S, allow_inf_nan=False)] = 10.0


class KeyQuery(StrictQuery):
    """How long to wait for the members' word about their keys."""

    timeout_s: Annotated[float, Field(ge=0.1, le=KEY_TIMEOUT_LIMIT_S, allow_inf_nan=False)] = 10.0


class KeyChangeBody(StrictBody):
    """What every member shall do with a gossip key; a new one is made on the node that is asked."""

    operation: Literal["install", "use", "remove"]
    key_id: Annotated[str | None, Field(pattern=r"^[0-9a-f]{8}$", examples=["3f2a9c01"])] = None
    force: Annotated[bool, Field(description="Go ahead whoever is away, or would be cut off.")] = False
    timeout_s: Annotated[float, Field(ge=0.1, le=KEY_TIMEOUT_LIMIT_S, allow_inf_nan=False)] = 10.0


class ForgetBody(StrictBody):
    """How a member that is lost for good is given up."""

    force: Annotated[bool, Field(description="Go ahead without a majority.")] = False


class RevocationBody(StrictBody):
    """A revocation, signed by the cluster's authority."""

    revocation: Annotated[str, Field(min_length=1, max_length=512, description="Base64.")]


class FireBody(StrictBody):
    """A user event: what every node shall hear."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["deploy"])]
    payload: Annotated[str, Field(max_length=512, description="At most 512 bytes of UTF-8.")] = ""


class QuestionBody(StrictBody):
    """A query to every node, or to some."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["ping", "uptime"])]
    payload: Annotated[str, Field(max_length=1024, description="At most 1,024 bytes of UTF-8.")] = ""
    nodes: Annotated[list[Label], Field(max_length=64, description="Who shall answer; all by default.")] = []
    timeout_s: Annotated[
        float | None,
        Field(ge=0.1, le=60, allow_inf_nan=False, description="As long as gossip takes by default."),
    ] = None


class CapabilityQuery(StrictQuery):
    """Which version of a capability, and how a provider would be chosen."""

    version: Annotated[
        str | None, Field(pattern=r"^v?[0-9]{1,9}(\.[0-9]{1,9}){0,2}$", examples=["v2", "2.1"])
    ] = None
    strategy: Annotated[
        Label, Field(examples=["best_match", "load_balanced", "broadcast"], description="Or an alias.")
    ] = "best_match"


class AgentQuery(StrictQuery):
    """Which agents to list."""

    status: Label | None = None
    capability: Label | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class DeleteQuery(StrictQuery):
    """How to delete an agent."""

    force: bool = False


class LogQuery(StrictQuery):
    """Which log records to show."""

    tail: Annotated[int, Field(ge=1, le=1000)] = 100
    since: Annotated[Label | None, Field(description="ISO 8601, or a duration as 90s, 15m, 1h, 2d.")] = None
    level: LogLevel | None = None

    def since_s(self, now_s: float) -> float | None:
        """The start as Unix seconds.

        Raises:
            ValidationFailed: it is neither a time nor a duration.
        """
        return None if self.since is None else moment(self.since, now_s)


class MessageQuery(StrictQuery):
    """Whether to wait for the reply, and to see it while it is made."""

    wait: Annotated[float | None, Field(gt=0, le=WAIT_LIMIT_S, allow_inf_nan=False)] = None
    stream: Annotated[bool, Field(description="Answer with events: the reply while it is made.")] = False


def duration_s(text: str) -> int | None:
    """A duration as 90s, 15m, 24h or 7d in seconds; None where it is none."""
    found = _DURATION.match(text)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def moment(text: str, now_s: float) -> float:
    """A time, or a duration before now, as Unix seconds.

    Raises:
        ValidationFailed: it is neither.
    """
    ago_s = duration_s(text)
    if ago_s is not None:
        return max(0.0, now_s - ago_s)
    try:
        return parse_time(text)
    except ValidationFailed as error:
        raise ValidationFailed(
            error.what, fix="Write a duration, as 90s, 15m, 1h or 2d, or ISO 8601, as 2026-01-31T12:00:00Z."
        ) from None


Place = Annotated[int | None, Field(ge=0, le=2**53)]


class DeadLetterQuery(StrictQuery):
    """Which dead letters to show."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: Annotated[Place, Field(description="The next of the page before.")] = None
    capability: Annotated[Label | None, Field(description="Those that asked for exactly this.")] = None
    reason: Annotated[Label | None, Field(description="Those whose reason has this in it.")] = None
    since: Annotated[Label | None, Field(description="ISO 8601, or a duration as 90s, 15m, 1h, 2d.")] = None
    retried: Annotated[bool | None, Field(description="Those sent again, or those that were not.")] = None

    def choice(self, now_s: float) -> Choice:
        """The choice that storage understands.

        Raises:
            ValidationFailed: ``since`` is neither a time nor a duration.
        """
        since_s = None if self.since is None else moment(self.since, now_s)
        return Choice(self.before, None, self.capability, self.reason, since_s, self.retried)


class LettersBody(StrictBody):
    """Which dead letters are meant; an empty object means all of them."""

    before: Annotated[Place, Field(description="Those with a lower seq.")] = None
    after: Annotated[Place, Field(description="Those with a higher seq.")] = None
    capability: Label | None = None
    reason: Annotated[Label | None, Field(description="Has this in it.")] = None
    since: Annotated[Label | None, Field(description="ISO 8601, or a duration as 90s, 15m, 1h, 2d.")] = None
    retried: bool | None = None

    def choice(self, now_s: float) -> Choice:
        """The choice that storage understands.

        Raises:
            ValidationFailed: ``since`` is neither a time nor a duration.
        """
        since_s = None if self.since is None else moment(self.since, now_s)
        return Choice(self.before, self.after, self.capability, self.reason, since_s, self.retried)


class RetryBody(StrictBody):
    """What is different when the message of a dead letter is sent again."""

    receiver: Annotated[Label | None, Field(description="Another receiver: name or name@node.")] = None
    capability: Annotated[Label | None, Field(description="Another capability.")] = None
    ttl_s: Annotated[
        float | None, Field(gt=0, le=TTL_LIMIT_S, allow_inf_nan=False, description="Its life in seconds.")
    ] = None
    force: Annotated[bool, Field(description="Send it although it was sent again before.")] = False


class BulkRetryBody(RetryBody):
    """Which dead letters to send again."""

    where: LettersBody
    limit: Annotated[int, Field(ge=1, le=BULK_LIMIT)] = BULK_LIMIT


class BulkDropBody(StrictBody):
    """Which dead letters to forget."""

    where: LettersBody
    limit: Annotated[int, Field(ge=1, le=BULK_LIMIT)] = BULK_LIMIT


class TailQuery(StrictQuery):
    """Which messages to watch."""

    capability: Label | None = None
    agent: Annotated[Label | None, Field(description="From or to it: name or name@node.")] = None
    conversation: Label | None = None
    performative: Annotated[Label | None, Field(examples=["request"])] = None
    content: Annotated[bool, Field(description="Show the content; needs ReadMessages.")] = False
    seconds: Annotated[
        float | None,
        Field(gt=0, le=86_400, allow_inf_nan=False, description="When to end; never by itself."),
    ] = None

    def filter(self) -> Filter:
        """What the tail is asked for.

        Raises:
            ValidationFailed: there is no such performative.
        """
        performative = None if self.performative is None else Performative.parse(self.performative).value
        return Filter(self.capability, self.agent, self.conversation, performative, self.content)
