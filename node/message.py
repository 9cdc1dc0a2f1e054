"""The one Message type: a FIPA-ACL message, everybody's vocabulary.

A message is sealed where it enters the cluster. What is sealed (identity, performative, addressing,
content, conversation) never changes afterwards; its encoding is made once (:meth:`Message.seal`) and
travels, is stored and is proven byte for byte. What changes on the way (attempt, hops, remaining time,
trace context) is the :class:`Envelope` beside it.

Source: FIPA ACL Message Structure Specification SC00061G; the subset and its spelling are Caxton's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import cbor2

from node.errors import ValidationFailed, nearest

CONTENT_DEPTH_LIMIT: Final = 64
"""Deepest nesting of a message's content."""
ATTACHMENT_LIMIT: Final = 16
"""Most attachments of one message."""
TEXT_LIMIT: Final = 512
"""Longest identifier or label in a message, in characters."""

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]*$")
_CAPABILITY = re.compile(r"^[a-z0-9]+([._-][a-z0-9]+)*(:[a-z0-9]+([._-][a-z0-9]+)*)?(:v?\d+(\.\d+){0,2})?$")
_SEAL_VERSION: Final = 1


class Performative(StrEnum):
    """What a message does (FIPA Communicative Act Library SC00037J, the subset of Caxton 1.0)."""

    REQUEST = "request"
    INFORM = "inform"
    QUERY = "query"
    FAILURE = "failure"
    NOT_UNDERSTOOD = "not_understood"
    PROPOSE = "propose"
    ACCEPT_PROPOSAL = "accept_proposal"
    REJECT_PROPOSAL = "reject_proposal"

    @classmethod
    def parse(cls, text: str) -> Performative:
        """Read a performative in any case, with ``-`` or ``_``.

        Raises:
            ValidationFailed: it is none of the subset.
        """
        word = text.strip().lower().replace("-", "_")
        try:
            return cls(word)
        except ValueError:
            guess = nearest(word, [p.value for p in cls])
            raise ValidationFailed(
                f"unknown performative {text[:TEXT_LIMIT]!r}",
                why="performatives are " + ", ".join(p.value for p in cls),
                fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
                details={"field": "performative", "nearest": guess},
            ) from None


EXPECTS_REPLY: Final = frozenset({Performative.REQUEST, Performative.QUERY, Performative.PROPOSE})
"""Performatives whose sender waits for an answer."""


class RoutingStrategy(StrEnum):
    """How a provider of a capability is chosen."""

    BEST_MATCH = "best_match"
    LOAD_BALANCED = "load_balanced"
    BROADCAST = "broadcast"

    @classmethod
    def parse(cls, text: str) -> RoutingStrategy:
        """Read a strategy or one of its aliases.

        Raises:
            ValidationFailed: it is no strategy.
        """
        word = text.strip().lower().replace("-", "_")
        found = _STRATEGY_ALIASES.get(word)
        if found is None:
            guess = nearest(word, _STRATEGY_ALIASES)
            raise ValidationFailed(
                f"unknown routing strategy {text[:TEXT_LIMIT]!r}",
                why="strategies are " + ", ".join(s.value for s in cls),
                fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
                details={"field": "routing_strategy", "nearest": guess},
            )
        return found


