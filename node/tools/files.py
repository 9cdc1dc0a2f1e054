"""The files a tool call may read: the attachments of the message being handled, and nothing else.

A tool server is told a space's name in the request's ``_meta``, which only the host writes. A model can
name a file of the message; it can neither name another message's space nor reach the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from node.errors import ResourceLimitExceeded, ValidationFailed, nearest

META_KEY: Final = "caxton/file-space"
"""Key of the space's name in a request's ``_meta``."""
SPACES_LIMIT: Final = 1024
"""Most calls that may have files at once."""


class FileSpaces:
    """The open file spaces of one tool host."""

    def __init__(self) -> None:
        self._spaces: dict[str, Mapping[str, bytes]] = {}
        self._opened = 0

    @contextmanager
    def open(self, files: Mapping[str, bytes]) -> Iterator[str]:
        """Make ``files`` readable under the name yielded, until the block ends.

        Raises:
            ResourceLimitExceeded: too many are open.
        """
        if len(self._spaces) >= SPACES_LIMIT:
            raise ResourceLimitExceeded(
                "too many tool calls at once", why=f"{SPACES_LIMIT} are running", fix="Try again later."
            )
        self._opened += 1
        name = f"space-{self._opened}"
        self._spaces[name] = files
        try:
            yield name
        finally:
            del self._spaces[name]

    def read(self, meta: Mapping[str, Any] | None, file: str) -> bytes:
        """The bytes of ``file`` in the space that the request's ``_meta`` names.

        Raises:
            ValidationFailed: there is no such file; the files there are get named.
        """
        files = self._spaces.get(str((meta or {}).get(META_KEY)), {})
        if file in files:
            return files[file]
        names = sorted(files)
        guess = nearest(file, names)
        raise ValidationFailed(
            f"the message has no file {file[:80]!r}",
            why="its attachments are " + ", ".join(repr(n) for n in names)
            if names
            else "it has no attachments",
            fix=f"Did you mean {guess!r}?" if guess else "Attach the file to the message.",
            details={"files": names},
        )

    def statistics(self) -> dict[str, int]:
        """How many spaces are open, and how many ever were."""
        return {"open": len(self._spaces), "opened": self._opened, "limit": SPACES_LIMIT}
