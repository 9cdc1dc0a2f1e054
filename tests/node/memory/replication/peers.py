"""Memories of several nodes of one cluster, and verbs to let them tell each other what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import apsw

from node.environment import SystemClock, system_environment
from node.memory.embedding import Embedder
from node.memory.records import MemorySettings
from node.memory.replication.head import Head
from node.memory.replication.operations import body_hash
from node.memory.replication.oplog import OperationLogs
from node.memory.replication.replica import Replica, Taken
from node.memory.replication.shared import SharedMemory
from node.memory.replication.wire import Page
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.security import pki
from node.security.identity import NodeCredentials
from node.storage import Storage
from tests.node.memory.stand_in import WordEmbedder
from tests.node.security.environments import seeded

NOW_S = 1_800_000_000.0


class SetClock(SystemClock):
    """A wall clock that tests set."""

    def __init__(self, wall_s: float = NOW_S) -> None:
        self.wall_s = wall_s

    def wall(self) -> float:
        return self.wall_s


class Peer:
    """One node's memory."""

    def __init__(
        self, directory: Path, credentials: NodeCredentials, embedder: Embedder, settings: MemorySettings
    ) -> None:
        self.name, self.credentials = credentials.name, credentials
        self.clock = SetClock()
        self.path = directory / f"{self.name}.db"
        self._embedder, self._settings = embedder, settings
        self.open()

    def open(self) -> None:
        """Open its file, as after a start."""
        environment = replace(system_environment(), clock=self.clock)
        self.storage = Storage.open(
            self.path,
            durability="normal",
            environment=environment,
            design=replace(MEMORY, lock=f"{self.name}.lock"),
        )
        self.replica = Replica(
            self.credentials.identity, self.credentials.authority, environment.randomness.token
        )
        self.store = MemoryStore(
            self.storage,
            self._embedder,
            environment,
            node=self.name,
            settings=self._settings,
            replica=self.replica,
        )
        assert self.store.shared is not None
        self.shared: SharedMemory = self.store.shared

    async def page_from(self, other: Peer, have: Sequence[Head] | None = None) -> Page:
        """What another tells when it is asked."""
        await other.shared.heads()
        held = await self.shared.heads() if have is None else have
        return await other.shared.page({head.name: head.seen for head in held})

    async def pull(self, other: Peer) -> list[Taken]:
        """Take everything that another has."""
        taken = []
        while (page := await self.page_from(other)).stretches:
            taken.append(await self.shared.take(page))
        return taken

    async def repair(self, other: Peer) -> None:
        """Take everything that another has, from the beginning."""
        have: list[Head] = []
        while (page := await self.page_from(other, have)).stretches:
            await self.shared.take(page)
            have += [Head(each.node, each.log, each.last, b"") for each in page.stretches]

    async def digest(self) -> str:
        return await self.shared.digest()


class Peers:
    """Nodes of one cluster by name; used as a context."""

    def __init__(
        self, directory: Path, *names: str, settings: MemorySettings | None = None, seed: int = 1
    ) -> None:
        self._directory, self._settings = directory, settings or MemorySettings()
        self._environment, _ = seeded(seed)
        self._secrets = pki.new_cluster(self._environment, "prod")
        self.peers: dict[str, Peer] = {}
        for name in names:
            self.add(name)

    def add(
        self,
        name: str,
        *,
        embedder: Embedder | None = None,
        settings: MemorySettings | None = None,
        credentials: NodeCredentials | None = None,
    ) -> Peer:
        made = credentials or self.credentials(name)
        peer = Peer(self._directory, made, embedder or WordEmbedder(), settings or self._settings)
        self.peers[name] = peer
        return peer

    def credentials(self, name: str) -> NodeCredentials:
        return NodeCredentials.ephemeral(name, self._environment, secrets=self._secrets)

    def __getitem__(self, name: str) -> Peer:
        return self.peers[name]

    async def converge(self) -> None:
        """Let everybody pull from everybody until nobody has anything new."""
        for _ in range(2):
            for peer in self.peers.values():
                for other in self.peers.values():
                    if other is not peer:
                        await peer.pull(other)

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self.peers.values():
            peer.storage.close()


async def held_texts(peer: Peer) -> list[str]:
    """All texts that it holds."""
    sql = "SELECT text FROM observations ORDER BY text"
    return await peer.storage.read(lambda c: [text for (text,) in c.execute(sql)])


async def unproven(peer: Peer) -> list[str]:
    """Operations, of those that are signed, which it cannot pass on, and logs whose end it cannot tell."""

    def query(connection: apsw.Connection) -> list[str]:
        found = []
        for log in OperationLogs(connection).all():
            proven, last = set(), 0
            for proof, operations in OperationLogs(connection).proofs(log, 0):
                assert all(proof.hash_of(seq) == body_hash(body) for seq, body in operations)
                proven |= set(operations)
                last = max(last, proof.last)
            held = set(
                connection.execute(
                    "SELECT seq, body FROM operations WHERE log = ? AND seq <= ?", (log.key, log.sealed)
                )
            )
            found += [f"{log.node} {seq}" for seq, _ in sorted(held - proven)]
            found += [f"{log.node} ends at {last}, not {log.sealed}"] if last != log.sealed else []
        return found

    return await peer.storage.read(query)
