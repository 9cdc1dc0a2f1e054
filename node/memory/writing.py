"""The jobs that change the memory: each runs in the writer's transaction and sees through a ``Scoped``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import apsw

from node.errors import EntityConflict
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
from node.memory.replication.journal import Journal
from node.memory.replication.saying import Made, Saying
from node.memory.rows import Rows, StoredVector, full
from node.memory.scopes import Scoped
from node.memory.vectors import Packed

ENTITY_OBSERVATIONS_LIMIT: Final = 10_000
"""Most observations of one entity."""
FORGET_STEP: Final = 200
"""Most rows that one transaction takes out: others write between two steps."""


_COUNTED: Final = {
    Outcome.USED: "",
    Outcome.ACCEPTED: ", accepted = accepted + 1",
    Outcome.CORRECTED: ", corrected = corrected + 1",
    Outcome.REJECTED: ", rejected = rejected + 1",
}


_Holding: TypeAlias = dict[str, tuple[str, bool]]
"""Text -> the id of the observation that says so, and whether it has a vector."""


class _About(NamedTuple):
    """What an observation is about: an entity by its key and its place's, by its realm, name and type."""

    entity: int
    place: int
    realm: Realm
    name: str
    type: str


class _End(NamedTuple):
    """One end of a relation."""

    key: int
    named: tuple[Realm, str, str]


