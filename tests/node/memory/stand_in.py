"""An embedder without a model: words hashed to directions, so that texts that share words are near."""

import hashlib
from collections.abc import Sequence

import numpy as np

from node.errors import EmbeddingFailed
from node.memory.embedding import EmbeddingModel, Vectors


class WordEmbedder:
    """Deterministic; fails while ``broken`` is set, and answers ``answer`` where one is given."""

    def __init__(self, name: str = "words", dimension: int = 384) -> None:
        self.model = EmbeddingModel(name, hashlib.sha256(name.encode()).hexdigest(), dimension)
        self.broken = False
        self.answer: Vectors | None = None
        self.calls = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        if self.broken:
            raise EmbeddingFailed("the embedder is broken", why="a test broke it")
        if self.answer is not None:
            return self.answer
        return np.stack([self._vector(text) for text in texts])

    def statistics(self) -> dict[str, int]:
        return {"calls": self.calls}

    async def aclose(self) -> None:
        self.closed = True

    def _vector(self, text: str) -> np.ndarray:
        found = np.zeros(self.model.dimension, np.float32)
        for word in text.lower().replace("(", " ").replace(")", " ").replace(":", " ").split():
            seed = int.from_bytes(hashlib.sha256(f"{self.model.name} {word}".encode()).digest()[:8], "big")
            found += np.random.default_rng(seed).standard_normal(self.model.dimension).astype(np.float32)
        length = float(np.linalg.norm(found))
        return found / length if length else found
