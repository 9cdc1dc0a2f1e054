"""Routes of content beside the messages: bring it in pieces, see how much of it is here, fetch a file."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from node.blobs.store import BlobStore, not_here
from node.blobs.tables import CHUNK_BYTES, Row, chunk_count
from node.environment import Clock
from node.errors import ValidationFailed
from node.http.answers import ErrorBody
from node.http.errors import ClientGone, RequestTimedOut
from node.http.message_answers import BlobBody
from node.http.models import StrictQuery
from node.http.services import NodeServices
from node.http.streams import Streamed, Streams, Write
from node.http.strict_json import StrictRoute
from node.message import BLOB_LIMIT_BYTES, Attachment
from node.messaging.blobs import Blobs

CHUNKS_AT_ONCE: Final = 16
"""Chunks that are written, or read, at once."""
STALL_S: Final = 60.0
"""Longest time without a byte from the sender, in seconds; what has come by then is kept."""
FETCH_S: Final = 120.0
"""Longest time that a file may take to come from another node, in seconds."""


class BlobQuery(StrictQuery):
    """Which part of a blob is sent."""

    size: Annotated[
        int | None,
        Field(ge=1, le=BLOB_LIMIT_BYTES, description="Of all of it, in bytes; by default to the body's end."),
    ] = None
    offset: Annotated[
        int, Field(ge=0, le=BLOB_LIMIT_BYTES, description="Where in it the body begins: its received_bytes.")
    ] = 0


class Content(Streamed):
    """The content of a file. Never shown as what it claims to be: it is of whoever has sent it."""

    media_type = "application/octet-stream"


def blob_routes(services: NodeServices, streams: Streams) -> APIRouter:
    """The routes of blobs, and of the files of messages."""
    router = APIRouter(tags=["messages"], route_class=StrictRoute)
    blobs, clock = services.bus.blobs, services.environment.clock

    @router.get("/blobs/{digest}", response_model=BlobBody)
    async def get(digest: str) -> Response:
        """How much of a blob is here."""
        row = await blobs.store.find(digest)
        if row is None:
            raise not_here(digest)
        return JSONResponse(_shown(row))

    @router.put(
        "/blobs/{digest}",
        response_model=BlobBody,
        responses={
            507: {"model": ErrorBody, "description": "The disk refuses; what has come by then is kept."}
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def put(digest: str, request: Request, query: Annotated[BlobQuery, Query()]) -> Response:
        """Send content of up to 64 MB, which messages may then name, or the rest of it.

        ``digest`` is the SHA-256 of all of it. What arrives is kept as it arrives, in pieces of 64 KB: after
        a broken connection, ask how much is here and send the rest with that ``offset``.
        """
        length = request.headers.get("content-length", "")
        end = query.offset + int(length[:12]) if length.isdecimal() else 0
        size = query.size or end
        if end > size:
            raise _too_long(size)
        row = await blobs.store.begin(digest, size)
        if not row.complete:
            row = await _Arriving(request.receive, clock, blobs.store).take(row, query.offset)
        return JSONResponse(_shown(row))

    @router.get(
        "/messages/{message_id}/attachments/{name}",
        status_code=200,
        response_class=Content,
        responses={
            200: {"content": {Content.media_type: {"schema": {"type": "string", "format": "binary"}}}},
            408: {"model": ErrorBody, "description": "The node that has it did not send it in time."},
        },
    )
    async def attachment(message_id: str, name: str) -> Response:
        """A file of a message; one that is on another node is brought here first."""
        found, origin = await blobs.attachment(message_id, name)
        row = await _fetched(blobs, clock, found, origin) if found.blob else None
        answer = Content(streams, _Leaving(blobs.store, row, found.data).write)
        answer.headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(found.name, safe='')}"
        answer.headers["content-length"] = str(found.size_bytes)
        return answer

    return router


async def _fetched(blobs: Blobs, clock: Clock, attachment: Attachment, origin: str) -> Row:
    with clock.move_on_after(FETCH_S):
        return await blobs.fetch(origin, attachment)
    raise RequestTimedOut(
        "the file did not arrive",
        why=f"{origin} did not send all of it within {FETCH_S:.0f} s",
        fix="Try again: what has come is kept.",
    )


class _Leaving:
    """The body of an answer: a blob, or what a message carries itself."""

    def __init__(self, store: BlobStore, row: Row | None, data: bytes) -> None:
        self._store, self._row, self._data = store, row, data

    async def write(self, write: Write, receive: Receive) -> None:
        """Write all of it."""
        del receive
        if self._row is None:
            await write(self._data)
            return
        for first in range(0, chunk_count(self._row.size), CHUNKS_AT_ONCE):
            for chunk in await self._store.chunks(self._row, first, CHUNKS_AT_ONCE):
                await write(chunk)


class _Arriving:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive, clock: Clock, store: BlobStore) -> None:
        self._receive, self._clock, self._store = receive, clock, store

    async def take(self, row: Row, offset: int) -> Row:
        """Write whole chunks as they come, from ``offset`` on; returns what is here then."""
        if offset > row.received or offset % CHUNK_BYTES:
            raise ValidationFailed(
                f"the blob cannot go on at {offset:,}",
                why=f"{row.received:,} bytes of it are here",
                fix="Send the rest from there.",
                details={"field": "offset", "received_bytes": row.received},
            )
        pending, more = bytearray(), True
        while more:
            piece, more = await self._next()
            pending += piece
            if offset + len(pending) > row.size:
                raise _too_long(row.size)
            if len(pending) >= CHUNKS_AT_ONCE * CHUNK_BYTES or not more:
                is_end = offset + len(pending) == row.size
                whole = len(pending) if is_end else len(pending) // CHUNK_BYTES * CHUNK_BYTES
                await self._write(row, offset, bytes(pending[:whole]))
                offset += whole
                del pending[:whole]
        found = await self._store.find(row.digest)
        if found is not None and found.received == found.size:
            await self._store.finish(found)
            found = await self._store.find(row.digest)
        return found or row

    async def _write(self, row: Row, offset: int, data: bytes) -> None:
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        if chunks:
            await self._store.append(row, offset // CHUNK_BYTES, chunks)

    async def _next(self) -> tuple[bytes, bool]:
        event: Any = None
        with self._clock.move_on_after(STALL_S):
            event = await self._receive()
        if event is None:
            raise RequestTimedOut(
                "the body of the request did not arrive",
                why=f"nothing came for {STALL_S:.0f} s",
                fix="Send the rest: what has come is kept.",
            )
        if event["type"] == "http.disconnect":
            raise ClientGone
        return event.get("body", b""), event.get("more_body", False)


def _too_long(size: int) -> ValidationFailed:
    return ValidationFailed(
        "the body is longer than the blob",
        why=f"{size:,} bytes were announced",
        fix="Announce the size of all of it, and send no more.",
    )


def _shown(row: Row) -> dict[str, Any]:
    return {
        "blob": row.digest,
        "size_bytes": row.size,
        "received_bytes": row.received,
        "complete": row.complete,
    }
