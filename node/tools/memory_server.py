"""The built-in MCP server ``memory``: an agent's memory under the names of MCP's own memory server.

It acts as the agent that calls: it reads what that agent may see, which is its own, its workspace's and
global, and writes into the agent's scope unless the call names another of these. Entities, relations and
texts have the form of MCP's memory server; what it lacks (``scope``, pages, ``truncated``) is optional.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ConfigDict, Field

from node.errors import CaxtonError, EntityNotFound, ValidationFailed
from node.memory.guard import TEXT_BYTES_LIMIT, refusal
from node.memory.model import (
    NAME_LIMIT,
    TYPE_LIMIT,
    EntityDraft,
    ObservationDraft,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
)
from node.memory.question import Question
from node.memory.reading import SHOWN_OBSERVATIONS, SHOWN_RELATIONS, Entity, Relation
from node.memory.records import not_found
from node.memory.scopes import EVERYWHERE, Aim, Viewer
from node.tools.caller import Caller, CallerOf

if TYPE_CHECKING:
    from node.memory.backends.protocol import MemoryBackend
    from node.memory.room import MemoryRoom

T = TypeVar("T")
NAME: Final = "memory"
"""The name agents grant themselves in their front matter."""
ITEMS_LIMIT: Final = 50
"""Most entities, relations or names that one call brings."""
TEXTS_LIMIT: Final = 50
"""Most observations of one entity that one call brings."""
PAGE_LIMIT: Final = 50
"""Most entities of one answer."""
ANSWER_BYTES_LIMIT: Final = 32 * 1024
"""Most bytes of one answer; what does not fit is left out, and the answer says so."""

Name = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
Type = Annotated[str, Field(min_length=1, max_length=TYPE_LIMIT)]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_BYTES_LIMIT)]
Texts = Annotated[list[Text], Field(max_length=TEXTS_LIMIT)]
Names = Annotated[list[Name], Field(min_length=1, max_length=ITEMS_LIMIT)]
ScopeWord = Annotated[
    str | None,
    Field(max_length=32, description="agent-only, workspace or global; the agent's own if left out."),
]


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class NewEntity(_Item):
    """An entity to remember."""

    name: Name
    entity_type: Type = Field(alias="entityType")
    observations: Texts = []


class NewRelation(_Item):
    """How one entity relates to another."""

    source: Name = Field(alias="from")
    target: Name = Field(alias="to")
    type: Type = Field(alias="relationType")


class NewObservations(_Item):
    """What is to be added to an entity."""

    entity: Name = Field(alias="entityName")
    contents: Texts


class Deletion(_Item):
    """What is to be taken out of an entity."""

    entity: Name = Field(alias="entityName")
    observations: Texts


class _Session:
    """The memory as the calling agent sees it, for one call."""

    def __init__(self, room: MemoryRoom, caller: Caller, scope: str | None) -> None:
        self.room = room
        self.viewer = Viewer(caller.agent, (caller.workspace,) if caller.workspace else ())
        self.source = Provenance(caller.agent, caller.conversation, caller.message)
        named = Scope.parse(scope or caller.memory_scope)
        owner = {Scope.AGENT: caller.agent, Scope.WORKSPACE: caller.workspace, Scope.GLOBAL: ""}[named]
        self.realm = Realm(named, owner)
        self.aim = EVERYWHERE if scope is None else Aim(named, owner or None)
        self.own = Aim(named, owner or None)

    async def store(self) -> MemoryBackend:
        """The memory, to write to."""
        return await self.room.store()

    async def known(self, name: str) -> Entity:
        """An entity of the scope that is written to.

        Raises:
            EntityNotFound: there is none.
        """
        store = await self.room.existing()
        if store is None:
            raise not_found("entity", name)
        return await store.get(self.viewer, name, aim=self.own)


def create_memory_server(room: MemoryRoom, caller_of: CallerOf = Caller.of) -> MCPServer:
    """Build the server.

    Args:
        room: The memory that its tools act on.
        caller_of: Who calls, and remembers where.
    """
    server = MCPServer(NAME, instructions="Remembers entities, what was observed about them, and relations.")
    mind = _Mind(room, caller_of)
    _add_writing(server, mind)
    _add_forgetting(server, mind)
    _add_reading(server, mind)
    return server


@dataclass(frozen=True, slots=True)
class _Mind:
    """The memory, and how one knows whose it is."""

    room: MemoryRoom
    caller_of: CallerOf


async def _act(mind: _Mind, ctx: Context, scope: str | None, work: Callable[[_Session], Awaitable[T]]) -> T:
    try:
        return await work(_Session(mind.room, mind.caller_of(ctx.request_context.meta), scope))
    except CaxtonError as error:
        raise ToolError(str(error)) from None


def _add_writing(server: MCPServer, mind: _Mind) -> None:
    @server.tool(structured_output=True)
    async def create_entities(
        ctx: Context,
        entities: Annotated[list[NewEntity], Field(min_length=1, max_length=ITEMS_LIMIT)],
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Remember new entities with observations; what is known already is added to, not stored twice."""

        async def work(session: _Session) -> dict[str, Any]:
            drafts = [EntityDraft(e.name, e.entity_type, _guarded(e.observations)) for e in entities]
            _check_texts(word for e in entities for word in (e.name, e.entity_type))
            store = await session.store()
            stored = await store.remember(session.viewer, session.realm, drafts, source=session.source)
            told = [
                {"name": each.name, "created": each.created, "observations_added": each.added}
                for each in stored
            ]
            return {"entities": told}

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def create_relations(
        ctx: Context,
        relations: Annotated[list[NewRelation], Field(min_length=1, max_length=ITEMS_LIMIT)],
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Remember how entities relate to each other; both must be known."""

        async def work(session: _Session) -> dict[str, Any]:
            _check_texts(relation.type for relation in relations)
            drafts = [RelationDraft(r.source, r.target, r.type) for r in relations]
            store = await session.store()
            stored = await store.relate(session.viewer, session.realm, drafts, source=session.source)
            return {"relations": [{"created": each.created} for each in stored]}

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def add_observations(
        ctx: Context,
        observations: Annotated[list[NewObservations], Field(min_length=1, max_length=ITEMS_LIMIT)],
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Add observations to entities that are known."""

        async def work(session: _Session) -> dict[str, Any]:
            drafts = []
            for each in observations:
                known = await session.known(each.entity)
                sure, weight = known.confidence, known.strength
                texts = _guarded(each.contents)
                draft = EntityDraft(known.name, known.type, texts, confidence=sure, strength=weight)
                drafts.append(draft)
            store = await session.store()
            stored = await store.remember(session.viewer, session.realm, drafts, source=session.source)
            return {"results": [{"entityName": each.name, "added": each.added} for each in stored]}

        return await _act(mind, ctx, scope, work)


def _add_forgetting(server: MCPServer, mind: _Mind) -> None:
    @server.tool(structured_output=True)
    async def delete_entities(
        ctx: Context,
        entityNames: Names,  # noqa: N803 - MCP's own name
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Forget entities, with all that is known about them and their relations."""

        async def work(session: _Session) -> dict[str, Any]:
            forgotten = []
            for name in entityNames:
                try:
                    entity = await session.known(name)
                    await (await session.store()).forget(session.viewer, entity.id, aim=session.own)
                except EntityNotFound:
                    continue
                forgotten.append(entity.name)
            return {"forgotten": forgotten}

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def delete_observations(
        ctx: Context,
        deletions: Annotated[list[Deletion], Field(min_length=1, max_length=ITEMS_LIMIT)],
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Forget single observations of entities, by their exact text."""

        async def work(session: _Session) -> dict[str, Any]:
            gone = 0
            for each in deletions:
                for observation in await _of_texts(session, each.entity, each.observations):
                    await (await session.store()).forget_observation(session.viewer, observation)
                    gone += 1
            return {"forgotten": gone}

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def delete_relations(
        ctx: Context,
        relations: Annotated[list[NewRelation], Field(min_length=1, max_length=ITEMS_LIMIT)],
        scope: ScopeWord = None,
    ) -> dict[str, Any]:
        """Forget how entities relate to each other; of each entity the strongest relations are looked at."""

        async def work(session: _Session) -> dict[str, Any]:
            found = [id_ for each in relations for id_ in await _of_ends(session, each)]
            for id_ in found:
                await (await session.store()).forget_relation(session.viewer, id_)
            return {"forgotten": len(found)}

        return await _act(mind, ctx, scope, work)


def _add_reading(server: MCPServer, mind: _Mind) -> None:
    @server.tool(structured_output=True)
    async def read_graph(
        ctx: Context,
        scope: ScopeWord = None,
        limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT, description="Entities of one page.")] = 20,
        after: Annotated[
            str, Field(max_length=64, description="next_after of the page before; empty for the first.")
        ] = "",
    ) -> dict[str, Any]:
        """Read everything that is remembered, page by page: entities, observations and relations."""

        async def work(session: _Session) -> dict[str, Any]:
            store = await mind.room.existing()
            if store is None:
                return _graph([], more=False)
            page = await store.entities(session.viewer, aim=session.aim, limit=limit + 1, after=after)
            whole = [await store.get(session.viewer, entity.id, aim=session.aim) for entity in page[:limit]]
            return _graph(whole, more=len(page) > limit, paged=True)

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def search_nodes(
        ctx: Context,
        query: Annotated[
            str,
            Field(
                min_length=1,
                max_length=2_000,
                description="What to look for, in any words.",
                json_schema_extra={"x-aliases": ["search", "question", "recall", "q"]},
            ),
        ],
        scope: ScopeWord = None,
        limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT, description="Most entities.")] = 10,
    ) -> dict[str, Any]:
        """Search, recall or look up what is remembered, by meaning and by words; the best come first."""

        async def work(session: _Session) -> dict[str, Any]:
            question = Question(query, aim=session.aim, limit=limit, relations=True)
            store = await mind.room.existing()
            if store is None:
                return _graph([], more=False)
            found = await store.search(session.viewer, question)
            return _graph([hit.entity for hit in found.hits], more=found.total > limit)

        return await _act(mind, ctx, scope, work)

    @server.tool(structured_output=True)
    async def open_nodes(ctx: Context, names: Names, scope: ScopeWord = None) -> dict[str, Any]:
        """Read entities by their exact names, with observations and relations."""

        async def work(session: _Session) -> dict[str, Any]:
            store = await mind.room.existing()
            found: list[Entity] = []
            for name in names if store is not None else ():
                try:
                    found.append(await store.get(session.viewer, name, aim=session.aim))  # type: ignore[union-attr]
                except EntityNotFound:
                    continue
            return _graph(found, more=False)

        return await _act(mind, ctx, scope, work)


