"""What requests to the memory carry along, and what they are answered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from node.errors import EntityNotFound
from node.memory.model import NOBODY, Provenance

THRESHOLD: Final = 0.3
"""Least similarity of what is found by its meaning alone; what is about other things is mostly below."""

PLANES_BYTES: Final = 64 * 1024**2
"""Memory that the signs of vectors may have, in bytes: a million vectors of 384 numbers."""


class Outcome(StrEnum):
    """What came of an answer that memories were used for."""

    USED = "used"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is remembered at most.

    Attributes:
        entities: In all.
        entities_of_owner: In one scope of one owner.
    """

    entities: int = 100_000
    entities_of_owner: int = 100_000


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """How the memory is kept.

    Attributes:
        limits: How much is remembered at most.
        threshold: Least similarity of what is found by its meaning alone, 0 to 1.
        planes_bytes: Memory that the signs of vectors may have, in bytes.
    """

    limits: Limits = field(default_factory=Limits)
    threshold: float = THRESHOLD
    planes_bytes: int = PLANES_BYTES


@dataclass(frozen=True, slots=True)
class Retain:
    """How long what is remembered is kept; see :mod:`node.memory.retention`.

    Attributes:
        max_age_s: Longest time without a sign of life, in seconds; None for ever.
        max_entities_per_owner: Entities of one scope and owner beyond which the oldest go; None for any.
        every_s: How often it is looked what is due, in seconds.
    """

    max_age_s: float | None = None
    max_entities_per_owner: int | None = None
    every_s: float = 3_600.0

    @property
    def bounded(self) -> bool:
        """Whether anything is ever forgotten."""
        return self.max_age_s is not None or self.max_entities_per_owner is not None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is the same for all that one request writes.

    Attributes:
        now_s: Unix seconds.
        new_id: Makes 16 bytes of a new id.
        source: By whose word.
    """

    now_s: float
    new_id: Callable[[], bytes]
    source: Provenance = NOBODY


@dataclass(frozen=True, slots=True)
class Remembered:
    """What became of one entity of a request.

    Attributes:
        entity_id: The entity.
        name: Its name.
        version: Its version now.
        created: Whether it is new.
        observation_ids: Of the observations of the request, in their order; those of before have theirs.
        added: How many of them are new.
        embedded: Whether all of them have vectors.
    """

    entity_id: str
    name: str
    version: int
    created: bool
    observation_ids: tuple[str, ...] = ()
    added: int = 0
    embedded: bool = True

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "entity_id": self.entity_id,
            "entity_name": self.name,
            "version": self.version,
            "created": self.created,
            "observation_ids": list(self.observation_ids),
            "observation_count": len(self.observation_ids),
            "observations_added": self.added,
            "embedding_generated": self.embedded,
        }


@dataclass(frozen=True, slots=True)
class Related:
    """What became of a relation of a request.

    Attributes:
        relation_id: The relation that holds now.
        created: Whether it is new.
        superseded_id: The one that ended with it, or None.
    """

    relation_id: str
    created: bool
    superseded_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "relation_id": self.relation_id,
            "created": self.created,
            "superseded_id": self.superseded_id,
        }


def not_found(kind: str, name: str) -> EntityNotFound:
    """What is said of all that is not there, or is not there for who asks."""
    return EntityNotFound(
        f"there is no {kind} {name[:200]!r}",
        why="nothing of that name is remembered in the scopes that you may see",
        fix="Search for it; names are exact.",
        details={"kind": kind},
    )
