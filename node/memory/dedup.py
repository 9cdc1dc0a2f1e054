"""Finds observations of one entity that say nearly the same, and lets the newest stand for them.

Two observations are near equal when the cosine of their vectors is at least a threshold, both hold, and they
have the same numbers and as many words of denial: "costs 10 euros" and "costs 11 euros" are near, and are
two facts. The older one is superseded by the newer, not forgotten: it stays in the past, with its source and
its successor. Vectors of one model are compared with each other only.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import apsw
import numpy as np

from node.environment import Clock
from node.errors import EntityConflict, EntityNotFound
from node.memory.ids import ENTITY, OBSERVATION, read_id, show_id
from node.memory.model import NOW, ObservationDraft, Provenance
from node.memory.reading import at_time
from node.memory.scopes import Aim, Scoped, Viewer
from node.memory.store import MemoryStore

THRESHOLD: Final = 0.95
"""Least cosine of two observations that say nearly the same, where nobody says otherwise."""
LEAST_THRESHOLD: Final = 0.8
"""Lowest threshold that is taken: below, what has one subject is near already."""
ENTITY_LIMIT: Final = 1_000
"""Observations of one entity that are compared with each other, the newest."""
STEP_OBSERVATIONS: Final = 2_000
"""Observations after which one look ends, so that searches have their turn."""
PAIRS_LIMIT: Final = 1_000
"""Most pairs that one request finds; ``next`` says where to go on."""
BY: Final = Provenance(message="deduplication")
"""By whose word one observation stands for another."""

_NUMBER: Final = re.compile(r"\d+(?:[.,:]\d+)*")
_DENIAL: Final = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|cannot)\b|n't\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two observations that say nearly the same.

    Attributes:
        entity_id: What they are about.
        entity_name: Its name.
        kept_id: The newer one.
        kept: Its text.
        superseded_id: The older one.
        superseded: Its text.
        similarity: Their cosine.
    """

    entity_id: str
    entity_name: str
    kept_id: str
    kept: str
    superseded_id: str
    superseded: str
    similarity: float

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "entity_id": self.entity_id,
            "entity_name": self.entity_name,
            "kept_id": self.kept_id,
            "kept": self.kept,
            "superseded_id": self.superseded_id,
            "superseded": self.superseded,
            "similarity": round(self.similarity, 4),
        }


@dataclass(slots=True)
class Dedup:
    """One look at what a viewer sees.

    Args:
        store: The memory.
        clock: Tells what holds.
        viewer: Who asks.
        aim: In which scopes.
        threshold: Least cosine, from :data:`LEAST_THRESHOLD` to 1.
        after: Id of the entity after which to begin.
    """

    store: MemoryStore
    clock: Clock
    viewer: Viewer
    aim: Aim
    threshold: float = THRESHOLD
    after: str = ""

    async def find(self, limit: int = PAIRS_LIMIT) -> tuple[list[Pair], str | None]:
        """Pairs, and the id of the entity after which there may be more, or None.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            StorageFailed: the disk refused.
        """
        found: list[Pair] = []
        after = self.after
        while len(found) < limit:
            pairs, last = await self.store.storage.read(
                partial(_step, ask=self, after=read_id(ENTITY, after), now_s=self.clock.wall())
            )
            found += pairs
            if last is None:
                return found, None
            after = last
        return found, after

    async def apply(self, pairs: list[Pair]) -> int:
        """Let the newer of each pair stand for the older; returns how many did.

        Raises:
            StorageFailed: the disk refused.
        """
        done = 0
        for pair in pairs:
            try:
                await self.store.supersede(
                    self.viewer, pair.superseded_id, ObservationDraft(pair.kept), source=BY
                )
            except (EntityNotFound, EntityConflict):  # forgotten or superseded meanwhile
                continue
            done += 1
        return done


def says_the_same(one: str, other: str) -> bool:
    """Whether two texts have the same numbers, and deny equally often: what vectors hardly tell apart."""
    return Counter(_NUMBER.findall(one)) == Counter(_NUMBER.findall(other)) and len(
        _DENIAL.findall(one)
    ) == len(_DENIAL.findall(other))


def _step(
    connection: apsw.Connection, ask: Dedup, after: bytes, now_s: float
) -> tuple[list[Pair], str | None]:
    """The pairs of the next entities, and the last of these; None when there are no more."""
    scoped = Scoped(connection, ask.viewer, ask.aim)
    pairs: list[Pair] = []
    looked, last = 0, None
    for key, id_, name in scoped.rows(
        "SELECT key, id, name FROM {entities} WHERE id > ? AND known > 1 ORDER BY id LIMIT ?",
        (after, STEP_OBSERVATIONS),
    ):
        where, bindings = at_time("o", NOW, now_s)
        told = scoped.rows(
            "SELECT o.id, o.text, o.model, o.vector FROM {observations} o WHERE o.entity = ?"  # noqa: S608
            f" AND o.ended = 0 AND o.model IS NOT NULL AND {where} ORDER BY o.key DESC LIMIT ?",
            (key, *bindings, ENTITY_LIMIT),
        )
        pairs += _pairs(show_id(ENTITY, id_), name, told, ask.threshold)
        looked, last = looked + len(told), show_id(ENTITY, id_)
        if looked >= STEP_OBSERVATIONS:
            break
    return pairs, last


def _pairs(entity_id: str, name: str, told: list[Any], threshold: float) -> list[Pair]:
    """Each observation, newest first, with the older ones that it stands for."""
    found: list[Pair] = []
    for model in sorted({row[2] for row in told}):
        rows = [row for row in told if row[2] == model]
        matrix = np.frombuffer(b"".join(row[3] for row in rows), np.int8)
        vectors = matrix.reshape(len(rows), -1).astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        gone: set[int] = set()
        for newer in range(len(rows)):
            if newer in gone:
                continue
            near = vectors[newer + 1 :] @ vectors[newer]
            for place in np.flatnonzero(near >= threshold).tolist():
                older = newer + 1 + place
                if older in gone or not says_the_same(rows[newer][1], rows[older][1]):
                    continue
                gone.add(older)
                ids = show_id(OBSERVATION, rows[newer][0]), show_id(OBSERVATION, rows[older][0])
                found.append(
                    Pair(
                        entity_id,
                        name,
                        ids[0],
                        rows[newer][1],
                        ids[1],
                        rows[older][1],
                        float(near[place]),
                    )
                )
    return found