def _graph(entities: Sequence[Entity], *, more: bool, paged: bool = False) -> dict[str, Any]:
    """Entities and their relations as MCP's memory server shows them, as far as the answer has room.

    An entity that is too large for any answer is shown by its head, so that pages go on.
    """
    room = ANSWER_BYTES_LIMIT
    shown: list[dict[str, Any]] = []
    relations: dict[str, dict[str, Any]] = {}
    last, cut = "", False
    for entity in entities:
        told: list[str] = []
        head = {"name": entity.name, "entityType": entity.type, "scope": entity.realm.scope.label}
        new = {r.id: _relation(r) for r in entity.relations if r.id not in relations}
        texts = [observation.text for observation in entity.observations]
        left = room - _size(head)
        if shown and left < sum(_size(each) for each in (*texts, *new.values())):
            break
        for text in texts:
            left -= _size(text)
            if left < 0:
                break
            told.append(text)
        for id_, relation in new.items():
            left -= _size(relation)
            if left < 0:
                break
            relations[id_] = relation
        cut = cut or left < 0 or len(texts) >= SHOWN_OBSERVATIONS or len(entity.relations) >= SHOWN_RELATIONS
        shown.append({**head, "observations": told})
        room, last = left, entity.id
        if room <= 0:
            break
    left_out = len(shown) < len(entities) or more
    answer = {"entities": shown, "relations": list(relations.values()), "truncated": cut or left_out}
    if paged and left_out:
        answer["next_after"] = last
    return answer


