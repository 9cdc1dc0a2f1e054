"""The attachments of the message being handled, as a tool call reads them.

A tool server is told a space's name in the request's ``_meta``, which only the host writes. A model can
name a file of the message; it cannot name another message's space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from node.errors import ResourceLimitExceeded

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

    def of(self, meta: Mapping[str, Any] | None) -> Mapping[str, bytes]:
        """The files of the space that a request's ``_meta`` names; none where it names none."""
        return self._spaces.get(str((meta or {}).get(META_KEY)), {})

    def statistics(self) -> dict[str, int]:
        """How many spaces are open, and how many ever were."""
        return {"open": len(self._spaces), "opened": self._opened, "limit": SPACES_LIMIT}
