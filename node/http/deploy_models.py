"""What callers send to have an agent deployed: its file, and what is beside it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from node.errors import ValidationFailed
from node.http.models import Label, StrictBody

ARTIFACT_LIMIT: Final = 16
"""Most artifacts deployed beside one agent file."""
FileName = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f]+$")]


class PackageBody(StrictBody):
    """An agent file to deploy: Markdown with front matter as text, or any file as base64."""

    content: Annotated[str | None, Field(description="The agent file as text.")] = None
    content_base64: Annotated[str | None, Field(description="The agent file as base64 (a .wasm).")] = None
    name: Label | None = None
    workspace: Label = "default"
    replace: bool = False
    filename: Annotated[FileName | None, Field(examples=["data_analyzer.md"])] = None
    artifacts: Annotated[
        dict[FileName, str],
        Field(
            default_factory=dict,
            max_length=ARTIFACT_LIMIT,
            description="File name -> base64 of what it names.",
        ),
    ]

    def file(self) -> bytes:
        """The agent file.

        Raises:
            ValidationFailed: none, two, or one that cannot be decoded.
        """
        if (self.content is None) == (self.content_base64 is None):
            raise ValidationFailed(
                "the request has no agent file",
                why="exactly one of content and content_base64 must be given",
                fix="Put the text of the agent file into content.",
                details={"field": "content"},
            )
        if self.content is not None:
            return self.content.encode()
        return _decoded("content_base64", self.content_base64 or "")

    def files(self) -> tuple[bytes, dict[str, bytes]]:
        """The agent file and the artifacts, decoded: of a module this takes a worker's time.

        Raises:
            ValidationFailed: see :meth:`file` and :meth:`artifact_files`.
        """
        return self.file(), self.artifact_files()

    def artifact_files(self) -> dict[str, bytes]:
        """The artifacts, decoded.

        Raises:
            ValidationFailed: one cannot be.
        """
        return {name: _decoded(f"artifacts.{name}", text) for name, text in self.artifacts.items()}


def _decoded(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ValidationFailed(
            f"{field} cannot be decoded",
            why="it is not base64",
            fix="Encode it with base64 (RFC 4648).",
            details={"field": field},
        ) from None


class DeployBody(PackageBody):
    """An agent file to deploy on this node alone."""

    auto_start: bool = True
