"""WebAssembly agents for benchmarks: without a bus, in runtimes that share a compiled cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from benchmarks.report import PROJECT
from node.agents.journal import Journal
from node.agents.wasm import Grant, WasmAgent, WasmPolicy, WasmRuntime
from node.environment import system_environment
from node.message import Message
from node.messaging.delivery import Delivery
from node.storage.storage import Storage
from node.telemetry.tracing import Tracing
from node.vocabulary import Performative

ECHO: Final = PROJECT / "configs" / "agents" / "echo.wat"
POLICY: Final = WasmPolicy(frozenset(Grant), fuel=2_000_000_000, timeout_s=5.0, memory_bytes=64 * 1024 * 1024)
MESSAGE: Final = Message(
    id="message-1",
    performative=Performative.REQUEST,
    sender="client@node-1",
    capability="echo",
    content="x" * 100,
    conversation_id="conversation-1",
    reply_with="message-1",
)
DELIVERY: Final = Delivery(MESSAGE, "node-1", "", 1, 0, None)
environment = system_environment()


def runtime(storage: Storage | None = None, cache: Path | None = None) -> WasmRuntime:
    """A runtime of its own."""
    return WasmRuntime(environment, "node-1", Tracing.off(), storage, None, cache)


async def load(
    shared: WasmRuntime, source: bytes, agent: str, policy: WasmPolicy = POLICY, sha256: str = ""
) -> WasmAgent:
    """An agent in a sandbox."""
    journal = Journal(environment.clock, 100)
    return await shared.load(source, agent=agent, journal=journal, policy=policy, sha256=sha256)


@asynccontextmanager
async def cached(directory: Path) -> AsyncIterator[Callable[[], WasmRuntime]]:
    """Makes runtimes that share a database and a cache of compiled modules."""
    storage = Storage.open(directory / "caxton.db", durability="normal", environment=environment)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        yield lambda: runtime(storage, directory / "cache")
        nursery.cancel_scope.cancel()
    storage.close()
