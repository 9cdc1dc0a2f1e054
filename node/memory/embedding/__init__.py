"""Text to vectors: the protocol :class:`Embedder` and what implements it."""

from node.memory.embedding.coalescing import CoalescingEmbedder
from node.memory.embedding.embedder import Embedder, EmbeddingModel, Vectors
from node.memory.embedding.factory import AnyEmbedder, make_embedder
from node.memory.embedding.hashing import HashEmbedder
from node.memory.embedding.settings import EmbeddingSettings

__all__ = [
    "AnyEmbedder",
    "CoalescingEmbedder",
    "Embedder",
    "EmbeddingModel",
    "EmbeddingSettings",
    "HashEmbedder",
    "Vectors",
    "make_embedder",
]
