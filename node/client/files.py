"""Files that are too large for a message: brought to the node in parts, before the message."""

from __future__ import annotations

import hashlib
import mimetypes
from os import PathLike
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from node.client.calls import Calls
from node.errors import BlobNotFound, ValidationFailed

Attachment = dict[str, Any]
"""A file as ``attachments`` of a message name it."""
PART_BYTES: Final = 4 * 1024**2
"""Most bytes of one call: what is lost with a broken connection. A multiple of the node's chunks."""


async def upload(calls: Calls, source: bytes | str | PathLike[str], media_type: str | None) -> Attachment:
    """See :meth:`node.client.asynchronous.AsyncClient.upload`."""
    name = "content" if isinstance(source, bytes) else Path(source).name
    read = _Bytes(source) if isinstance(source, bytes) else _File(Path(source))
    digest, size = await anyio.to_thread.run_sync(read.measure)
    path, route = f"/blobs/{digest}", "/blobs/{digest}"
    try:
        found = (await calls.call("GET", path, route=route)).body
    except BlobNotFound:
        found = {"received_bytes": 0, "complete": False}
    offset = int(found["received_bytes"])
    while not found["complete"]:
        part = await anyio.to_thread.run_sync(read.part, offset)
        if not part:
            raise ValidationFailed(f"{name} is empty, or has become shorter", fix="Send it as it is now.")
        query = {"offset": offset, "size": size}
        found = (await calls.call("PUT", path, route=route, content=part, query=query)).body
        offset = int(found["received_bytes"])
    media_type = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return {"name": name, "media_type": media_type, "blob": digest}


class _Bytes:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def measure(self) -> tuple[str, int]:
        return hashlib.sha256(self._data).hexdigest(), len(self._data)

    def part(self, offset: int) -> bytes:
        return self._data[offset : offset + PART_BYTES]


class _File:
    """A file, read a part at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def measure(self) -> tuple[str, int]:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()

    def part(self, offset: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(PART_BYTES)
