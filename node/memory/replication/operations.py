"""The operations on what is shared: what each says, its one encoding, and what makes it valid.

An operation says one thing about one **element**: an entity, an observation or a relation. Whether it is
valid depends on its bytes and its origin alone, never on what a node holds, so all nodes judge alike. The id
of an entity follows from its scope, owner and name, so nodes that invent it at the same time mean the same
one. The id of an observation or a relation is bound to the node that stored it: no other node can say under
that id what was said.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from node.errors import CaxtonError
from node.memory.model import (
    DIMENSION_LIMIT,
    METADATA_BYTES_LIMIT,
    NAME_LIMIT,
    OBSERVATION_BYTES_LIMIT,
    TYPE_LIMIT,
    EntityDraft,
    ObservationDraft,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
    checked_name,
    checked_time,
    encoded_metadata,
)
from swim.hlc import MAX_STAMP

ID_BYTES: Final = 16
HASH_BYTES: Final = 32
ENTITIES_CACHED: Final = 4_096
"""Entities whose ids and forms are not worked out again for each observation about them."""
BODIES_CACHED: Final = 4
"""Operations whose hashes are not worked out again."""
MAX_BODY_BYTES: Final = OBSERVATION_BYTES_LIMIT + METADATA_BYTES_LIMIT + DIMENSION_LIMIT + 16 * 1024
"""Largest operation: the largest observation with its vector and what travels around it."""

Stamp = Annotated[int, Meta(ge=1, le=MAX_STAMP)]
Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_LIMIT)]
Owner = Annotated[str, Meta(max_length=NAME_LIMIT)]
Type = Annotated[str, Meta(min_length=1, max_length=TYPE_LIMIT)]
Word = Annotated[str, Meta(max_length=NAME_LIMIT)]
Json = Annotated[str, Meta(max_length=METADATA_BYTES_LIMIT)]


class Kind(IntEnum):
    """What an operation says; the numbers are on disk and on the wire."""

    ENTITY = 1
    OBSERVATION = 2
    OBSERVATION_END = 3
    RELATION = 4
    RELATION_END = 5
    FORGET_ENTITY = 6
    FORGET_OBSERVATION = 7
    FORGET_RELATION = 8


class Named(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An entity by its scope, owner and name, with its type as whoever names it knows it."""

    scope: Literal[1, 2]
    owner: Owner
    name: Name
    type: Type

    @property
    def realm(self) -> Realm:
        """Where it is."""
        return Realm(Scope(self.scope), self.owner)

    @property
    def id(self) -> bytes:
        """Its id."""
        return _id_of(self.scope, self.owner, self.name)


class Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """By whose word; the node is the operation's origin."""

    agent: Word = ""
    conversation: Word = ""
    message: Word = ""


class SayEntity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """An entity and all its attributes; of several the one with the highest stamp counts."""

    stamp: Stamp
    entity: Named
    confidence: float
    strength: float
    valid_from_s: float | None
    valid_to_s: float | None
    metadata: Json | None
    told: Told


class SayObservation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """An observation; its text never changes.

    Args:
        nonce: What its id is made of, together with the origin; see :func:`element_id`.
        space: Digest of the model that made the vector, or empty.
        vector: Whole numbers of 8 bits, or empty.
    """

    stamp: Stamp
    nonce: Id
    entity: Named
    text: Annotated[str, Meta(min_length=1, max_length=OBSERVATION_BYTES_LIMIT)]
    confidence: float
    created_s: float
    valid_from_s: float | None
    valid_to_s: float | None
    metadata: Json | None
    told: Told
    space: Word = ""
    vector: Annotated[bytes, Meta(max_length=DIMENSION_LIMIT)] = b""


class EndObservation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """An observation no longer holds.

    Args:
        id: The observation.
        born: Stamp of the operation that said it.
        entity: The entity it is about.
        at_s: Since when, in Unix seconds.
        successor: The observation that holds instead.
    """

    stamp: Stamp
    id: Id
    born: Stamp
    entity: Id
    at_s: float
    successor: Id