_STRATEGY_ALIASES: Final = {
    "best_match": RoutingStrategy.BEST_MATCH,
    "single_recipient": RoutingStrategy.BEST_MATCH,
    "priority": RoutingStrategy.BEST_MATCH,
    "fastest_response": RoutingStrategy.BEST_MATCH,
    "failover": RoutingStrategy.BEST_MATCH,
    "context_continuity": RoutingStrategy.BEST_MATCH,
    "specialization_match": RoutingStrategy.BEST_MATCH,
    "context_optimized": RoutingStrategy.BEST_MATCH,
    "load_balanced": RoutingStrategy.LOAD_BALANCED,
    "load_balance": RoutingStrategy.LOAD_BALANCED,
    "least_loaded": RoutingStrategy.LOAD_BALANCED,
    "broadcast": RoutingStrategy.BROADCAST,
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels inside a message.

    Args:
        name: File name without any directory.
        media_type: For example ``text/csv``.
        data: The bytes.
    """

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One FIPA-ACL message; exactly one of ``receiver`` and ``capability`` is set.

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
    """

    id: str
    performative: Performative
    sender: str
    receiver: str | None = None
    capability: str | None = None
    content: Any = None
    conversation_id: str
    reply_with: str
    in_reply_to: str | None = None
    reply_by_s: float | None = None
    protocol: str | None = None
    language: str = "json"
    ontology: str = "caxton-v1"
    routing_strategy: RoutingStrategy = RoutingStrategy.BEST_MATCH
    priority: int = 5
    timestamp_s: float = 0.0
    attachments: tuple[Attachment, ...] = field(default=())

    @property
    def expects_reply(self) -> bool:
        """Whether its sender waits for an answer."""
        return self.performative in EXPECTS_REPLY

    def seal(self) -> bytes:
        """The one encoding that is stored, sent and proven: a CBOR array, fields in declared order."""
        values: list[Any] = [_SEAL_VERSION]
        for name in _FIELD_NAMES:
            value = getattr(self, name)
            if name == "attachments":
                value = [[a.name, a.media_type, a.data] for a in value]
            elif isinstance(value, StrEnum):
                value = value.value
            values.append(value)
        return cbor2.dumps(values)

    @classmethod
    def unseal(cls, sealed: bytes) -> Message:
        """Decode :meth:`seal`; total: whatever a peer sends, nothing else is raised.

        Raises:
            ValidationFailed: the bytes are not a sealed message, or break a rule of its fields.
        """
        try:
            values = cbor2.loads(sealed)
        except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, TypeError) as error:
            raise _not_a_message(f"not CBOR ({type(error).__name__})") from None
        if not isinstance(values, list) or len(values) != len(_FIELD_NAMES) + 1:
            raise _not_a_message("not an array of the right length")
        if values[0] != _SEAL_VERSION or isinstance(values[0], bool):
            raise _not_a_message(f"version {values[0]!r} is not {_SEAL_VERSION}")
        data = dict(zip(_FIELD_NAMES, values[1:], strict=True))
        try:
            data["attachments"] = tuple(_attachment_from_wire(a) for a in data["attachments"])
            data["performative"] = Performative(data["performative"])
            data["routing_strategy"] = RoutingStrategy(data["routing_strategy"])
            message = cls(**data)
            check(message)
        except (TypeError, ValueError) as error:
            raise _not_a_message(str(error)) from None
        return message

    def as_json(self) -> dict[str, Any]:
        """The message as the public API shows it."""
        found: dict[str, Any] = {
            "message_id": self.id,
            "performative": self.performative.value,
            "sender": self.sender,
            "receiver": self.receiver,
            "capability": self.capability,
            "content": self.content,
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
                {"name": a.name, "media_type": a.media_type, "size_bytes": len(a.data)}
                for a in self.attachments
            ],
        }
        return {key: value for key, value in found.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What changes on the way and therefore travels outside the seal.

    Args:
        target: Name of the agent instance this copy is for.
        attempt: 1 for the first transmission.
        route_epoch: Grows by one each time the message is given another provider.
        hops: Messages that led to this one, within one chain of agents asking agents.
        remaining_s: Time left, a duration (edge boxes have wrong clocks).
        traceparent: W3C Trace Context, or the empty string.
    """

    target: str
    attempt: int = 1
    route_epoch: int = 0
    hops: int = 0
    remaining_s: float = 3600.0
    traceparent: str = ""


_FIELD_NAMES: Final = tuple(f.name for f in fields(Message))


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


def check(message: Message) -> None:
    """Check the rules every message keeps, whoever made it.

    Raises:
        ValidationFailed: names the field that breaks its rule.
    """
    if (message.receiver is None) == (message.capability is None):
        raise _invalid("receiver", "exactly one of receiver and capability must be given")
    _check_labels(message)
    _check_numbers(message)
    if len(message.attachments) > ATTACHMENT_LIMIT:
        raise _invalid("attachments", f"more than {ATTACHMENT_LIMIT}")
    names = [a.name for a in message.attachments]
    if len(set(names)) != len(names):
        raise _invalid("attachments", "two have the same name")
    for attachment in message.attachments:
        _check_attachment(attachment)
    _check_json(message.content, CONTENT_DEPTH_LIMIT)


def _check_labels(message: Message) -> None:
    for name in ("id", "sender", "conversation_id", "reply_with"):
        _check_text(name, getattr(message, name))
    for name in ("in_reply_to", "protocol", "language", "ontology", "receiver"):
        if getattr(message, name) is not None:
            _check_text(name, getattr(message, name))
    for name in ("sender", "receiver"):
        address = getattr(message, name)
        if address is not None and not _NAME.match(address):
            raise _invalid(name, f"{address!r} is not an agent address (name or name@node)")
    if message.capability is not None:
        check_capability(message.capability)


def _check_numbers(message: Message) -> None:
    if not isinstance(message.priority, int) or isinstance(message.priority, bool):
        raise _invalid("priority", "must be a whole number")
    if not 0 <= message.priority <= 9:
        raise _invalid("priority", "must be from 0 to 9")
    for name in ("timestamp_s", "reply_by_s"):
        moment = getattr(message, name)
        if moment is None and name == "reply_by_s":
            continue
        if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment < 1e11:
            raise _invalid(name, "must be Unix seconds")


def check_capability(text: object) -> str:
    """A capability name: kebab-case, optionally in a namespace and with a version.

    Raises:
        ValidationFailed: it is not.
    """
    if not isinstance(text, str) or len(text) > TEXT_LIMIT or not _CAPABILITY.match(text):
        raise _invalid(
            "capability", f"{str(text)[:80]!r} is not kebab-case (data-analysis, data-analysis:v2)"
        )
    return text


def attachment_from_json(data: Any) -> Attachment:
    """Read ``{"name", "media_type"?, "text" | "base64"}``.

    Raises:
        ValidationFailed: it has another form.
    """
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise _invalid("attachments", "each must be an object with a name and text or base64")
    unknown = sorted(set(data) - {"name", "media_type", "text", "base64"})
    if unknown or ("text" in data) == ("base64" in data):
        raise _invalid("attachments", f"{data['name'][:80]!r} needs exactly one of text and base64")
    try:
        raw = data["text"].encode() if "text" in data else base64.b64decode(data["base64"], validate=True)
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise _invalid("attachments", f"{data['name'][:80]!r} cannot be decoded") from None
    attachment = Attachment(data["name"], data.get("media_type", "application/octet-stream"), raw)
    _check_attachment(attachment)
    return attachment


def _attachment_from_wire(data: Any) -> Attachment:
    name, media_type, raw = data
    return Attachment(name, media_type, raw)


def _check_attachment(attachment: Attachment) -> None:
    _check_text("attachments", attachment.name)
    _check_text("attachments", attachment.media_type)
    if not isinstance(attachment.data, bytes):
        raise _invalid("attachments", "data must be bytes")
    if attachment.name in (".", "..") or re.search(r"[/\\\x00]", attachment.name):
        raise _invalid("attachments", f"{attachment.name!r} is not a plain file name")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > TEXT_LIMIT or not value.isprintable():
        raise _invalid(name, f"must be printable text of 1 to {TEXT_LIMIT} characters")


def _check_json(value: object, depth: int) -> None:
    if depth < 0:
        raise _invalid("content", f"nested deeper than {CONTENT_DEPTH_LIMIT}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _invalid("content", "object keys must be text")
            _check_json(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth - 1)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - the NaN test
            raise _invalid("content", "numbers must be finite")
    elif value is not None and not isinstance(value, str | int | bool):
        raise _invalid("content", f"a {type(value).__name__} is not a JSON value")


def _invalid(name: str, why: str) -> ValidationFailed:
    return ValidationFailed(
        f"the field {name!r} is not valid", why=why, fix="Correct it and send again.", details={"field": name}
    )


def _not_a_message(why: str) -> ValidationFailed:
    return ValidationFailed("the bytes are not a sealed message", why=why)
