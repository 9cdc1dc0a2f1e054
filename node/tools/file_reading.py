"""Pieces of files as a model reads them: text with its place in the file, lines that match, or what it is."""

from __future__ import annotations

import codecs
import io
import mimetypes
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from node.errors import CaxtonError, ResourceLimitExceeded
from node.tools.sources import Readable

PIECE_LIMIT: Final = 64 * 1024
"""Most bytes of one answer."""
LINE_LIMIT: Final = 300
"""Longest line that is shown, in characters."""
MATCHES_LIMIT: Final = 100
"""Most matches of one answer."""
SEARCHED_FILE_LIMIT: Final = 8 * 1024**2
"""How much of one file is searched, in bytes."""
SEARCHED_LIMIT: Final = 64 * 1024**2
"""How much one call searches, in bytes."""
PROBE_BYTES: Final = 8_192
"""How much of the beginning of a file tells whether it is text."""


def read_piece(readable: Readable, name: str, offset: int, length: int) -> dict[str, Any]:
    """A piece of a file as text, or what the file is where it is none.

    Args:
        readable: What may be read.
        name: The file.
        offset: Where to begin, in bytes.
        length: Most bytes.

    Raises:
        ValidationFailed: there is no such file.
        ToolFailed: the disk refused.
    """
    with readable.open(name) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        answer: dict[str, Any] = {"file": name, "bytes": size}
        if b"\x00" in file.read(PROBE_BYTES):
            return answer | {
                "binary": True,
                "media_type": media_type,
                "facts": [_told(name, size, media_type)],
            }
        file.seek(min(offset, size))
        data = file.read(min(length, PIECE_LIMIT))
    end = offset + len(data) >= size
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=end)
    following = offset + len(data) - len(decoder.getstate()[0])  # a letter that was cut comes whole next time
    answer |= {"offset": offset, "text": text, "truncated": not end}
    return answer if end else answer | {"next_offset": following}


def _told(name: str, size: int, media_type: str) -> str:
    return f"{name} is no text: {media_type}, {size:,} bytes"


def search(readable: Readable, text: str, path: str, limit: int) -> dict[str, Any]:
    """Names and lines that hold a text, whatever its case.

    Args:
        readable: What may be searched.
        text: What to look for.
        path: The folder to look in; empty for all, and the attachments.
        limit: Most matches.

    Raises:
        ValidationFailed: there is no such folder.
        Forbidden: it is out of reach.
        ToolFailed: the disk refused.
    """
    wanted = text.casefold()
    found: list[dict[str, Any]] = []
    searched, unread, cut = 0, 0, False
    try:
        for name in _names(readable, path):
            if wanted in name.casefold():
                found.append({"file": name})
            if len(found) < limit and searched < SEARCHED_LIMIT:
                try:
                    searched += _search_file(readable, name, wanted, found, limit)
                except CaxtonError:
                    unread += 1  # it is gone, or closed to this node; the others are searched
            if len(found) >= limit or searched >= SEARCHED_LIMIT:
                cut = True
                break
    except ResourceLimitExceeded:
        cut = True  # what was found until then is an answer, and says that it is not all
    facts = [f"{m['file']}:{m['line']}: {m['text']}" if "line" in m else m["file"] for m in found]
    facts = facts or [f"nothing holds {text!r}"]
    answer = {"matches": found[:limit], "bytes_searched": searched, "files_unread": unread}
    return answer | {"truncated": cut, "facts": facts[:limit]}


def _names(readable: Readable, path: str) -> Iterator[str]:
    if not path:
        yield from sorted(readable.attached)
    for entry in readable.view.entries(path, deep=True):
        if entry.kind == "file":
            yield entry.path


def _search_file(readable: Readable, name: str, wanted: str, found: list[dict[str, Any]], limit: int) -> int:
    """Look through one file; returns how many bytes were read."""
    read = 0
    with readable.open(name) as file:
        if b"\x00" in file.read(PROBE_BYTES):
            return PROBE_BYTES
        file.seek(0)
        for number, line in enumerate(_lines(file), 1):
            read += len(line)
            text = line.decode("utf-8", errors="replace")
            if wanted in text.casefold():
                found.append({"file": name, "line": number, "text": text.strip()[:LINE_LIMIT]})
            if len(found) >= limit or read >= SEARCHED_FILE_LIMIT:
                break
    return read


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, a longer one in pieces, so that a file without line breaks is no larger than one."""
    while line := file.readline(io.DEFAULT_BUFFER_SIZE * 8):
        yield line
