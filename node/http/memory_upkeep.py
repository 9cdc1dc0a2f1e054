"""Routes that keep the memory: out and in as a file, health, check and repair, copies, retention."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import trio
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from node.errors import (
    CaxtonError,
    DataDirectoryInUse,
    MemoryBackendFailed,
    StorageFailed,
    ValidationFailed,
)
from node.http.errors import ClientGone
from node.http.memory_models import Asked, viewer
from node.http.memory_upkeep_answers import (
    DedupBodyView,
    ExportedBody,
    ImportedBody,
    MemoryCheckBody,
    MemoryConfigView,
    MemoryHealthBody,
    MemoryRepairBody,
    ReembeddingBody,
)
from node.http.memory_upkeep_models import (
    DAY_S,
    DedupBody,
    ExportQuery,
    ImportBody,
    ImportQuery,
    MemoryConfigBody,
)
from node.http.message_stream import Arriving
from node.http.services import NodeServices
from node.http.streams import JsonLines, Streamed, Streams, Write
from node.http.strict_json import StrictRoute, strict_json
from node.memory.model import Realm
from node.memory.records import Retain
from node.memory.scopes import OPERATOR
from node.message import iso8601

if TYPE_CHECKING:
    from node.memory.backends.protocol import Exported
    from node.memory.exporting import Writing
    from node.memory.importing import Import
    from node.memory.upkeep import Upkeep

LINES: Final = {"type": "string", "description": "Lines, each an entity or a relation."}
PIECE_BYTES: Final = 256 * 1024
"""Bytes of one piece of a copy."""
SQLITE: Final = "application/vnd.sqlite3"


def memory_upkeep_routes(services: NodeServices, streams: Streams) -> APIRouter:
    """The routes that keep the memory."""
    router = APIRouter(prefix="/memory", tags=["memory"], route_class=StrictRoute)
    _add_export(router, services, streams)
    _add_import(router, services)
    _add_looking(router, services)
    _add_repairing(router, services, streams)
    _add_config(router, services)
    return router


def _add_export(router: APIRouter, services: NodeServices, streams: Streams) -> None:
    @router.get(
        "/export",
        status_code=200,
        response_class=JsonLines,
        responses={200: {"model": ExportedBody, "description": "One document, or lines that say the same."}},
    )
    async def export(query: Annotated[ExportQuery, Query()]) -> Response:
        """All that who asks may see, as a file: lines, one document, or the lines of the MCP memory server.

        The last line, or the key ``end``, says how much there was; an export without it was cut off.
        """
        who, aim = query.viewer(), query.aim()
        _require_aim(query)
        store = await services.memory.existing()
        await _load(services)
        from node.memory.exporting import Writing  # noqa: PLC0415

        now_s = services.environment.clock.wall()
        head = {"node": services.node, "exported_at": iso8601(now_s)}
        writing = Writing(query.format, head, now_s)
        told = None if store is None else store.export(who, aim, vectors=query.include_embeddings)

        async def produce(write: Write, receive: Receive) -> None:
            del receive
            await _export(told, writing, write)

        answer = Streamed if query.format == "json" else JsonLines
        found = answer(streams, produce)
        if query.format == "json":
            found.raw_headers.append((b"content-type", b"application/json"))
        return found


async def _load(services: NodeServices) -> None:
    """Load what the memory needs on a thread: numpy takes 100 ms."""
    await services.environment.workers.run("files", importlib.import_module, "node.memory.upkeep")


async def _export(export: Exported | None, writing: Writing, write: Write) -> None:
    from node.memory.exporting import Counted  # noqa: PLC0415

    await write(writing.begin())
    while export is not None and (parts := await export.entities()):
        await write(writing.parts(parts))
    await write(writing.between())
    while export is not None and (relations := await export.relations()):
        await write(writing.relations(relations))
    await write(writing.end(Counted() if export is None else export.counted))


def _add_import(router: APIRouter, services: NodeServices) -> None:
    @router.post("/import", response_model=ImportedBody)
    async def take(body: ImportBody) -> Response:
        """Import a document: entities with what is known about them, and relations.

        Each entity and relation is taken or refused on its own; ``errors`` names them by their number,
        entities first. What is there already is not stored twice, so an import may be repeated.
        """
        from node.memory.importing import Strategy  # noqa: PLC0415

        upkeep, who = await services.memory.upkeep(), viewer(body.agent_id, body.workspace)
        async with upkeep.importing(who, body.realm(), Strategy(body.merge_strategy)) as work:
            await work.take(body.data.lines())
        return JSONResponse(work.report.as_json())

    @router.post(
        "/import/stream",
        response_model=ImportedBody,
        openapi_extra={
            "requestBody": {"required": True, "content": {JsonLines.media_type: {"schema": LINES}}}
        },
    )
    async def take_lines(request: Request, query: Annotated[ImportQuery, Query()]) -> Response:
        """Import lines as they arrive, those of an export or of the MCP memory server, of any number.

        The answer comes when all lines were taken. An import whose answer was lost is repeated from the
        start: what is there already is not stored twice.
        """
        from node.memory.importing import Strategy  # noqa: PLC0415

        upkeep, realm = await services.memory.upkeep(), query.realm()
        async with upkeep.importing(query.viewer(), realm, Strategy(query.merge_strategy)) as work:
            await _import(services, request.receive, work)
        return JSONResponse(work.report.as_json())


async def _import(services: NodeServices, receive: Receive, work: Import) -> None:
    """Take the lines of a request's body.

    Raises:
        ClientGone: it did not come to its end.
    """
    from node.memory.lines import LINE_BYTES_LIMIT  # noqa: PLC0415

    fix = "Give the observations of one entity in several lines that name it."
    arriving = Arriving(receive, services.environment.clock, LINE_BYTES_LIMIT, fix)
    workers = services.environment.workers
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arriving.read)
            while lines := await arriving.take():
                if not await work.take(await workers.run("files", _decoded, lines)):
                    nursery.cancel_scope.cancel()  # nothing is taken any more: answer now
    except* ClientGone as gone:
        raise gone.exceptions[0] from None


def _decoded(lines: Sequence[tuple[int, bytes | CaxtonError]]) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    for number, text in lines:
        value: object = text
        if isinstance(text, bytes):
            try:
                value = strict_json(text)
            except json.JSONDecodeError as error:
                value = ValidationFailed(
                    "the line is not valid JSON",
                    why=f"{error.msg} at column {error.pos + 1}",
                    fix="Send one JSON object a line.",
                    details={"field": "", "column": error.pos + 1},
                )
        found.append((number, value))
    return found


def _add_looking(router: APIRouter, services: NodeServices) -> None:
    room = services.memory

    @router.get("/health", response_model=MemoryHealthBody)
    async def health() -> Response:
        """Whether the memory can be read and embedded with, and whether its indexes agree by number."""
        try:
            found = None
            if room.outside:
                found = _nothing("healthy") | await _answers(services)
            elif await room.existing() is not None:
                found = await (await room.upkeep()).health()
        except (StorageFailed, DataDirectoryInUse) as error:
            found = _nothing("unhealthy") | {"database_connectivity": False, "database_error": str(error)}
        return JSONResponse(found or _nothing("healthy"))

    @router.get("/check", response_model=MemoryCheckBody)
    async def check() -> Response:
        """Compare all that is in the file: pages, references, counts, full text, vectors. Changes nothing."""
        found = {
            "ok": True,
            "findings": [],
            "entities": 0,
            "observations": 0,
            "relations": 0,
            "unembedded": 0,
        }
        if await room.existing() is not None:
            found = (await (await room.upkeep()).check()).as_json()
        return JSONResponse(found)

    @router.get("/reembed", response_model=ReembeddingBody)
    async def progress() -> Response:
        """How far the vectors are of the present model; it is looked after by the node itself."""
        return JSONResponse(await (await room.upkeep()).reembedding.progress())


async def _answers(services: NodeServices) -> dict[str, Any]:
    """Whether the server that keeps the memory answers; what is in it is for its own tools."""
    try:
        await (await services.memory.store()).entities(OPERATOR, limit=1)
    except MemoryBackendFailed as error:
        return {"status": "unhealthy", "database_connectivity": False, "database_error": str(error)}
    return {}


def _nothing(status: str) -> dict[str, Any]:
    return {
        "status": status,
        "database_connectivity": True,
        "database_error": None,
        "embedding_model_loaded": None,
        "embedding_error": None,
        "index_integrity": None,
        "orphaned_relations": None,
        "without_vectors": None,
        "last_check": None,
    }


def _add_repairing(router: APIRouter, services: NodeServices, streams: Streams) -> None:
    room = services.memory

    @router.post("/repair", response_model=MemoryRepairBody)
    async def repair() -> Response:
        """Check, make anew what is derived, and check again; no fact is taken out."""
        found, left = await (await room.upkeep()).repair()
        return JSONResponse({"found": found.as_json(), "left": left.as_json()})

    @router.post("/reembed", status_code=202, response_model=ReembeddingBody)
    async def reembed() -> Response:
        """Look through the whole memory for what has no vector of the present model, and embed it."""
        work = (await room.upkeep()).reembedding
        work.start()
        return JSONResponse(await work.progress(), 202)

    @router.post("/dedup", response_model=DedupBodyView)
    async def dedup(body: DedupBody) -> Response:
        """Find observations of one entity that say nearly the same; unless it is a dry run, the newest stays.

        The older ones are superseded, not forgotten.
        """
        asked = body.asked()
        _require_aim(asked)
        pairs, following, done = await (await room.upkeep()).dedup(
            asked.viewer(),
            asked.aim(),
            threshold=body.threshold,
            after=body.after,
            dry_run=body.dry_run,
        )
        shown = [pair.as_json() for pair in pairs]
        told = {"pairs": shown, "superseded": done, "dry_run": body.dry_run, "next": following}
        return JSONResponse(told)

    @router.get(
        "/backup",
        status_code=200,
        response_class=Copy,
        responses={200: {"description": "An SQLite file.", "content": {SQLITE: {"schema": _BINARY}}}},
    )
    async def backup() -> Response:
        """A copy of the memory's file as it is now; ``x-caxton-check`` says whether it is whole."""
        return Copy(streams, services, await room.upkeep())


