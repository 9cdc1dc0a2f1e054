"""What looks after an open memory: its vectors, its file, and what operators do with it as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
import trio

from node.environment import Environment
from node.errors import EmbeddingFailed, ResourceLimitExceeded, StorageFailed
from node.memory import backup, checking, ids
from node.memory.checking import Checked, checked, snapshot, words_agree
from node.memory.dedup import Dedup, Pair
from node.memory.importing import Import, Strategy
from node.memory.model import Realm
from node.memory.records import Retain
from node.memory.reembedding import Reembedding
from node.memory.repairing import repair
from node.memory.retention import Retention
from node.memory.scopes import Aim, Viewer

if TYPE_CHECKING:
    from node.memory.embedding import Embedder
    from node.memory.store import MemoryStore

PROBE: Final = "is the model there?"
"""What is embedded to see whether the model answers."""


class Upkeep:
    """The keeping of one memory.

    Args:
        store: The memory.
        embedder: Makes its vectors.
        environment: Time, ids and workers.
        path: Its file.
        retain: How long what is remembered is kept, as it is configured.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        environment: Environment,
        *,
        path: Path,
        retain: Retain | None = None,
    ) -> None:
        self.store = store
        self.reembedding = Reembedding(store.storage, embedder, environment)
        self.retention = Retention(store, environment, retain or Retain())
        self._embedder = embedder
        self._environment = environment
        self._path = path
        self._busy: dict[str, bool] = {}
        self._last: dict[str, Any] | None = None
        self._counts = {"imports": 0, "checks": 0, "repairs": 0, "backups": 0, "deduplicated": 0}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is due in the background; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.store.storage.run)
            nursery.start_soon(self.reembedding.run)
            nursery.start_soon(self.retention.run)
            task_status.started()

    @asynccontextmanager
    async def importing(self, viewer: Viewer, realm: Realm, strategy: Strategy) -> AsyncIterator[Import]:
        """One import; there is one at a time.

        Args:
            viewer: Who imports.
            realm: Where lines belong that do not say so.
            strategy: What becomes of values that differ.

        Raises:
            ResourceLimitExceeded: another is under way.
        """
        with _Turn(self._busy, "import"):
            yield Import(
                self.store,
                self._embedder,
                self._environment,
                viewer=viewer,
                realm=realm,
                strategy=strategy,
            )
            self._counts["imports"] += 1

    async def dedup(
        self, viewer: Viewer, aim: Aim, *, threshold: float, after: str, dry_run: bool
    ) -> tuple[list[Pair], str | None, int]:
        """Find observations that say nearly the same, and let the newest stand for them.

        Args:
            viewer: Who asks.
            aim: In which scopes.
            threshold: Least cosine.
            after: Id of the entity after which to begin.
            dry_run: Whether to show only.

        Returns:
            The pairs, the id of the entity after which to go on, and how many were superseded.

        Raises:
            ResourceLimitExceeded: another is under way.
            StorageFailed: the disk refused.
        """
        with _Turn(self._busy, "deduplication"):
            ask = Dedup(self.store, self._environment.clock, viewer, aim, threshold, after)
            pairs, following = await ask.find()
            done = 0 if dry_run else await ask.apply(pairs)
            self._counts["deduplicated"] += done
            return pairs, following, done

    async def check(self) -> Checked:
        """Compare all that is in the file; see :mod:`node.memory.checking`.

        Raises:
            ResourceLimitExceeded: another check or repair is under way.
            StorageFailed: the file cannot be opened.
        """
        with _Turn(self._busy, "check"):
            return await self._check()

    async def repair(self) -> tuple[Checked, Checked]:
        """Check, repair what can be, and check again; what was found, and what is left.

        Raises:
            ResourceLimitExceeded: another check or repair is under way.
            StorageFailed: the file cannot be opened, or is damaged beyond repair.
        """
        with _Turn(self._busy, "check"):
            before = await self._check()
            if before.ok:
                return before, before
            job = partial(
                repair,
                found=before,
                now_s=self._environment.clock.wall(),
                new_id=lambda: ids.new_id(self._environment),
            )
            try:
                await self.store.storage.write(job)
            except apsw.Error as error:
                raise _beyond_repair(error) from error
            self._counts["repairs"] += 1
            self.reembedding.start()
            return before, await self._check()

    async def backup(self) -> tuple[Path, int, Checked]:
        """Copy the file as it is now to a place beside it; the copy, its bytes, and what a check finds in it.

        The caller removes it by :func:`node.memory.backup.remove`.

        Raises:
            StorageFailed: the disk refused.
        """
        target = self._path.with_name(self._path.name + backup.SUFFIX)
        workers = self._environment.workers
        size = await backup.copy(self._path, target, workers)
        found = await workers.run("files", backup.check_copy, target)
        self._counts["backups"] += 1
        return target, size, found

    def backing_up(self) -> _Turn:
        """Keeps other backups away while a copy is in use.

        Raises:
            ResourceLimitExceeded: another is under way.
        """
        return _Turn(self._busy, "backup")

    async def health(self) -> dict[str, Any]:
        """What a look at it can afford: whether it can be read, embedded with, and agrees by numbers."""
        database, agree, orphans, unembedded, why = True, False, None, None, None
        try:
            agree, orphans = await self._environment.workers.run("files", _looked_at, self._path)
            told = await self.reembedding.progress()
            unembedded = told["remaining"]
        except (apsw.Error, StorageFailed) as error:
            database, why = False, str(error)
        model, model_error = True, None
        try:
            await self._embedder.embed([PROBE])
        except (EmbeddingFailed, ResourceLimitExceeded) as error:
            model, model_error = False, str(error)
        broken = not (database and agree and orphans == 0)
        last = self._last or {}
        return {
            "status": "unhealthy"
            if broken or last.get("ok") is False
            else "healthy"
            if model
            else "degraded",
            "database_connectivity": database,
            "database_error": why,
            "embedding_model_loaded": model,
            "embedding_error": model_error,
            "index_integrity": agree,
            "orphaned_relations": orphans,
            "without_vectors": unembedded,
            "last_check": self._last,
        }

    def statistics(self) -> dict[str, Any]:
        """Counts of everything that is done in the background."""
        return {
            **self._counts,
            "reembedding": self.reembedding.statistics(),
            "retention": self.retention.statistics(),
        }

    async def _check(self) -> Checked:
        try:
            found = await self._environment.workers.run("files", _checked, self._path)
        except apsw.Error as error:
            raise StorageFailed(
                f"the memory {self._path.name} cannot be opened", why=str(error), fix="Restore a backup."
            ) from error
        try:
            found.findings += await self.store.storage.write(words_agree)
        except StorageFailed as error:  # SQLite's word for an index that does not agree is "malformed"
            found.findings.append(checking.Finding(checking.WORDS, str(error)[:300], 1))
        self._counts["checks"] += 1
        self._last = {"at_s": self._environment.clock.wall(), "ok": found.ok, "findings": len(found.findings)}
        return found


class _Turn:
    """One thing of a kind at a time.

    Args:
        busy: The kinds that are under way.
        kind: Of this one.
    """

    def __init__(self, busy: dict[str, bool], kind: str) -> None:
        self._busy, self._kind = busy, kind

    def __enter__(self) -> None:
        if self._kind in self._busy:
            raise ResourceLimitExceeded(
                f"another {self._kind} of the memory is under way",
                why="there is one at a time",
                fix="Wait for its end.",
                details={"retry_after_s": 5},
            )
        self._busy[self._kind] = True

    def __exit__(self, *_: object) -> None:
        del self._busy[self._kind]


def _checked(path: Path) -> Checked:
    with snapshot(path) as connection:
        return checked(connection)


def _looked_at(path: Path) -> tuple[bool, int]:
    with snapshot(path) as connection:
        return checking.indexes_agree(connection), checking.orphaned_relations(connection)


def _beyond_repair(error: apsw.Error) -> StorageFailed:
    return StorageFailed(
        "the memory cannot be repaired",
        why=f"{type(error).__name__}: {error}",
        fix="Stop the node and restore a backup; what can be read can be exported before.",
    )
