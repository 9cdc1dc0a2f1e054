"""The one Message type: a FIPA-ACL message, everybody's vocabulary.

A message is sealed where it enters the cluster. What is sealed (identity, performative, addressing,
content, conversation) never changes afterwards; its encoding is made once (:meth:`Message.seal`) and
travels, is stored and is proven byte for byte. What changes on the way (attempt, hops, remaining time,
trace context) is the :class:`Envelope` beside it.

Source: FIPA ACL Message Structure Specification SC00061G; the subset and its spelling are Caxton's.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from node.errors import ValidationFailed
from node.labels import REQUIRED_LIMIT, check_labels, labels_shown
from node.topics import is_topic
from node.vocabulary import EXPECTS_REPLY, TEXT_LIMIT, DeliveryClass, Performative, RoutingStrategy

CONTENT_DEPTH_LIMIT: Final = 64
"""Deepest nesting of a message's content."""
BLOB_LIMIT_BYTES: Final = 64 * 1024**2
"""Largest blob, and most bytes of all blobs that one message names."""
ATTACHMENT_LIMIT: Final = 16
"""Most attachments of one message."""
MERGE_LIMIT: Final = 16
"""Most conversations that one message merges into its own."""
COUNTER_LIMIT: Final = 2**31 - 1
"""Largest counter in an envelope."""
FALLBACK_LIMIT: Final = 8
"""Most other versions a message may be content with."""
REMAINING_LIMIT_S: Final = 1e9
"""Longest remaining time in an envelope."""

Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LIMIT)]
Note = Annotated[str, Meta(max_length=TEXT_LIMIT)]
"""Text that may be empty."""
Counter = Annotated[int, Meta(ge=0, le=COUNTER_LIMIT)]
UnixSeconds = Annotated[float, Meta(ge=0.0, lt=1e11)]
Priority = Annotated[int, Meta(ge=0, le=9)]

FallbackVersion = Annotated[str, Meta(max_length=40, pattern=r"^v?[0-9]{1,9}(\.[0-9]{1,9}){0,2}\Z")]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_CAPABILITY = re.compile(
    r"[a-z0-9]+([._-][a-z0-9]+)*(:[a-z0-9]+([._-][a-z0-9]+)*)?(:v?[0-9]+(\.[0-9]+){0,2})?"
)
_SEAL_VERSION: Final = 2


class Attachment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file that travels inside a message, or beside it as a blob.

    Args:
        name: File name without any directory.
        media_type: For example ``text/csv``.
        data: The bytes; of a blob none in the message itself, and all of them where an agent handles it.
        blob: SHA-256 of a blob's content, hexadecimal; empty for a file that travels inside.
        size: Of a blob's content, in bytes; 0 before the message is accepted.
    """

    name: Text
    media_type: Text
    data: bytes = b""
    blob: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    size: Annotated[int, Meta(ge=0, le=BLOB_LIMIT_BYTES)] = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of its content, wherever that is."""
        return self.size if self.blob else len(self.data)


class Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag=_SEAL_VERSION,
    gc=False,  # a JSON value has no cycles
):
    """One FIPA-ACL message; exactly one of ``receiver``, ``capability`` and ``topic`` is set.

    Args:
        id: UUIDv7, given where the message enters the cluster.
        performative: What the message does.
        sender: Agent address, ``name@node``; clients of the HTTP API are ``client@node``.
        receiver: Agent address, ``name@node`` or ``name`` (any instance).
        capability: The wanted capability, ``data-analysis`` or ``data-analysis:v2``.
        content: Any JSON value.
        conversation_id: Groups messages; order holds within (conversation, sender).
        reply_with: What a reply quotes in ``in_reply_to``; the message id if the sender gives none.
        in_reply_to: What this message answers.
        reply_by_s: Unix time in seconds after which the sender no longer wants an answer.
        protocol: For example ``fipa-request``.
        language: Of the content, ``json``.
        ontology: ``caxton-v1``.
        routing_strategy: How a provider of the capability is chosen.
        priority: 0 (least) to 9; chooses between conversations, never inside one.
        timestamp_s: Unix time in seconds at which the message entered the cluster.
        attachments: Files that travel with it.
        fallback_versions: Versions of the capability to take, in this order, when nobody can be given the
            wanted one: ``v1``.
        topic: What it is about, ``orders.eu.created``; every subscriber gets it.
        parent_conversation: The conversation that this one came out of.
        merge_conversations: Conversations that go on in this one.
        delivery: How often it may be handled when something fails.
        require: Labels that its provider must have (``node.labels``), sorted.
    """

    id: Text
    performative: Performative
    sender: Text
    receiver: Text | None = None
    capability: Text | None = None
    content: Any = None
    conversation_id: Text
    reply_with: Text
    in_reply_to: Text | None = None
    reply_by_s: UnixSeconds | None = None
    protocol: Text | None = None
    language: Text = "json"
    ontology: Text = "caxton-v1"
    routing_strategy: RoutingStrategy = RoutingStrategy.BEST_MATCH
    priority: Priority = 5
    timestamp_s: UnixSeconds = 0.0
    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=ATTACHMENT_LIMIT)] = ()
    fallback_versions: Annotated[tuple[FallbackVersion, ...], Meta(max_length=FALLBACK_LIMIT)] = ()
    topic: Text | None = None
    parent_conversation: Text | None = None
    merge_conversations: Annotated[tuple[Text, ...], Meta(max_length=MERGE_LIMIT)] = ()
    delivery: DeliveryClass = DeliveryClass.AT_LEAST_ONCE
    require: Annotated[tuple[tuple[str, str], ...], Meta(max_length=REQUIRED_LIMIT)] = ()

    @property
    def once(self) -> bool:
        """Whether it is better lost than handled twice."""
        return self.delivery is DeliveryClass.AT_MOST_ONCE

    @property
    def blobs(self) -> list[str]:
        """The digests of the blobs that it names."""
        return [each.blob for each in self.attachments if each.blob]

    @property
    def wanted(self) -> str:
        """What it is for: a receiver, a capability or a topic."""
        return self.receiver or self.capability or self.topic or ""

    @property
    def goes_to_all(self) -> bool:
        """Whether it is for all that there are: a broadcast, or a message to a topic."""
        if self.capability is None:
            return self.topic is not None
        return self.routing_strategy is RoutingStrategy.BROADCAST

    @property
    def has_kin(self) -> bool:
        """Whether it says how its conversation belongs together with others."""
        return self.parent_conversation is not None or bool(self.merge_conversations)

    @property
    def expects_reply(self) -> bool:
        """Whether its sender waits for an answer."""
        return self.performative in EXPECTS_REPLY

    def seal(self) -> bytes:
        """The one encoding that is stored, sent and proven: a MessagePack array, fields in declared order.

        Raises:
            ValidationFailed: the content has no such encoding.
        """
        try:
            return _ENCODER.encode(self)
        except (TypeError, OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise _invalid("content", f"it cannot be encoded: {error}") from None

    @classmethod
    def unseal(cls, sealed: bytes) -> Message:
        """Decode :meth:`seal`; total: whatever a peer sends, nothing else is raised.

        Raises:
            ValidationFailed: the bytes are not a sealed message, or break a rule of its fields.
        """
        message = _decoded(sealed)
        _check_rules(message)
        return message

    def as_json(self) -> dict[str, Any]:
        """The message as the public API shows it."""
        found: dict[str, Any] = {
            "message_id": self.id,
            "performative": self.performative.value,
            "sender": self.sender,
            "receiver": self.receiver,
            "capability": self.capability,
            "content": None if self.content == [] else self.content,
            "conversation_id": self.conversation_id,
            "reply_with": self.reply_with,
            "in_reply_to": self.in_reply_to,
            "reply_by": None if self.reply_by_s is None else iso8601(self.reply_by_s),
            "protocol": self.protocol,
            "language": self.language,
            "ontology": self.ontology,
            "routing_strategy": self.routing_strategy.value,
            "priority": self.priority,
            "timestamp": iso8601(self.timestamp_s),
            "attachments": [
                {"name": a.name, "media_type": a.media_type, "size_bytes": a.size_bytes}
                | ({"blob": a.blob} if a.blob else {})
                for a in self.attachments
            ]
            or None,
            "fallback_versions": list(self.fallback_versions) or None,
            "topic": self.topic,
            "parent_conversation": self.parent_conversation,
            "merge_conversations": list(self.merge_conversations) or None,
            "delivery": self.delivery.value if self.once else None,
            "require": labels_shown(self.require) or None,
        }
        return {key: value for key, value in found.items() if value is not None}


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What changes on the way and therefore travels outside the seal.

    Args:
        target: Name of the agent instance this copy is for.
        attempt: 1 for the first transmission.
        route_epoch: Grows by one each time the message is given another provider.
        hops: Messages that led to this one, within one chain of agents asking agents.
        remaining_s: Time left, a duration (edge boxes have wrong clocks).
        traceparent: W3C Trace Context, or the empty string.
    """

    target: Text
    attempt: Counter = 1
    route_epoch: Counter = 0
    hops: Counter = 0
    remaining_s: Annotated[float, Meta(ge=0.0, le=REMAINING_LIMIT_S)] = 3600.0
    traceparent: Note = ""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)
_LABELS: Final = (
    *("id", "conversation_id", "reply_with", "in_reply_to"),
    *("protocol", "language", "ontology"),
)
_SCALARS: Final = frozenset({str, int, bool, type(None)})
_PLACE: Final = re.compile(r"`\$\[(\d+)\]")


def body_hash(sealed: bytes) -> bytes:
    """BLAKE2b-256 of a sealed message: what its origin signs."""
    return hashlib.blake2b(sealed, digest_size=32).digest()


def iso8601(unix_s: float) -> str:
    """Unix seconds as ISO 8601 in UTC, milliseconds kept."""
    text = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """ISO 8601 with an offset (or ``Z``) as Unix seconds.

    Raises:
        ValidationFailed: it is no such time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValidationFailed(
            f"{text[:TEXT_LIMIT]!r} is not a time", fix="Write ISO 8601, as 2026-01-31T12:00:00Z."
        ) from None
    if moment.tzinfo is None:
        raise ValidationFailed(
            f"{text[:TEXT_LIMIT]!r} has no time zone", fix="Append Z for UTC, or an offset."
        )
    return moment.timestamp()


def check(message: Message) -> bytes:
    """Check the rules every message keeps, whoever made it.

    Returns:
        Its sealed form: what travels is what was checked.

    Raises:
        ValidationFailed: names the field that breaks its rule.
    """
    sealed = message.seal()
    _decoded(sealed)
    _check_rules(message)
    return sealed


def _decoded(sealed: bytes) -> Message:
    """The message in ``sealed``: every field of its type and within its bounds."""
    try:
        return _DECODER.decode(sealed)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        number = int(found[1]) - 1 if found else -1
        if number < 0:
            raise _not_a_message(str(error)) from None
        raise _invalid(Message.__struct_fields__[number], str(error)) from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _not_a_message(str(error)) from None


def _check_addressing(message: Message) -> None:
    receiver, capability, topic = message.receiver, message.capability, message.topic
    if (receiver is None) + (capability is None) + (topic is None) != 2:
        raise _invalid("receiver", "exactly one of receiver, capability and topic must be given")
    if receiver is not None and not _is_address(receiver):
        raise _invalid("receiver", f"{receiver!r} is not an agent address (name or name@node)")
    if capability is not None:
        check_capability(capability)
    if topic is not None and not is_topic(topic):
        raise _invalid("topic", f"{topic[:80]!r} is not a topic (orders.eu.created)")
    if message.fallback_versions and capability is None:
        raise _invalid("fallback_versions", "only a capability has versions")
    if not _is_address(message.sender):
        raise _invalid("sender", f"{message.sender!r} is not an agent address (name or name@node)")


def _check_rules(message: Message) -> None:
    """The rules that types do not tell."""
    if not _is_well_addressed(
        message.sender, message.receiver, message.capability, message.topic, bool(message.fallback_versions)
    ):
        _check_addressing(message)
    identifiers = message.id + message.conversation_id + message.reply_with + (message.in_reply_to or "")
    if not (identifiers.isprintable() and _are_labels(message.protocol, message.language, message.ontology)):
        for name in _LABELS:
            if not (getattr(message, name) or "").isprintable():
                raise _invalid(name, "it must be printable")
    if message.attachments:
        names = {attachment.name for attachment in message.attachments}
        if len(names) != len(message.attachments):
            raise _invalid("attachments", "two have the same name")
        for attachment in message.attachments:
            check_attachment(attachment)
        if sum(attachment.size for attachment in message.attachments) > BLOB_LIMIT_BYTES:
            raise _invalid("attachments", f"its blobs have more than {BLOB_LIMIT_BYTES:,} bytes in all")
    if message.has_kin:
        _check_kin(message)
    if message.require:
        _check_requirements(message)
    _check_json(message.content, CONTENT_DEPTH_LIMIT)


def _check_requirements(message: Message) -> None:
    if message.capability is None:
        raise _invalid("require", "only among those who offer a capability is there a choice")
    try:
        labels = check_labels(message.require, REQUIRED_LIMIT)
    except ValidationFailed as error:
        raise _invalid("require", error.why) from None
    if labels != message.require:
        raise _invalid("require", "it must be sorted, and each label be there once")


def _check_kin(message: Message) -> None:
    others = message.merge_conversations
    for name, named in (
        ("parent_conversation", (message.parent_conversation,)),
        ("merge_conversations", others),
    ):
        if message.conversation_id in named:
            raise _invalid(name, "a conversation is not its own relative")
        if not all((other or "").isprintable() for other in named):
            raise _invalid(name, "it must be printable")
    if len(dict.fromkeys(others)) != len(others):
        raise _invalid("merge_conversations", "two are the same")


@functools.lru_cache(maxsize=4096)
def _is_well_addressed(
    sender: str, receiver: str | None, capability: str | None, topic: str | None, has_fallback: bool
) -> bool:
    """Whether all rules of addressing hold; asked for every message, and mostly about the same few."""
    if (receiver is None) + (capability is None) + (topic is None) != 2 or not _is_address(sender):
        return False
    if receiver is not None:
        return _is_address(receiver) and not has_fallback
    if capability is not None:
        return len(capability) <= TEXT_LIMIT and _is_capability(capability)
    return topic is not None and is_topic(topic) and not has_fallback


@functools.lru_cache(maxsize=1024)
def _are_labels(*texts: str | None) -> bool:
    return all(text is None or text.isprintable() for text in texts)


@functools.lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


@functools.lru_cache(maxsize=4096)
def _is_capability(text: str) -> bool:
    return _CAPABILITY.fullmatch(text) is not None


def check_capability(text: object) -> str:
    """A capability name: kebab-case, optionally in a namespace and with a version.

    Raises:
        ValidationFailed: it is not.
    """
    if not isinstance(text, str) or len(text) > TEXT_LIMIT or not _is_capability(text):
        raise _invalid(
            "capability", f"{str(text)[:80]!r} is not kebab-case (data-analysis, data-analysis:v2)"
        )
    return text


def check_attachment(attachment: Attachment) -> None:
    """Check the rules of an attachment.

    Raises:
        ValidationFailed: it breaks one.
    """
    _check_text("attachments", attachment.name)
    _check_text("attachments", attachment.media_type)
    if not isinstance(attachment.data, bytes):
        raise _invalid("attachments", "data must be bytes")
    if not attachment.blob and attachment.size:
        raise _invalid("attachments", "only a blob has a size beside its data")
    if attachment.name in (".", "..") or re.search(r"[/\\\x00]", attachment.name):
        raise _invalid("attachments", f"{attachment.name!r} is not a plain file name")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > TEXT_LIMIT or not value.isprintable():
        raise _invalid(name, f"must be printable text of 1 to {TEXT_LIMIT} characters")


def _check_json(value: object, depth: int) -> None:
    if type(value) in _SCALARS:
        return
    if depth < 0:
        raise _invalid("content", f"nested deeper than {CONTENT_DEPTH_LIMIT}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _invalid("content", "object keys must be text")
            if type(item) not in _SCALARS:
                _check_json(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            if type(item) not in _SCALARS:
                _check_json(item, depth - 1)
    else:
        _check_scalar(value)


def _check_scalar(value: object) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid("content", "numbers must be finite")
    elif not isinstance(value, str | int):
        raise _invalid("content", f"a {type(value).__name__} is not a JSON value")


def _invalid(name: str, why: str) -> ValidationFailed:
    return ValidationFailed(
        f"the field {name!r} is not valid", why=why, fix="Correct it and send again.", details={"field": name}
    )


def _not_a_message(why: str) -> ValidationFailed:
    return ValidationFailed("the bytes are not a sealed message", why=why)
