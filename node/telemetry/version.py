"""Which release of Caxton runs: for the health check, ``caxton --version`` and bug reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

from swim.keyring import VERSIONS


def software_version() -> str:
    """The version of the installed distribution, ``0+unknown`` in a bare source tree."""
    try:
        return metadata.version("caxton")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@dataclass(frozen=True, slots=True)
class Release:
    """What a node says it is; a rolling upgrade has nodes of two releases in one cluster.

    Attributes:
        software: Version of the software.
        protocols: Lowest and highest version of membership's protocol that it speaks.
    """

    software: str = field(default_factory=software_version)
    protocols: tuple[int, int] = VERSIONS
