"""The graph as lines of an export, and such lines into the graph as they are, with ids and versions."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np

from node.errors import MemoryBackendFailed
from node.memory.backends.neo4j.graph_schema import Reach, all_of, label, placed, realm_of, space
from node.memory.backends.neo4j.reading import ask, source
from node.memory.backends.neo4j.writing import kept_metadata, written
from node.memory.embedding import EmbeddingModel
from node.memory.exporting import PAGE_BYTES, PART_OBSERVATIONS, Counted, Part, known
from node.memory.model import Provenance, Realm, Scope, decoded_metadata, text_digest
from node.memory.vectors import quantised, unquantised

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

T = TypeVar("T")
PAGE_ENTITIES: Final = 20
"""Most entities, or parts of entities, of one page."""
PAGE_RELATIONS: Final = 500
"""Most relations of one page."""
_COUNTS: Final = ("used", "accepted", "corrected", "rejected")


class _Cursor(NamedTuple):
    """How far an export is: the last entity, the last observation told of it, 0 when it is done."""

    entity: str = ""
    observation: int = 0


class GraphExport:
    """One run over the graph; an :class:`~node.memory.backends.protocol.Exported`.

    Args:
        read: Runs a job in a transaction that changes nothing.
        reach: What who asks may see and means.
        vectors: Whether observations come with theirs.
    """

    def __init__(
        self,
        read: Callable[[Callable[[ManagedTransaction], Any]], Awaitable[Any]],
        reach: Reach,
        *,
        vectors: bool,
    ) -> None:
        self.counted = Counted()
        self._read, self._reach, self._vectors = read, reach, vectors
        self._cursor, self._relation = _Cursor(), ""

    async def entities(self) -> list[Part]:
        """The next entities; none at their end.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        found, self._cursor = await self._read(self._entities)
        self.counted.entities += sum(part.first for part in found)
        self.counted.observations += sum(len(part.observations) for part in found)
        parts: list[Part] = found
        return parts

    async def relations(self) -> list[dict[str, Any]]:
        """The next relations; none at their end.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        found: list[dict[str, Any]] = await self._read(self._relations)
        if found:
            self._relation = found[-1]["relation_id"]
        self.counted.relations += len(found)
        return found

    def _entities(self, tx: ManagedTransaction) -> tuple[list[Part], _Cursor]:
        cursor, room = self._cursor, PAGE_BYTES
        found: list[Part] = []
        while room > 0 and len(found) < PAGE_ENTITIES:
            part, cursor, size = self._next(tx, cursor)
            if part is None:
                break
            found.append(part)
            room -= size
        return found, cursor

    def _next(self, tx: ManagedTransaction, cursor: _Cursor) -> tuple[Part | None, _Cursor, int]:
        first, seen = cursor.observation == 0, self._reach.of("e")
        rows = ask(
            tx,
            f"MATCH (e:CaxtonEntity) WHERE e.id {'>' if first else '>='} $after AND {seen.where}"
            " RETURN e{.*} AS e ORDER BY e.id LIMIT 1",
            seen.parameters | {"after": cursor.entity},
        )
        if not first and (not rows or rows[0]["e"]["id"] != cursor.entity):
            # It was forgotten between two pages.
            return Part({}, [], first=False, last=True), cursor._replace(observation=0), 0
        if not rows:
            return None, cursor, 0
        entity = rows[0]["e"]
        theirs = self._reach.of("o")
        told = ask(
            tx,
            f"MATCH (o:CaxtonObservation {{entity: $id}}) WHERE o.seq > $after AND {theirs.where}"
            " RETURN o{.*} AS o ORDER BY o.seq LIMIT $limit",
            theirs.parameters
            | {"id": entity["id"], "after": cursor.observation, "limit": PART_OBSERVATIONS + 1},
        )
        taken, size = 0, 256
        for row in told[:PART_OBSERVATIONS]:
            size += len(row["o"]["text"]) + (512 if self._vectors else 128)
            taken += 1
            if size >= PAGE_BYTES:
                break
        last = taken == len(told)
        after = _Cursor(entity["id"], 0 if last else told[taken - 1]["o"]["seq"])
        observations = [_observation(row["o"], vectors=self._vectors) for row in told[:taken]]
        return Part(_entity(entity), observations, first, last), after, size

    def _relations(self, tx: ManagedTransaction) -> list[dict[str, Any]]:
        condition = all_of(self._reach.of("r", "s", "t"))
        found = ask(
            tx,
            "MATCH (s:CaxtonEntity)-[r:CaxtonRelates]->(t:CaxtonEntity)"
            f" WHERE r.id > $after AND {condition.where}"
            " RETURN r{.*, source_name: s.name, target_name: t.name, source_id: s.id, target_id: t.id} AS r"
            " ORDER BY r.id LIMIT $limit",
            condition.parameters | {"after": self._relation, "limit": PAGE_RELATIONS},
        )
        return [_relation(row["r"]) for row in found]


def take(tx: ManagedTransaction, parts: Sequence[Part]) -> None:
    """Store copies of entities with their observations; what is there under the same id is replaced."""
    for part in parts:
        if not part.entity:
            continue
        entity = part.entity
        realm = _realm(entity)
        values = placed(realm) | kept_metadata(entity.get("metadata") or {}) | _origin(entity)
        values |= {"id": entity["entity_id"], "name": entity["entity_name"], "type": entity["entity_type"]}
        names = ("confidence", "strength", "version", "created_s", "updated_s", "valid_from_s", "valid_to_s")
        values |= {name: entity.get(name) for name in names}
        ask(
            tx,
            "MERGE (e:CaxtonEntity {id: $id}) SET e += $values, e.seq = coalesce(e.seq, 0)",
            {"id": values["id"], "values": values},
        )
        for told in part.observations:
            _take_observation(tx, entity["entity_id"], realm, told)


def take_relations(tx: ManagedTransaction, relations: Sequence[dict[str, Any]]) -> None:
    """The same of relations, whose entities are there.

    Raises:
        MemoryBackendFailed: they are not.
    """
    for told in relations:
        realm = _realm(told)
        values = placed(realm) | kept_metadata(told.get("metadata") or {}) | _origin(told)
        values |= {"id": told["relation_id"], "type": told["relation_type"]}
        values |= {"both_ways": told["bidirectional"], "ended": told.get("ended", False)}
        names = ("strength", "confidence", "created_s", "valid_from_s", "valid_to_s")
        values |= {name: told.get(name) for name in names} | {"version": told.get("version", 1)}
        found = ask(
            tx,
            "MATCH (s:CaxtonEntity {id: $source}), (t:CaxtonEntity {id: $target})"
            " MERGE (s)-[r:CaxtonRelates {id: $id}]->(t) SET r = $values RETURN r.id AS id",
            {
                "source": told["from_entity_id"],
                "target": told["to_entity_id"],
                "id": values["id"],
                "values": values,
            },
        )
        if not found:
            raise MemoryBackendFailed(
                "a relation cannot be copied", why=f"an end of {told['relation_id']} is not there"
            )


def models(parts: Sequence[Part]) -> list[EmbeddingModel]:
    """The models of the vectors of a page."""
    found: dict[str, EmbeddingModel] = {}
    for part in parts:
        for told in part.observations:
            if "vector" in told:
                vector = told["vector"]
                size = len(base64.b64decode(vector["data"]))
                found[vector["digest"]] = EmbeddingModel(vector["model"], vector["digest"], size)
    return list(found.values())


def spaces(parts: Sequence[Part]) -> list[str]:
    """The statements that make their indexes."""
    return [space(model) for model in models(parts)]


def _take_observation(tx: ManagedTransaction, entity: str, realm: Realm, told: dict[str, Any]) -> None:
    values = placed(realm) | kept_metadata(told.get("metadata") or {}) | _origin(told)
    values |= {"id": told["observation_id"], "entity": entity, "text": told["text"]}
    values |= {"digest": text_digest(told["text"]), "confidence": told["confidence"]}
    values |= {"created_s": told["created_s"], "valid_from_s": told.get("valid_from_s")}
    values |= {"valid_to_s": told.get("valid_to_s"), "successor": told.get("superseded_by")}
    values |= {"ended": told.get("ended", False)}
    values |= {name: (told.get("outcomes") or {}).get(name, 0) for name in _COUNTS}
    spaced = ""
    if "vector" in told:
        vector = told["vector"]
        numbers = unquantised(base64.b64decode(vector["data"]))
        model = EmbeddingModel(vector["model"], vector["digest"], len(numbers))
        values |= {"vector": numbers.tolist(), "model": model.name, "space": model.digest}
        spaced = f", o:{label(model)}"
    ask(
        tx,
        "MATCH (e:CaxtonEntity {id: $entity})"
        " OPTIONAL MATCH (old:CaxtonObservation {id: $id})"
        " SET e.seq = CASE WHEN old IS NULL THEN e.seq + 1 ELSE e.seq END"
        " WITH e, coalesce(old.seq, e.seq) AS seq"
        " MERGE (o:CaxtonObservation {id: $id})"
        f" SET o = $values, o.seq = seq{spaced}"
        " MERGE (o)-[:CaxtonAbout]->(e)",
        {"entity": entity, "id": values["id"], "values": values},
    )


def _realm(told: dict[str, Any]) -> Realm:
    return Realm(Scope.parse(told["memory_scope"]), told.get("owner") or "")


def _origin(told: dict[str, Any]) -> dict[str, str | None]:
    return {"source": written(Provenance(**told.get("source", {})))}


def _entity(told: dict[str, Any]) -> dict[str, Any]:
    realm = realm_of(told)
    return known(
        {
            "type": "entity",
            "entity_id": told["id"],
            "entity_name": told["name"],
            "entity_type": told["type"],
            "memory_scope": realm.scope.label,
            "owner": realm.owner or None,
            "confidence": told["confidence"],
            "strength": told["strength"],
            "version": told["version"],
            "created_s": told["created_s"],
            "updated_s": told["updated_s"],
            "valid_from_s": told.get("valid_from_s"),
            "valid_to_s": told.get("valid_to_s"),
            "source": source(told.get("source")).as_json(),
            "metadata": decoded_metadata(told.get("metadata")),
        }
    )


def _observation(told: dict[str, Any], *, vectors: bool) -> dict[str, Any]:
    outcomes = {name: told[name] for name in _COUNTS}
    found = {
        "observation_id": told["id"],
        "text": told["text"],
        "confidence": told["confidence"],
        "created_s": told["created_s"],
        "valid_from_s": told.get("valid_from_s"),
        "valid_to_s": told.get("valid_to_s"),
        "ended": told["ended"] or None,
        "superseded_by": told.get("successor"),
        "outcomes": outcomes if any(outcomes.values()) else None,
        "source": source(told.get("source")).as_json(),
        "metadata": decoded_metadata(told.get("metadata")),
    }
    if vectors and told.get("vector") is not None:
        data = base64.b64encode(quantised(np.asarray(told["vector"], np.float32))).decode()
        found["vector"] = {"model": told["model"], "digest": told["space"], "dtype": "int8", "data": data}
    return known(found)


def _relation(told: dict[str, Any]) -> dict[str, Any]:
    realm = realm_of(told)
    return known(
        {
            "type": "relation",
            "relation_id": told["id"],
            "from_entity": told["source_name"],
            "to_entity": told["target_name"],
            "from_entity_id": told["source_id"],
            "to_entity_id": told["target_id"],
            "relation_type": told["type"],
            "memory_scope": realm.scope.label,
            "owner": realm.owner or None,
            "strength": told["strength"],
            "confidence": told["confidence"],
            "bidirectional": told["both_ways"],
            "version": told["version"],
            "created_s": told["created_s"],
            "valid_from_s": told.get("valid_from_s"),
            "valid_to_s": told.get("valid_to_s"),
            "ended": told["ended"] or None,
            "source": source(told.get("source")).as_json(),
            "metadata": decoded_metadata(told.get("metadata")),
        }
    )
