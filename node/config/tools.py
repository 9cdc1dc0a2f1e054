"""The sections of ``tools`` that say how far built-in tool servers reach: which domains, which folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from node.config.section import Section
from node.config.units import Bytes, Domains, Networks

ROOTS_LIMIT: Final = 16
"""Most folders of one kind."""


class HttpClientConfig(Section):
    """Where agents may go by HTTP, if their own file names the domain, too.

    Attributes:
        allowed_domains: ``example.org``, ``*.example.org`` for all below it, ``*`` for all; none by default.
        allowed_networks: Networks that may be called although their addresses are not public.
        max_response_bytes: Most bytes of a response that are read, unpacked.
    """

    allowed_domains: Domains = ()
    allowed_networks: Networks = ()
    max_response_bytes: Annotated[Bytes, Field(le=64 * 1024**2)] = Field(
        default=1024**2, alias="max_response"
    )


class FileRootsConfig(Section):
    """The folders that agents may use, if they are granted the tools; none by default.

    A folder is known to agents by the last part of its path.

    Attributes:
        read: Folders whose files may be read.
        write: Folders whose files may be read and written.
    """

    read: Annotated[tuple[Path, ...], Field(max_length=ROOTS_LIMIT)] = ()
    write: Annotated[tuple[Path, ...], Field(max_length=ROOTS_LIMIT)] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> FileRootsConfig:
        named: dict[str, Path] = {}
        for path in (*self.write, *self.read):
            if not path.name:
                raise ValueError(f"the folder {str(path)!r} has no name; name one below it")
            if named.setdefault(path.name, path) != path:
                raise ValueError(f"{str(path)!r} and {str(named[path.name])!r} have the same name")
        return self
