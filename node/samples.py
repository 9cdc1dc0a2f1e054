"""Finds the sample agents and the demo's data: in the package where it was installed, else in the checkout.

A wheel carries the repository's ``configs/`` as ``node/configs`` (see the build's force-include); an
editable installation has no copy of it, and must not need one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from node.errors import ValidationFailed

_PACKAGE: Final = Path(__file__).resolve().parent
_PLACES: Final = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def sample(name: str) -> Path:
    """The path of a file that comes with Caxton.

    Args:
        name: Relative to ``configs/``, for example ``agents/data_analyzer.md`` or ``demo/sales.csv``.

    Raises:
        ValidationFailed: this installation has no such file.
    """
    for place in _PLACES:
        path = (place / name).resolve()
        if path.is_relative_to(place) and path.is_file():
            return path
    raise ValidationFailed(
        f"there is no sample {name!r}",
        why=f"neither {_PLACES[0]} nor {_PLACES[1]} has it",
        fix="Install Caxton again, or name a file of your own.",
        details={"sample": name},
    )


def sample_directory(name: str) -> Path:
    """The path of a directory that comes with Caxton.

    Args:
        name: Relative to ``configs/``, for example ``sdk``.

    Raises:
        ValidationFailed: this installation has no such directory.
    """
    for place in _PLACES:
        if (place / name).is_dir():
            return place / name
    raise ValidationFailed(
        f"there is no directory {name!r} of samples",
        why=f"neither {_PLACES[0]} nor {_PLACES[1]} has it",
        fix="Install Caxton again.",
    )


def sample_agents() -> list[Path]:
    """The sample agents' files, sorted by name; empty where the installation has none."""
    for place in _PLACES:
        found = sorted((place / "agents").glob("*.md"))
        if found:
            return found
    return []
