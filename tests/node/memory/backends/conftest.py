"""The backends that the suite holds to the same."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from node.environment import Environment, system_environment
from node.memory.backends.gate import ScopeGate
from node.memory.backends.protocol import MemoryBackend
from node.memory.backends.qdrant.client import QdrantClient, QdrantServer
from node.memory.backends.qdrant.index import QdrantIndex
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage
from tests.node.memory.backends.qdrant_shim import QdrantShim
from tests.node.memory.conftest import SetClock
from tests.node.memory.stand_in import WordEmbedder


class InlineWorkers:
    """Work done at once: a virtual clock would run ahead of threads."""

    async def run(self, lane: str, job: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return job(*args)


@pytest.fixture
def environment() -> Environment:
    return replace(system_environment(), clock=SetClock(), workers=InlineWorkers())


@dataclass
class Place:
    """One backend under test: as the node uses it, and as it is without the gate.

    ``settle`` waits until whatever is behind it has heard of everything.
    """

    gate: ScopeGate
    backend: MemoryBackend
    settle: Callable[[], Awaitable[Any]]


@pytest.fixture(params=["embedded", "qdrant"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, environment: Environment, embedder: WordEmbedder
) -> AsyncIterator[Place]:
    storage = Storage.open(
        tmp_path / "memory.db", durability="normal", environment=environment, design=MEMORY
    )
    store = MemoryStore(storage, embedder, environment, node="n1")
    try:
        if request.param == "embedded":
            yield Place(ScopeGate(store), store, trio.lowlevel.checkpoint)
            return
        shim = QdrantShim(tmp_path / "qdrant")
        index = make_index(storage, environment, shim)
        await index.attach()
        store.vectors = index
        yield Place(ScopeGate(store), store, lambda: pushed(index))
        assert index.statistics()["failures"] == 0
        await index.aclose()
        shim.close()
    finally:
        storage.close()


def make_index(
    storage: Storage, environment: Environment, shim: QdrantShim, dimension: int = 384, target: str = "shim"
) -> QdrantIndex:
    client = QdrantClient(QdrantServer("http://127.0.0.1:6333"), environment, transport=shim)
    return QdrantIndex(
        storage,
        client,
        environment,
        node="n1",
        collection="caxton",
        dimension=dimension,
        target=target,
    )


async def pushed(index: QdrantIndex) -> None:
    while await index.push():
        pass