def _relation(relation: Relation) -> dict[str, Any]:
    return {"from": relation.source, "to": relation.target, "relationType": relation.type}


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode()) + 2  # the comma and the space after it


async def _of_ends(session: _Session, told: NewRelation) -> list[str]:
    """The ids of the relations of one type from one entity to another."""
    try:
        entity = await session.known(told.source)
    except EntityNotFound:
        return []
    ends = (told.source, told.target, told.type)
    return [each.id for each in entity.relations if (each.source, each.target, each.type) == ends]


async def _of_texts(session: _Session, name: str, texts: Sequence[str]) -> list[str]:
    """The ids of an entity's observations that have one of these texts."""
    try:
        entity = await session.known(name)
    except EntityNotFound:
        return []
    store, found, after = await session.store(), [], 0
    page = entity.observations
    while page:
        found += [observation.id for observation in page if observation.text in texts]
        after += len(page)
        if len(page) < SHOWN_OBSERVATIONS:
            break
        page = (await store.get(session.viewer, entity.id, aim=session.own, after=after)).observations
    return found


def _guarded(texts: Sequence[str]) -> tuple[ObservationDraft, ...]:
    _check_texts(texts)
    return tuple(ObservationDraft(text) for text in texts)


def _check_texts(texts: Iterable[str]) -> None:
    """Refuse what the guard refuses, before anything is stored.

    Raises:
        ValidationFailed: one of the texts may not be remembered.
    """
    for text in texts:
        why = refusal(text)
        if why is not None:
            raise ValidationFailed("this cannot be remembered", why=why, fix="Say the plain fact.")
