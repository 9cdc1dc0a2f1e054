"""From settings to an embedder."""

from __future__ import annotations

from typing import TypeAlias
from urllib.parse import urlsplit

from node.environment import Environment
from node.errors import EmbeddingFailed
from node.memory.embedding.coalescing import CoalescingEmbedder
from node.memory.embedding.engine import Engine
from node.memory.embedding.folder import DIMENSION_LIMIT, bundled, read_folder
from node.memory.embedding.hashing import HashEmbedder
from node.memory.embedding.http_engine import Endpoint, HttpEngine
from node.memory.embedding.onnx_engine import OnnxEngine
from node.memory.embedding.settings import EmbeddingSettings

AnyEmbedder: TypeAlias = CoalescingEmbedder | HashEmbedder
"""An :class:`~node.memory.embedding.embedder.Embedder` with ``statistics()`` and ``aclose()``."""


async def make_embedder(settings: EmbeddingSettings, environment: Environment) -> AnyEmbedder:
    """The embedder that ``settings`` ask for; its model is known, and loaded when the first text comes.

    Args:
        settings: What is asked for.
        environment: Its workers hash the files of a model (lane ``files``) and run it (lane ``model``).

    Raises:
        EmbeddingFailed: the model is not there, or the settings do not say enough.
    """
    if settings.provider == "hash":
        return HashEmbedder()
    return CoalescingEmbedder(await _engine(settings, environment), cache_entries=settings.cache_entries)


async def _engine(settings: EmbeddingSettings, environment: Environment) -> Engine:
    if settings.provider == "http":
        return HttpEngine(_endpoint(settings), environment.workers, environment.clock)
    if settings.provider == "onnx":
        if settings.path is None:
            raise _incomplete("path", "the folder of the model")
        folder = await environment.workers.run("files", read_folder, settings.path)
    else:
        folder = await environment.workers.run("files", bundled)
    return OnnxEngine(folder, environment.workers, environment.clock, threads=settings.threads)


def _endpoint(settings: EmbeddingSettings) -> Endpoint:
    try:
        parts = urlsplit(settings.url)
        address = parts.scheme in {"http", "https"} and parts.hostname
    except ValueError:
        address = None
    if not address:
        raise _incomplete("url", "an address that begins with http:// or https://")
    if not settings.model:
        raise _incomplete("model", "the model's name at the endpoint")
    if not 0 < settings.dimension <= DIMENSION_LIMIT:
        raise _incomplete("dimension", f"the numbers in its vectors, 1 to {DIMENSION_LIMIT}")
    return Endpoint(settings.url, settings.model, settings.dimension, settings.api_key, settings.timeout_s)


def _incomplete(name: str, meaning: str) -> EmbeddingFailed:
    return EmbeddingFailed(
        "the embedding model cannot be used",
        why=f"the setting {name} must be {meaning}",
        fix=f"Set {name}, or take the built-in model.",
        details={"setting": name},
    )
