"""The jobs that change the graph: each runs in one transaction, which the driver may run again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from node.errors import EntityConflict
from node.memory.backends.neo4j.graph_schema import Reach, label, of_types, place, placed, realm_of
from node.memory.backends.neo4j.reading import ask, entities_in
from node.memory.embedding import EmbeddingModel
from node.memory.ids import ENTITY, OBSERVATION, RELATION, show_id
from node.memory.model import (
    EntityDraft,
    ObservationDraft,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
    encoded_metadata,
)
from node.memory.records import Limits, Outcome, Related, Remembered, Stamp, not_found
from node.memory.rows import OBSERVATIONS_LIMIT, RELATIONS_LIMIT, full
from node.memory.scopes import ANSWERS_LIMIT
from node.memory.vectors import Vector
from node.memory.writing import ENTITY_OBSERVATIONS_LIMIT

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

FORGET_STEP: Final = 200
"""Most entities that one transaction takes out."""
_VALUES: Final = ("confidence", "strength", "valid_from_s", "valid_to_s", "metadata", "tags")


@dataclass(frozen=True, slots=True)
class Change:
    """One request's changes, inside one transaction.

    Args:
        tx: The transaction.
        reach: What who asks may see and means.
        limits: How much is remembered at most.
        stamp: Time, ids and provenance.
        model: Of the vectors, or None when there are none.
    """

    tx: ManagedTransaction
    reach: Reach
    limits: Limits
    stamp: Stamp
    model: EmbeddingModel | None = None

    def remember(self, realm: Realm, draft: EntityDraft, vectors: Mapping[str, Vector]) -> Remembered:
        """Store an entity, or add to it; what is there already is not stored twice.

        Raises:
            EntityConflict: an entity of that name there has another type.
            MemoryLimitExceeded: there is no room for it.
        """
        told, created = self._entity(realm, draft)
        if told["type"] != draft.type:
            raise EntityConflict(
                f"the entity {draft.name!r} is a {told['type']!r}, not a {draft.type!r}",
                why="a name stands for one thing in its scope",
                fix="Use its type, or another name.",
                details={"entity_name": draft.name, "entity_type": told["type"]},
            )
        if told["known"] + len(draft.observations) > ENTITY_OBSERVATIONS_LIMIT:
            raise full(f"observations of {draft.name!r}", ENTITY_OBSERVATIONS_LIMIT)
        ids, added, embedded = [], 0, True
        for each in draft.observations:
            id_, is_new, has_vector = self._observe(told, each, vectors.get(each.text))
            ids.append(id_)
            added += is_new
            embedded = embedded and has_vector
        version = told["version"]
        if not created and (self._update(told, draft) or added):
            version += 1
            self._touch(told["id"])
        return Remembered(told["id"], draft.name, version, created, tuple(ids), added, embedded)

    def answered(self, realm: Realm, key: str, digest: bytes) -> list[Remembered] | None:
        """What was answered under an idempotency key, or None when it is new.

        Raises:
            EntityConflict: it was used for another request.
        """
        found = ask(
            self.tx,
            "MATCH (q:CaxtonRequest {place: $place, key: $key}) RETURN q{.digest, .answer} AS q",
            {"place": place(realm), "key": key},
        )
        if not found:
            return None
        if found[0]["q"]["digest"] != digest.hex():
            raise EntityConflict(
                f"the idempotency key {key[:80]!r} was used for another request",
                why="a key stands for one request",
                fix="Use a new key for every request, and the same only to repeat one.",
                details={"field": "idempotency_key"},
            )
        told = json.loads(found[0]["q"]["answer"])
        return [Remembered(**each | {"observation_ids": tuple(each["observation_ids"])}) for each in told]

    def answer(self, realm: Realm, key: str, digest: bytes, found: Sequence[Remembered]) -> None:
        """Keep what is answered under an idempotency key; of too many of a realm the oldest leave."""
        told = {"digest": digest.hex(), "at_s": self.stamp.now_s}
        told["answer"] = json.dumps([asdict(each) for each in found])
        where = {"place": place(realm), "key": key}
        ask(
            self.tx,
            "CREATE (q:CaxtonRequest {place: $place, key: $key}) SET q += $told",
            where | {"told": told},
        )
        ask(
            self.tx,
            "MATCH (q:CaxtonRequest {place: $place}) WITH q ORDER BY q.at_s DESC, q.key SKIP $kept DELETE q",
            {"place": place(realm), "kept": ANSWERS_LIMIT},
        )

    def supersede(self, id_: str, draft: ObservationDraft, vector: Vector | None) -> Remembered:
        """End an observation and store what holds instead.

        Raises:
            EntityNotFound: there is no such observation for who asks.
            EntityConflict: it was superseded before, or nothing would change.
        """
        old = self.observation(id_)
        if old["ended"]:
            raise EntityConflict(
                f"the observation {id_} was superseded before",
                why="a fact ends once",
                fix="Supersede the one that holds now.",
                details={"observation_id": id_},
            )
        [row] = ask(
            self.tx,
            "MATCH (e:CaxtonEntity {id: $id}) SET e.updated_s = $now_s RETURN e{.*} AS e",
            {"id": old["entity"], "now_s": self.stamp.now_s},
        )
        told = row["e"]
        new, is_new, embedded = self._observe(told, draft, vector)
        if new == id_:
            raise EntityConflict(
                "the new text is the old one", why="nothing would change", fix="Say what holds instead."
            )
        ask(
            self.tx,
            "MATCH (o:CaxtonObservation {id: $id}) SET o.ended = true, o.successor = $new,"
            " o.valid_to_s = CASE WHEN o.valid_to_s < $now_s THEN o.valid_to_s ELSE $now_s END",
            {"id": id_, "new": new, "now_s": self.stamp.now_s},
        )
        self._touch(told["id"])
        return Remembered(told["id"], told["name"], told["version"] + 1, False, (new,), int(is_new), embedded)

    def relate(self, realm: Realm, draft: RelationDraft) -> Related:
        """Store how one entity relates to another; a relation that was told otherwise before ends.

        Raises:
            EntityNotFound: one of the two is not there for who asks.
            MemoryLimitExceeded: there is no room for it.
        """
        source, target = self._end(realm, draft.source), self._end(realm, draft.target)
        told = {
            "strength": draft.strength,
            "confidence": draft.confidence,
            "both_ways": draft.bidirectional,
            "valid_from_s": draft.valid_from_s,
            "valid_to_s": draft.valid_to_s,
            "metadata": encoded_metadata(draft.metadata),
        }
        ends = {"source": source, "target": target, "type": draft.type, "place": place(realm)}
        old = ask(
            self.tx,
            "MATCH (s:CaxtonEntity {id: $source})-[r:CaxtonRelates]->(t:CaxtonEntity {id: $target})"
            " WHERE r.type = $type AND r.place = $place AND NOT r.ended"
            " RETURN r{.*} AS r ORDER BY r.version DESC",
            ends,
        )
        if len(old) == 1 and {name: old[0]["r"].get(name) for name in told} == told:
            return Related(old[0]["r"]["id"], created=False)
        [row] = ask(self.tx, "MATCH ()-[r:CaxtonRelates]->() RETURN count(r) AS count", {})
        if row["count"] >= RELATIONS_LIMIT:
            raise full("relations", RELATIONS_LIMIT)
        id_ = show_id(RELATION, self.stamp.new_id())
        values = placed(realm) | told | self._origin()
        values |= {"id": id_, "type": draft.type, "ended": False, "created_s": self.stamp.now_s}
        values["version"] = old[0]["r"]["version"] + 1 if old else 1
        ask(
            self.tx,
            "MATCH (s:CaxtonEntity {id: $source}), (t:CaxtonEntity {id: $target})"
            " CREATE (s)-[r:CaxtonRelates]->(t) SET r = $values",
            ends | {"values": values},
        )
        ask(
            self.tx,
            "MATCH ()-[r:CaxtonRelates]->() WHERE r.id IN $ids SET r.ended = true,"
            " r.valid_to_s = CASE WHEN r.valid_to_s < $now_s THEN r.valid_to_s ELSE $now_s END",
            {"ids": [each["r"]["id"] for each in old], "now_s": self.stamp.now_s},
        )
        return Related(id_, created=True, superseded_id=old[0]["r"]["id"] if old else None)

    def forget_observation(self, id_: str) -> None:
        """Take one observation out for good.

        Raises:
            EntityNotFound: there is no such observation for who asks.
        """
        told = self.observation(id_)
        ask(self.tx, "MATCH (o:CaxtonObservation {id: $id}) DETACH DELETE o", {"id": id_})
        ask(
            self.tx,
            "MATCH (o:CaxtonObservation {entity: $entity}) WHERE o.successor = $id REMOVE o.successor",
            {"entity": told["entity"], "id": id_},
        )
        self._touch(told["entity"])

    def forget_relation(self, id_: str) -> None:
        """Take one relation out for good.

        Raises:
            EntityNotFound: there is no such relation for who asks.
        """
        seen = self.reach.of("r")
        found = ask(
            self.tx,
            f"MATCH ()-[r:CaxtonRelates {{id: $id}}]->() WHERE {seen.where} DELETE r RETURN 1 AS gone",
            seen.parameters | {"id": id_},
        )
        if not found:
            raise not_found("relation", id_)

    def forget(self, ids: Sequence[str]) -> int:
        """Take entities out with all that belongs to them; returns how many."""
        seen = self.reach.of("e")
        found = ask(
            self.tx,
            f"MATCH (e:CaxtonEntity) WHERE e.id IN $ids AND {seen.where}"
            " OPTIONAL MATCH (o:CaxtonObservation)-[:CaxtonAbout]->(e)"
            " WITH e, collect(o) AS told FOREACH (o IN told | DETACH DELETE o) DETACH DELETE e"
            " RETURN 1 AS gone",
            seen.parameters | {"ids": list(ids)},
        )
        return len(found)

    def chosen(self, types: Sequence[str]) -> list[str]:
        """Some ids of a choice that is to be forgotten."""
        seen, kind = self.reach.of("e"), of_types("e", types)
        found = ask(
            self.tx,
            f"MATCH (e:CaxtonEntity) WHERE {seen.where} AND {kind.where} RETURN e.id AS id LIMIT $limit",
            seen.parameters | kind.parameters | {"limit": FORGET_STEP},
        )
        return [row["id"] for row in found]

    def record(self, ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer that these observations were used for.

        Raises:
            EntityNotFound: one of them is not there for who asks; then none is noted.
        """
        for id_ in ids:
            self.observation(id_)
            counted = "" if outcome is Outcome.USED else f", o.{outcome.value} = o.{outcome.value} + 1"
            ask(
                self.tx,
                "MATCH (o:CaxtonObservation {id: $id})"
                f" SET o.used = o.used + 1, o.used_s = $now_s{counted}",
                {"id": id_, "now_s": self.stamp.now_s},
            )

    def observation(self, id_: str) -> dict[str, Any]:
        """An observation of who asks.

        Raises:
            EntityNotFound: there is none of that id.
        """
        seen = self.reach.of("o")
        found = ask(
            self.tx,
            f"MATCH (o:CaxtonObservation {{id: $id}}) WHERE {seen.where} RETURN o{{.*}} AS o",
            seen.parameters | {"id": id_},
        )
        if not found:
            raise not_found("observation", id_)
        told: dict[str, Any] = found[0]["o"]
        return told

    def require_room(self, realm: Realm) -> None:
        """Make sure that there is room for more.

        Raises:
            MemoryLimitExceeded: there is not.
        """
        for what, limit in (("Entity", self.limits.entities), ("Observation", OBSERVATIONS_LIMIT)):
            [row] = ask(self.tx, f"MATCH (x:Caxton{what}) RETURN count(x) AS count", {})
            if row["count"] > limit:
                raise full("entities" if what == "Entity" else "observations", limit)
        if entities_in(self.tx, realm, self.limits.entities_of_owner + 1) > self.limits.entities_of_owner:
            raise full("entities of this owner", self.limits.entities_of_owner)

    def _entity(self, realm: Realm, draft: EntityDraft) -> tuple[dict[str, Any], bool]:
        """The entity of a draft, locked, and whether it is new."""
        id_ = show_id(ENTITY, self.stamp.new_id())
        values = placed(realm) | self._origin() | kept_metadata(draft.metadata or {})
        values |= {"id": id_, "type": draft.type, "version": 1, "seq": 0}
        values |= {"confidence": draft.confidence, "strength": draft.strength}
        values |= {"valid_from_s": draft.valid_from_s, "valid_to_s": draft.valid_to_s}
        values |= {"created_s": self.stamp.now_s, "updated_s": self.stamp.now_s}
        [row] = ask(
            self.tx,
            "MERGE (e:CaxtonEntity {place: $place, name: $name}) ON CREATE SET e += $values"
            " SET e.locked_s = $now_s"
            " RETURN e{.*, known: count{(e)<-[:CaxtonAbout]-()}} AS e",
            {"place": place(realm), "name": draft.name, "values": values, "now_s": self.stamp.now_s},
        )
        told: dict[str, Any] = row["e"]
        return told, told["id"] == id_

    def _update(self, told: Mapping[str, Any], draft: EntityDraft) -> bool:
        """Take over what a request says of an entity that is there; says whether anything is new."""
        new: dict[str, Any] = {name: told.get(name) for name in _VALUES}
        new |= {"confidence": draft.confidence, "strength": draft.strength}
        if draft.metadata is not None:
            new |= kept_metadata(draft.metadata)
        if draft.valid_from_s is not None:
            new["valid_from_s"] = draft.valid_from_s
        if draft.valid_to_s is not None:
            new["valid_to_s"] = draft.valid_to_s
        if all(told.get(name) == value for name, value in new.items()):
            return False
        ask(self.tx, "MATCH (e:CaxtonEntity {id: $id}) SET e += $new", {"id": told["id"], "new": new})
        return True

    def _observe(
        self, about: Mapping[str, Any], draft: ObservationDraft, vector: Vector | None
    ) -> tuple[str, bool, bool]:
        """Store an observation unless it is there; says its id, if it is new, and if it has a vector."""
        for row in ask(
            self.tx,
            "MATCH (o:CaxtonObservation {entity: $entity, digest: $digest}) WHERE NOT o.ended"
            " AND (o.valid_to_s IS NULL OR o.valid_to_s > $now_s) AND o.text = $text"
            " RETURN o.id AS id, o.vector IS NOT NULL AS embedded",
            {"entity": about["id"], "digest": draft.digest, "now_s": self.stamp.now_s, "text": draft.text},
        ):
            return row["id"], False, row["embedded"]
        id_ = show_id(OBSERVATION, self.stamp.new_id())
        values = placed(realm_of(dict(about))) | self._origin() | kept_metadata(draft.metadata)
        values |= {"id": id_, "entity": about["id"], "digest": draft.digest, "text": draft.text}
        values |= {"confidence": draft.confidence, "created_s": self.stamp.now_s, "ended": False}
        values |= {"valid_from_s": draft.valid_from_s, "valid_to_s": draft.valid_to_s}
        values |= {"used": 0, "accepted": 0, "corrected": 0, "rejected": 0}
        spaced = ""
        if vector is not None and vector.any() and self.model is not None:
            values |= {"vector": vector.tolist(), "model": self.model.name, "space": self.model.digest}
            spaced = f":{label(self.model)}"
        ask(
            self.tx,
            "MATCH (e:CaxtonEntity {id: $entity}) SET e.seq = e.seq + 1"
            f" CREATE (o:CaxtonObservation{spaced})-[:CaxtonAbout]->(e) SET o = $values, o.seq = e.seq",
            {"entity": about["id"], "values": values},
        )
        return id_, True, vector is not None

    def _touch(self, id_: str) -> None:
        ask(
            self.tx,
            "MATCH (e:CaxtonEntity {id: $id}) SET e.version = e.version + 1, e.updated_s = $now_s",
            {"id": id_, "now_s": self.stamp.now_s},
        )

    def _end(self, realm: Realm, name: str) -> str:
        """One end of a relation: in the realm itself, else in the global one, which all who see it see."""
        found = ask(
            self.tx,
            "MATCH (e:CaxtonEntity) WHERE e.name = $name AND e.place IN $ends"
            " RETURN e.id AS id ORDER BY e.place = $place DESC LIMIT 1",
            {"name": name, "place": place(realm), "ends": [place(realm), place(Realm(Scope.GLOBAL))]},
        )
        if not found:
            raise not_found("entity", name)
        return str(found[0]["id"])

    def _origin(self) -> dict[str, str | None]:
        return {"source": written(self.stamp.source)}


def written(source: Provenance) -> str | None:
    """By whose word, as it is kept."""
    return json.dumps(source.as_json()) if source.as_json() else None


def tag(key: str, value: Any) -> str:
    """A value of metadata as it is searched for."""
    return f"{key}={json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"


def kept_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as they are kept: as JSON, and as texts to search for."""
    return {
        "metadata": encoded_metadata(metadata),
        "tags": [tag(key, value) for key, value in metadata.items()] or None,
    }
