"""The memory as a room of the node: its file is made by the first write, nothing is loaded before its need.

numpy, sqlite-vec and the file itself are loaded on the worker lane of the memory's writes; until then a node
pays for this module only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.environment import Environment
from node.errors import CaxtonError, EmbeddingFailed, InvariantViolation
from node.memory.absent import AbsentEmbedder
from node.memory.records import Limits, Retain

if TYPE_CHECKING:
    from node.memory.embedding import Embedder
    from node.memory.replication.replica import Replica
    from node.memory.store import MemoryStore
    from node.memory.upkeep import Upkeep
    from node.storage.storage import Durability, Storage

log = logging.getLogger(__name__)

CLOSE_S: Final = 1.0
"""Longest that a stopping node waits for its embedder, in seconds."""
FILE: Final = "memory.db"
"""Name of the database file in the data directory, where the configuration names no other."""


class MemoryRoom:
    """Opens the memory when it is needed, and closes it with the node.

    Args:
        environment: Workers, time and ids.
        path: The database file.
        durability: As :class:`node.storage.storage.Storage` takes it.
        node: Name of the node.
        limits: How much is remembered at most.
        threshold: Least similarity of what is found by its meaning alone, 0 to 1.
        make_embedder: Makes the embedder when the memory is opened.
        retain: How long what is remembered is kept; for ever by default.
        make_replica: Makes what tells other nodes of what is shared; without it nobody hears of anything.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        path: Path,
        durability: Durability,
        node: str,
        limits: Limits,
        threshold: float,
        make_embedder: Callable[[], Awaitable[Embedder]],
        retain: Retain | None = None,
        make_replica: Callable[[], Replica] | None = None,
    ) -> None:
        self._environment = environment
        self._path = path
        self._durability: Durability = durability
        self._node = node
        self._limits = limits
        self._threshold = threshold
        self._make_embedder = make_embedder
        self._retain = retain or Retain()
        self._make_replica = make_replica
        self.on_change: Callable[[], None] = _nobody_listens
        """Called after this node has changed what is shared, and when its file is made."""
        self._store: MemoryStore | None = None
        self._upkeep: Upkeep | None = None
        self._embedder: Embedder = AbsentEmbedder()
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._closed = False

    @property
    def retain(self) -> Retain:
        """How long what is remembered is kept, as it is configured."""
        return self._retain

    async def store(self) -> MemoryStore:
        """The memory, to write to; its file is made when there is none.

        Raises:
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
        """
        async with self._opening:
            if self._store is None:
                self._store = await self._open()
                self._opened.set()
                if self._store.shared is not None:
                    self._store.shared.on_change = self._changed
                    self.on_change()
            return self._store

    @property
    def exists(self) -> bool:
        """Whether anything was ever remembered here."""
        return self._store is not None or self._path.exists()

    async def existing(self) -> MemoryStore | None:
        """The memory, to read, or None as long as nothing was ever written.

        Raises:
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
        """
        if not self.exists:
            await trio.lowlevel.checkpoint()
            return None
        return await self.store()

    async def upkeep(self) -> Upkeep:
        """What looks after the memory; opens it when it is not open.

        Raises:
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
        """
        await self.store()
        if self._upkeep is None:
            raise InvariantViolation("a memory is open that nobody looks after")
        return self._upkeep

    def _changed(self) -> None:
        self.on_change()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the file once it is open; runs until cancelled."""
        task_status.started()
        if self._retain.bounded:
            await self._open_to_forget()
        await self._opened.wait()
        upkeep = await self.upkeep()
        try:
            await upkeep.run()
        finally:
            with trio.CancelScope(shield=True), self._environment.clock.move_on_after(CLOSE_S):
                await self._embedder.aclose()

    async def _open_to_forget(self) -> None:
        """Open what is there, although nobody asks for it: something in it may be due to be forgotten."""
        try:
            await self.existing()
        except CaxtonError as error:  # whoever uses the memory is told, too
            log.warning("memory cannot be opened to forget what is due: %s", error)

    def statistics(self) -> dict[str, Any]:
        """Bytes, limits and counts; of a memory that is not open, what its file tells."""
        if self._store is not None:
            made = self._embedder.statistics()
            kept = {} if self._upkeep is None else self._upkeep.statistics()
            return {"open": True, **self._store.statistics(), "embedding": dict(made), "upkeep": kept}
        size = self._path.stat().st_size if self._path.exists() else 0
        return {"open": False, "bytes": size, "entities_limit": self._limits.entities}

    def close(self) -> None:
        """Let the file go; doing it twice is harmless."""
        self._closed = True
        if self._store is not None:
            self._store.storage.close()

    async def _open(self) -> MemoryStore:
        storage = await self._environment.workers.run("memory_write", self._open_file)
        try:
            embedder = await self._make_embedder()
        except EmbeddingFailed as error:
            log.warning("memory is searched by words only: %s", error)
            embedder = AbsentEmbedder(error)
        except BaseException:
            storage.close()
            raise
        from node.memory.store import MemorySettings, MemoryStore  # noqa: PLC0415 - loaded on the thread above
        from node.memory.upkeep import Upkeep  # noqa: PLC0415

        self._embedder = embedder
        settings = MemorySettings(self._limits, self._threshold)
        replica = None if self._make_replica is None else self._make_replica()
        store = MemoryStore(
            storage, embedder, self._environment, node=self._node, settings=settings, replica=replica
        )
        self._upkeep = Upkeep(store, embedder, self._environment, path=self._path, retain=self._retain)
        return store

    def _open_file(self) -> Storage:
        import node.memory.upkeep  # noqa: PLC0415, F401 - numpy: 100 ms that the loop is spared
        from node.memory.schema import MEMORY  # noqa: PLC0415
        from node.storage.storage import Storage  # noqa: PLC0415

        return Storage.open(
            self._path, durability=self._durability, environment=self._environment, design=MEMORY
        )


def _nobody_listens() -> None:
    """A change of which nobody wants to hear."""
