"""The protocol of everything that turns text into vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if (
    TYPE_CHECKING
):  # importing numpy takes longer than a node's whole command line; who never embeds never waits
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"
"""One row per text, float32, of length 1; the row of a text without any token is all zeros."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """Which space vectors live in: those of two models are never compared.

    Attributes:
        name: For people, such as ``all-MiniLM-L6-v2-int8``.
        digest: SHA-256 in hex of all that decides the vector of a text: weights, vocabulary and their use.
        dimension: Numbers in one vector.
    """

    name: str
    digest: str
    dimension: int


class Embedder(Protocol):
    """Turns text into vectors of one space."""

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed ``texts``, off the event loop where that takes long; equal texts have equal vectors.

        Args:
            texts: Any number of any length; what exceeds the model's limit of tokens does not count.

        Returns:
            Shape ``(len(texts), model.dimension)``; see :data:`Vectors`.

        Raises:
            EmbeddingFailed: the model does not answer.
            ResourceLimitExceeded: too many texts wait to be embedded.
        """

    def statistics(self) -> Mapping[str, int | float | str]:
        """Counts and sizes."""

    async def aclose(self) -> None:
        """Let go of the model."""
