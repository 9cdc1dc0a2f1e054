"""Gives vectors of the present model to what has none, or those of another: in batches, in the background.

Theory of operation. What is still to be done stands in the rows themselves (``observations.model``), so a
node that is killed goes on where it was. A batch is read, embedded and written in one transaction, in which
the vector of the old space goes and that of the new one comes; an observation is in one space at any time.
Those that have not had their turn are found by their words. The file is looked through once when it is
opened, and on request; what was stored meanwhile without a vector is found by an index. A space that is empty
at the end is taken out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import apsw
import numpy as np
import trio

from node.environment import Environment
from node.errors import EmbeddingFailed, ResourceLimitExceeded, StorageFailed
from node.memory import indexes
from node.memory.embedding import Embedder, EmbeddingModel
from node.memory.model import embedded_text
from node.memory.scopes import OPERATOR, Scoped
from node.memory.vectors import Vector, checked_vectors, quantised, signs
from node.storage.storage import Storage

log = logging.getLogger(__name__)

BATCH_TEXTS: Final = 32
"""Most observations of one batch: one turn of the embedder, and a write of a millisecond."""
BATCH_CHARACTERS: Final = 1024**2
"""Characters of text after which a batch ends; a single observation may have more."""
AGAIN_AFTER_S: Final = 30.0
"""Pause after the embedder has failed, and between two looks for what was stored without a vector, in
seconds."""
TRIES: Final = 3
"""How often the texts of one batch are tried when the embedder takes none of them."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An observation without a vector of the present model."""

    key: int
    id: bytes
    told: str


class Reembedding:
    """Looks after the vectors of one memory.

    Args:
        storage: The memory's file.
        embedder: Makes the vectors.
        environment: Time.
    """

    def __init__(self, storage: Storage, embedder: Embedder, environment: Environment) -> None:
        self._storage = storage
        self._embedder = embedder
        self._clock = environment.clock
        self._wanted = trio.Event()
        self._whole = True
        self._state = "waiting"
        self._failure: str | None = None
        self._counts = {"embedded": 0, "refused": 0, "passes": 0, "spaces_dropped": 0}
        self._pass_embedded = 0
        self._pass_s = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for work for ever; runs until cancelled."""
        task_status.started()
        while True:
            whole, self._whole, self._wanted = self._whole, False, trio.Event()
            try:
                await self.run_pass(whole=whole)
            except (
                StorageFailed,
                apsw.Error,
            ) as error:  # a sick disk or file ends no node; a check tells more
                log.warning("vectors are not looked after: %s", error)
                self._state, self._failure, self._whole = "failed", str(error), whole
            with self._clock.move_on_after(AGAIN_AFTER_S):
                await self._wanted.wait()

    def start(self) -> None:
        """Look through the whole file, now or after what is under way."""
        self._whole = True
        self._wanted.set()

    async def run_pass(self, *, whole: bool = True) -> None:
        """Embed what has no vector of the present model.

        Args:
            whole: Whether vectors of other models are looked for, too.

        Raises:
            StorageFailed: the disk refused.
        """
        model = self._model()
        if model is None:
            self._state = "no model"
            return
        cursor, started_s, self._pass_embedded = 0, self._clock.now(), 0
        tries = 0
        while True:
            batch = await self._storage.read(partial(_waiting, model=model, after=cursor, whole=whole))
            if not batch:
                break
            self._state = "running"
            vectors = await self._embed(batch, model, singly=tries > 0)
            if vectors is None and tries < TRIES:
                tries, self._state = tries + 1, "waiting for the embedder"
                await self._clock.sleep(AGAIN_AFTER_S)
                continue
            await self._keep(model, batch, vectors or {})
            cursor, tries = batch[-1].key, 0
            self._pass_s = self._clock.now() - started_s
        if whole:
            self._counts["spaces_dropped"] += await self._storage.write(lambda c: _drop_empty(c, model))
        self._counts["passes"] += 1
        self._state = "idle"

    async def progress(self) -> dict[str, Any]:
        """How far it is, counted now.

        Raises:
            StorageFailed: the disk refused.
        """
        model = self._model()
        done, total = await self._storage.read(lambda c: _counted(c, model))
        rate = self._pass_embedded / self._pass_s if self._pass_s > 0 else 0.0
        return {
            "state": self._state,
            "model": None if model is None else model.name,
            "model_digest": None if model is None else model.digest,
            "done": done,
            "total": total,
            "remaining": total - done,
            "embedded_per_s": round(rate, 1),
            "refused": self._counts["refused"],
            "failure": self._failure,
        }

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and what it does now."""
        return {"state": self._state, **self._counts, "failure": self._failure or ""}

    def _model(self) -> EmbeddingModel | None:
        try:
            return self._embedder.model
        except EmbeddingFailed as error:
            self._failure = str(error)
            return None

    async def _embed(
        self, batch: Sequence[_Waiting], model: EmbeddingModel, *, singly: bool
    ) -> dict[bytes, Vector] | None:
        """Vectors by the ids of the observations, without those whose texts were refused; None for none."""
        found: dict[bytes, Vector] = {}
        for part in [[each] for each in batch] if singly else [batch]:
            try:
                rows = await self._embedder.embed([each.told for each in part])
                made = checked_vectors(rows, len(part), model.dimension)
            except (EmbeddingFailed, ResourceLimitExceeded) as error:
                if self._failure is None:
                    log.warning("memory waits for vectors: %s", error)
                self._failure = str(error)
            else:
                found |= {each.id: np.asarray(row) for each, row in zip(part, made, strict=True)}
        if found:
            self._failure = None
        return found or None

    async def _keep(
        self, model: EmbeddingModel, batch: Sequence[_Waiting], vectors: dict[bytes, Vector]
    ) -> None:
        self._counts["refused"] += len(batch) - len(vectors)
        if not vectors:
            return
        kept = await self._storage.write(lambda c: _keep(c, model, vectors))
        self._counts["embedded"] += kept
        self._pass_embedded += kept