_BINARY: Final = {"type": "string", "format": "binary"}


class Copy(Streamed):
    """The copy of a memory's file, made when it is sent, and removed then.

    Args:
        streams: Counts it.
        services: Workers.
        upkeep: Makes the copy.
    """

    media_type = SQLITE

    def __init__(self, streams: Streams, services: NodeServices, upkeep: Upkeep) -> None:
        super().__init__(streams, self._send)
        self._workers = services.environment.workers
        self._upkeep = upkeep
        self._file: BinaryIO | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        from node.memory.backup import remove  # noqa: PLC0415

        with self._upkeep.backing_up():
            path, size, found = await self._upkeep.backup()
            said = "ok" if found.ok else f"{len(found.findings)} findings"
            self.raw_headers += [
                (b"content-length", str(size).encode()),
                (b"x-caxton-check", said.encode()),
                (b"content-disposition", b'attachment; filename="memory.db"'),
            ]
            try:
                self._file = await self._workers.run("files", path.open, "rb")
                await super().__call__(scope, receive, send)
            finally:
                if self._file is not None:
                    self._file.close()
                remove(path)

    async def _send(self, write: Write, receive: Receive) -> None:
        del receive
        while self._file is not None and (
            piece := await self._workers.run("files", self._file.read, PIECE_BYTES)
        ):
            await write(piece)


