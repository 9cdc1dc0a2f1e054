"""The package of a deployment: all that a node needs to run the agent, as one blob known by its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from node.errors import ValidationFailed
from node.message import BLOB_LIMIT_BYTES
from swim import strict_cbor

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Package:
    """What was deployed.

    Args:
        content: The agent file, or a module that is deployed alone.
        filename: Its name.
        files: What is beside it, by name: the module of an agent file, and its manifest.
        name: Takes the place of the name in the file; None for that name.
        workspace: The workspace it belongs to.
    """

    content: bytes
    filename: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    name: str | None = None
    workspace: str = "default"

    def encode(self) -> bytes:
        """Its one encoding, so that the same agent has the same digest wherever it is deployed."""
        said = [FORMAT, self.content, self.filename, dict(self.files), self.name, self.workspace]
        return strict_cbor.encode(said)


def decode(data: bytes) -> Package:
    """Read a package; that its digest is right says whose it is, not that it is well-formed.

    Raises:
        ValidationFailed: it is none.
    """
    try:
        form, content, filename, files, name, workspace = strict_cbor.decode(data, max_bytes=BLOB_LIMIT_BYTES)
    except (ValueError, TypeError):
        raise _invalid("it cannot be read") from None
    if form != FORMAT:
        raise _invalid(f"it has the format {form!r:.20}; this node knows {FORMAT}")
    texts = type(filename) is str and (name is None or type(name) is str) and type(workspace) is str
    if not texts or type(content) is not bytes or type(files) is not dict:
        raise _invalid("its parts are of other kinds")
    if not all(type(key) is str and type(value) is bytes for key, value in files.items()):
        raise _invalid("its files are of other kinds")
    return Package(content, filename, files, name, workspace)


def _invalid(why: str) -> ValidationFailed:
    return ValidationFailed("this is no package of a deployment", why=why)
