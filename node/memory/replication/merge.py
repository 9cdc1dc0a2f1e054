"""What an operation does to the rows: the same on every node, in whatever order operations come.

The rows of what is shared follow from the operations that hold, and from nothing else: an entity is there
while one says so or supposes it, and its attributes are those of the one that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.memory import indexes
from node.memory.embedding import EmbeddingModel
from node.memory.model import text_digest
from node.memory.replication.operations import (
    EndObservation,
    EndRelation,
    Facts,
    ForgetEntity,
    ForgetObservation,
    ForgetRelation,
    Kind,
    Named,
    Operation,
    SayEntity,
    SayObservation,
    SayRelation,
    Told,
    decode,
)
from node.memory.replication.oplog import Admitted, Held, Log, OperationLogs
from node.memory.rows import Rows, StoredVector
from swim.hlc import wall_of

_PLAIN: Final = {
    "confidence": 1.0,
    "strength": 1.0,
    "valid_from_s": None,
    "valid_to_s": None,
    "metadata": None,
}
"""What an entity is like that is only supposed."""


@dataclass(slots=True)
class Merger:
    """Carries out operations inside one job.

    Args:
        rows: The rows of what is shared.
        logs: The operations.
        model: Of the vectors that are searched here, or None when there are none.
    """

    rows: Rows
    logs: OperationLogs
    model: EmbeddingModel | None = None
    vectors_refused: int = field(default=0, init=False)
    _known: dict[Named, tuple[int, int]] = field(default_factory=dict, init=False)
    """Entities that somebody says are there, by place and key, while observations alone come."""
    _added: dict[int, tuple[int, int, int]] = field(default_factory=dict, init=False)
    """Entity -> its place, how many observations of it are not counted yet, the last one's stamp."""
    _sources: dict[tuple[Told, str], int | None] = field(default_factory=dict, init=False)
    _space: indexes.Space | None = field(default=None, init=False)

    def apply(self, log: Log, seq: int, operation: Operation, facts: Facts, body: bytes) -> bool:
        """Take an operation; says whether it holds.

        Raises:
            MemoryLimitExceeded: there is no room for what it says.
        """
        admitted = self.logs.admit(log, seq, facts, body)
        if not admitted.kept:
            return False
        if isinstance(operation, SayObservation) and not admitted.void:
            self._observation(operation, facts, log.node, admitted)
            return True
        self.finish()
        if isinstance(operation, SayEntity):
            self._entity(operation, log.node)
        elif isinstance(operation, SayObservation):  # its node has said two things under one id
            self._drop_observation(facts.element, operation.stamp)
            self._observation(operation, facts, log.node, admitted)
        elif isinstance(operation, EndObservation):
            self._end_observation(operation)
        elif isinstance(operation, SayRelation):
            self._relation(operation, facts, log.node, admitted)
        elif isinstance(operation, EndRelation):
            self._end_relation(operation)
        else:
            self.forget(operation, admitted.void)
        return True

    def finish(self) -> None:
        """Count what was added; to be called before rows are looked at by others."""
        for key, (place, count, stamp) in self._added.items():
            self.rows.count_required(key, place, count, wall_of(stamp))
        self._added.clear()
        self._known.clear()

    def forget(
        self, operation: ForgetEntity | ForgetObservation | ForgetRelation, void: Sequence[Held]
    ) -> None:
        """Take the rows out that an operation has made void."""
        observations: list[bytes] = []
        relations: list[bytes] = []
        touched: list[bytes] = []
        if isinstance(operation, ForgetEntity):
            touched.append(operation.id)
        elif isinstance(operation, ForgetObservation):
            observations.append(operation.id)
        else:
            relations.append(operation.id)
        self.drop(void, operation.stamp, observations=observations, relations=relations, entities=touched)

    def drop(
        self,
        void: Sequence[Held],
        stamp: int,
        *,
        observations: Iterable[bytes] = (),
        relations: Iterable[bytes] = (),
        entities: Iterable[bytes] = (),
    ) -> None:
        """Take out the rows of operations that hold no more, and others by their ids."""
        said = [held.element for held in void if held.kind is Kind.OBSERVATION]
        for id_ in dict.fromkeys([*observations, *said]):
            self._drop_observation(id_, stamp)
        said = [held.element for held in void if held.kind is Kind.RELATION]
        self.drop_relations(dict.fromkeys([*relations, *said]))
        said = [held.element for held in void if held.kind is Kind.ENTITY]
        supposed = [end for held in void for end in self._supposed(held)]
        self.refresh([*entities, *said, *supposed])

    def refresh(self, entities: Iterable[bytes]) -> None:
        """Let entities be as the operations that are left have them."""
        for id_ in dict.fromkeys(entities):
            if Kind.ENTITY in self.logs.about(id_):
                continue
            found = self.rows.scoped.rows("SELECT key, name, type FROM {entities} WHERE id = ?", (id_,))
            if not found:
                continue
            [(key, name, type_)] = found
            supposed = self._supposed_type(id_)
            if supposed is None:
                self._drop_entity(key)
            else:
                self._set_entity(key, name, type_, {**_PLAIN, "type": supposed})

    def drop_relations(self, ids: Iterable[bytes]) -> None:
        """Take relations out."""
        for id_ in ids:
            for key, realm in self.rows.scoped.rows(
                "SELECT key, realm FROM {relations} WHERE id = ?", (id_,)
            ):
                self.rows.drop_relation(key, realm)

    # What is said

    def _entity(self, said: SayEntity, origin: str) -> None:
        values = {
            "confidence": said.confidence,
            "strength": said.strength,
            "valid_from_s": said.valid_from_s,
            "valid_to_s": said.valid_to_s,
            "metadata": said.metadata,
        }
        place = self.rows.scoped.make_realm(said.entity.realm)
        found = self._find(place, said.entity)
        if found is None:
            self._make(place, said.entity, said.stamp, self._source(said.told, origin), values)
            return
        key, type_ = found
        self._set_entity(key, said.entity.name, type_, {**values, "type": said.entity.type})
        self.rows.touch(key, wall_of(said.stamp))

    def _observation(self, said: SayObservation, facts: Facts, origin: str, admitted: Admitted) -> None:
        source = self._source(said.told, origin)
        place, entity = self._observed(said, source)
        self.rows.require_observations(1)
        key = self.rows.add_observation(
            place,
            {
                "id": facts.element,
                "entity": entity,
                "digest": text_digest(said.text),
                "confidence": said.confidence,
                "created_s": said.created_s,
                "valid_from_s": said.valid_from_s,
                "valid_to_s": said.valid_to_s,
                "source": source,
                "metadata": said.metadata,
                "text": said.text,
            },
            self._vector(said),
        )
        _, count, latest = self._added.get(entity, (place, 0, 0))
        self._added[entity] = (place, count + 1, max(latest, said.stamp))
        for id_ in self.logs.predecessors(facts.element):
            self.rows.scoped.change(
                "UPDATE observations SET successor = ? WHERE id = ? AND ended = 1 AND {reach}", (key, id_)
            )
        if admitted.end is not None:
            self._carry_out(admitted.end)

    def _end_observation(self, end: EndObservation) -> None:
        found = self.rows.scoped.rows(
            "SELECT key, realm, entity, model FROM {observations} WHERE id = ?", (end.id,)
        )
        said = self._said(end.id, Kind.OBSERVATION)
        if not found or not isinstance(said, SayObservation):
            return
        [(key, realm, entity, model)] = found
        after = self.rows.scoped.rows("SELECT key FROM {observations} WHERE id = ?", (end.successor,))
        self.rows.scoped.change(
            "UPDATE observations SET valid_to_s = ? WHERE key = ? AND {reach}", (said.valid_to_s, key)
        )
        self.rows.end_observation(key, realm, model, end.at_s, after[0][0] if after else None)
        self.rows.touch(entity, wall_of(end.stamp))

    def _relation(self, said: SayRelation, facts: Facts, origin: str, admitted: Admitted) -> None:
        if admitted.void:
            self.drop_relations([facts.element])
        source, ends = self._source(said.told, origin), []
        for end in (said.source, said.target):
            place = self.rows.scoped.make_realm(end.realm)
            ends.append(self._supposing(place, end, said.stamp, source))
        self.rows.add_relation(
            self.rows.scoped.make_realm(said.realm),
            {
                "id": facts.element,
                "source_entity": ends[0],
                "target_entity": ends[1],
                "type": said.relation_type,
                "strength": said.strength,
                "confidence": said.confidence,
                "both_ways": int(said.both_ways),
                "version": 1,
                "created_s": said.created_s,
                "valid_from_s": said.valid_from_s,
                "valid_to_s": said.valid_to_s,
                "source": source,
                "metadata": said.metadata,
            },
        )
        if admitted.end is not None:
            self._carry_out(admitted.end)

    def _end_relation(self, end: EndRelation) -> None:
        found = self.rows.scoped.rows("SELECT key FROM {relations} WHERE id = ?", (end.id,))
        said = self._said(end.id, Kind.RELATION)
        if not found or not isinstance(said, SayRelation):
            return
        self.rows.scoped.change(
            "UPDATE relations SET valid_to_s = ? WHERE key = ? AND {reach}", (said.valid_to_s, found[0][0])
        )
        self.rows.end_relation(found[0][0], end.at_s)

    def _carry_out(self, held: Held) -> None:
        """Carry out an end that came before what it ends."""
        end = decode(held.body, self.logs.log(held.log).node)[0]
        if isinstance(end, EndObservation):
            self._end_observation(end)
        elif isinstance(end, EndRelation):
            self._end_relation(end)

    # Entities

    def _observed(self, said: SayObservation, source: int | None) -> tuple[int, int]:
        """The place and the key of the entity that an observation is about."""
        found = self._known.get(said.entity)
        if found is None:
            place = self.rows.scoped.make_realm(said.entity.realm)
            found = place, self._supposing(place, said.entity, said.stamp, source)
            if Kind.ENTITY in self.logs.about(said.entity.id):
                self._known[said.entity] = found
        return found

    def _find(self, place: int, entity: Named) -> tuple[int, str] | None:
        found = self.rows.scoped.rows(
            "SELECT key, type FROM {entities} WHERE realm = ? AND name = ?", (place, entity.name)
        )
        return (found[0][0], found[0][1]) if found else None

    def _make(self, place: int, entity: Named, stamp: int, source: int | None, values: dict[str, Any]) -> int:
        now_s = wall_of(stamp)
        return self.rows.add_entity(
            place,
            {
                "id": entity.id,
                "name": entity.name,
                "type": entity.type,
                **values,
                "version": 1,
                "created_s": now_s,
                "updated_s": now_s,
                "source": source,
            },
        )

    def _supposing(self, place: int, entity: Named, stamp: int, source: int | None) -> int:
        """The key of an entity that an operation supposes; it is made when nobody has said it (yet)."""
        found = self._find(place, entity)
        if found is None:
            return self._make(place, entity, stamp, source, _PLAIN)
        self.refresh([entity.id])
        return found[0]

    def _supposed_type(self, id_: bytes) -> str | None:
        """The type of an entity as the highest operation has it that supposes it."""
        held = self.logs.supposing(id_)
        if held is None:
            return None
        said = decode(held.body, self.logs.log(held.log).node)[0]
        if isinstance(said, SayRelation):
            return said.source.type if said.source.id == id_ else said.target.type
        return said.entity.type if isinstance(said, SayObservation) else None

    def _set_entity(self, key: int, name: str, type_: str, values: dict[str, Any]) -> None:
        if values["type"] != type_:
            indexes.forget_name(self.rows.connection, key, name, type_)
            indexes.index_name(self.rows.connection, key, name, values["type"])
        columns = ", ".join(f"{column} = ?" for column in values)
        sql = f"UPDATE entities SET {columns} WHERE key = ?"  # noqa: S608 - names of our own
        self.rows.scoped.change(sql + " AND {reach}", (*values.values(), key))

    # Rows

    def _drop_entity(self, key: int) -> None:
        found = self.rows.scoped.rows("SELECT key, realm FROM {observations} WHERE entity = ?", (key,))
        if found:
            self.rows.drop_observations([row[0] for row in found])
            self.rows.counted(key, found[0][1], -len(found))
        self.rows.drop_entity(key)

    def _drop_observation(self, id_: bytes, stamp: int) -> None:
        found = self.rows.scoped.rows("SELECT key, entity, realm FROM {observations} WHERE id = ?", (id_,))
        for key, entity, realm in found:
            self.rows.drop_observations([key])
            self.rows.counted(entity, realm, -1)
            self.rows.touch(entity, wall_of(stamp))

    def _vector(self, said: SayObservation) -> StoredVector | None:
        """The vector that came along, if it is of the space that is searched here."""
        if self.model is None or said.space != self.model.digest:
            return None
        if len(said.vector) != self.model.dimension:
            self.vectors_refused += 1
            return None
        if self._space is None:
            self._space = indexes.make_space(self.rows.connection, self.model)
        return StoredVector(self._space, said.vector, None)

    def _source(self, told: Told, origin: str) -> int | None:
        if (told, origin) not in self._sources:
            source = (told.agent, told.conversation, told.message, origin)
            self._sources[told, origin] = indexes.source_key(self.rows.connection, source)
        return self._sources[told, origin]

    def _said(self, element: bytes, kind: Kind) -> Operation | None:
        held = self.logs.about(element).get(kind)
        return None if held is None else decode(held.body, self.logs.log(held.log).node)[0]

    def _supposed(self, held: Held) -> list[bytes]:
        """The entities that an operation supposed."""
        if held.kind is Kind.OBSERVATION and held.entity is not None:
            return [held.entity]
        if held.kind is Kind.RELATION:
            return [end for end in (held.entity, held.other) if end is not None]
        return []
