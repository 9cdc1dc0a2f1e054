"""Text to vectors: the protocol :class:`Embedder` and what implements it."""

from node.memory.embedding.embedder import Embedder, EmbeddingModel, Vectors

__all__ = ["Embedder", "EmbeddingModel", "Vectors"]
