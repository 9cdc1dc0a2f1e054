"""What computes vectors, underneath what collects texts for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.errors import EmbeddingFailed
from node.memory.embedding.embedder import EmbeddingModel, Vectors


class TextRefused(EmbeddingFailed):
    """The engine works, and refuses one of these texts: others may have been hurt by it."""


@dataclass(frozen=True, slots=True)
class Portion:
    """How much an engine is given at once.

    Attributes:
        texts: Most texts of one run.
        characters: Most characters of one run; a single text may exceed it.
        text_characters: Characters of one text that count, the first ones.
    """

    texts: int
    characters: int
    text_characters: int


class Engine(Protocol):
    """Computes vectors, one run at a time."""

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""

    @property
    def portion(self) -> Portion:
        """How much one run takes."""

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """The vectors of a portion of texts; each depends on its text alone.

        Raises:
            EmbeddingFailed: the model does not answer.
        """

    def statistics(self) -> dict[str, int | float | str]:
        """Counts and sizes."""

    async def aclose(self) -> None:
        """Let go of what is held; the engine is not used again."""
