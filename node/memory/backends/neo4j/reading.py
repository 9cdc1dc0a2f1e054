"""Entities, observations and relations of the graph as values; every statement has the reach of who asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from node.memory.backends.neo4j.graph_schema import Reach, all_of, at_time, of_types, place, realm_of
from node.memory.model import NOBODY, Period, Provenance, Realm, decoded_metadata
from node.memory.reading import SHOWN_OBSERVATIONS, SHOWN_RELATIONS, Entity, Observation, Relation
from node.memory.records import not_found

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

ENTITY = "e{.*, known: count{(e)<-[:CaxtonAbout]-()}}"
"""What :func:`entity` reads of ``e``."""


def ask(tx: ManagedTransaction, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a bounded question."""
    return tx.run(statement, parameters).data()


def entity(told: dict[str, Any]) -> Entity:
    """An entity without what is known about it."""
    return Entity(
        told["id"],
        realm_of(told),
        told["name"],
        told["type"],
        told["confidence"],
        told["strength"],
        told["version"],
        told["created_s"],
        told["updated_s"],
        told.get("valid_from_s"),
        told.get("valid_to_s"),
        source(told.get("source")),
        told["known"],
        decoded_metadata(told.get("metadata")),
    )


def observation(told: dict[str, Any]) -> Observation:
    """An observation."""
    return Observation(
        told["id"],
        told["text"],
        told["confidence"],
        told["created_s"],
        told.get("valid_from_s"),
        told.get("valid_to_s"),
        told["ended"],
        told.get("successor"),
        told["used"],
        told["accepted"],
        told["corrected"],
        told["rejected"],
        told.get("vector") is not None,
        decoded_metadata(told.get("metadata")),
        source(told.get("source")),
    )


def relation(told: dict[str, Any], start: dict[str, Any], end: dict[str, Any]) -> Relation:
    """A relation between two entities."""
    return Relation(
        told["id"],
        start["name"],
        end["name"],
        start["id"],
        end["id"],
        told["type"],
        told["strength"],
        told["confidence"],
        told["both_ways"],
        told["created_s"],
        told.get("valid_from_s"),
        told.get("valid_to_s"),
        told["version"],
        realm_of(told),
        decoded_metadata(told.get("metadata")),
    )


def source(told: str | None) -> Provenance:
    """By whose word."""
    return NOBODY if told is None else Provenance(**json.loads(told))


def find(tx: ManagedTransaction, reach: Reach, name: str) -> dict[str, Any]:
    """The entity of a name or id in the narrowest scope of who asks.

    Raises:
        EntityNotFound: there is none for who asks.
    """
    seen = reach.of("e")
    found = ask(
        tx,
        f"MATCH (e:CaxtonEntity) WHERE (e.id = $name OR e.name = $name) AND {seen.where}"
        f" RETURN {ENTITY} AS e ORDER BY e.id <> $name, e.scope, e.owner, e.created_s LIMIT 1",
        seen.parameters | {"name": name},
    )
    if not found:
        raise not_found("entity", name)
    told: dict[str, Any] = found[0]["e"]
    return told


def entities(tx: ManagedTransaction, reach: Reach, ids: Sequence[str]) -> dict[str, Entity]:
    """The entities of these ids, as far as who asks may see them, without what is known about them."""
    seen = reach.of("e")
    found = ask(
        tx,
        f"MATCH (e:CaxtonEntity) WHERE e.id IN $ids AND {seen.where} RETURN {ENTITY} AS e",
        seen.parameters | {"ids": list(ids)},
    )
    return {row["e"]["id"]: entity(row["e"]) for row in found}


def page(tx: ManagedTransaction, reach: Reach, types: Sequence[str], limit: int, after: str) -> list[Entity]:
    """Entities by id."""
    condition = all_of(reach.of("e"), of_types("e", types))
    found = ask(
        tx,
        f"MATCH (e:CaxtonEntity) WHERE e.id > $after AND {condition.where}"
        f" RETURN {ENTITY} AS e ORDER BY e.id LIMIT $limit",
        condition.parameters | {"after": after, "limit": limit},
    )
    return [entity(row["e"]) for row in found]


def observations(
    tx: ManagedTransaction,
    reach: Reach,
    id_: str,
    period: Period,
    now_s: float,
    *,
    limit: int = SHOWN_OBSERVATIONS,
    after: int = 0,
) -> list[Observation]:
    """What is known about an entity, oldest first."""
    condition = all_of(reach.of("o"), at_time("o", period, now_s))
    found = ask(
        tx,
        f"MATCH (o:CaxtonObservation {{entity: $id}}) WHERE {condition.where}"
        " RETURN o{.*} AS o ORDER BY o.seq SKIP $after LIMIT $limit",
        condition.parameters | {"id": id_, "after": after, "limit": limit},
    )
    return [observation(row["o"]) for row in found]


def relations(
    tx: ManagedTransaction,
    reach: Reach,
    id_: str,
    period: Period,
    now_s: float,
    *,
    limit: int = SHOWN_RELATIONS,
) -> list[Relation]:
    """How an entity relates to others that who asks may see, the strongest first."""
    condition = all_of(reach.of("r", "s", "t"), at_time("r", period, now_s))
    found = ask(
        tx,
        "MATCH (e:CaxtonEntity {id: $id})-[r:CaxtonRelates]-()"
        f" WITH DISTINCT r, startNode(r) AS s, endNode(r) AS t WHERE {condition.where}"
        " RETURN r{.*} AS r, s{.id, .name} AS s, t{.id, .name} AS t"
        " ORDER BY r.strength DESC, r.created_s, r.version, r.id LIMIT $limit",
        condition.parameters | {"id": id_, "limit": limit},
    )
    return [relation(row["r"], row["s"], row["t"]) for row in found]


def counts(tx: ManagedTransaction, reach: Reach) -> dict[Realm, tuple[int, int, int]]:
    """Entities, observations and relations of every realm within reach that has any."""
    found: dict[Realm, list[int]] = {}
    for number, pattern in enumerate(
        ("(x:CaxtonEntity)", "(x:CaxtonObservation)", "()-[x:CaxtonRelates]->()")
    ):
        seen = reach.of("x")
        for row in ask(
            tx,
            f"MATCH {pattern} WHERE {seen.where}"
            " RETURN x.scope AS scope, x.owner AS owner, count(*) AS count ORDER BY scope, owner",
            seen.parameters,
        ):
            found.setdefault(realm_of(row), [0, 0, 0])[number] = row["count"]
    return {realm: (each[0], each[1], each[2]) for realm, each in sorted(found.items())}


def entities_in(tx: ManagedTransaction, realm: Realm, limit: int) -> int:
    """How many entities a realm has; beyond the limit it is not counted on."""
    [row] = ask(
        tx,
        "MATCH (e:CaxtonEntity {place: $place}) WITH e LIMIT $limit RETURN count(e) AS count",
        {"place": place(realm), "limit": limit},
    )
    return int(row["count"])
