"""The jobs that change the memory: each runs in the writer's transaction and sees through a ``Scoped``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import apsw

from node.errors import EntityConflict, MemoryLimitExceeded
from node.memory import indexes
from node.memory.embedding import EmbeddingModel
from node.memory.ids import ENTITY, OBSERVATION, RELATION, read_id, show_id
from node.memory.model import (
    EntityDraft,
    ObservationDraft,
    Realm,
    RelationDraft,
    Scope,
    encoded_metadata,
)
from node.memory.records import Limits, Outcome, Related, Remembered, Stamp, not_found
from node.memory.scopes import OPERATOR, Scoped
from node.memory.vectors import Vector

ENTITY_OBSERVATIONS_LIMIT: Final = 10_000
"""Most observations of one entity."""
OBSERVATIONS_LIMIT: Final = 2_000_000
"""Most observations in all."""
RELATIONS_LIMIT: Final = 2_000_000
"""Most relations in all."""
FORGET_STEP: Final = 200
"""Most rows that one transaction takes out: others write between two steps."""


_COUNTED: Final = {
    Outcome.USED: "",
    Outcome.ACCEPTED: ", accepted = accepted + 1",
    Outcome.CORRECTED: ", corrected = corrected + 1",
    Outcome.REJECTED: ", rejected = rejected + 1",
}


@dataclass(slots=True)
class Writer:
    """One request's changes, inside one job.

    Args:
        connection: The writer's connection; only the indexes see it.
        scoped: The memory as who asks sees it.
        limits: How much is remembered at most.
        stamp: Time, ids and provenance.
        model: Of the vectors, or None when there are none.
    """

    connection: apsw.Connection
    scoped: Scoped
    limits: Limits
    stamp: Stamp
    model: EmbeddingModel | None = None
    _space: indexes.Space | None = field(default=None, init=False)
    _source: int | None = field(default=None, init=False)
    _totals: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        source = self.stamp.source
        row = (source.agent, source.conversation, source.message, source.node)
        self._source = indexes.source_key(self.connection, row)
        if self.model is not None:
            self._space = indexes.make_space(self.connection, self.model)
        self._totals = self.scoped.totals()

    def remember(self, realm: Realm, draft: EntityDraft, vectors: Mapping[str, Vector]) -> Remembered:
        """Store an entity, or add to it; what is there already is not stored twice.

        Args:
            realm: Where.
            draft: What.
            vectors: Of the texts of its observations, as far as there are any.

        Raises:
            EntityConflict: an entity of that name there has another type.
            MemoryLimitExceeded: there is no room for it.
        """
        place = self.scoped.make_realm(realm)
        found = self.scoped.rows(
            "SELECT key, id, type, version, known, confidence, strength, valid_from_s, valid_to_s, metadata"
            " FROM {entities} WHERE realm = ? AND name = ?",
            (place, draft.name),
        )
        if not found:
            key, id_ = self._create(place, draft)
            version, before = 1, 0
        else:
            [(key, id_, type_, version, before, *told)] = found
            if type_ != draft.type:
                raise EntityConflict(
                    f"the entity {draft.name!r} is a {type_!r}, not a {draft.type!r}",
                    why="a name stands for one thing in its scope",
                    fix="Use its type, or another name.",
                    details={"entity_name": draft.name, "entity_type": type_},
                )
        if before + len(draft.observations) > ENTITY_OBSERVATIONS_LIMIT:
            raise _full(f"observations of {draft.name!r}", ENTITY_OBSERVATIONS_LIMIT)
        ids, added, embedded = [], 0, True
        for observation in draft.observations:
            observation_id, is_new, has_vector = self._observe(key, place, observation, vectors)
            ids.append(observation_id)
            added += is_new
            embedded = embedded and has_vector
        if found and (self._update(key, draft, told) or added):
            version += 1
            self._touch(key)
        if added:
            self._counted(key, place, added)
        return Remembered(show_id(ENTITY, id_), draft.name, version, not found, tuple(ids), added, embedded)

    def supersede(
        self, observation_id: str, draft: ObservationDraft, vectors: Mapping[str, Vector]
    ) -> Remembered:
        """End an observation and store what holds instead.

        Raises:
            EntityNotFound: there is no such observation for who asks.
            EntityConflict: it was superseded before.
        """
        old = self._observation(observation_id)
        key, entity, realm, model, ended = old
        if ended:
            raise EntityConflict(
                f"the observation {observation_id} was superseded before",
                why="a fact ends once",
                fix="Supersede the one that holds now.",
                details={"observation_id": observation_id},
            )
        new_id, is_new, embedded = self._observe(entity, realm, draft, vectors)
        [(successor,)] = self.scoped.rows(
            "SELECT key FROM {observations} WHERE id = ?", (read_id(OBSERVATION, new_id),)
        )
        if successor == key:
            raise EntityConflict(
                "the new text is the old one", why="nothing would change", fix="Say what holds instead."
            )
        self.scoped.change(
            "UPDATE observations SET ended = 1, successor = ?,"
            " valid_to_s = CASE WHEN valid_to_s < ? THEN valid_to_s ELSE ? END WHERE key = ? AND {reach}",
            (successor, self.stamp.now_s, self.stamp.now_s, key),
        )
        if model is not None:
            indexes.end_vector(self.connection, model, key, realm)
        self._touch(entity)
        if is_new:
            self._counted(entity, realm, 1)
        [(id_, name, version)] = self.scoped.rows(
            "SELECT id, name, version FROM {entities} WHERE key = ?", (entity,)
        )
        return Remembered(show_id(ENTITY, id_), name, version, False, (new_id,), int(is_new), embedded)

    def forget_observation(self, observation_id: str) -> None:
        """Take one observation out for good.

        Raises:
            EntityNotFound: there is no such observation for who asks.
        """
        key, entity, realm, _, _ = self._observation(observation_id)
        self._drop_observations([key])
        self._counted(entity, realm, -1)
        self._touch(entity)

    def forget_some(self, entities: Sequence[int], room: int = FORGET_STEP) -> tuple[int, int]:
        """Take entities out with all that belongs to them, at most ``room`` rows at once.

        Returns:
            How many entities are gone, and how many rows; fewer entities than were given means: go on.
        """
        gone, taken = 0, 0
        for entity in entities:
            keys = [
                row[0]
                for row in self.scoped.rows(
                    "SELECT key FROM {observations} WHERE entity = ? LIMIT ?", (entity, room - taken + 1)
                )
            ]
            rest = keys[: max(0, room - taken)]
            self._drop_observations(rest)
            found = self.scoped.rows("SELECT realm, name, type FROM {entities} WHERE key = ?", (entity,))
            if not found:
                continue
            [(realm, name, type_)] = found
            if rest:
                self._counted(entity, realm, -len(rest))
            taken += len(rest) + 1
            if len(rest) < len(keys):
                break
            self._drop_relations_of(entity)
            indexes.forget_name(self.connection, entity, name, type_)
            self.scoped.change("DELETE FROM entities WHERE key = ? AND {reach}", (entity,))
            self.scoped.count(realm, "entities", -1)
            gone += 1
            if taken >= room:
                break
        return gone, taken

    def relate(self, realm: Realm, draft: RelationDraft) -> Related:
        """Store how one entity relates to another; a relation that was told otherwise before ends.

        Raises:
            EntityNotFound: one of the two is not there for who asks.
            MemoryLimitExceeded: there is no room for it.
        """
        place = self.scoped.make_realm(realm)
        source, target = self._end(realm, draft.source), self._end(realm, draft.target)
        metadata = encoded_metadata(draft.metadata)
        told = (
            draft.strength, draft.confidence, int(draft.bidirectional), draft.valid_from_s,
            draft.valid_to_s, metadata
        )  # fmt: skip
        old = self.scoped.rows(
            "SELECT key, id, version, strength, confidence, both_ways, valid_from_s, valid_to_s, metadata"
            " FROM {relations} WHERE source_entity = ? AND target_entity = ? AND type = ? AND realm = ?"
            " AND ended = 0",
            (source, target, draft.type, place),
        )
        if old and tuple(old[0][3:]) == told:
            return Related(show_id(RELATION, old[0][1]), created=False)
        self._require_room("relations", 1, RELATIONS_LIMIT)
        if old:
            self.scoped.change(
                "UPDATE relations SET ended = 1,"
                " valid_to_s = CASE WHEN valid_to_s < ? THEN valid_to_s ELSE ? END WHERE key = ? AND {reach}",
                (self.stamp.now_s, self.stamp.now_s, old[0][0]),
            )
        id_ = self.stamp.new_id()
        self.scoped.insert(
            "relations",
            place,
            {
                "id": id_,
                "source_entity": source,
                "target_entity": target,
                "type": draft.type,
                "strength": draft.strength,
                "confidence": draft.confidence,
                "both_ways": int(draft.bidirectional),
                "version": old[0][2] + 1 if old else 1,
                "created_s": self.stamp.now_s,
                "valid_from_s": draft.valid_from_s,
                "valid_to_s": draft.valid_to_s,
                "source": self._source,
                "metadata": metadata,
            },
        )
        self.scoped.count(place, "relations", 1)
        superseded = show_id(RELATION, old[0][1]) if old else None
        return Related(show_id(RELATION, id_), created=True, superseded_id=superseded)

    def forget_relation(self, relation_id: str) -> None:
        """Take one relation out for good.

        Raises:
            EntityNotFound: there is no such relation for who asks.
        """
        found = self.scoped.rows(
            "SELECT key, realm FROM {relations} WHERE id = ?", (read_id(RELATION, relation_id),)
        )
        if not found:
            raise not_found("relation", relation_id)
        self.scoped.change("DELETE FROM relations WHERE key = ? AND {reach}", (found[0][0],))
        self.scoped.count(found[0][1], "relations", -1)

    def record(self, observation_ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer that these observations were used for.

        Raises:
            EntityNotFound: one of them is not there for who asks; then none is noted.
        """
        for observation_id in observation_ids:
            key = self._observation(observation_id)[0]
            self.scoped.change(
                f"UPDATE observations SET used = used + 1, used_s = ?{_COUNTED[outcome]}"  # noqa: S608 - own names
                " WHERE key = ? AND {reach}",
                (self.stamp.now_s, key),
            )

    def _create(self, realm: int, draft: EntityDraft) -> tuple[int, bytes]:
        self._require_room("entities", 1, self.limits.entities)
        if self.scoped.entities_in(realm) >= self.limits.entities_of_owner:
            raise _full("entities of this owner", self.limits.entities_of_owner)
        id_ = self.stamp.new_id()
        key = self.scoped.insert(
            "entities",
            realm,
            {
                "id": id_,
                "name": draft.name,
                "type": draft.type,
                "confidence": draft.confidence,
                "strength": draft.strength,
                "version": 1,
                "created_s": self.stamp.now_s,
                "updated_s": self.stamp.now_s,
                "valid_from_s": draft.valid_from_s,
                "valid_to_s": draft.valid_to_s,
                "source": self._source,
                "metadata": encoded_metadata(draft.metadata or {}),
            },
        )
        indexes.index_name(self.connection, key, draft.name, draft.type)
        self.scoped.count(realm, "entities", 1)
        return key, id_

    def _update(self, key: int, draft: EntityDraft, told: Sequence[Any]) -> bool:
        """Take over what a request says of an entity that is there; says whether anything is new."""
        metadata = told[4] if draft.metadata is None else encoded_metadata(draft.metadata)
        start_s = told[2] if draft.valid_from_s is None else draft.valid_from_s
        end_s = told[3] if draft.valid_to_s is None else draft.valid_to_s
        new = [draft.confidence, draft.strength, start_s, end_s, metadata]
        if new == list(told):
            return False
        self.scoped.change(
            "UPDATE entities SET confidence = ?, strength = ?, valid_from_s = ?, valid_to_s = ?, metadata = ?"
            " WHERE key = ? AND {reach}",
            (*new, key),
        )
        return True

    def _observe(
        self, entity: int, realm: int, draft: ObservationDraft, vectors: Mapping[str, Vector]
    ) -> tuple[str, bool, bool]:
        """Store an observation unless it is there; says its id, if it is new, and if it has a vector."""
        for id_, text, model in self.scoped.rows(
            "SELECT id, text, model FROM {observations} WHERE entity = ? AND digest = ? AND ended = 0"
            " AND (valid_to_s IS NULL OR valid_to_s > ?)",
            (entity, draft.digest, self.stamp.now_s),
        ):
            if text == draft.text:
                return show_id(OBSERVATION, id_), False, model is not None
        id_ = self.stamp.new_id()
        key = self.scoped.insert(
            "observations",
            realm,
            {
                "id": id_,
                "entity": entity,
                "digest": draft.digest,
                "confidence": draft.confidence,
                "created_s": self.stamp.now_s,
                "valid_from_s": draft.valid_from_s,
                "valid_to_s": draft.valid_to_s,
                "source": self._source,
                "metadata": encoded_metadata(draft.metadata),
                "text": draft.text,
            },
        )
        indexes.index_text(self.connection, key, draft.text)
        vector = vectors.get(draft.text)
        if vector is not None and self._space is not None:
            stored = indexes.index_vector(self.connection, self._space, key, realm, vector)
            self.scoped.change(
                "UPDATE observations SET model = ?, vector = ? WHERE key = ? AND {reach}",
                (self._space.key, stored, key),
            )
        return show_id(OBSERVATION, id_), True, vector is not None

    def _drop_observations(self, keys: Sequence[int]) -> None:
        for key in keys:
            [(text, model)] = self.scoped.rows("SELECT text, model FROM {observations} WHERE key = ?", (key,))
            indexes.forget_text(self.connection, key, text)
            if model is not None:
                indexes.forget_vector(self.connection, model, key)
            self.scoped.change(
                "UPDATE observations SET successor = NULL WHERE successor = ? AND {reach}", (key,)
            )
            self.scoped.change("DELETE FROM observations WHERE key = ? AND {reach}", (key,))

    def _drop_relations_of(self, entity: int) -> None:
        """Take out the relations of an entity that ends, and those of others to it."""
        everyone = Scoped(self.connection, OPERATOR)
        for direction in ("source_entity", "target_entity"):
            for realm, count in everyone.rows(
                f"SELECT realm, count(*) FROM {{relations}} WHERE {direction} = ? GROUP BY realm",  # noqa: S608
                (entity,),
            ):
                everyone.count(realm, "relations", -count)
            everyone.change(f"DELETE FROM relations WHERE {direction} = ? AND {{reach}}", (entity,))  # noqa: S608

    def _require_room(self, table: str, by: int, limit: int) -> None:
        if self._totals[table] + by > limit:
            raise _full(table, limit)
        self._totals[table] += by

    def _counted(self, entity: int, realm: int, by: int) -> None:
        if by > 0:
            self._require_room("observations", by, OBSERVATIONS_LIMIT)
        self.scoped.change("UPDATE entities SET known = known + ? WHERE key = ? AND {reach}", (by, entity))
        self.scoped.count(realm, "observations", by)

    def _touch(self, entity: int) -> None:
        self.scoped.change(
            "UPDATE entities SET version = version + 1, updated_s = ? WHERE key = ? AND {reach}",
            (self.stamp.now_s, entity),
        )

    def _observation(self, observation_id: str) -> tuple[int, int, int, int | None, bool]:
        found = self.scoped.rows(
            "SELECT key, entity, realm, model, ended FROM {observations} WHERE id = ?",
            (read_id(OBSERVATION, observation_id),),
        )
        if not found:
            raise not_found("observation", observation_id)
        [(key, entity, realm, model, ended)] = found
        return key, entity, realm, model, bool(ended)

    def _end(self, realm: Realm, name: str) -> int:
        """One end of a relation: in the realm itself, else in the global one, which all who see it see."""
        for key, place in self.scoped.rows(
            "SELECT e.key, e.realm FROM {entities} e WHERE e.name = ? ORDER BY e.realm = ? DESC, e.key",
            (name, self.scoped.make_realm(realm)),
        ):
            there = self.scoped.realm_of(place)
            if there == realm or there.scope is Scope.GLOBAL:
                return int(key)
        raise not_found("entity", name)


def _full(what: str, limit: int) -> MemoryLimitExceeded:
    return MemoryLimitExceeded(
        f"the memory has no room for more {what}",
        why=f"the limit is {limit}",
        fix="Forget something, or raise the limit where it is a setting (memory.max_entities).",
        details={"limit": limit},
    )