def _add_config(router: APIRouter, services: NodeServices) -> None:
    room = services.memory

    @router.get("/config", response_model=MemoryConfigView)
    async def config() -> Response:
        """What holds for the memory."""
        policy, is_set = room.retain, False
        if await room.existing() is not None:
            policy, is_set = await (await room.upkeep()).retention.policy()
        await _load(services)
        return JSONResponse(_config(policy, is_set=is_set))

    @router.put("/config", response_model=MemoryConfigView)
    async def change(body: MemoryConfigBody) -> Response:
        """Let another policy of retention hold, also after a restart; null for the configured one."""
        policy = None if body.retention_policy is None else body.retention_policy.retain()
        retention = (await room.upkeep()).retention
        await retention.change(policy)
        holds, is_set = await retention.policy()
        return JSONResponse(_config(holds, is_set=is_set))


def _config(policy: Retain, *, is_set: bool) -> dict[str, Any]:
    from node.memory.reembedding import BATCH_TEXTS  # noqa: PLC0415
    from node.memory.schema import CACHE_KIB  # noqa: PLC0415

    return {
        "retention_policy": {
            "max_age_days": None if policy.max_age_s is None else policy.max_age_s / DAY_S,
            "max_entities_per_agent": policy.max_entities_per_owner,
            "cleanup_frequency": f"{policy.every_s:g}s",
            "set_at_run_time": is_set,
        },
        "performance_settings": {
            "batch_size": BATCH_TEXTS,
            "max_concurrent_searches": 1,
            "cache_size_mb": CACHE_KIB // 1024,
        },
    }


def _require_aim(query: Asked) -> None:
    """Refuse a scope of others before it is known whether there is any memory.

    Raises:
        ScopeDenied: the scope is not of who asks.
    """
    aim = query.aim()
    if aim.scope is not None and aim.owner is not None:
        query.viewer().require(Realm(aim.scope, aim.owner))
