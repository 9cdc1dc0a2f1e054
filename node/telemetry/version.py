"""Which release of Caxton runs: for the health check, ``caxton --version`` and bug reports."""

from __future__ import annotations

from importlib import metadata


def software_version() -> str:
    """The version of the installed distribution, ``0+unknown`` in a bare source tree."""
    try:
        return metadata.version("caxton")
    except metadata.PackageNotFoundError:
        return "0+unknown"
