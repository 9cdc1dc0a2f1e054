"""The memory in a Neo4j server: what the protocol asks for, as transactions on a graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from node.errors import EmbeddingFailed, MemoryTooLarge, ValidationFailed
from node.memory import ids
from node.memory.backends.neo4j import copying, reading, searching, walking
from node.memory.backends.neo4j.copying import GraphExport
from node.memory.backends.neo4j.graph_schema import SCHEMA, Reach, reach_of, space
from node.memory.backends.neo4j.server import GraphClient
from node.memory.backends.neo4j.writing import Change
from node.memory.backends.protocol import BackendContext
from node.memory.embedding import EmbeddingModel
from node.memory.exporting import Part
from node.memory.graph import Graph, Path, Walk
from node.memory.idempotency import request_digest
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
from node.memory.question import Question
from node.memory.reading import Entity
from node.memory.records import Outcome, Related, Remembered, Stamp
from node.memory.rows import OBSERVATIONS_LIMIT
from node.memory.scopes import EVERYWHERE, Aim, Viewer
from node.memory.search import Found
from node.memory.store import OUTCOME_LIMIT, PAGE_LIMIT, REQUEST_RELATIONS_LIMIT
from node.memory.vectors import Vector, checked_vectors
from node.memory.words import QUERY_CHARACTERS_LIMIT

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

T = TypeVar("T")
log = logging.getLogger(__name__)


class Neo4jBackend:
    """A memory that is a graph; an :class:`~node.memory.backends.protocol.OutsideBackend`.

    Args:
        client: Runs transactions on the server.
        context: What every backend is made with.
    """

    def __init__(self, client: GraphClient, context: BackendContext) -> None:
        self._client = client
        self._context = context
        self._clock = context.environment.clock
        self._ready: dict[str, bool] = {}
        self._preparing = trio.Lock()
        self._embedding_error: str | None = None
        self._counts = {"searches": 0, "searches_without_vectors": 0, "stored": 0, "forgotten": 0}

    async def remember(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[EntityDraft],
        *,
        source: Provenance = NOBODY,
        key: str | None = None,
    ) -> list[Remembered]:
        """Store entities, all or none; see the protocol."""
        reach = reach_of(viewer, Aim(realm.scope, realm.owner))
        checked_request(drafts)
        flat = [(draft, each) for draft in drafts for each in draft.observations]
        vectors, model = await self._embed([embedded_text(d.name, d.type, o.text) for d, o in flat])
        by_text = dict(zip([(d.name, o.text) for d, o in flat], vectors, strict=False))
        digest = b"" if key is None else request_digest(realm, drafts)

        def job(change: Change) -> list[Remembered]:
            if key is not None:
                before = change.answered(realm, checked_name(key, "idempotency_key"), digest)
                if before is not None:
                    return before
            found = []
            for draft in drafts:
                own = {text: vector for (name, text), vector in by_text.items() if name == draft.name}
                found.append(change.remember(realm, draft, own))
            change.require_room(realm)
            if key is not None:
                change.answer(realm, key, digest, found)
            return found

        stored = await self._change(reach, job, source=source, model=model)
        self._counts["stored"] += sum(each.added for each in stored)
        return stored

    async def supersede(
        self, viewer: Viewer, observation_id: str, draft: ObservationDraft, *, source: Provenance = NOBODY
    ) -> Remembered:
        """End an observation, and store what holds instead; see the protocol."""
        reach = reach_of(viewer, EVERYWHERE)

        def about(tx: ManagedTransaction) -> Entity:
            told = Change(tx, reach, self._context.limits, self._stamp(NOBODY)).observation(observation_id)
            return reading.entities(tx, reach, [told["entity"]])[told["entity"]]

        entity = await self._read(about)
        vectors, model = await self._embed([embedded_text(entity.name, entity.type, draft.text)])
        vector = vectors[0] if vectors else None
        return await self._change(
            reach,
            lambda change: change.supersede(observation_id, draft, vector),
            source=source,
            model=model,
        )

    async def relate(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[RelationDraft],
        *,
        source: Provenance = NOBODY,
    ) -> list[Related]:
        """Store how entities relate, all or none; see the protocol."""
        reach = reach_of(viewer, Aim(realm.scope, realm.owner))
        if len(drafts) > REQUEST_RELATIONS_LIMIT:
            raise MemoryTooLarge(
                f"the request brings {len(drafts)} relations",
                why=f"at most {REQUEST_RELATIONS_LIMIT} are taken",
            )
        return await self._change(
            reach, lambda change: [change.relate(realm, draft) for draft in drafts], source=source
        )

    async def search(self, viewer: Viewer, question: Question) -> Found:
        """Answer a question; see the protocol."""
        reach = reach_of(viewer, question.aim)
        asked = question.text[:QUERY_CHARACTERS_LIMIT].encode("utf-8", "replace").decode()
        vectors, model = await self._embed([asked])
        vector = vectors[0] if vectors and vectors[0].any() else None
        now_s = self._clock.wall()
        found = await self._read(
            lambda tx: searching.search(
                tx,
                reach,
                question,
                now_s=now_s,
                vector=vector,
                model=model,
                threshold=self._context.threshold,
            ),
            model=model,
        )
        self._counts["searches"] += 1
        self._counts["searches_without_vectors"] += not vectors
        return replace(found, degraded=not vectors)

    async def get(
        self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE, period: Period = NOW, after: int = 0
    ) -> Entity:
        """An entity with what is known about it and its relations; see the protocol."""
        reach, now_s = reach_of(viewer, aim), self._clock.wall()

        def job(tx: ManagedTransaction) -> Entity:
            found = reading.entity(reading.find(tx, reach, name))
            return found._replace(
                observations=tuple(reading.observations(tx, reach, found.id, period, now_s, after=after)),
                relations=tuple(reading.relations(tx, reach, found.id, period, now_s)),
            )

        return await self._read(job)

    async def entities(
        self,
        viewer: Viewer,
        *,
        aim: Aim = EVERYWHERE,
        types: Sequence[str] = (),
        limit: int = 50,
        after: str = "",
    ) -> list[Entity]:
        """Entities by id; see the protocol."""
        reach = reach_of(viewer, aim)
        return await self._read(lambda tx: reading.page(tx, reach, types, min(limit, PAGE_LIMIT), after))

    async def walk(self, viewer: Viewer, start: str, way: Walk) -> Graph:
        """What is around an entity; see the protocol."""
        reach, now_s = reach_of(viewer, way.aim), self._clock.wall()
        return await self._read(lambda tx: walking.walk(tx, reach, start, way, now_s))

    async def path(self, viewer: Viewer, start: str, end: str, way: Walk) -> Path | None:
        """The shortest way between two entities; see the protocol."""
        reach, now_s = reach_of(viewer, way.aim), self._clock.wall()
        return await self._read(lambda tx: walking.shortest_path(tx, reach, start, end, way, now_s=now_s))

    async def forget_observation(self, viewer: Viewer, observation_id: str) -> None:
        """Take one observation out for good; see the protocol."""
        reach = reach_of(viewer, EVERYWHERE)
        await self._change(reach, lambda change: change.forget_observation(observation_id))

    async def forget_relation(self, viewer: Viewer, relation_id: str) -> None:
        """Take one relation out for good; see the protocol."""
        reach = reach_of(viewer, EVERYWHERE)
        await self._change(reach, lambda change: change.forget_relation(relation_id))

    async def forget(self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE) -> None:
        """Take an entity out for good, with all that is known about it; see the protocol."""
        reach = reach_of(viewer, aim)
        self._counts["forgotten"] += await self._change(
            reach, lambda change: change.forget([reading.find(change.tx, reach, name)["id"]])
        )

    async def clear(self, viewer: Viewer, aim: Aim, types: Sequence[str] = ()) -> int:
        """Take out all entities of a choice, some at a time; see the protocol."""
        reach, gone = reach_of(viewer, aim), 0
        while some := await self._change(reach, lambda change: change.forget(change.chosen(types))):
            gone += some
            self._counts["forgotten"] += some
        return gone

    async def record(self, viewer: Viewer, observation_ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer; see the protocol."""
        if not 0 < len(observation_ids) <= OUTCOME_LIMIT:
            raise ValidationFailed(
                f"an outcome names {len(observation_ids)} observations",
                why=f"it may name 1 to {OUTCOME_LIMIT}",
            )
        reach = reach_of(viewer, EVERYWHERE)
        await self._change(reach, lambda change: change.record(observation_ids, outcome))

    async def counts(self, viewer: Viewer, aim: Aim = EVERYWHERE) -> dict[Realm, tuple[int, int, int]]:
        """How much is in each realm of a viewer; see the protocol."""
        reach = reach_of(viewer, aim)
        return await self._read(lambda tx: reading.counts(tx, reach))

    def export(self, viewer: Viewer, aim: Aim = EVERYWHERE, *, vectors: bool = False) -> GraphExport:
        """All that a viewer may see, page by page; see the protocol."""
        return GraphExport(self._read, reach_of(viewer, aim), vectors=vectors)

    async def take(self, parts: Sequence[Part]) -> None:
        """Store copies of entities with their observations; see the protocol."""
        await self._prepare(copying.models(parts))
        await self._client.write(lambda tx: copying.take(tx, parts))

    async def take_relations(self, relations: Sequence[dict[str, Any]]) -> None:
        """Store copies of relations; see the protocol."""
        await self._prepare([])
        await self._client.write(lambda tx: copying.take_relations(tx, relations))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """There is nothing to do in the background: the server looks after itself."""
        task_status.started()
        await trio.sleep_forever()

    def statistics(self) -> Mapping[str, Any]:
        """Counts since the start, limits, and whether the server answers."""
        return {
            "backend": "neo4j",
            **self._counts,
            **self._client.statistics(),
            "entities_limit": self._context.limits.entities,
            "observations_limit": OBSERVATIONS_LIMIT,
            "embedding_error": self._embedding_error,
        }

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _read(
        self, job: Callable[[ManagedTransaction], T], *, model: EmbeddingModel | None = None
    ) -> T:
        await self._prepare([] if model is None else [model])
        return await self._client.read(job)

    async def _change(
        self,
        reach: Reach,
        job: Callable[[Change], T],
        *,
        source: Provenance = NOBODY,
        model: EmbeddingModel | None = None,
    ) -> T:
        await self._prepare([] if model is None else [model])
        stamp, limits = self._stamp(source), self._context.limits
        return await self._client.write(lambda tx: job(Change(tx, reach, limits, stamp, model)))

    async def _prepare(self, models: Sequence[EmbeddingModel]) -> None:
        """Make what is not there of indexes, once for each space."""
        wanted = {"": SCHEMA} | {model.digest: [space(model)] for model in models}
        async with self._preparing:
            for name, statements in wanted.items():
                if name not in self._ready:
                    await self._client.prepare(statements)
                    self._ready[name] = True

    async def _embed(self, texts: Sequence[str]) -> tuple[list[Vector], EmbeddingModel | None]:
        """Vectors of texts and their model, or none at all when the embedder fails."""
        if not texts:
            return [], None
        embedder = self._context.embedder
        try:
            model = embedder.model
            found = checked_vectors(await embedder.embed(texts), len(texts), model.dimension)
        except EmbeddingFailed as error:
            if self._embedding_error is None:
                log.warning("memory goes on without vectors: %s", error)
            self._embedding_error = str(error)
            return [], None
        self._embedding_error = None
        return list(found), model

    def _stamp(self, source: Provenance) -> Stamp:
        environment = self._context.environment
        origin = replace(source, node=source.node or self._context.node)
        return Stamp(self._clock.wall(), lambda: ids.new_id(environment), origin)
