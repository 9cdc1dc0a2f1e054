"""A node's memory, for the agents that may use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.environment import system_environment
from node.memory.embedding import EmbeddingSettings, make_embedder
from node.memory.records import Limits
from node.memory.room import MemoryRoom


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[MemoryRoom]:
    environment = system_environment()
    room = MemoryRoom(
        environment=environment,
        path=tmp_path / "memory.db",
        durability="normal",
        node="node-1",
        limits=Limits(),
        threshold=0.3,
        make_embedder=lambda: make_embedder(EmbeddingSettings(provider="hash"), environment),
    )
    yield room
    room.close()
