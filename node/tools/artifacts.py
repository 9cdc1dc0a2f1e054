"""Files that tools make: how a result carries one, and how it leaves with the agent's answer.

A result of the form ``{"artifact": {"name", "mime", "bytes", "sha256", "content_base64"}, ...}`` carries a
file. The model is told all of it but the content; the answer carries the file as an attachment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.errors import CaxtonError, ResourceLimitExceeded
from node.message import ATTACHMENT_LIMIT, Attachment, check_attachment

KEY: Final = "artifact"
"""Under what a result carries a file."""
CONTENT: Final = "content_base64"
"""Under what an artifact has its content."""
PRODUCED_BYTES_LIMIT: Final = 512 * 1024
"""Most bytes of all files of one answer, where the configuration says nothing else."""


def artifact_of(name: str, mime: str, data: bytes) -> dict[str, Any]:
    """A file as a result carries it."""
    return {
        "name": name,
        "mime": mime,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        CONTENT: base64.b64encode(data).decode(),
    }


class Produced:
    """The files that the tools of one answer have made.

    Args:
        limit_bytes: Most bytes of all of them.
        made: Those that were made before the answer was parked.
    """

    def __init__(self, limit_bytes: int = PRODUCED_BYTES_LIMIT, made: Sequence[Attachment] = ()) -> None:
        self._limit_bytes = limit_bytes
        self._files = {file.name: file for file in made}

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files, in the order in which they were made."""
        return tuple(self._files.values())

    def take(self, result: Any) -> Any:
        """A result as the model is told it; a file that it carries is kept for the answer.

        Raises:
            ResourceLimitExceeded: one answer cannot carry it, too.
        """
        artifact = result.get(KEY) if isinstance(result, Mapping) else None
        if not isinstance(artifact, Mapping) or CONTENT not in artifact:
            return result
        told = {key: value for key, value in artifact.items() if key != CONTENT}
        file = _file(artifact)
        if file is None:
            return {**result, KEY: {**told, "note": "its content cannot be read"}}
        room = self._limit_bytes - sum(len(each.data) for each in self._files.values())
        if len(self._files) == ATTACHMENT_LIMIT or len(file.data) > room:
            raise ResourceLimitExceeded(
                "an answer cannot carry more files",
                why=f"at most {ATTACHMENT_LIMIT} files and {self._limit_bytes:,} bytes",
            )
        name = self._free(file.name)
        self._files[name] = Attachment(name, file.media_type, file.data)
        return {**result, KEY: {**told, "name": name}}

    def _free(self, name: str) -> str:
        """The name, or one like it that no other file has."""
        stem, dot, ending = name.rpartition(".")
        number, free = 1, name
        while free in self._files:
            number += 1
            free = f"{stem}-{number}{dot}{ending}" if stem else f"{name}-{number}"
        return free


def _file(artifact: Mapping[str, Any]) -> Attachment | None:
    """The file that an artifact carries, or None where it is none."""
    name, mime, content = artifact.get("name"), artifact.get("mime"), artifact.get(CONTENT)
    try:
        data = base64.b64decode(str(content), validate=True)
        plain = re.sub(r"[/\\\x00]", "_", name) if isinstance(name, str) else ""
        file = Attachment(plain, mime if isinstance(mime, str) else "application/octet-stream", data)
        check_attachment(file)
    except (binascii.Error, ValueError, CaxtonError):
        return None
    return file