@dataclass(slots=True)
class Writer:
    """One request's changes, inside one job.

    Args:
        connection: The writer's connection; only the indexes see it.
        scoped: The memory as who asks sees it.
        limits: How much is remembered at most.
        stamp: Time, ids and provenance.
        model: Of the vectors, or None when there are none.
        journal: Where it is put down for the other nodes, or None where nothing is told to any.
    """

    connection: apsw.Connection
    scoped: Scoped
    limits: Limits
    stamp: Stamp
    model: EmbeddingModel | None = None
    journal: Journal | None = None
    _rows: Rows = field(init=False)
    _saying: Saying = field(init=False)
    _space: indexes.Space | None = field(default=None, init=False)
    _source: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        source = self.stamp.source
        row = (source.agent, source.conversation, source.message, source.node)
        self._source = indexes.source_key(self.connection, row)
        if self.model is not None:
            self._space = indexes.make_space(self.connection, self.model)
        self._rows = Rows(self.connection, self.scoped, self.limits)
        self._saying = Saying(self.journal, self.connection, self.limits, source)

    def remember(self, realm: Realm, draft: EntityDraft, vectors: Mapping[str, Packed]) -> Remembered:
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
            key, id_ = self._create(place, realm, draft)
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
            raise full(f"observations of {draft.name!r}", ENTITY_OBSERVATIONS_LIMIT)
        ids, added, embedded = [], 0, True
        about = _About(key, place, realm, draft.name, draft.type)
        there = self._holding(key, draft.observations) if before else {}
        for observation in draft.observations:
            observation_id, is_new, has_vector = self._observe(about, observation, vectors, there)
            ids.append(observation_id)
            added += is_new
            embedded = embedded and has_vector
        if found and (self._update(key, realm, draft, told) or added):
            version += 1
            self._rows.touch(key, self.stamp.now_s)
        if added:
            self._rows.counted(key, place, added)
        return Remembered(show_id(ENTITY, id_), draft.name, version, not found, tuple(ids), added, embedded)

    def supersede(
        self, observation_id: str, draft: ObservationDraft, vectors: Mapping[str, Packed]
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
        [(id_, name, type_)] = self.scoped.rows(
            "SELECT id, name, type FROM {entities} WHERE key = ?", (entity,)
        )
        about = _About(entity, realm, self.scoped.realm_of(realm), name, type_)
        there = self._holding(entity, [draft])
        new_id, is_new, embedded = self._observe(about, draft, vectors, there)
        after = read_id(OBSERVATION, new_id)
        [(successor,)] = self.scoped.rows("SELECT key FROM {observations} WHERE id = ?", (after,))
        if successor == key:
            raise EntityConflict(
                "the new text is the old one", why="nothing would change", fix="Say what holds instead."
            )
        self._rows.end_observation(key, realm, model, self.stamp.now_s, successor)
        self._saying.end_observation(
            about.realm, read_id(OBSERVATION, observation_id), self.stamp.now_s, after
        )
        self._rows.touch(entity, self.stamp.now_s)
        if is_new:
            self._rows.counted(entity, realm, 1)
        [(version,)] = self.scoped.rows("SELECT version FROM {entities} WHERE key = ?", (entity,))
        return Remembered(show_id(ENTITY, id_), name, version, False, (new_id,), int(is_new), embedded)

    def forget_observation(self, observation_id: str) -> None:
        """Take one observation out for good.

        Raises:
            EntityNotFound: there is no such observation for who asks.
        """
        key, entity, realm, _, _ = self._observation(observation_id)
        if self._saying.forget_observation(self.scoped.realm_of(realm), read_id(OBSERVATION, observation_id)):
            return
        self._rows.drop_observations([key])
        self._rows.counted(entity, realm, -1)
        self._rows.touch(entity, self.stamp.now_s)

    def forget_some(self, entities: Sequence[int], room: int = FORGET_STEP) -> tuple[int, int]:
        """Take entities out with all that belongs to them, at most ``room`` rows at once.

        Returns:
            How many entities are gone, and how many rows; fewer entities than were given means: go on.
        """
        gone, taken = 0, 0
        for entity in entities:
            found = self.scoped.rows("SELECT realm, id FROM {entities} WHERE key = ?", (entity,))
            if not found:
                continue
            [(realm, id_)] = found
            # In each step anew: between two of them somebody may have stored more.
            self._saying.forget_entity(self.scoped.realm_of(realm), id_)
            keys = [
                row[0]
                for row in self.scoped.rows(
                    "SELECT key FROM {observations} WHERE entity = ? LIMIT ?", (entity, room - taken + 1)
                )
            ]
            rest = keys[: max(0, room - taken)]
            self._rows.drop_observations(rest)
            if rest:
                self._rows.counted(entity, realm, -len(rest))
            taken += len(rest) + 1
            if len(rest) < len(keys):
                break
            self._rows.drop_entity(entity)
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
        ends = (source.key, target.key, draft.type, place)
        metadata = encoded_metadata(draft.metadata)
        told = (
            draft.strength, draft.confidence, int(draft.bidirectional), draft.valid_from_s,
            draft.valid_to_s, metadata
        )  # fmt: skip
        old = self.scoped.rows(
            "SELECT key, id, version, strength, confidence, both_ways, valid_from_s, valid_to_s, metadata"
            " FROM {relations} WHERE source_entity = ? AND target_entity = ? AND type = ? AND realm = ?"
            " AND ended = 0 ORDER BY key DESC",
            ends,
        )
        if len(old) == 1 and tuple(old[0][3:]) == told:
            return Related(show_id(RELATION, old[0][1]), created=False)
        nonce = self.stamp.new_id()
        id_ = self._saying.id(realm, nonce)
        self._rows.add_relation(
            place,
            {
                "id": id_,
                "source_entity": source.key,
                "target_entity": target.key,
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
        made = Made(nonce, metadata, self.stamp.now_s)
        self._saying.relation(realm, (source.named, target.named), draft, made)
        # More than one, where nodes have told different things at the same time.
        for key, old_id, *_ in old:
            self._rows.end_relation(key, self.stamp.now_s)
            self._saying.end_relation(realm, old_id, self.stamp.now_s)
        superseded = show_id(RELATION, old[0][1]) if old else None
        return Related(show_id(RELATION, id_), created=True, superseded_id=superseded)

    def forget_relation(self, relation_id: str) -> None:
        """Take one relation out for good.

        Raises:
            EntityNotFound: there is no such relation for who asks.
        """
        id_ = read_id(RELATION, relation_id)
        found = self.scoped.rows("SELECT key, realm FROM {relations} WHERE id = ?", (id_,))
        if not found:
            raise not_found("relation", relation_id)
        [(key, realm)] = found
        if not self._saying.forget_relation(self.scoped.realm_of(realm), id_):
            self._rows.drop_relation(key, realm)

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

    def _create(self, place: int, realm: Realm, draft: EntityDraft) -> tuple[int, bytes]:
        metadata = encoded_metadata(draft.metadata or {})
        id_ = self._saying.entity_id(realm, draft.name, self.stamp.new_id)
        key = self._rows.add_entity(
            place,
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
                "metadata": metadata,
            },
        )
        values = (draft.confidence, draft.strength, draft.valid_from_s, draft.valid_to_s, metadata)
        self._saying.entity(realm, draft.name, draft.type, values)
        return key, id_

    def _update(self, key: int, realm: Realm, draft: EntityDraft, told: Sequence[Any]) -> bool:
        """Take over what a request says of an entity that is there; says whether anything is new."""
        metadata = told[4] if draft.metadata is None else encoded_metadata(draft.metadata)
        start_s = told[2] if draft.valid_from_s is None else draft.valid_from_s
        end_s = told[3] if draft.valid_to_s is None else draft.valid_to_s
        new = (draft.confidence, draft.strength, start_s, end_s, metadata)
        if new == tuple(told):
            return False
        self.scoped.change(
            "UPDATE entities SET confidence = ?, strength = ?, valid_from_s = ?, valid_to_s = ?, metadata = ?"
            " WHERE key = ? AND {reach}",
            (*new, key),
        )
        self._saying.entity(realm, draft.name, draft.type, new)
        return True

    def _holding(self, entity: int, drafts: Sequence[ObservationDraft]) -> _Holding:
        """Of an entity's observations that hold, those that have the text of one of these."""
        found = self.scoped.rows(
            "SELECT id, text, model IS NOT NULL FROM {observations} WHERE entity = ?"
            " AND digest IN (SELECT value FROM json_each(?))"
            " AND ended = 0 AND (valid_to_s IS NULL OR valid_to_s > ?) ORDER BY key DESC",
            (entity, json.dumps([draft.digest for draft in drafts]), self.stamp.now_s),
        )
        return {text: (show_id(OBSERVATION, id_), bool(model)) for id_, text, model in found}

    def _observe(
        self, about: _About, draft: ObservationDraft, vectors: Mapping[str, Packed], there: _Holding
    ) -> tuple[str, bool, bool]:
        """Store an observation unless it is there; says its id, if it is new, and if it has a vector."""
        if draft.text in there:
            id_told, has_vector = there[draft.text]
            return id_told, False, has_vector
        nonce, metadata = self.stamp.new_id(), encoded_metadata(draft.metadata)
        id_ = self._saying.id(about.realm, nonce)
        vector, kept = vectors.get(draft.text), None
        if vector is not None and self._space is not None:
            kept = StoredVector(self._space, *vector)
        self._rows.add_observation(
            about.place,
            {
                "id": id_,
                "entity": about.entity,
                "digest": draft.digest,
                "confidence": draft.confidence,
                "created_s": self.stamp.now_s,
                "valid_from_s": draft.valid_from_s,
                "valid_to_s": draft.valid_to_s,
                "source": self._source,
                "metadata": metadata,
                "text": draft.text,
            },
            kept,
        )
        stored, space = (b"", "") if kept is None else (kept.stored, kept.space.model.digest)
        at, made = (about.realm, about.name, about.type), Made(nonce, metadata, self.stamp.now_s)
        self._saying.observation(at, draft, made, space=space, vector=stored)
        if draft.valid_to_s is None or draft.valid_to_s > self.stamp.now_s:
            there[draft.text] = show_id(OBSERVATION, id_), kept is not None
        return show_id(OBSERVATION, id_), True, vector is not None

    def _observation(self, observation_id: str) -> tuple[int, int, int, int | None, bool]:
        found = self.scoped.rows(
            "SELECT key, entity, realm, model, ended FROM {observations} WHERE id = ?",
            (read_id(OBSERVATION, observation_id),),
        )
        if not found:
            raise not_found("observation", observation_id)
        [(key, entity, realm, model, ended)] = found
        return key, entity, realm, model, bool(ended)

    def _end(self, realm: Realm, name: str) -> _End:
        """One end of a relation: in the realm itself, else in the global one, which all who see it see."""
        for key, place, type_ in self.scoped.rows(
            "SELECT e.key, e.realm, e.type FROM {entities} e WHERE e.name = ?"
            " ORDER BY e.realm = ? DESC, e.key",
            (name, self.scoped.make_realm(realm)),
        ):
            there = self.scoped.realm_of(place)
            if there == realm or there.scope is Scope.GLOBAL:
                return _End(int(key), (there, name, type_))
        raise not_found("entity", name)
