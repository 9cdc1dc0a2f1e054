"""Which embedder a node has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

CACHE_ENTRIES: Final = 2_048
"""Vectors kept for texts that come again; of the built-in model 1.6 KB each."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The settings of :func:`node.memory.embedding.factory.make_embedder`.

    Attributes:
        provider: ``builtin`` is the model that ships, ``onnx`` a folder of sentence-transformers, ``http`` an
            endpoint, ``hash`` no model at all.
        path: The folder, for ``onnx``.
        url: What ``/embeddings`` is appended to, for ``http``.
        model: The model's name there, for ``http``.
        dimension: Numbers in its vectors, for ``http``.
        api_key: Sent as a bearer token, for ``http``.
        timeout_s: For one attempt, from connecting to the end of the answer, for ``http``.
        threads: Threads that share one text, for ``builtin`` and ``onnx``.
        cache_entries: Vectors kept for texts that come again.
    """

    provider: Literal["builtin", "onnx", "http", "hash"] = "builtin"
    path: Path | None = None
    url: str = ""
    model: str = ""
    dimension: int = 0
    api_key: str = field(default="", repr=False)
    timeout_s: float = 30.0
    threads: int = 1
    cache_entries: int = CACHE_ENTRIES
