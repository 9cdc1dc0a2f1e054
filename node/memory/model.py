"""What is remembered: entities, what was observed about them, how they relate, and by whose word.

A fact is superseded, not overwritten: it gets a ``valid_to`` and its successor a ``valid_from``, so that what
was believed at a time can be asked for. All times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final, NoReturn

from node.errors import InvalidEntityData, MemoryTooLarge, ValidationFailed, nearest

NAME_LIMIT: Final = 256
"""Longest name of an entity, an owner or a source, in characters."""
TYPE_LIMIT: Final = 64
"""Longest type of an entity or a relation, in characters."""
OBSERVATION_BYTES_LIMIT: Final = 1024**2
"""Longest text of one observation, in bytes of UTF-8."""
REQUEST_BYTES_LIMIT: Final = 10 * 1024**2
"""Most bytes of text that one request brings."""
REQUEST_OBSERVATIONS_LIMIT: Final = 1_000
"""Most observations that one request brings."""
BATCH_LIMIT: Final = 100
"""Most entities that one request brings."""
METADATA_BYTES_LIMIT: Final = 16 * 1024
"""Largest metadata of one thing, as JSON, in bytes."""
METADATA_KEYS_LIMIT: Final = 64
"""Most keys in the metadata of one thing."""
DIMENSION_LIMIT: Final = 4_096
"""Most numbers in one vector."""
TIME_LIMIT_S: Final = 253_402_300_799.0
"""The last second of the year 9999, beyond which no time is taken."""
STRENGTH: Final = 0.5
"""How strong a relation is whose maker does not say."""


class Scope(IntEnum):
    """Who may see something; the narrower one stands first."""

    AGENT = 0
    WORKSPACE = 1
    GLOBAL = 2

    @property
    def label(self) -> str:
        """Its name in the public API."""
        return _LABELS[self]

    @classmethod
    def parse(cls, text: str) -> Scope:
        """The scope of a name in the public API, in any case, with - or _.

        Raises:
            ValidationFailed: there is no such scope.
        """
        found = _SCOPES.get(text.strip().lower().replace("_", "-"))
        if found is None:
            guess = nearest(text[:80], _LABELS.values())
            raise ValidationFailed(
                f"there is no memory scope {text[:80]!r}",
                why=f"scopes are {', '.join(_LABELS.values())}",
                fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
                details={"field": "memory_scope"},
            )
        return found


_LABELS: Final = {Scope.AGENT: "agent-only", Scope.WORKSPACE: "workspace", Scope.GLOBAL: "global"}
_SCOPES: Final = {label: scope for scope, label in _LABELS.items()} | {"agent": Scope.AGENT}


@dataclass(frozen=True, slots=True, order=True)
class Realm:
    """Where something is remembered: a scope and its owner. Names of entities are unique within one.

    Attributes:
        scope: Who may see it.
        owner: The agent or the workspace; empty for the global scope.
    """

    scope: Scope
    owner: str = ""

    def __post_init__(self) -> None:
        if self.scope is Scope.GLOBAL:
            if self.owner:
                _invalid("owner", "the global scope has no owner")
        else:
            checked_name(self.owner, "agent_id" if self.scope is Scope.AGENT else "workspace")


class Timing(StrEnum):
    """Which facts a question is about."""

    CURRENT = "current"
    ALL = "all"
    RANGE = "date_range"


@dataclass(frozen=True, slots=True)
class Period:
    """The time that a question is about.

    Attributes:
        timing: Facts that hold now, all that ever held, or those that held at some time of a range.
        start_s: First second of the range.
        end_s: The second after its last.
    """

    timing: Timing = Timing.CURRENT
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.timing is not Timing.RANGE and (self.start_s is not None or self.end_s is not None):
            _invalid("temporal_filter", "only date_range has a start and an end")
        for name, value in (("start_date", self.start_s), ("end_date", self.end_s)):
            checked_time(value, name)
        if self.start_s is not None and self.end_s is not None and self.start_s >= self.end_s:
            _invalid("start_date", "it must be before end_date")


@dataclass(frozen=True, slots=True)
class Provenance:
    """By whose word something is remembered; what is unknown is empty.

    Attributes:
        agent: Who stored it.
        conversation: In which conversation.
        message: While handling which message.
        node: On which node.
    """

    agent: str = ""
    conversation: str = ""
    message: str = ""
    node: str = ""

    def __post_init__(self) -> None:
        for name in ("agent", "conversation", "message", "node"):
            value = getattr(self, name)
            if value:
                checked_name(value, name)

    def as_json(self) -> dict[str, str]:
        """What is known of it."""
        known = {"agent": self.agent, "conversation": self.conversation}
        known |= {"message": self.message, "node": self.node}
        return {key: value for key, value in known.items() if value}


NOBODY: Final = Provenance()


@dataclass(frozen=True, slots=True)
class ObservationDraft:
    """Something to remember about an entity.

    Attributes:
        text: In the caller's words, as one may want to find them.
        confidence: How sure it is, 0 to 1.
        valid_from_s: Since when it holds, or None for since it was stored.
        valid_to_s: When it ends to hold, or None while that is not known.
        metadata: JSON values by name.
    """

    text: str
    confidence: float = 1.0
    valid_from_s: float | None = None
    valid_to_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_text(self.text)
        checked_share(self.confidence, "confidence")
        _checked_validity(self.valid_from_s, self.valid_to_s)
        encoded_metadata(self.metadata)

    @property
    def digest(self) -> int:
        """64 bits that are equal for equal texts."""
        return text_digest(self.text)


@dataclass(frozen=True, slots=True)
class EntityDraft:
    """An entity to remember, or to add to.

    Attributes:
        name: Unique in its realm; spaces around it do not count.
        type: What kind of thing it is, such as ``person``.
        observations: What is known about it; what is there already is not stored twice.
        metadata: JSON values by name; None leaves what is there.
        confidence: How sure it is that there is such a thing, 0 to 1.
        strength: How much it matters, 0 to 1.
        valid_from_s: Since when it exists, or None.
        valid_to_s: Until when, or None.
    """

    name: str
    type: str
    observations: tuple[ObservationDraft, ...] = ()
    metadata: Mapping[str, Any] | None = None
    confidence: float = 1.0
    strength: float = 1.0
    valid_from_s: float | None = None
    valid_to_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", checked_name(self.name, "entity_name"))
        object.__setattr__(self, "type", checked_name(self.type, "entity_type", TYPE_LIMIT))
        checked_share(self.confidence, "confidence")
        checked_share(self.strength, "strength")
        _checked_validity(self.valid_from_s, self.valid_to_s)
        if self.metadata is not None:
            encoded_metadata(self.metadata)


@dataclass(frozen=True, slots=True)
class RelationDraft:
    """How one entity relates to another.

    Attributes:
        source: Name of the entity it leads from.
        target: Name of the one it leads to.
        type: How, such as ``works_on``.
        strength: How much, 0 to 1.
        confidence: How sure it is, 0 to 1.
        bidirectional: Whether it holds both ways.
        valid_from_s: Since when it holds, or None for since it was stored.
        valid_to_s: When it ends to hold, or None.
        metadata: JSON values by name.
    """

    source: str
    target: str
    type: str
    strength: float = STRENGTH
    confidence: float = 1.0
    bidirectional: bool = False
    valid_from_s: float | None = None
    valid_to_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", checked_name(self.source, "from_entity"))
        object.__setattr__(self, "target", checked_name(self.target, "to_entity"))
        object.__setattr__(self, "type", checked_name(self.type, "relation_type", TYPE_LIMIT))
        checked_share(self.strength, "strength")
        checked_share(self.confidence, "confidence")
        _checked_validity(self.valid_from_s, self.valid_to_s)
        encoded_metadata(self.metadata)


def checked_request(drafts: Sequence[EntityDraft]) -> None:
    """Hold one request against the limits.

    Raises:
        MemoryTooLarge: too many entities or observations, or too much text.
    """
    count = sum(len(draft.observations) for draft in drafts)
    size = sum(len(o.text.encode()) for draft in drafts for o in draft.observations)
    for what, found, limit in (
        ("entities", len(drafts), BATCH_LIMIT),
        ("observations", count, REQUEST_OBSERVATIONS_LIMIT),
        ("bytes of text", size, REQUEST_BYTES_LIMIT),
    ):
        if found > limit:
            raise MemoryTooLarge(
                f"the request brings {found} {what}",
                why=f"at most {limit} are taken at once",
                fix="Split it.",
                details={"limit": limit},
            )


def checked_name(text: str, where: str, limit: int = NAME_LIMIT) -> str:
    """A name in its one form: composed (NFC), without spaces around it.

    Raises:
        InvalidEntityData: it is empty, too long, or has characters that are none.
    """
    _encodable(text, where)
    found = unicodedata.normalize("NFC", text).strip()
    if not found:
        _invalid(where, "it is empty")
    if len(found) > limit:
        _invalid(where, f"it has {len(found)} characters, at most {limit} are taken")
    if any(unicodedata.category(character) == "Cc" for character in found):
        _invalid(where, "it has control characters")
    return found


def checked_text(text: str, where: str = "observations") -> None:
    """Hold the text of an observation against the limits.

    Raises:
        InvalidEntityData: it is empty, or has characters that are none.
        MemoryTooLarge: it is too long.
    """
    size = len(_encodable(text, where))
    if not text.strip():
        _invalid(where, "a text is empty")
    if size > OBSERVATION_BYTES_LIMIT:
        raise MemoryTooLarge(
            f"an observation has {size} bytes",
            why=f"one may have {OBSERVATION_BYTES_LIMIT}",
            fix="Split it at the borders of sentences.",
            details={"field": where, "limit": OBSERVATION_BYTES_LIMIT},
        )


def checked_share(value: float, where: str) -> None:
    """Refuse what is no number from 0 to 1.

    Raises:
        InvalidEntityData: it is not.
    """
    if not 0.0 <= value <= 1.0:  # which NaN is not, either
        _invalid(where, "it must be from 0 to 1")


def checked_time(value: float | None, where: str) -> None:
    """Refuse what is no time before the year 10000.

    Raises:
        InvalidEntityData: it is not.
    """
    if value is not None and not 0.0 <= value <= TIME_LIMIT_S:
        _invalid(where, "it must be a time from 1970 to 9999")


def encoded_metadata(metadata: Mapping[str, Any]) -> str | None:
    """Metadata as JSON, None where there is none.

    Raises:
        InvalidEntityData: it is too large, or is no JSON.
    """
    if not metadata:
        return None
    if len(metadata) > METADATA_KEYS_LIMIT:
        _invalid("metadata", f"it has {len(metadata)} keys, at most {METADATA_KEYS_LIMIT} are taken")
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        _invalid("metadata", f"it is no JSON: {str(error)[:200]}")
    if len(_encodable(text, "metadata")) > METADATA_BYTES_LIMIT:
        _invalid("metadata", f"it has more than {METADATA_BYTES_LIMIT} bytes as JSON")
    return text


def decoded_metadata(text: str | None) -> dict[str, Any]:
    """What :func:`encoded_metadata` made text of."""
    if text is None:
        return {}
    found: dict[str, Any] = json.loads(text)
    return found


def text_digest(text: str) -> int:
    """64 bits of SHA-256 as SQLite's signed whole number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def embedded_text(name: str, type_: str, text: str) -> str:
    """What the vector of an observation is made of: said of nobody, a fact is hard to find."""
    return f"{name} ({type_}): {text}"


def _checked_validity(start_s: float | None, end_s: float | None) -> None:
    checked_time(start_s, "valid_from")
    checked_time(end_s, "valid_to")
    if start_s is not None and end_s is not None and start_s >= end_s:
        _invalid("valid_from", "it must be before valid_to")


def _encodable(text: str, where: str) -> bytes:
    try:
        found = text.encode()
    except UnicodeEncodeError:
        _invalid(where, "it has half of a surrogate pair, which is no character")
    if b"\0" in found:
        _invalid(where, "it has a NUL character, at which SQLite ends a text")
    return found


def _invalid(where: str, why: str) -> NoReturn:
    raise InvalidEntityData(
        f"{where} cannot be remembered", why=why, fix="Correct it and send again.", details={"field": where}
    )


NOW: Final = Period()
"""What holds now: what questions are about by default."""
