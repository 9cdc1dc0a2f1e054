"""Entities, observations and relations as a viewer sees them, and the conditions that questions share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from node.memory.ids import ENTITY, OBSERVATION, RELATION, read_id, show_id
from node.memory.model import NOBODY, Period, Provenance, Realm, Timing, decoded_metadata
from node.memory.records import not_found
from node.memory.scopes import Scoped
from node.message import iso8601

SHOWN_OBSERVATIONS: Final = 100
"""Most observations of an entity that are shown at once."""
SHOWN_RELATIONS: Final = 50
"""Most relations of an entity that are shown at once."""
TYPES_LIMIT: Final = 32
"""Most types that a question names."""

_OBSERVATION: Final = (
    "o.key, o.id, o.text, o.confidence, o.created_s, o.valid_from_s, o.valid_to_s, o.ended, o.successor,"
    " o.used, o.accepted, o.corrected, o.rejected, o.model IS NOT NULL, o.metadata, o.source"
)
_ENTITY: Final = (
    "e.key, e.id, e.realm, e.name, e.type, e.confidence, e.strength, e.version, e.created_s, e.updated_s,"
    " e.valid_from_s, e.valid_to_s, e.source, e.known, e.metadata"
)


class Observation(NamedTuple):
    """Something that was observed; see :class:`node.memory.model.ObservationDraft`.

    A tuple, as an entity is: an answer has hundreds of them, and a frozen dataclass sets its attributes one
    by one, which takes seven times as long.
    """

    id: str
    text: str
    confidence: float
    created_s: float
    valid_from_s: float | None
    valid_to_s: float | None
    ended: bool
    superseded_by: str | None
    used: int
    accepted: int
    corrected: int
    rejected: int
    embedded: bool
    metadata: Mapping[str, Any]
    source: Provenance

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "observation_id": self.id,
            "text": self.text,
            "confidence": self.confidence,
            "created_at": iso8601(self.created_s),
            "valid_from": _time(self.valid_from_s),
            "valid_to": _time(self.valid_to_s),
            "superseded_by": self.superseded_by,
            "outcomes": {
                "used": self.used,
                "accepted": self.accepted,
                "corrected": self.corrected,
                "rejected": self.rejected,
            },
            "embedded": self.embedded,
            "metadata": dict(self.metadata),
            "source": self.source.as_json(),
        }


class Use(NamedTuple):
    """How old an observation is, and what came of its use."""

    created_s: float
    used: int
    accepted: int
    corrected: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Relation:
    """How one entity relates to another; see :class:`node.memory.model.RelationDraft`."""

    id: str
    source: str
    target: str
    source_id: str
    target_id: str
    type: str
    strength: float
    confidence: float
    bidirectional: bool
    created_s: float
    valid_from_s: float | None
    valid_to_s: float | None
    version: int
    realm: Realm
    metadata: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "relation_id": self.id,
            "from_entity": self.source,
            "to_entity": self.target,
            "from_entity_id": self.source_id,
            "to_entity_id": self.target_id,
            "relation_type": self.type,
            "strength": self.strength,
            "confidence": self.confidence,
            "bidirectional": self.bidirectional,
            "version": self.version,
            "created_at": iso8601(self.created_s),
            "valid_from": _time(self.valid_from_s),
            "valid_to": _time(self.valid_to_s),
            "memory_scope": self.realm.scope.label,
            "metadata": dict(self.metadata),
        }


class Entity(NamedTuple):
    """A thing that something is known about; see :class:`node.memory.model.EntityDraft`."""

    id: str
    realm: Realm
    name: str
    type: str
    confidence: float
    strength: float
    version: int
    created_s: float
    updated_s: float
    valid_from_s: float | None
    valid_to_s: float | None
    source: Provenance
    observation_count: int
    metadata: Mapping[str, Any]
    observations: tuple[Observation, ...] = ()
    relations: tuple[Relation, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "entity_id": self.id,
            "entity_name": self.name,
            "entity_type": self.type,
            "memory_scope": self.realm.scope.label,
            "owner": self.realm.owner or None,
            "agent_id": self.source.agent or None,
            "confidence": self.confidence,
            "strength": self.strength,
            "version": self.version,
            "created_at": iso8601(self.created_s),
            "updated_at": iso8601(self.updated_s),
            "valid_from": _time(self.valid_from_s),
            "valid_to": _time(self.valid_to_s),
            "observation_count": self.observation_count,
            "observations": [observation.as_json() for observation in self.observations],
            "relations": [relation.as_json() for relation in self.relations],
            "metadata": dict(self.metadata),
            "source": self.source.as_json(),
        }


def at_time(alias: str, period: Period, now_s: float) -> tuple[str, tuple[Any, ...]]:
    """The condition that a row holds at the time of a question; its alias is a name of our own."""
    end, start = f"{alias}.valid_to_s", f"coalesce({alias}.valid_from_s, {alias}.created_s)"
    if period.timing is Timing.ALL:
        return "1", ()
    if period.timing is Timing.CURRENT:
        begun = f"({alias}.valid_from_s IS NULL OR {alias}.valid_from_s <= ?)"
        return f"({end} IS NULL OR {end} > ?) AND {begun}", (now_s, now_s)
    # What starts and ends in the same instant never held.
    where = f"({end} IS NULL OR ({end} > ? AND {end} > {start})) AND {start} < ?"
    return where, (period.start_s or 0.0, now_s if period.end_s is None else period.end_s)


def of_types(alias: str, types: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    """The condition that a row is of one of these types, if any are given."""
    if not types:
        return "1", ()
    return f"{alias}.type IN ({','.join('?' * len(types))})", tuple(types)


def entities_of(scoped: Scoped, keys: Sequence[int]) -> dict[int, Entity]:
    """The entities of these keys, as far as who asks may see them, without what is known about them."""
    if not keys:
        return {}
    found = scoped.rows(
        # In this order: SQLite would rather go through all entities of the scope.
        f"SELECT {_ENTITY} FROM json_each(?) j CROSS JOIN {{entities}} e ON e.key = j.value",  # noqa: S608
        (json.dumps(list(keys)),),
    )
    return {row[0]: _entity(scoped, row) for row in found}


def entities_named(scoped: Scoped, name: str, limit: int = 50) -> dict[int, Entity]:
    """All entities of a name that who asks may see, the narrowest scope first."""
    found = [
        row[0] for row in scoped.rows("SELECT key FROM {entities} WHERE name = ? LIMIT ?", (name, limit))
    ]
    entities = entities_of(scoped, found)
    return dict(sorted(entities.items(), key=lambda item: (item[1].realm, item[0])))


def entity_key(scoped: Scoped, name: str) -> int:
    """The key of the entity of a name or id in the narrowest scope of who asks.

    Raises:
        EntityNotFound: there is none for who asks.
    """
    found = scoped.rows("SELECT key FROM {entities} WHERE id = ?", (read_id(ENTITY, name),))
    if found:
        return int(found[0][0])
    key: int
    for key in entities_named(scoped, name):
        return key
    raise not_found("entity", name)


def entity_observed(scoped: Scoped, observation_id: str) -> tuple[str, str] | None:
    """Name and type of the entity that an observation is about, or None when who asks does not see it."""
    found = scoped.rows(
        "SELECT e.name, e.type FROM {observations} o JOIN {entities} e ON e.key = o.entity WHERE o.id = ?",
        (read_id(OBSERVATION, observation_id),),
    )
    return (found[0][0], found[0][1]) if found else None


def observations_of(
    scoped: Scoped,
    entity: int,
    period: Period,
    now_s: float,
    *,
    limit: int = SHOWN_OBSERVATIONS,
    after: int = 0,
) -> list[Observation]:
    """What is known about an entity, oldest first."""
    where, bindings = at_time("o", period, now_s)
    found = scoped.rows(
        f"SELECT {_OBSERVATION} FROM {{observations}} o WHERE o.entity = ? AND {where} ORDER BY o.key"  # noqa: S608
        " LIMIT ? OFFSET ?",
        (entity, *bindings, limit, after),
    )
    return [_observation(scoped, row) for row in found]


def observations_by_key(scoped: Scoped, keys: Sequence[int]) -> dict[int, Observation]:
    """The observations of these keys, as far as who asks may see them."""
    if not keys:
        return {}
    found = scoped.rows(
        f"SELECT {_OBSERVATION} FROM {{observations}} o WHERE o.key IN ({','.join('?' * len(keys))})",  # noqa: S608
        keys,
    )
    return {row[0]: _observation(scoped, row) for row in found}


def uses_by_key(scoped: Scoped, keys: Sequence[int]) -> dict[int, Use]:
    """Age and outcomes of the observations of these keys, as far as who asks may see them."""
    if not keys:
        return {}
    found = scoped.rows(
        "SELECT o.key, o.created_s, o.used, o.accepted, o.corrected, o.rejected"
        " FROM json_each(?) j CROSS JOIN {observations} o ON o.key = j.value",
        (json.dumps(keys),),
    )
    return {key: Use(*told) for key, *told in found}


RELATION_COLUMNS: Final = (
    "r.key, r.id, r.source_entity, r.target_entity, s.name, t.name, s.id, t.id, r.type, r.strength,"
    " r.confidence, r.both_ways, r.created_s, r.valid_from_s, r.valid_to_s, r.version, r.realm, r.metadata"
)
"""What :func:`relation` reads, of ``r`` and the entities ``s`` and ``t`` that it joins."""


def relation(scoped: Scoped, row: Sequence[Any]) -> Relation:
    """A row of :data:`RELATION_COLUMNS` as a value."""
    return Relation(
        show_id(RELATION, row[1]),
        row[4],
        row[5],
        show_id(ENTITY, row[6]),
        show_id(ENTITY, row[7]),
        row[8],
        row[9],
        row[10],
        bool(row[11]),
        row[12],
        row[13],
        row[14],
        row[15],
        scoped.realm_of(row[16]),
        decoded_metadata(row[17]),
    )


def relations_of(
    scoped: Scoped, entity: int, period: Period, now_s: float, limit: int = SHOWN_RELATIONS
) -> list[Relation]:
    """How an entity relates to others that who asks may see, the strongest first."""
    where, bindings = at_time("r", period, now_s)
    found = scoped.rows(
        f"SELECT {RELATION_COLUMNS} FROM {{relations}} r"  # noqa: S608 - names of our own
        " JOIN {entities} s ON s.key = r.source_entity JOIN {entities} t ON t.key = r.target_entity"
        f" WHERE (r.source_entity = ? OR r.target_entity = ?) AND {where}"
        " ORDER BY r.strength DESC, r.key LIMIT ?",
        (entity, entity, *bindings, limit),
    )
    return [relation(scoped, row) for row in found]


def _entity(scoped: Scoped, row: Sequence[Any]) -> Entity:
    source, metadata = row[12], row[14]
    return Entity._make(
        (
            ENTITY + row[1].hex(),
            scoped.realm_of(row[2]),
            *row[3:12],
            NOBODY if source is None else scoped.source(source),
            row[13],
            {} if metadata is None else decoded_metadata(metadata),
            (),
            (),
        )
    )


def _observation(scoped: Scoped, row: Sequence[Any]) -> Observation:
    successor = None
    if row[8] is not None:
        found = scoped.rows("SELECT id FROM {observations} WHERE key = ?", (row[8],))
        successor = show_id(OBSERVATION, found[0][0]) if found else None
    return Observation._make(
        (
            show_id(OBSERVATION, row[1]),
            *row[2:7],
            bool(row[7]),
            successor,
            *row[9:13],
            bool(row[13]),
            decoded_metadata(row[14]),
            scoped.source(row[15]),
        )
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso8601(seconds)
