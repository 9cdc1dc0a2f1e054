"""The backends that the suite holds to the same."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from node.environment import Environment, system_environment
from node.memory.backends.gate import ScopeGate
from node.memory.backends.neo4j.backend import Neo4jBackend
from node.memory.backends.neo4j.server import GraphClient, GraphServer
from node.memory.backends.protocol import BackendContext, MemoryBackend
from node.memory.backends.qdrant.client import QdrantClient, QdrantServer
from node.memory.backends.qdrant.index import QdrantIndex
from node.memory.records import Limits
from node.memory.schema import MEMORY
from node.memory.scopes import EVERYWHERE, OPERATOR
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


NEO4J = pytest.mark.skipif(
    "CAXTON_TEST_NEO4J_URI" not in os.environ,
    reason="CAXTON_TEST_NEO4J_URI names no Neo4j server; scripts/neo4j_server/run starts one",
)
QDRANT = pytest.mark.skipif(
    "CAXTON_TEST_QDRANT_URL" not in os.environ, reason="CAXTON_TEST_QDRANT_URL names no Qdrant server"
)
# Marks, for what an asynchronous fixture says when it skips a test is lost.


@pytest.fixture(
    params=[
        "embedded",
        "qdrant",
        pytest.param("qdrant server", marks=QDRANT),
        pytest.param("neo4j", marks=NEO4J),
    ]
)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, environment: Environment, embedder: WordEmbedder
) -> AsyncIterator[Place]:
    if request.param == "neo4j":
        graph = await make_graph(environment, embedder)
        yield Place(ScopeGate(graph), graph, trio.lowlevel.checkpoint)
        await graph.aclose()
        return
    storage = Storage.open(
        tmp_path / "memory.db", durability="normal", environment=environment, design=MEMORY
    )
    store = MemoryStore(storage, embedder, environment, node="n1")
    try:
        if request.param == "embedded":
            yield Place(ScopeGate(store), store, trio.lowlevel.checkpoint)
            return
        shim = None if request.param == "qdrant server" else QdrantShim(tmp_path / "qdrant")
        index = make_index(storage, environment, shim)
        await index.attach()
        store.vectors = index
        yield Place(ScopeGate(store), store, lambda: pushed(index))
        assert index.statistics()["failures"] == 0
        if shim is None:
            await leave_nothing(index)
        else:
            shim.close()
        await index.aclose()
    finally:
        storage.close()


async def make_graph(environment: Environment, embedder: WordEmbedder) -> Neo4jBackend:
    """An empty graph on the server that ``CAXTON_TEST_NEO4J_URI`` names; everything of Caxton goes."""
    uri = os.environ["CAXTON_TEST_NEO4J_URI"]
    user, password = (
        os.environ.get("CAXTON_TEST_NEO4J_USER", ""),
        os.environ.get("CAXTON_TEST_NEO4J_PASSWORD", ""),
    )
    client = GraphClient(GraphServer(uri, user, password, timeout_s=30.0), environment)
    graph = Neo4jBackend(client, BackendContext(environment, "n1", embedder, Limits(), 0.3))
    await graph.clear(OPERATOR, EVERYWHERE)
    await client.write(lambda tx: tx.run("MATCH (q:CaxtonRequest) DELETE q").consume())
    return graph


def make_index(
    storage: Storage,
    environment: Environment,
    shim: QdrantShim | None,
    dimension: int = 384,
    target: str = "shim",
) -> QdrantIndex:
    """What tells a server, or the one that ``CAXTON_TEST_QDRANT_URL`` names."""
    url = "http://127.0.0.1:6333" if shim is not None else os.environ["CAXTON_TEST_QDRANT_URL"]
    server = QdrantServer(url, os.environ.get("CAXTON_TEST_QDRANT_KEY", ""))
    client = QdrantClient(server, environment, transport=shim)
    return QdrantIndex(
        storage,
        client,
        environment,
        node="n1",
        collection="caxton",
        dimension=dimension,
        target=target,
    )


async def leave_nothing(index: QdrantIndex) -> None:
    """Leave nothing on a server of others."""
    for name in await index._client.collections():
        if name.startswith(index._prefix):
            await index._client.drop(name)


async def pushed(index: QdrantIndex) -> None:
    while await index.push():
        pass
