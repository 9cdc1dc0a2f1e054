"""Keeps the vectors of a memory in Qdrant, and asks it what is near.

Theory of operation. The node's file has everything: texts, relations, and each vector as whole numbers of 8
bits. Qdrant has a copy of the vectors, each with the number of its realm and nothing else, so what a
server gets to see are numbers; an answer is a list of row keys, which become candidates of a search. They
are read through the scopes of who asks and compared anew from the rows, so a server that is late, or wrong,
can leave something out but shows nothing that is not to be seen. What it has not heard of yet
(:mod:`node.memory.outbox`) is a candidate, too: who stores something finds it at once.

While the server does not answer, searches go on as they do without one, by the signs of the vectors in the
file. A collection belongs to one node's file and one model; spaces are never mixed, and a collection of
another dimension is refused. When the file is opened the numbers of vectors are compared, and where the
server has others it is told of everything once more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Final

import apsw
import trio

from node.environment import Environment
from node.errors import MemoryBackendFailed, StorageFailed
from node.memory import outbox
from node.memory.backends.qdrant.client import Point, QdrantClient
from node.memory.embedding import EmbeddingModel
from node.memory.outbox import Change
from node.memory.rows import OBSERVATIONS_LIMIT
from node.memory.scopes import Aim, Scoped, Viewer
from node.memory.vectors import Vector
from node.storage.storage import Storage

log = logging.getLogger(__name__)

CANDIDATES: Final = 256
"""Vectors that the server is asked for."""
UNHEARD_LIMIT: Final = 2_000
"""Most observations that the server has not heard of and a search compares itself, the newest."""
REALMS_LIMIT: Final = 1_000
"""Most realms that a search names; one that means more is answered from the file."""
LOOK_EVERY_S: Final = 1.0
"""Pause between two looks at the outbox, in seconds."""
AGAIN_LIMIT_S: Final = 30.0
"""Longest pause after the server has failed, in seconds; the first is as long as between two looks."""


class QdrantIndex:
    """The vectors of one memory in Qdrant; see the module's docstring.

    Args:
        storage: The memory's file.
        client: Speaks with the server.
        environment: Time.
        node: Name of this node.
        collection: What the names of all collections begin with.
        dimension: Numbers in a vector, as they are configured.
        target: What the server is known by: another one has to be told of everything.
    """

    def __init__(
        self,
        storage: Storage,
        client: QdrantClient,
        environment: Environment,
        *,
        node: str,
        collection: str,
        dimension: int,
        target: str,
    ) -> None:
        self._storage = storage
        self._client = client
        self._clock = environment.clock
        self._dimension = dimension
        # A copy of the file on another node has a collection of its own.
        own = hashlib.sha256(f"{node} {storage.storage_id}".encode()).hexdigest()[:12]
        self._prefix = f"{collection}-{own}-"
        self._target = f"{target} {self._prefix} {dimension}"
        self._known: dict[str, bool] = {}
        self._state, self._error = "starting", ""
        self._waiting, self._is_sure = 0, False
        self._counts = {
            "pushed": 0,
            "taken_out": 0,
            "refused": 0,
            "failures": 0,
            "searches": 0,
            "searches_without": 0,
        }

    async def attach(self) -> None:
        """Have all changes put down from now on.

        Raises:
            StorageFailed: the disk refused.
        """
        fresh = await self._storage.write(lambda c: outbox.attach(c, self._target))
        if fresh:
            log.info("the vectors of the memory are copied to Qdrant")

    async def tell_all(self) -> None:
        """Put everything down, as after a backup was put back, of which the server knows nothing.

        Raises:
            StorageFailed: the disk refused.
        """
        await self._storage.write(outbox.refill)

    async def candidates(
        self, viewer: Viewer, aim: Aim, model: EmbeddingModel, vector: Vector, *, past: bool
    ) -> list[int] | None:
        """Keys of observations that may be near, not in order; None when only the file can tell.

        Args:
            viewer: Who asks.
            aim: In which scopes.
            model: Of the vector.
            vector: Of the question.
            past: Whether what no longer holds is asked for, too.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            StorageFailed: the disk refused.
        """

        def look(connection: apsw.Connection) -> tuple[list[int] | None, list[int]]:
            realms = Scoped(connection, viewer, aim).numbers
            return realms, outbox.waiting(connection, UNHEARD_LIMIT + 1)

        # First what the server has not heard of, then the server: what it hears between is in one of the two.
        realms, unheard = await self._storage.read(look)
        if realms == []:
            return []
        if len(unheard) > UNHEARD_LIMIT or (realms is not None and len(realms) > REALMS_LIMIT):
            self._counts["searches_without"] += 1
            return None
        try:
            self._require(model)
            found = await self._client.nearest(
                self._named(model.digest), vector.tolist(), realms, past=past, limit=CANDIDATES
            )
        except MemoryBackendFailed as error:
            self._fail(error)
            self._counts["searches_without"] += 1
            return None
        if found is None:  # not made yet, or taken out by somebody
            self._is_sure = False
            self._counts["searches_without"] += 1
            return None
        self._counts["searches"] += 1
        return [*found, *unheard]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell the server what has changed; runs until cancelled."""
        task_status.started()
        wait_s = LOOK_EVERY_S
        while True:
            try:
                while await self.push():
                    self._state = "behind"
                if not self._is_sure and not await self.compare():
                    continue
                self._state, self._error, wait_s = "ok", "", LOOK_EVERY_S
                await self._clock.sleep(wait_s)
            except (MemoryBackendFailed, StorageFailed, apsw.Error) as error:  # a sick disk ends no node
                self._fail(error)
                await self._clock.sleep(wait_s)
                wait_s = min(2 * wait_s, AGAIN_LIMIT_S)

    async def compare(self) -> bool:
        """Hold the server's numbers of vectors against the file's, and put everything down where they differ.

        Returns:
            Whether they were the same.

        Raises:
            MemoryBackendFailed: the server does not answer.
            StorageFailed: the disk refused.
        """
        names = {self._named(digest) for digest in await self._indexed()}
        for name in await self._client.collections():
            if name.startswith(self._prefix) and name not in names:
                await self._client.drop(name)
        self._is_sure = True
        if await self._storage.read(outbox.length) or await self._agrees():
            return True
        log.warning("Qdrant has other vectors than the memory's file: it is told of all of them again")
        self._known.clear()
        await self._storage.write(outbox.refill)
        return False

    async def push(self) -> bool:
        """Tell the server of some changes; says whether there may be more.

        Raises:
            MemoryBackendFailed: the server does not answer, or its vectors have another dimension.
            StorageFailed: the disk refused.
        """
        changes = await self._storage.read(outbox.changes)
        self._waiting = await self._storage.read(outbox.length) if changes else 0
        if not changes:
            return False
        by_model: dict[str, list[Change]] = {}
        for each in changes:
            by_model.setdefault(each.digest, []).append(each)
        for digest, some in by_model.items():
            if not digest:
                continue
            if len(some[0].vector) != self._dimension:  # of a model before this one, or of a wrong one
                self._counts["refused"] += len(some)
                continue
            await self._make(digest)
            points = [Point(each.key, each.vector, each.realm) for each in some]
            await self._client.upsert(self._named(digest), points)
            self._counts["pushed"] += len(some)
        await self._take_out(changes)
        await self._storage.write(lambda c: outbox.told(c, [each.change for each in changes]))
        self._waiting -= len(changes)
        return True

    def statistics(self) -> dict[str, Any]:
        """What the server has not heard of, counts since the start, and whether it answers."""
        return {
            "backend": "qdrant",
            "state": self._state,
            "error": self._error or None,
            "waiting": self._waiting,
            "waiting_limit": OBSERVATIONS_LIMIT,
            **self._counts,
            **self._client.statistics(),
        }

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _agrees(self) -> bool:
        """Whether the server has as many vectors of each model as the file."""
        wanted = await self._indexed()
        there = {digest: await self._client.count(self._named(digest)) for digest in wanted}
        if there == wanted:
            return True
        findable = await self._storage.read(lambda c: outbox.findable(c, self._dimension))
        return there == {digest: findable.get(digest, 0) for digest in wanted}

    async def _indexed(self) -> dict[str, int]:
        """Digest of each model that the server is told of -> vectors of it in the file."""
        return await self._storage.read(lambda c: outbox.indexed(c, self._dimension))

    async def _take_out(self, changes: Sequence[Change]) -> None:
        """Take vectors out of the collections that they are no longer in."""
        for digest in await self._indexed():
            gone = [each.key for each in changes if each.digest != digest]
            if gone:
                await self._client.delete(self._named(digest), gone)
                self._counts["taken_out"] += len(gone)

    async def _make(self, digest: str) -> None:
        """Make sure that there is a collection for a model.

        Raises:
            MemoryBackendFailed: it has another dimension.
        """
        name = self._named(digest)
        if name in self._known:
            return
        found = await self._client.dimension(name)
        if found is None:
            await self._client.make(name, self._dimension)
        elif found != self._dimension:
            raise MemoryBackendFailed(
                f"the Qdrant collection {name} has vectors of {found} numbers",
                why=f"those of the model have {self._dimension}",
                fix="Take the collection out; it is made anew.",
            )
        self._known[name] = True

    def _require(self, model: EmbeddingModel) -> None:
        if model.dimension != self._dimension:
            raise MemoryBackendFailed(
                f"vectors of {model.dimension} numbers are not sent to Qdrant",
                why=f"memory.qdrant.vector_size is {self._dimension}",
                fix=f"Set it to {model.dimension}, or configure a model of that size.",
            )

    def _named(self, digest: str) -> str:
        return f"{self._prefix}{digest[:16]}"

    def _fail(self, error: Exception) -> None:
        if self._state != "failed":
            log.warning("the memory is searched without Qdrant: %s", error)
        self._state, self._error = "failed", str(error)
        self._counts["failures"] += 1
        self._is_sure = False
        self._known.clear()