class SayRelation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """A relation in a realm, between two entities of that realm or of the global one."""

    stamp: Stamp
    nonce: Id
    scope: Literal[1, 2]
    owner: Owner
    source: Named
    target: Named
    relation_type: Type
    strength: float
    confidence: float
    both_ways: bool
    created_s: float
    valid_from_s: float | None
    valid_to_s: float | None
    metadata: Json | None
    told: Told

    @property
    def realm(self) -> Realm:
        """Where it is."""
        return Realm(Scope(self.scope), self.owner)


class EndRelation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """A relation no longer holds; fields as of :class:`EndObservation`."""

    stamp: Stamp
    id: Id
    born: Stamp
    source: Id
    target: Id
    at_s: float


class ForgetEntity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """All that was said about an entity up to this stamp is gone; its name is not in here."""

    stamp: Stamp
    id: Id


class ForgetObservation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """An observation is gone, whatever else is said of it."""

    stamp: Stamp
    id: Id


class ForgetRelation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """A relation is gone, whatever else is said of it."""

    stamp: Stamp
    id: Id


Operation = (
    SayEntity | SayObservation | EndObservation | SayRelation | EndRelation
    | ForgetEntity | ForgetObservation | ForgetRelation
)  # fmt: skip

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Operation]] = msgspec.msgpack.Decoder(Operation)


class OperationInvalid(Exception):
    """The bytes are no operation, or one that its origin may not say."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log needs to know of an operation.

    Attributes:
        kind: What it says.
        stamp: Its hybrid logical time.
        born: Stamp of what it is about: its own, but for an end.
        element: What it is about.
        entity: The entity that it presupposes, for observations and the sources of relations.
        other: The second entity of a relation; of an observation's end its successor.
    """

    kind: Kind
    stamp: int
    born: int
    element: bytes
    entity: bytes | None = None
    other: bytes | None = None


def entity_id(realm: Realm, name: str) -> bytes:
    """The id of a shared entity: the same on all nodes."""
    return _id_of(int(realm.scope), realm.owner, name)


@lru_cache(maxsize=ENTITIES_CACHED)
def _id_of(scope: int, owner: str, name: str) -> bytes:
    told = _ENCODER.encode((scope, owner, name))
    return hashlib.blake2b(told, digest_size=ID_BYTES, person=b"caxton entity").digest()


def element_id(node: str, nonce: bytes) -> bytes:
    """The id of an observation or relation of ``node``: the time of its nonce, and 80 bits of both."""
    bound = hashlib.blake2b(nonce + node.encode(), digest_size=10, person=b"caxton element").digest()
    return nonce[:6] + bound


@lru_cache(maxsize=BODIES_CACHED)
def body_hash(body: bytes) -> bytes:
    """What an operation is signed by; it is asked for three times while one is taken."""
    return hashlib.blake2b(body, digest_size=HASH_BYTES).digest()


def encode(operation: Operation) -> bytes:
    """An operation as it is stored, signed and sent."""
    return _ENCODER.encode(operation)


def decode(body: bytes, origin: str) -> tuple[Operation, Facts]:
    """Read an operation of a node; total.

    Args:
        body: Its bytes.
        origin: The node whose log it is in.

    Raises:
        OperationInvalid: it is none, or breaks a rule of what is remembered.
    """
    if len(body) > MAX_BODY_BYTES:
        raise OperationInvalid(f"it has {len(body)} bytes")
    try:
        operation = _DECODER.decode(body)
        facts = facts_of(operation, origin)
        _check(operation)
    except (msgspec.DecodeError, RecursionError, ValueError, CaxtonError) as error:
        raise OperationInvalid(str(error)[:200]) from None
    return operation, facts


