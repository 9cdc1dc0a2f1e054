"""The memory as a room of the node: its file is made by the first write, nothing is loaded before its need.

numpy, sqlite-vec and the file itself are loaded on the worker lane of the memory's writes; until then a node
pays for this module only. Where a server keeps the vectors or all of it, what speaks with it is loaded with
the memory, too. Whoever asks goes through the gate (:mod:`node.memory.backends.gate`), whatever is behind it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.environment import Environment
from node.errors import CaxtonError, EmbeddingFailed, InvariantViolation, MemoryNotOffered, StorageFailed
from node.memory.absent import AbsentEmbedder
from node.memory.backends.gate import ScopeGate
from node.memory.records import PLANES_BYTES, Limits, MemorySettings, Retain

if TYPE_CHECKING:
    from node.memory.backends.protocol import BackendContext, MemoryBackend, OutsideBackend
    from node.memory.backends.qdrant.index import QdrantIndex
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
        planes_bytes: Memory that the signs of vectors may have, in bytes.
        retain: How long what is remembered is kept; for ever by default.
        make_replica: Makes what tells other nodes of what is shared; without it nobody hears of anything.
        make_vectors: Makes what keeps the vectors on a server, too; without it they are in the file alone.
        make_outside: Makes the backend that takes the place of the file.
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
        planes_bytes: int = PLANES_BYTES,
        retain: Retain | None = None,
        make_replica: Callable[[], Replica] | None = None,
        make_vectors: Callable[[Storage], QdrantIndex] | None = None,
        make_outside: Callable[[BackendContext], Awaitable[OutsideBackend]] | None = None,
    ) -> None:
        self._environment = environment
        self._path = path
        self._durability: Durability = durability
        self._node = node
        self._limits = limits
        self._threshold = threshold
        self._planes_bytes = planes_bytes
        self._make_embedder = make_embedder
        self._retain = retain or Retain()
        self._make_replica = make_replica
        self._make_vectors = make_vectors
        self._make_outside = make_outside
        self.on_change: Callable[[], None] = _nobody_listens
        """Called after this node has changed what is shared, and when its file is made."""
        self._gate: ScopeGate | None = None
        self._store: MemoryStore | None = None
        self._vectors: QdrantIndex | None = None
        self._outside: OutsideBackend | None = None
        self._upkeep: Upkeep | None = None
        self._embedder: Embedder = AbsentEmbedder()
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._closed = False

    @property
    def retain(self) -> Retain:
        """How long what is remembered is kept, as it is configured."""
        return self._retain

    async def store(self) -> MemoryBackend:
        """The memory, to write to; its file is made when there is none.

        Raises:
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
            MemoryBackendFailed: the backend that is configured is not there.
        """
        async with self._opening:
            if self._gate is None:
                self._gate = ScopeGate(await self._open())
                self._opened.set()
                if self._store is not None and self._store.shared is not None:
                    self._store.shared.on_change = self._changed
                    self.on_change()
            return self._gate

    async def file(self) -> MemoryStore:
        """The memory in the node's file, for who looks after it; it is made when there is none.

        Raises:
            MemoryNotOffered: it is kept elsewhere.
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
        """
        if self._make_outside is not None:
            raise MemoryNotOffered(
                "this is not offered by the configured backend of the memory",
                why="it works on the file of a node, and the memory is kept elsewhere",
                fix="Use what the backend's own server offers, or the backend embedded.",
            )
        await self.store()
        if self._store is None:
            raise InvariantViolation("the memory is open without its file")
        return self._store

    @property
    def outside(self) -> bool:
        """Whether the memory is kept elsewhere than in the node's file."""
        return self._make_outside is not None

    @property
    def exists(self) -> bool:
        """Whether anything was ever remembered here; what is kept elsewhere may always be there."""
        return self.outside or self._store is not None or self._path.exists()

    async def existing(self) -> MemoryBackend | None:
        """The memory, to read, or None as long as nothing was ever written.

        Raises:
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
            MemoryBackendFailed: the backend that is configured is not there.
        """
        if not self.exists:
            await trio.lowlevel.checkpoint()
            return None
        return await self.store()

    async def upkeep(self) -> Upkeep:
        """What looks after the memory; opens it when it is not open.

        Raises:
            MemoryNotOffered: it is kept elsewhere.
            StorageFailed: the file cannot be used, or the node is stopping.
            DataDirectoryInUse: another process holds it.
        """
        await self.file()
        if self._upkeep is None:
            raise InvariantViolation("a memory is open that nobody looks after")
        return self._upkeep

    def _changed(self) -> None:
        self.on_change()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the memory once it is open; runs until cancelled."""
        task_status.started()
        if self._retain.bounded or self._make_vectors is not None:
            await self._open_what_is_there()
        await self._opened.wait()
        try:
            async with trio.open_nursery() as nursery:
                if self._outside is not None:
                    nursery.start_soon(self._outside.run)
                if self._upkeep is not None:
                    nursery.start_soon(self._upkeep.run)
                if self._vectors is not None:
                    nursery.start_soon(self._vectors.run)
        finally:
            with trio.CancelScope(shield=True), self._environment.clock.move_on_after(CLOSE_S):
                await self._let_go()

    async def _let_go(self) -> None:
        for each in (self._outside, self._vectors, self._embedder):
            if each is not None:
                await each.aclose()

    async def _open_what_is_there(self) -> None:
        """Open it although nobody asks: to forget what is due, or to tell a server what it has not heard."""
        try:
            await self.existing()
        except CaxtonError as error:  # whoever uses the memory is told, too
            log.warning("memory cannot be opened: %s", error)

    def statistics(self) -> dict[str, Any]:
        """Bytes, limits and counts; of a memory that is not open, what its file tells."""
        if self._gate is not None:
            made = self._embedder.statistics()
            kept = {} if self._upkeep is None else self._upkeep.statistics()
            return {"open": True, **self._gate.statistics(), "embedding": dict(made), "upkeep": kept}
        size = self._path.stat().st_size if self._path.exists() else 0
        return {"open": False, "bytes": size, "entities_limit": self._limits.entities}

    def close(self) -> None:
        """Let the file go; doing it twice is harmless."""
        self._closed = True
        if self._store is not None:
            self._store.storage.close()

    async def _open(self) -> MemoryBackend:
        if self._make_outside is not None:
            return await self._open_outside(self._make_outside)
        storage = await self._environment.workers.run("memory_write", self._open_file)
        try:
            embedder = await self._embed()
            from node.memory.store import MemoryStore  # noqa: PLC0415 - loaded on the thread above
            from node.memory.upkeep import Upkeep  # noqa: PLC0415

            settings = MemorySettings(self._limits, self._threshold, self._planes_bytes)
            replica = None if self._make_replica is None else self._make_replica()
            store = MemoryStore(
                storage, embedder, self._environment, node=self._node, settings=settings, replica=replica
            )
            await self._follow(store)
        except BaseException:
            storage.close()
            raise
        self._embedder, self._store = embedder, store
        self._upkeep = Upkeep(store, embedder, self._environment, path=self._path, retain=self._retain)
        return store

    async def _follow(self, store: MemoryStore) -> None:
        """Have a server of vectors told of what changes, or nobody, as it is configured now."""
        from node.memory import outbox  # noqa: PLC0415

        if self._make_vectors is not None:
            self._vectors = store.vectors = self._make_vectors(store.storage)
            await self._vectors.attach()
        elif await store.storage.read(outbox.attached):
            await store.storage.write(outbox.detach)

    async def _open_outside(
        self, make: Callable[[BackendContext], Awaitable[OutsideBackend]]
    ) -> OutsideBackend:
        if self._closed:
            raise StorageFailed("the memory is closed", why="the node is stopping")
        await self._environment.workers.run("files", importlib.import_module, "node.memory.search")
        from node.memory.backends.protocol import BackendContext  # noqa: PLC0415

        embedder = await self._embed()
        context = BackendContext(
            self._environment, self._node, embedder, limits=self._limits, threshold=self._threshold
        )
        self._outside = await make(context)
        self._embedder = embedder
        return self._outside

    async def _embed(self) -> Embedder:
        """The embedder, or one that says why there is none."""
        try:
            return await self._make_embedder()
        except EmbeddingFailed as error:
            log.warning("memory is searched by words only: %s", error)
            return AbsentEmbedder(error)

    def _open_file(self) -> Storage:
        import node.memory.upkeep  # noqa: PLC0415, F401 - numpy: 100 ms that the loop is spared
        from node.memory.schema import MEMORY  # noqa: PLC0415
        from node.storage.storage import Storage  # noqa: PLC0415

        return Storage.open(
            self._path, durability=self._durability, environment=self._environment, design=MEMORY
        )


def _nobody_listens() -> None:
    """A change of which nobody wants to hear."""
