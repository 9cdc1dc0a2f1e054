"""Routes of the memory: store, search, walk and forget, for operators and on behalf of agents.

The permission table decides who may come here at all; whoever may sees as much as the agent it names, or
everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from node.errors import CaxtonError
from node.http.answers import ErrorBody
from node.http.errors import facts, validation_failed
from node.http.memory_answers import (
    ClearedBody,
    EntitiesBody,
    EntityView,
    GraphBody,
    MemorySearchBody,
    MemoryStatsBody,
    PathBody,
    RelatedBody,
    RememberedBatchBody,
    RememberedBody,
)
from node.http.memory_models import (
    Asked,
    ClearQuery,
    EntityBatchBody,
    EntityBody,
    EntityItemBody,
    EntityListQuery,
    EntityQuery,
    ForgetQuery,
    GraphQuery,
    MemorySearchQuery,
    PathQuery,
    RelationBody,
    SupersedeBody,
    UsesBody,
    viewer,
)
from node.http.services import NodeServices
from node.http.strict_json import StrictRoute
from node.memory.model import Provenance, Realm
from node.memory.records import Outcome, not_found
from node.memory.scopes import OPERATOR, Viewer

if TYPE_CHECKING:
    from node.memory.backends.protocol import MemoryBackend

_REFUSED: Final[dict[str, Any]] = {"model": ErrorBody, "description": "A refusal; nothing was changed."}
_MISSING: Final[dict[int | str, Any]] = {404: _REFUSED}
_STORING: Final[dict[int | str, Any]] = {409: _REFUSED, 413: _REFUSED, 507: _REFUSED}


def memory_routes(services: NodeServices) -> APIRouter:
    """The routes of the memory."""
    router = APIRouter(prefix="/memory", tags=["memory"], route_class=StrictRoute)
    _add_storing(router, services)
    _add_reading(router, services)
    _add_walking(router, services)
    _add_statistics(router, services)
    _add_forgetting(router, services)
    return router


def _add_storing(router: APIRouter, services: NodeServices) -> None:
    room = services.memory

    @router.post("/entities", status_code=201, response_model=RememberedBody, responses=_STORING)
    async def remember(body: EntityBody) -> Response:
        """Store an entity, or add to it; a text that is there already is not stored twice.

        Without a model, or while it does not answer, ``embedding_generated`` is false: the observations are
        found by their words.
        """
        realm, draft = body.realm(), body.draft()
        store = await room.store()
        [stored] = await store.remember(
            body.viewer(), realm, [draft], source=body.source(), key=body.idempotency_key
        )
        return JSONResponse(stored.as_json(), 201)

    @router.post("/entities/batch", status_code=207, response_model=RememberedBatchBody)
    async def remember_all(body: EntityBatchBody) -> Response:
        """Store up to 100 entities, each on its own; the answer says of each whether it was stored."""
        realm, results = body.realm(), []
        store = await room.store()
        for item in body.entities:
            try:
                draft = _item(item).draft()
                [stored] = await store.remember(body.viewer(), realm, [draft], source=body.source())
                results.append({"status": "stored", **stored.as_json()})
            except CaxtonError as error:
                results.append({"status": "refused", "error": facts(error)})
        stored_count = sum(1 for result in results if result["status"] == "stored")
        counted = {"stored": stored_count, "refused": len(results) - stored_count}
        return JSONResponse({"results": results, **counted}, 207)

    @router.post(
        "/observations/{observation_id}/supersede",
        status_code=201,
        response_model=RememberedBody,
        responses=_STORING | _MISSING,
    )
    async def supersede(observation_id: str, body: SupersedeBody) -> Response:
        """End an observation, and store what holds instead; the old one is kept with its end."""
        store = await _there(services, "observation", observation_id)
        source = Provenance(body.agent_id or "", body.conversation_id or "", body.message_id or "")
        who = viewer(body.agent_id, body.workspace)
        stored = await store.supersede(who, observation_id, body.draft(), source=source)
        return JSONResponse(stored.as_json(), 201)

    @router.post("/relations", status_code=201, response_model=RelatedBody, responses=_STORING | _MISSING)
    async def relate(body: RelationBody) -> Response:
        """Store how one entity relates to another; what was told otherwise before is superseded.

        The ends are entities of the same scope and owner, or global ones.
        """
        realm, draft = body.realm(), body.draft()
        store = await _there(services, "entity", body.from_entity)
        [related] = await store.relate(body.viewer(), realm, [draft], source=body.source())
        return JSONResponse(related.as_json(), 201)

    @router.post("/outcomes", status_code=204, responses=_MISSING)
    async def record(body: UsesBody) -> Response:
        """Note what came of an answer that observations were used for; it weighs in later searches."""
        store = await _there(services, "observation", body.observation_ids[0])
        who = viewer(body.agent_id, body.workspace)
        await store.record(who, body.observation_ids, Outcome(body.outcome))
        return Response(status_code=204)


def _add_reading(router: APIRouter, services: NodeServices) -> None:
    room, clock = services.memory, services.environment.clock

    @router.get("/search", response_model=MemorySearchBody)
    async def search(query: Annotated[MemorySearchQuery, Query()]) -> Response:
        """Search by meaning, by words and by name; every result says in ``why`` which lists it is in."""
        started_s = clock.now()
        question, who = query.question(), query.viewer()
        _require_aim(who, query)
        store = await room.existing()
        found = None if store is None else await store.search(who, question)
        body = {
            "results": [] if found is None else [hit.as_json() for hit in found.hits],
            "total_results": 0 if found is None else found.total,
            "limit": query.limit,
            "offset": query.offset,
            "terms": [] if found is None else list(found.terms),
            "by_meaning": found is not None and found.by_meaning,
            "degraded": found is not None and found.degraded,
            "truncated": found is not None and found.cut,
            "search_time_ms": round((clock.now() - started_s) * 1000, 3),
        }
        return JSONResponse(body)

    @router.get("/entities", response_model=EntitiesBody)
    async def entities(query: Annotated[EntityListQuery, Query()]) -> Response:
        """Entities by id, without observations and relations."""
        _require_aim(query.viewer(), query)
        store, types = await room.existing(), query.types()
        listed = []
        if store is not None:
            listed = await store.entities(
                query.viewer(), aim=query.aim(), types=types, limit=query.limit + 1, after=query.after
            )
        shown = listed[: query.limit]
        following = shown[-1].id if len(listed) > query.limit else None
        return JSONResponse({"entities": [entity.as_json() for entity in shown], "next": following})

    @router.get("/entities/{entity}", response_model=EntityView, responses=_MISSING)
    async def get(entity: str, query: Annotated[EntityQuery, Query()]) -> Response:
        """An entity by its name or id, with what is known about it and its relations."""
        period, aim = query.period(), query.aim()
        _require_aim(query.viewer(), query)
        store = await _there(services, "entity", entity)
        found = await store.get(query.viewer(), entity, aim=aim, period=period, after=query.offset)
        return JSONResponse(found.as_json())


def _add_walking(router: APIRouter, services: NodeServices) -> None:
    @router.get("/graph/{entity}", response_model=GraphBody, responses=_MISSING)
    async def graph(entity: str, query: Annotated[GraphQuery, Query()]) -> Response:
        """What is around an entity, along relations; the strongest stay where a bound cuts."""
        way = query.walk()
        _require_aim(query.viewer(), query)
        store = await _there(services, "entity", entity)
        return JSONResponse((await store.walk(query.viewer(), entity, way)).as_json())

    @router.get("/graph/{entity}/path", response_model=PathBody, responses=_MISSING)
    async def path(entity: str, query: Annotated[PathQuery, Query()]) -> Response:
        """A shortest way along relations to another entity, of at most ``max_depth`` relations."""
        way = query.walk()
        _require_aim(query.viewer(), query)
        store = await _there(services, "entity", entity)
        found = await store.path(query.viewer(), entity, query.to, way)
        return JSONResponse({"found": found is not None} | ({} if found is None else found.as_json()))


def _add_statistics(router: APIRouter, services: NodeServices) -> None:
    room = services.memory

    @router.get("/stats", response_model=MemoryStatsBody)
    async def stats() -> Response:
        """What the memory holds, by scope and owner, and what it costs."""
        store = await room.existing()
        counted = {} if store is None else await store.counts(OPERATOR)
        names = ("entities", "observations", "relations")
        totals = {name: sum(each[place] for each in counted.values()) for place, name in enumerate(names)}
        scopes = [
            {
                "memory_scope": realm.scope.label,
                "owner": realm.owner or None,
                **dict(zip(names, each, strict=True)),
            }
            for realm, each in counted.items()
        ]
        replication = None if services.replication is None else await services.replication()
        told = {"scopes": scopes, "room": room.statistics(), "replication": replication}
        return JSONResponse({**totals, **told})


def _add_forgetting(router: APIRouter, services: NodeServices) -> None:
    room = services.memory

    @router.delete("/entities/{entity}", status_code=204, responses=_MISSING)
    async def forget(entity: str, query: Annotated[ForgetQuery, Query()]) -> Response:
        """Take an entity out for good, with all that is known about it."""
        _require_aim(query.viewer(), query)
        store = await _there(services, "entity", entity)
        await store.forget(query.viewer(), entity, aim=query.aim())
        return Response(status_code=204)

    @router.delete("/observations/{observation_id}", status_code=204, responses=_MISSING)
    async def forget_observation(observation_id: str, query: Annotated[ForgetQuery, Query()]) -> Response:
        """Take one observation out for good."""
        store = await _there(services, "observation", observation_id)
        await store.forget_observation(query.viewer(), observation_id)
        return Response(status_code=204)

    @router.delete("/relations/{relation_id}", status_code=204, responses=_MISSING)
    async def forget_relation(relation_id: str, query: Annotated[ForgetQuery, Query()]) -> Response:
        """Take one relation out for good."""
        store = await _there(services, "relation", relation_id)
        await store.forget_relation(query.viewer(), relation_id)
        return Response(status_code=204)

    @router.delete("/{agent_id}", response_model=ClearedBody)
    async def clear(agent_id: str, query: Annotated[ClearQuery, Query()]) -> Response:
        """Forget what an agent remembers for itself, all of it or some types of entities."""
        aim, types = query.aim(agent_id), query.types()
        store = await room.existing()
        gone = 0 if store is None else await store.clear(OPERATOR, aim, types)
        return JSONResponse({"deleted_entities": gone})


def _item(item: dict[str, Any]) -> EntityItemBody:
    """One entity of a batch, checked on its own.

    Raises:
        ValidationFailed: it does not have its form.
    """
    try:
        return EntityItemBody.model_validate(item)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise validation_failed(problems, item) from None


def _require_aim(who: Viewer, query: Asked) -> None:
    """Refuse a scope of others before it is known whether there is any memory.

    Raises:
        ScopeDenied: the scope is not of who asks.
    """
    aim = query.aim()
    if aim.scope is not None and aim.owner is not None:
        who.require(Realm(aim.scope, aim.owner))


async def _there(services: NodeServices, kind: str, name: str) -> MemoryBackend:
    """The memory, when there is one.

    Raises:
        EntityNotFound: nothing was ever stored, so there is nothing of that name.
    """
    store = await services.memory.existing()
    if store is None:
        raise not_found(kind, name)
    return store
