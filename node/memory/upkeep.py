"""What looks after an open memory: its vectors, and all that operators ask for beside reading and writing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from node.environment import Environment
from node.memory.reembedding import Reembedding

if TYPE_CHECKING:
    from node.memory.embedding import Embedder
    from node.memory.store import MemoryStore


class Upkeep:
    """The keeping of one memory.

    Args:
        store: The memory.
        embedder: Makes its vectors.
        environment: Time and workers.
    """

    def __init__(self, store: MemoryStore, embedder: Embedder, environment: Environment) -> None:
        self.store = store
        self.reembedding = Reembedding(store.storage, embedder, environment)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is due in the background; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.store.storage.run)
            nursery.start_soon(self.reembedding.run)
            task_status.started()

    def statistics(self) -> dict[str, Any]:
        """Counts of everything that is done in the background."""
        return {"reembedding": self.reembedding.statistics()}
