"""The memory of a node that is stopped, from its file into another backend: page by page, and then compared.

Copies keep their ids, so what is told twice is there once, and a page is one transaction of the target. How
far it is stands in a file beside the memory after each page: one that was cut off or killed goes on from
there. At the end both sides are read from the beginning, and the numbers and digests of what they tell must
be the same; only then is it done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import MemoryBackendFailed
from node.memory.backends.protocol import Exported, MemoryBackend, OutsideBackend
from node.memory.exporting import Cursor, Export
from node.memory.scopes import EVERYWHERE, OPERATOR
from node.memory.store import MemoryStore

SUFFIX: Final = ".migration"
"""What the name of the file ends with that says how far a migration is."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a memory has, as an export tells it.

    Attributes:
        entities: How many.
        observations: How many.
        relations: How many.
        digest: XOR of the SHA-256 of each line, in hex: the order does not matter.
    """

    entities: int
    observations: int
    relations: int
    digest: str

    @property
    def total(self) -> int:
        """All of them."""
        return self.entities + self.observations + self.relations


class Migration:
    """One run.

    Args:
        source: The file's memory.
        target: Where it goes.
        name: Of the target, as it is configured.
        path: Of the source's file.
        on_progress: Is told how much is done, in all.
    """

    def __init__(
        self,
        source: MemoryStore,
        target: OutsideBackend,
        *,
        name: str,
        path: Path,
        on_progress: Callable[[int], None],
    ) -> None:
        self._source, self._target, self._name = source, target, name
        self._journal = path.with_name(path.name + SUFFIX)
        self._on_progress = on_progress

    async def run(self) -> Told:
        """Copy what is not copied yet, and compare; returns what is there now.

        Raises:
            MemoryBackendFailed: the target does not answer, has something else in it, or differs at the end.
            StorageFailed: the file cannot be read.
        """
        known = self._read_journal()
        export = Export(self._source.storage, OPERATOR, EVERYWHERE, vectors=True)
        if known is None:
            await self._require_empty()
        else:
            export.cursor = Cursor(**known["cursor"])
            export.counted.entities, export.counted.observations, export.counted.relations = known["counted"]
        self._progress(export)
        while parts := await export.entities():
            await self._target.take(parts)
            self._note(export)
        while relations := await export.relations():
            await self._target.take_relations(relations)
            self._note(export)
        here, there = await told_by(self._source), await told_by(self._target)
        self._journal.unlink(missing_ok=True)
        if here != there:
            raise MemoryBackendFailed(
                f"the backend {self._name!r} has something else than the memory's file",
                why=f"the file has {_shown(here)}, the backend {_shown(there)}",
                fix="Empty the backend and migrate again.",
                details={"file": asdict(here), "backend": asdict(there)},
            )
        return here

    async def _require_empty(self) -> None:
        counted = await self._target.counts(OPERATOR)
        if any(sum(each) for each in counted.values()):
            entities = sum(each[0] for each in counted.values())
            raise MemoryBackendFailed(
                f"the backend {self._name!r} is not empty",
                why=f"it has {entities} entities, and none of a migration that was cut off",
                fix="Empty it, or configure another database.",
            )

    def _progress(self, export: Export) -> None:
        counted = export.counted
        self._on_progress(counted.entities + counted.observations + counted.relations)

    def _note(self, export: Export) -> None:
        """Say on disk how far it is, whole or not at all."""
        counted = export.counted
        said = {
            "target": self._name,
            "file": self._source.storage.storage_id,
            "cursor": asdict(export.cursor),
            "counted": [counted.entities, counted.observations, counted.relations],
        }
        new = self._journal.with_name(self._journal.name + ".new")
        with new.open("w") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._journal)
        self._progress(export)

    def _read_journal(self) -> dict[str, Any] | None:
        """How far one of before came; None where there was none, to another target or of another file."""
        try:
            found: dict[str, Any] = json.loads(self._journal.read_text())
        except (OSError, ValueError):
            return None
        same = found.get("target") == self._name and found.get("file") == self._source.storage.storage_id
        return found if same else None


async def told_by(memory: MemoryBackend) -> Told:
    """What a memory has; reads all of it."""
    export, digest = memory.export(OPERATOR, EVERYWHERE, vectors=True), 0
    while parts := await export.entities():
        for part in parts:
            if part.first:
                digest ^= _hash(part.entity)
            for told in part.observations:
                digest ^= _hash({"entity_id": part.entity["entity_id"], **told})
    while relations := await export.relations():
        for told in relations:
            digest ^= _hash(told)
    return _of(export, digest)


def _of(export: Exported, digest: int) -> Told:
    counted = export.counted
    return Told(counted.entities, counted.observations, counted.relations, f"{digest:064x}")


def _hash(told: dict[str, Any]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest(), "big")


def _shown(told: Told) -> str:
    return (
        f"{told.entities} entities, {told.observations} observations and {told.relations} relations"
        f" ({told.digest[:12]})"
    )