def facts_of(operation: Operation, origin: str) -> Facts:
    """What the log needs to know of an operation of a node."""
    stamp = operation.stamp
    if isinstance(operation, SayEntity):
        return Facts(Kind.ENTITY, stamp, stamp, operation.entity.id)
    if isinstance(operation, SayObservation):
        made = element_id(origin, operation.nonce)
        return Facts(Kind.OBSERVATION, stamp, stamp, made, operation.entity.id)
    if isinstance(operation, EndObservation):
        ended = (operation.born, operation.id, operation.entity, operation.successor)
        return Facts(Kind.OBSERVATION_END, stamp, *ended)
    if isinstance(operation, SayRelation):
        made = element_id(origin, operation.nonce)
        return Facts(Kind.RELATION, stamp, stamp, made, operation.source.id, operation.target.id)
    if isinstance(operation, EndRelation):
        ended = (operation.born, operation.id, operation.source, operation.target)
        return Facts(Kind.RELATION_END, stamp, *ended)
    kinds = {
        ForgetEntity: Kind.FORGET_ENTITY,
        ForgetObservation: Kind.FORGET_OBSERVATION,
        ForgetRelation: Kind.FORGET_RELATION,
    }
    return Facts(kinds[type(operation)], stamp, stamp, operation.id)


def provenance(told: Told, origin: str) -> Provenance:
    """By whose word an operation of a node is."""
    return Provenance(told.agent, told.conversation, told.message, origin)


def _check(operation: Operation) -> None:
    """Hold an operation against the rules for what is stored here; raises CaxtonError or ValueError."""
    if isinstance(operation, SayEntity):
        _require_one_form(operation.entity)
        EntityDraft(
            operation.entity.name,
            operation.entity.type,
            metadata=_metadata(operation.metadata),
            confidence=operation.confidence,
            strength=operation.strength,
            valid_from_s=operation.valid_from_s,
            valid_to_s=operation.valid_to_s,
        )
        _require_source(operation.told)
    elif isinstance(operation, SayObservation):
        _require_one_form(operation.entity)
        ObservationDraft(
            operation.text,
            operation.confidence,
            operation.valid_from_s,
            operation.valid_to_s,
            _metadata(operation.metadata),
        )
        checked_time(operation.created_s, "created")
        _require_source(operation.told)
    elif isinstance(operation, SayRelation):
        _check_relation(operation)
    elif isinstance(operation, EndObservation | EndRelation):
        checked_time(operation.at_s, "valid_to")
        if operation.born >= operation.stamp:
            raise ValueError("it ends before it began")


def _check_relation(operation: SayRelation) -> None:
    for end in (operation.source, operation.target):
        _require_one_form(end)
        if end.realm != operation.realm and end.realm.scope is not Scope.GLOBAL:
            raise ValueError("an end is neither in the realm nor global")
    draft = RelationDraft(
        operation.source.name,
        operation.target.name,
        operation.relation_type,
        operation.strength,
        operation.confidence,
        operation.both_ways,
        operation.valid_from_s,
        operation.valid_to_s,
        _metadata(operation.metadata),
    )
    if draft.type != operation.relation_type:
        raise ValueError("its type is not in its one form")
    checked_time(operation.created_s, "created")
    _require_source(operation.told)


@lru_cache(maxsize=ENTITIES_CACHED)
def _require_one_form(entity: Named) -> None:
    """Refuse a name, type or owner that is not in its one form: it would be another entity elsewhere."""
    owner = entity.realm.owner
    told = (
        checked_name(entity.name, "entity_name"),
        checked_name(entity.type, "entity_type", TYPE_LIMIT),
        checked_name(owner, "owner") if owner else "",
    )
    if told != (entity.name, entity.type, owner):
        raise ValueError("a name is not in its one form")


@lru_cache(maxsize=ENTITIES_CACHED)
def _require_source(told: Told) -> None:
    """Refuse a source that breaks a rule; most operations of a page have the same."""
    provenance(told, "")


def _metadata(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict) or encoded_metadata(found) != text:
        raise ValueError("metadata is not in its one form")
    return found
