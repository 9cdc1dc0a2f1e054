"""Versions of capabilities: which offer satisfies which wish.

A capability is offered and wanted as ``name``, ``name:v2``, ``name:v2.1`` or ``name:v2.1.3``, possibly in a
namespace (``ns:name:v2``); the ``v`` may be left out. A wish names as much of the version as it cares for:
``name`` is satisfied by every version, ``name:v2`` by 2 and any 2.x, ``name:v2.1`` by 2.1 and its patches.
Parts that an offer leaves out are zero: ``name:v2`` is 2.0.0. An offer without a version satisfies only a
wish without one, and comes below every version.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

Version = tuple[int, ...]
"""The parts of a version, most significant first; empty for none."""

SPLIT_CACHE: Final = 8_192
"""Capability names whose parts are remembered."""

_SUFFIX: Final = re.compile(r":v?(\d+(?:\.\d+)*)$")


@functools.lru_cache(maxsize=SPLIT_CACHE)
def split(capability: str) -> tuple[str, Version]:
    """The name of a capability, its namespace included, and its version."""
    found = _SUFFIX.search(capability)
    if found is None:
        return capability, ()
    return capability[: found.start()], tuple(int(part) for part in found.group(1).split("."))


def base_name(capability: str) -> str:
    """A capability's name without its version: ``data-analysis`` of ``data-analysis:v2``."""
    return split(capability)[0]


def best_offer(offered: Iterable[str], wanted: str) -> str | None:
    """The capability of the highest version that satisfies a wish; None if there is none."""
    name, asked = split(wanted)
    best: tuple[Version, str] | None = None
    for capability in offered:
        other, version = split(capability)
        if other == name and _satisfies(version, asked) and (best is None or version > best[0]):
            best = version, capability
    return None if best is None else best[1]


def with_version(capability: str, version: str) -> str:
    """The same capability in another version, written ``v1``, ``1`` or ``v1.2``."""
    return f"{base_name(capability)}:v{version.removeprefix('v')}"


def shown_version(version: Version) -> str | None:
    """A version as it is shown, ``v2.1``; None for none."""
    return "v" + ".".join(map(str, version)) if version else None


def _satisfies(version: Version, asked: Version) -> bool:
    if not asked:
        return True
    padded = version + (0,) * (len(asked) - len(version)) if version else ()
    return padded[: len(asked)] == asked
