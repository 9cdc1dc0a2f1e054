"""The files that a tool call may read: the attachments of its message first, then the folders of the node."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from node.errors import ValidationFailed, nearest
from node.tools.caller import CallerOf
from node.tools.files import FileSpaces
from node.tools.roots import Roots, View


@dataclass(frozen=True, slots=True)
class Readable:
    """What one call may read.

    Args:
        attached: Attachments by name.
        view: The folders.
    """

    attached: Mapping[str, bytes]
    view: View

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, by the name of an attachment or by its path; it blocks.

        Raises:
            ValidationFailed: there is no such file; the attachments there are get named.
            ToolFailed: the disk refused.
        """
        if name in self.attached:
            yield io.BytesIO(self.attached[name])
            return
        if not self.view.reaches(name):
            raise self._unknown(name)
        with self.view.open(name) as file:
            yield file

    def _unknown(self, name: str) -> ValidationFailed:
        names = sorted(self.attached)
        folders = self.view.folders()
        guess = nearest(name, names)
        why = "its attachments are " + ", ".join(repr(n) for n in names) if names else "it has no attachments"
        if folders:
            why += "; files are read in " + ", ".join(folders[:20])
        return ValidationFailed(
            f"the message has no file {name[:80]!r}",
            why=why,
            fix=f"Did you mean {guess!r}?" if guess else "Attach the file to the message.",
            details={"files": names},
        )


class Sources:
    """What the calls of a tool host may read.

    Args:
        spaces: The attachments.
        roots: The folders.
        caller_of: Who calls.
    """

    def __init__(self, spaces: FileSpaces, roots: Roots, caller_of: CallerOf) -> None:
        self._spaces, self._roots, self._caller_of = spaces, roots, caller_of

    def of(self, meta: Mapping[str, Any] | None) -> Readable:
        """What the call may read that carries this ``_meta``."""
        return Readable(self._spaces.of(meta), self._roots.view(self._caller_of(meta)))
