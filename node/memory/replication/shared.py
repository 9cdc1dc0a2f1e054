"""What is shared of a node's memory, as the task that exchanges it sees it: pages out, pages in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import apsw

from node.environment import Environment
from node.memory.embedding import EmbeddingModel
from node.memory.indexes import index_postponed
from node.memory.records import Limits
from node.memory.replication.digest import state_digest
from node.memory.replication.head import DIGEST_BYTES, LOGS_LIMIT, Head, LogName
from node.memory.replication.journal import Journal
from node.memory.replication.merge import Merger
from node.memory.replication.oplog import FORGOTTEN_LIMIT, OperationLogs, keep_meta, read_meta
from node.memory.replication.replica import (
    AWAY_S,
    Replica,
    Taken,
    heads,
    page_for,
)
from node.memory.replication.wire import Heading, Page
from node.memory.rows import Rows
from node.memory.scopes import REPLICA, Scoped
from node.storage.query import number
from node.storage.storage import Storage

INDEX_STEP: Final = 100
"""Vectors that are indexed in one step: others write between two."""
TIDY_STEP: Final = 1_000
"""Most forgettings that one step of tidying takes out."""
IN_STEP_EVERY_S: Final = 3_600.0
"""How often it is written down that this node was in step with a peer, in seconds."""
_IN_STEP: Final = "in_step_s"


@dataclass(slots=True)
class SharedMemory:
    """The logs of an open memory.

    Args:
        storage: The memory's file.
        environment: Time.
        replica: Who this node is, and whom it believes.
        limits: How much is remembered at most.
        model: The model of the vectors that are searched here, or None while there is none.
        on_change: Called after this node has said something.
    """

    storage: Storage
    environment: Environment
    replica: Replica
    limits: Limits
    model: Callable[[], EmbeddingModel | None]
    on_change: Callable[[], None] = lambda: None
    _in_step_s: float = field(default=0.0, init=False)

    def journal(self, connection: apsw.Connection) -> Journal:
        """Where a writer's job puts down what it does."""
        return self.replica.journal(connection, self.environment.clock.wall())

    async def heads(self) -> list[Head]:
        """How much of each log is held, after what was said here is signed.

        Raises:
            StorageFailed: the disk refused.
        """
        wall = self.environment.clock.wall()

        def job(connection: apsw.Connection) -> list[Head]:
            self.replica.seal(connection, wall)
            return heads(connection)

        return await self.storage.write(job)

    async def page(self, have: Mapping[LogName, int]) -> Page:
        """What a peer does not hold, as much as a page takes.

        Raises:
            StorageFailed: the disk refused.
        """
        return await self.storage.read(partial(page_for, have=have))

    async def take(self, page: Page) -> Taken:
        """Believe what a page proves; it is on disk when this returns.

        Raises:
            PageRefused: something in it was not said by the node that it names; nothing was taken.
            Stalled: a log of it cannot be followed for now; nothing was taken.
            StorageFailed: the disk refused.
        """
        wall, model = self.environment.clock.wall(), self.model()
        return await self.storage.write(lambda c: self.replica.take(c, page, self.limits, model, wall))

    async def was_away(self) -> bool:
        """Whether this node was out of step for so long that others have forgotten what to forget."""
        found = await self.storage.read(lambda c: read_meta(c, _IN_STEP))
        return found is not None and self.environment.clock.wall() - float(found) > AWAY_S

    async def start_again(self, peer: Sequence[Heading]) -> list[Head]:
        """Give up what a peer knows better, so that it comes again; see :meth:`Replica.start_again`.

        Raises:
            StorageFailed: the disk refused.
        """
        wall = self.environment.clock.wall()
        found = await self.storage.write(lambda c: self.replica.start_again(c, peer, self.limits, wall))
        await self.in_step(force=True)
        return found

    async def in_step(self, *, force: bool = False) -> None:
        """Note that nothing is missing that a peer has.

        Raises:
            StorageFailed: the disk refused.
        """
        now_s = self.environment.clock.wall()
        if force or now_s - self._in_step_s >= IN_STEP_EVERY_S:
            self._in_step_s = now_s
            await self.storage.write(lambda c: keep_meta(c, _IN_STEP, now_s))

    async def finish_forgetting(self) -> None:
        """Take out what a process that died was about to forget: it goes in steps, and its word is the first.

        Raises:
            StorageFailed: the disk refused.
        """
        wall = self.environment.clock.wall()

        def job(connection: apsw.Connection) -> None:
            scoped = Scoped(connection, REPLICA)
            found = scoped.rows(
                "SELECT e.id FROM operations o CROSS JOIN {entities} e ON e.id = o.element"
                " WHERE o.kind >= 6 AND o.kind = 6"
            )
            logs = self.replica.journal(connection, wall).logs
            Merger(Rows(connection, scoped, self.limits), logs).refresh(id_ for (id_,) in found)

        await self.storage.write(job)

    async def index_vectors(self) -> bool:
        """Index some of the vectors that came from others; says whether there may be more.

        Raises:
            StorageFailed: the disk refused.
        """
        return await self.storage.write(partial(index_postponed, limit=INDEX_STEP)) == INDEX_STEP

    async def tidy(self) -> None:
        """Let go of what was forgotten long ago.

        Raises:
            StorageFailed: the disk refused.
        """
        wall = self.environment.clock.wall()

        def step(connection: apsw.Connection) -> int:
            logs = OperationLogs(connection)
            gone = logs.forget_old(wall, TIDY_STEP)
            logs.flush()
            return gone

        while await self.storage.write(step):
            pass

    async def digest(self) -> str:
        """One digest of everything that is shared; it reads all of it."""
        return await self.storage.read(state_digest)

    async def statistics(self) -> dict[str, Any]:
        """The logs, how many operations of each hold, and their digests."""

        def query(connection: apsw.Connection) -> dict[str, Any]:
            every = OperationLogs(connection).all()
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for log in every:
                digest.update(repr(tuple(log.head)).encode())
            return {
                "digest": digest.hexdigest(),
                "origins": [
                    {
                        "node": log.node,
                        "log": log.log.hex(),
                        "seen": log.seen,
                        "operations": log.operations,
                        "bytes": log.bytes,
                        "digest": log.head.digest.hex(),
                    }
                    for log in every
                ],
                "logs": len(every),
                "logs_limit": LOGS_LIMIT,
                "operations": sum(log.operations for log in every),
                "bytes": sum(log.bytes for log in every),
                "forgotten": number(connection, "SELECT count(*) FROM operations WHERE kind >= 6"),
                "forgotten_limit": FORGOTTEN_LIMIT,
            }

        return await self.storage.read(query)