def _waiting(
    connection: apsw.Connection, model: EmbeddingModel, after: int, *, whole: bool
) -> list[_Waiting]:
    """The next observations that have no vector of a model, by key."""
    space = indexes.space_of(connection, model)
    condition = "o.model IS NULL" if space is None or not whole else f"o.model IS NOT {space.key}"
    if space is None and whole:
        condition = "1"
    found, characters = [], 0
    for key, id_, name, type_, text in Scoped(connection, OPERATOR).each(
        "SELECT o.key, o.id, e.name, e.type, o.text FROM {observations} o JOIN {entities} e"  # noqa: S608
        f" ON e.key = o.entity WHERE o.key > ? AND {condition} ORDER BY o.key LIMIT ?",
        (after, BATCH_TEXTS),
    ):
        found.append(_Waiting(key, id_, embedded_text(name, type_, text)))
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            break
    return found


def _keep(connection: apsw.Connection, model: EmbeddingModel, vectors: dict[bytes, Vector]) -> int:
    """Move observations into the space of a model, those that are still there; returns how many."""
    scoped, space, kept = Scoped(connection, OPERATOR), indexes.make_space(connection, model), 0
    for id_, vector in vectors.items():
        # By id, not by key: what was forgotten meanwhile may have left its key to another.
        for key, realm, ended, old in scoped.rows(
            "SELECT key, realm, ended, model FROM {observations} WHERE id = ?", (id_,)
        ):
            if old == space.key:
                continue
            if old is not None and indexes.has_space(connection, old):
                indexes.forget_vector(connection, old, key)
            indexes.file_vector(connection, space.key, key, -realm if ended else realm, signs(vector))
            scoped.change(
                "UPDATE observations SET model = ?, vector = ? WHERE key = ? AND {reach}",
                (space.key, quantised(vector), key),
            )
            kept += 1
    return kept


def _drop_empty(connection: apsw.Connection, model: EmbeddingModel) -> int:
    """Take out the spaces of other models that nothing is in any more; returns how many."""
    dropped = 0
    for key, digest in indexes.spaces(connection):
        if digest == model.digest or (
            indexes.has_space(connection, key) and indexes.vectors_in(connection, key)
        ):
            continue
        sql = "SELECT 1 FROM {observations} WHERE model = ? LIMIT 1"
        if not Scoped(connection, OPERATOR).rows(sql, (key,)):
            indexes.drop_space(connection, key)
            dropped += 1
    return dropped


def _counted(connection: apsw.Connection, model: EmbeddingModel | None) -> tuple[int, int]:
    """How many observations have vectors of a model, and how many there are."""
    total = Scoped(connection, OPERATOR).totals()["observations"]
    space = None if model is None else indexes.space_of(connection, model)
    if space is None:
        return 0, total
    # What came from other nodes with its vector, and waits for its index only, is done.
    return min(total, indexes.vectors_in(connection, space.key) + indexes.postponed(connection)), total
