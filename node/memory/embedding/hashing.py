"""Vectors without a model: hashed words and parts of words, for simulations and tests.

Feature hashing (Weinberger et al., 2009): each feature adds its weight, with a sign, to one of the
dimensions, both chosen by a hash. Texts are near when they share words, and somewhat when their words share
parts. Meaning is no concern.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import trio

from node.errors import invariant
from node.memory.embedding.embedder import EmbeddingModel, Vectors

DIMENSION: Final = 384
TEXT_CHARACTERS: Final = 8_192
"""Characters of a text that count, the first ones."""
PART: Final = 3
"""Characters of a part of a word, its edges marked."""
_WORD_WEIGHT: Final = 1.0
_PART_WEIGHT: Final = 0.25
_VERSION: Final = b"caxton hashed words and trigrams, version 1"
_WORD: Final = re.compile(r"\w+")


class HashEmbedder:
    """A deterministic :class:`~node.memory.embedding.embedder.Embedder` that needs no model and no thread."""

    def __init__(self) -> None:
        self._model = EmbeddingModel("hashed-words-384", hashlib.sha256(_VERSION).hexdigest(), DIMENSION)
        self._embedded = 0

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""
        return self._model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed ``texts``; see :meth:`node.memory.embedding.embedder.Embedder.embed`."""
        import numpy as np  # noqa: PLC0415 - see node.memory.embedding.embedder

        invariant(not isinstance(texts, str), "embed takes a sequence of texts")
        await trio.lowlevel.checkpoint()
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = hashed(text)
            self._embedded += 1
            if self._embedded % 64 == 0:
                await trio.lowlevel.checkpoint()
        return rows

    async def aclose(self) -> None:
        """There is nothing to let go of."""
        await trio.lowlevel.checkpoint()

    def statistics(self) -> dict[str, int | float | str]:
        """Counts and sizes."""
        return {"model": self._model.name, "embedded": self._embedded}


def hashed(text: str) -> list[float]:
    """The vector of one text: length 1, or all zeros where there is no word."""
    sums = [0.0] * DIMENSION
    for feature, weight in _features(text):
        number = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
        sums[(number >> 1) % DIMENSION] += weight if number & 1 else -weight
    length = math.sqrt(math.fsum(value * value for value in sums))
    return [value / length for value in sums] if length else sums


def _features(text: str) -> Iterator[tuple[str, float]]:
    cut = text[:TEXT_CHARACTERS].encode("utf-8", "replace").decode()
    counts = Counter(_WORD.findall(unicodedata.normalize("NFKC", cut).casefold()))
    for word, count in counts.items():
        weight = 1 + math.log(count)  # the tenth mention says less than the first
        yield word, _WORD_WEIGHT * weight
        edged = f"^{word}$"
        for start in range(len(edged) - PART + 1):
            yield f"{start == 0}{edged[start : start + PART]}", _PART_WEIGHT * weight
