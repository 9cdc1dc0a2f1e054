from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.environment import Environment, system_environment
from node.storage import Storage


@pytest.fixture
def environment() -> Environment:
    return system_environment()


@pytest.fixture
def open_storage(tmp_path: Path, environment: Environment) -> Iterator[Callable[..., Storage]]:
    opened: list[Storage] = []

    def open_(name: str = "caxton.db", **options: Any) -> Storage:
        storage = Storage.open(
            tmp_path / name, **({"durability": "normal", "environment": environment} | options)
        )
        opened.append(storage)
        return storage

    yield open_
    for storage in opened:
        storage.close()
