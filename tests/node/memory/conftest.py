from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.environment import Environment, SystemClock, system_environment
from node.memory.records import MemorySettings
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage
from tests.node.memory.stand_in import WordEmbedder


class SetClock(SystemClock):
    """A wall clock that a test sets."""

    wall_s = 1_800_000_000.0

    def wall(self) -> float:
        return self.wall_s


@pytest.fixture
def environment() -> Environment:
    return replace(system_environment(), clock=SetClock())


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def open_memory(
    tmp_path: Path, environment: Environment, embedder: WordEmbedder
) -> Iterator[Callable[..., MemoryStore]]:
    opened: list[Storage] = []

    def open_(settings: MemorySettings | None = None, name: str = "memory.db", **options: Any) -> MemoryStore:
        storage = Storage.open(
            tmp_path / name,
            **({"durability": "normal", "environment": environment, "design": MEMORY} | options),
        )
        opened.append(storage)
        return MemoryStore(storage, embedder, environment, node="n1", settings=settings)

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
def memory(open_memory: Callable[..., MemoryStore]) -> MemoryStore:
    return open_memory()
