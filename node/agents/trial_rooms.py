"""What agents find around them where there is no node: a memory that ends with it, and built-in tools."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from node.agents.definition import AgentDefinition
from node.agents.journal import Journal
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.config import ToolsConfig
from node.environment import Environment
from node.errors import CaxtonError
from node.memory.absent import AbsentEmbedder
from node.memory.records import Limits
from node.memory.room import MemoryRoom
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import builtin_servers
from node.tools.host import ToolHost, ToolSettings

THRESHOLD: Final = 0.6
"""Least similarity of memories that are found by their meaning, were there a model."""


def trial_memory(environment: Environment, directory: Path, node: str) -> MemoryRoom:
    """A memory in a directory of the run's own, which finds by words.

    No model: a run must not take a second for loading one, and words find what a run stores.
    """
    return MemoryRoom(
        environment=environment,
        path=directory / "memory.db",
        durability="normal",
        node=node,
        limits=Limits(),
        threshold=THRESHOLD,
        make_embedder=_by_words,
    )


@asynccontextmanager
async def trial_outside(
    definition: AgentDefinition, policy: WasmPolicy, environment: Environment, node: str, journal: Journal
) -> AsyncIterator[Outside]:
    """What lies beyond the sandbox of a WebAssembly agent that is tried out, as long as the block runs.

    Args:
        definition: What its agent file grants.
        policy: Its bounds.
        environment: Clock and workers.
        node: Where it seems to run.
        journal: Takes what tools and the memory say.
    """
    tools = ToolsConfig()
    with tempfile.TemporaryDirectory(prefix="caxton-trial-") as name:
        memory = trial_memory(environment, Path(name), node)
        host = ToolHost(
            environment=environment,
            tracing=Tracing.off(),
            settings=ToolSettings.from_config(tools),
            servers=builtin_servers(memory, environment=environment, config=tools),
        )
        raised: list[CaxtonError] = []
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(memory.run)
                await nursery.start(host.run)
                try:
                    yield Outside(definition, policy, "", environment, host, memory, journal)
                except CaxtonError as error:  # as it is, not in the nursery's group
                    raised.append(error)
                nursery.cancel_scope.cancel()
        finally:
            memory.close()
        if raised:
            raise raised[0]


async def _by_words() -> AbsentEmbedder:
    await trio.lowlevel.checkpoint()
    return AbsentEmbedder()
