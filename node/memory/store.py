"""The memory of a node, embedded: one SQLite file, one writer, one reader, and an embedder that may fail.

What is stored while the embedder does not answer has no vector yet and is found by its words; searches say
so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, TypeVar

import apsw

from node.environment import Environment
from node.errors import EmbeddingFailed, MemoryTooLarge, ValidationFailed
from node.memory import ids, search
from node.memory.embedding import Embedder, EmbeddingModel
from node.memory.exporting import Export
from node.memory.graph import Graph, Path, Walk, shortest_path, walk
from node.memory.idempotency import answered, request_digest
from node.memory.model import (
    NOBODY,
    NOW,
    EntityDraft,
    ObservationDraft,
    Period,
    Provenance,
    Realm,
    RelationDraft,
    checked_name,
    checked_request,
    embedded_text,
)
from node.memory.planes import Planes
from node.memory.question import Question
from node.memory.reading import (
    Entity,
    entities_of,
    entity_key,
    entity_observed,
    observations_of,
    of_types,
    relations_of,
)
from node.memory.records import MemorySettings, Outcome, Related, Remembered, Stamp, not_found
from node.memory.replication.replica import Replica
from node.memory.replication.shared import SharedMemory
from node.memory.rows import OBSERVATIONS_LIMIT
from node.memory.scopes import EVERYWHERE, Aim, Scoped, Viewer
from node.memory.search import Found, OutsideVectors
from node.memory.tidying import reclaim, vacuum
from node.memory.vectors import Packed, Vector, checked_vectors, packed
from node.memory.words import QUERY_CHARACTERS_LIMIT, Vocabulary
from node.memory.writing import FORGET_STEP, Writer
from node.storage.storage import Storage

T = TypeVar("T")
log = logging.getLogger(__name__)

OUTCOME_LIMIT: Final = 100
"""Most observations that one outcome is noted on."""
REQUEST_RELATIONS_LIMIT: Final = 1_000
"""Most relations that one request brings."""
PAGE_LIMIT: Final = 200
"""Most entities of one page."""


class MemoryStore:
    """Remembers, searches and forgets for viewers; see the module's docstring.

    Args:
        storage: The memory's own file, open.
        embedder: Makes vectors of texts.
        environment: Time and ids.
        node: Name of this node, for the provenance.
        settings: Limits and thresholds.
        replica: Tells other nodes what is shared; without it nobody hears of anything.
    """

    vectors: OutsideVectors | None = None
    """Who else is asked what is near, where the vectors have a server of their own."""

    def __init__(
        self,
        storage: Storage,
        embedder: Embedder,
        environment: Environment,
        *,
        node: str,
        settings: MemorySettings | None = None,
        replica: Replica | None = None,
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._environment = environment
        self._node = node
        self._settings = settings or MemorySettings()
        self._vocabulary: Vocabulary | None = None
        self._planes = Planes(self._settings.planes_bytes)
        self.shared: SharedMemory | None = None
        if replica is not None:
            limits = self._settings.limits
            self.shared = SharedMemory(storage, environment, replica, limits, self._model)
        self._counts = {
            "searches": 0,
            "searches_without_vectors": 0,
            "stored": 0,
            "stored_without_vectors": 0,
            "forgotten": 0,
        }
        self._embedding_error: str | None = None

    @property
    def storage(self) -> Storage:
        """The memory's file."""
        return self._storage

    async def remember(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[EntityDraft],
        *,
        source: Provenance = NOBODY,
        key: str | None = None,
        known: Mapping[tuple[str, str], Vector] | None = None,
    ) -> list[Remembered]:
        """Store entities with what is known about them, all or none; what is there is not stored twice.

        Args:
            viewer: Who stores.
            realm: Where.
            drafts: What.
            source: By whose word; the node is filled in.
            key: An idempotency key: the same request under it is answered as it was, and does nothing.
            known: Vectors of the embedder's own model, by name and text, of what need not be embedded.

        Raises:
            ScopeDenied: the realm is somebody else's.
            MemoryTooLarge: it is too much at once.
            EntityConflict: a name there has another type, or the key was used for something else.
            MemoryLimitExceeded: there is no room for it.
            StorageFailed: the disk refused.
        """
        viewer.require(realm)
        checked_request(drafts)
        known = dict(known or {})
        new = [(d, o) for d in drafts for o in d.observations if (d.name, o.text) not in known]
        told = [embedded_text(d.name, d.type, o.text) for d, o in new]
        flat = [(d.name, o.text) for d, o in new]
        vectors = dict(zip(flat, await self._embed(told), strict=False)) | known
        stamp, digest = self._stamp(source), b"" if key is None else request_digest(realm, drafts)

        def job(writer: Writer) -> list[Remembered]:
            place = writer.scoped.make_realm(realm)
            if key is not None:
                before = answered(writer.scoped, place, checked_name(key, "idempotency_key"), digest)
                if before is not None:
                    return [
                        Remembered(**each | {"observation_ids": tuple(each["observation_ids"])})
                        for each in before
                    ]
            own: dict[str, dict[str, Packed]] = {}
            for (name, text), vector in zip(vectors, packed(list(vectors.values())), strict=True):
                own.setdefault(name, {})[text] = vector
            found = [writer.remember(realm, draft, own.get(draft.name, {})) for draft in drafts]
            if key is not None:
                writer.scoped.answer(
                    place, key, digest, stamp.now_s, json.dumps([asdict(each) for each in found])
                )
            return found

        stored = await self._change(viewer, stamp, job, with_vectors=bool(vectors))
        self._counts["stored"] += sum(each.added for each in stored)
        self._counts["stored_without_vectors"] += sum(each.added for each in stored if not each.embedded)
        return stored

    async def supersede(
        self, viewer: Viewer, observation_id: str, draft: ObservationDraft, *, source: Provenance = NOBODY
    ) -> Remembered:
        """End an observation, and store what holds instead.

        Raises:
            EntityNotFound: there is no such observation for this viewer.
            EntityConflict: it was superseded before, or nothing would change.
            StorageFailed: the disk refused.
        """
        about = await self._storage.read(lambda c: entity_observed(Scoped(c, viewer), observation_id))
        if about is None:
            raise not_found("observation", observation_id)
        vectors = await self._embed([embedded_text(*about, draft.text)])
        by_text = dict(zip([draft.text], packed(vectors), strict=False))
        stamp = self._stamp(source)
        return await self._change(
            viewer,
            stamp,
            lambda writer: writer.supersede(observation_id, draft, by_text),
            with_vectors=bool(by_text),
        )

    async def relate(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[RelationDraft],
        *,
        source: Provenance = NOBODY,
    ) -> list[Related]:
        """Store how entities relate, all or none.

        Raises:
            ScopeDenied: the realm is somebody else's.
            EntityNotFound: an end is neither in the realm nor in the global scope.
            StorageFailed: the disk refused.
        """
        viewer.require(realm)
        if len(drafts) > REQUEST_RELATIONS_LIMIT:
            raise MemoryTooLarge(
                f"the request brings {len(drafts)} relations",
                why=f"at most {REQUEST_RELATIONS_LIMIT} are taken",
            )
        stamp = self._stamp(source)

        return await self._change(
            viewer, stamp, lambda writer: [writer.relate(realm, draft) for draft in drafts]
        )

    async def search(self, viewer: Viewer, question: Question) -> Found:
        """Answer a question; see :mod:`node.memory.search`.

        Raises:
            ScopeDenied: the question aims at somebody else's scope.
            StorageFailed: the disk refused.
        """
        vectors = await self._embed(
            [question.text[:QUERY_CHARACTERS_LIMIT].encode("utf-8", "replace").decode()]
        )
        vector = vectors[0] if vectors and vectors[0].any() else None
        now_s = self._environment.clock.wall()
        candidates = None
        if self.vectors is not None and vector is not None:
            past = question.period != NOW
            candidates = await self.vectors.candidates(
                viewer, question.aim, self._embedder.model, vector, past=past
            )

        def job(connection: apsw.Connection) -> Found:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(connection)
            return search.search(
                connection,
                self._vocabulary,
                viewer,
                question,
                now_s=now_s,
                vector=vector,
                model=None if vector is None else self._embedder.model,
                threshold=self._settings.threshold,
                planes=self._planes,
                candidates=candidates,
            )

        found = await self._storage.read(job)
        self._counts["searches"] += 1
        self._counts["searches_without_vectors"] += not vectors
        return replace(found, degraded=not vectors)

    async def get(
        self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE, period: Period = NOW, after: int = 0
    ) -> Entity:
        """An entity by its name or id, with what is known about it and its relations.

        Args:
            viewer: Who asks.
            name: Of the entity, or its id; of several the one in the narrowest scope.
            aim: In which scopes.
            period: What of it, by time.
            after: Observations to leave out before the first.

        Raises:
            EntityNotFound: there is none for this viewer.
            ScopeDenied: the aim is somebody else's scope.
        """
        now_s = self._environment.clock.wall()

        def query(connection: apsw.Connection) -> Entity:
            scoped = Scoped(connection, viewer, aim)
            key = entity_key(scoped, name)
            return entities_of(scoped, [key])[key]._replace(
                observations=tuple(observations_of(scoped, key, period, now_s, after=after)),
                relations=tuple(relations_of(scoped, key, period, now_s)),
            )

        return await self._storage.read(query)

    async def entities(
        self,
        viewer: Viewer,
        *,
        aim: Aim = EVERYWHERE,
        types: Sequence[str] = (),
        limit: int = 50,
        after: str = "",
    ) -> list[Entity]:
        """Entities by id, without what is known about them.

        Args:
            viewer: Who asks.
            aim: In which scopes.
            types: Only of these types, or all.
            limit: Most entities.
            after: The id of the last of the page before.
        """

        def query(connection: apsw.Connection) -> list[Entity]:
            scoped = Scoped(connection, viewer, aim)
            where, bindings = of_types("e", types)
            found = scoped.rows(
                f"SELECT e.key FROM {{entities}} e WHERE e.id > ? AND {where} ORDER BY e.id LIMIT ?",  # noqa: S608
                (ids.read_id(ids.ENTITY, after), *bindings, min(limit, PAGE_LIMIT)),
            )
            keys = [row[0] for row in found]
            known = entities_of(scoped, keys)
            return [known[key] for key in keys]

        return await self._storage.read(query)

    async def walk(self, viewer: Viewer, start: str, way: Walk) -> Graph:
        """What is around an entity; see :mod:`node.memory.graph`.

        Raises:
            EntityNotFound: there is no such entity for this viewer.
        """
        now_s = self._environment.clock.wall()
        return await self._storage.read(lambda c: walk(Scoped(c, viewer, way.aim), start, way, now_s))

    async def path(self, viewer: Viewer, start: str, end: str, way: Walk) -> Path | None:
        """The shortest way between two entities, or None within the bounds of the walk.

        Raises:
            EntityNotFound: one of them is not there for this viewer.
        """
        now_s = self._environment.clock.wall()
        return await self._storage.read(
            lambda c: shortest_path(Scoped(c, viewer, way.aim), start, end, way, now_s)
        )

    async def forget_observation(self, viewer: Viewer, observation_id: str) -> None:
        """Take one observation out for good.

        Raises:
            EntityNotFound: there is none of that id for this viewer.
        """
        stamp = self._stamp(NOBODY)
        await self._change(viewer, stamp, lambda writer: writer.forget_observation(observation_id))
        await self._storage.write(vacuum)

    async def forget_relation(self, viewer: Viewer, relation_id: str) -> None:
        """Take one relation out for good.

        Raises:
            EntityNotFound: there is none of that id for this viewer.
        """
        stamp = self._stamp(NOBODY)
        await self._change(viewer, stamp, lambda writer: writer.forget_relation(relation_id))

    async def forget(self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE) -> None:
        """Take an entity out for good, with all that is known about it.

        Raises:
            EntityNotFound: there is none of that name or id for this viewer.
        """
        entity = await self.get(viewer, name, aim=aim)
        id_ = ids.read_id(ids.ENTITY, entity.id)

        def chosen(scoped: Scoped) -> list[int]:  # by its id: its number may be another's in the next step
            return [row[0] for row in scoped.rows("SELECT key FROM {entities} WHERE id = ?", (id_,))]

        await self._forget_keys(viewer, aim, chosen)

    async def clear(self, viewer: Viewer, aim: Aim, types: Sequence[str] = ()) -> int:
        """Take out all entities of a choice; returns how many.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
        """

        def chosen(scoped: Scoped) -> list[int]:
            where, bindings = of_types("e", types)
            sql = f"SELECT e.key FROM {{entities}} e WHERE {where} LIMIT ?"  # noqa: S608 - names of our own
            found = scoped.rows(sql, (*bindings, FORGET_STEP))
            return [row[0] for row in found]

        return await self._forget_keys(viewer, aim, chosen)

    async def record(self, viewer: Viewer, observation_ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer that observations were used for; it weighs in later searches.

        Raises:
            EntityNotFound: one of them is not there for this viewer; then none is noted.
        """
        if not 0 < len(observation_ids) <= OUTCOME_LIMIT:
            raise ValidationFailed(
                f"an outcome names {len(observation_ids)} observations",
                why=f"it may name 1 to {OUTCOME_LIMIT}",
            )
        stamp = self._stamp(NOBODY)
        await self._change(viewer, stamp, lambda writer: writer.record(observation_ids, outcome))

    async def counts(self, viewer: Viewer, aim: Aim = EVERYWHERE) -> dict[Realm, tuple[int, int, int]]:
        """Entities, observations and relations in each realm of a viewer."""
        return await self._storage.read(lambda c: Scoped(c, viewer, aim).counts())

    def export(self, viewer: Viewer, aim: Aim = EVERYWHERE, *, vectors: bool = False) -> Export:
        """All that a viewer may see, page by page; ``vectors`` says whether observations come with theirs."""
        return Export(self._storage, viewer, aim, vectors=vectors)

    def statistics(self) -> dict[str, Any]:
        """Bytes, limits and counts since the start."""
        limits = self._settings.limits
        outside = {} if self.vectors is None else {"vectors": self.vectors.statistics()}
        return {
            **outside,
            **self._storage.statistics(),
            **self._counts,
            "entities_limit": limits.entities,
            "observations_limit": OBSERVATIONS_LIMIT,
            "signs": self._planes.statistics(),
            "embedding_error": self._embedding_error,
        }

    async def _embed(self, texts: Sequence[str]) -> list[Vector]:
        """Vectors of texts, or none at all when the embedder fails."""
        if not texts:
            return []
        try:
            found = checked_vectors(
                await self._embedder.embed(texts), len(texts), self._embedder.model.dimension
            )
        except EmbeddingFailed as error:
            if self._embedding_error is None:
                log.warning("memory goes on without vectors: %s", error)
            self._embedding_error = str(error)
            return []
        self._embedding_error = None
        return list(found)

    async def _forget_keys(self, viewer: Viewer, aim: Aim, chosen: Callable[[Scoped], list[int]]) -> int:
        stamp, gone = self._stamp(NOBODY), 0

        while True:
            entities, taken = await self._change(
                viewer, stamp, lambda writer: writer.forget_some(chosen(writer.scoped)), aim=aim
            )
            gone += entities
            self._counts["forgotten"] += entities
            if not taken:
                await reclaim(self._storage)
                return gone

    async def _change(
        self,
        viewer: Viewer,
        stamp: Stamp,
        job: Callable[[Writer], T],
        *,
        with_vectors: bool = False,
        aim: Aim = EVERYWHERE,
    ) -> T:
        """Run a job of a writer, and let the other nodes know where it has changed what is shared."""
        model, shared = self._embedder.model if with_vectors else None, self.shared

        def write(connection: apsw.Connection) -> tuple[T, bool]:
            journal = None if shared is None else shared.journal(connection)
            scoped = Scoped(connection, viewer, aim)
            done = job(Writer(connection, scoped, self._settings.limits, stamp, model, journal))
            return done, journal is not None and journal.flush()

        done, has_said = await self._storage.write(write)
        if shared is not None and has_said:
            shared.on_change()
        return done

    def _model(self) -> EmbeddingModel | None:
        """The model of the vectors that are searched here, or None while there is none."""
        try:
            return self._embedder.model
        except EmbeddingFailed:
            return None

    def _stamp(self, source: Provenance) -> Stamp:
        now_s = self._environment.clock.wall()
        return Stamp(
            now_s, lambda: ids.new_id(self._environment), replace(source, node=source.node or self._node)
        )
