"""The embedder of a node that has no model: every call fails, so the memory is searched by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from node.errors import EmbeddingFailed

if TYPE_CHECKING:
    from node.memory.embedding import EmbeddingModel, Vectors


class AbsentEmbedder:
    """Says why there are no vectors.

    Args:
        error: Why; a setting, by default.
    """

    def __init__(self, error: EmbeddingFailed | None = None) -> None:
        self._error = error or EmbeddingFailed(
            "this node makes no vectors",
            why="memory.embedding.provider is none",
            fix="Search by words, or configure a model.",
        )

    @property
    def model(self) -> EmbeddingModel:
        """There is none.

        Raises:
            EmbeddingFailed: always.
        """
        raise self._error

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """There are no vectors.

        Raises:
            EmbeddingFailed: always.
        """
        del texts
        raise self._error

    def statistics(self) -> dict[str, int | float | str]:
        """There is nothing to count."""
        return {}

    async def aclose(self) -> None:
        """There is nothing to let go of."""
        await trio.lowlevel.checkpoint()
