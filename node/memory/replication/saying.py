"""A writer's changes as operations: what is shared is said to the other nodes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from node.memory.model import ObservationDraft, Provenance, Realm, RelationDraft, Scope
from node.memory.records import Limits
from node.memory.replication.journal import Journal
from node.memory.replication.merge import Merger
from node.memory.replication.operations import (
    EndObservation,
    EndRelation,
    ForgetEntity,
    ForgetObservation,
    ForgetRelation,
    Kind,
    Named,
    SayEntity,
    SayObservation,
    SayRelation,
    Told,
    element_id,
    entity_id,
)
from node.memory.rows import Rows
from node.memory.scopes import REPLICA, Scoped

At = tuple[Realm, str, str]
"""An entity: where it is, its name, its type."""


class Made(NamedTuple):
    """What a new row was given: what its id is made of, its metadata as text, when, in Unix seconds."""

    nonce: bytes
    metadata: str | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Saying:
    """Says what a writer does.

    Args:
        journal: Where it is put down, or None where nothing is told to anybody.
        connection: The writer's.
        limits: How much is remembered at most.
        source: By whose word.
    """

    journal: Journal | None
    connection: apsw.Connection
    limits: Limits
    source: Provenance

    def id(self, realm: Realm, nonce: bytes) -> bytes:
        """The id of a new observation or relation: bound to this node where others will hear of it."""
        journal = self._shared(realm)
        return nonce if journal is None else element_id(journal.node, nonce)

    def entity_id(self, realm: Realm, name: str, new_id: Callable[[], bytes]) -> bytes:
        """The id of a new entity: the one that all nodes give it where they will hear of it."""
        return new_id() if self._shared(realm) is None else entity_id(realm, name)

    def entity(self, realm: Realm, name: str, type_: str, values: Sequence[Any]) -> None:
        """An entity is so.

        Args:
            realm: Where.
            name: Its name.
            type_: Its type.
            values: Confidence, strength, since when, until when, metadata.
        """
        journal = self._shared(realm)
        if journal is not None:
            confidence, strength, start_s, end_s, metadata = values
            journal.say(
                SayEntity(
                    journal.stamp(),
                    _named((realm, name, type_)),
                    confidence,
                    strength,
                    start_s,
                    end_s,
                    metadata,
                    self._told,
                )
            )

    def observation(
        self, at: At, draft: ObservationDraft, made: Made, *, space: str = "", vector: bytes = b""
    ) -> None:
        """Something was observed about an entity.

        Args:
            at: The entity.
            draft: What.
            made: What its row was given.
            space: Digest of the model that made its vector.
            vector: In whole numbers.
        """
        journal = self._shared(at[0])
        if journal is not None:
            journal.say(
                SayObservation(
                    journal.stamp(),
                    made.nonce,
                    _named(at),
                    draft.text,
                    draft.confidence,
                    made.at_s,
                    draft.valid_from_s,
                    draft.valid_to_s,
                    made.metadata,
                    self._told,
                    space,
                    vector,
                )
            )

    def end_observation(self, realm: Realm, id_: bytes, at_s: float, successor: bytes) -> None:
        """An observation no longer holds."""
        journal = self._shared(realm)
        said = None if journal is None else journal.logs.about(id_).get(Kind.OBSERVATION)
        if journal is not None and said is not None and said.entity is not None:
            journal.say(EndObservation(journal.stamp(), id_, said.born, said.entity, at_s, successor))

    def relation(self, realm: Realm, ends: tuple[At, At], draft: RelationDraft, made: Made) -> None:
        """One entity relates to another."""
        journal = self._shared(realm)
        if journal is not None:
            journal.say(
                SayRelation(
                    journal.stamp(),
                    made.nonce,
                    _scope(realm),
                    realm.owner,
                    _named(ends[0]),
                    _named(ends[1]),
                    draft.type,
                    draft.strength,
                    draft.confidence,
                    draft.bidirectional,
                    made.at_s,
                    draft.valid_from_s,
                    draft.valid_to_s,
                    made.metadata,
                    self._told,
                )
            )

    def end_relation(self, realm: Realm, id_: bytes, at_s: float) -> None:
        """A relation no longer holds."""
        journal = self._shared(realm)
        said = None if journal is None else journal.logs.about(id_).get(Kind.RELATION)
        if journal is not None and said is not None and said.entity is not None and said.other is not None:
            journal.say(EndRelation(journal.stamp(), id_, said.born, said.entity, said.other, at_s))

    def forget_entity(self, realm: Realm, id_: bytes) -> None:
        """All that was said about an entity is gone; its own rows are the writer's, who goes in steps."""
        journal = self._shared(realm)
        if journal is None:
            return
        void = journal.say(ForgetEntity(journal.stamp(), id_)).void
        others = {
            end: None for held in void if held.kind is Kind.RELATION for end in (held.entity, held.other)
        }
        gone = [held.element for held in void if held.kind is Kind.RELATION]
        if gone:
            merger = self._merger(journal)
            merger.drop_relations(gone)
            merger.refresh(end for end in others if end is not None and end != id_)

    def forget_observation(self, realm: Realm, id_: bytes) -> bool:
        """An observation is gone, with its rows; False where it is not shared, and nothing was done."""
        journal = self._shared(realm)
        if journal is None:
            return False
        operation = ForgetObservation(journal.stamp(), id_)
        self._merger(journal).forget(operation, journal.say(operation).void)
        return True

    def forget_relation(self, realm: Realm, id_: bytes) -> bool:
        """A relation is gone, as :meth:`forget_observation`."""
        journal = self._shared(realm)
        if journal is None:
            return False
        operation = ForgetRelation(journal.stamp(), id_)
        self._merger(journal).forget(operation, journal.say(operation).void)
        return True

    @property
    def _told(self) -> Told:
        return Told(self.source.agent, self.source.conversation, self.source.message)

    def _shared(self, realm: Realm) -> Journal | None:
        return None if realm.scope is Scope.AGENT else self.journal

    def _merger(self, journal: Journal) -> Merger:
        return Merger(Rows(self.connection, Scoped(self.connection, REPLICA), self.limits), journal.logs)


def _named(at: At) -> Named:
    realm, name, type_ = at
    return Named(_scope(realm), realm.owner, name, type_)


def _scope(realm: Realm) -> Any:
    return int(realm.scope)
