"""Real vectors of real sentences, made once and kept in a folder: a hundred thousand take minutes.

A file for each model, with a record for each text: 16 bytes of its SHA-256, and its vector as float32. Beyond
the sentences there are, vectors are made up around real ones; whoever shows such figures says so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.memory.embedding import AnyEmbedder

STEP: Final = 512
"""Texts after which what was made is kept."""
NOISE: Final = 0.6
"""Length of the noise that is added to a real vector of length 1 to make up another: their cosine is 0.86, as
of sentences that say nearly the same."""


class Cache:
    """The vectors of one model in one file.

    Args:
        folder: Where; made when it is not there.
        digest: Of the model.
        dimension: Of its vectors.
    """

    def __init__(self, folder: Path, digest: str, dimension: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._record = np.dtype([("key", "V16"), ("vector", "<f4", (dimension,))])
        self._path = folder / f"vectors-{digest[:16]}.bin"
        self._path.touch()
        # A record that was cut short by an end of the process is overwritten by the next.
        whole = self._path.stat().st_size // self._record.itemsize
        with self._path.open("r+b") as file:
            file.truncate(whole * self._record.itemsize)
        self._known: dict[bytes, int] = {}
        self._vectors: NDArray[np.void] = np.fromfile(self._path, self._record)
        self._read(0)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those without a vector, in their order."""
        return [text for text in texts if _key(text) not in self._known]

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 of shape ``(len(texts), dimension)``; all of them are there."""
        found: NDArray[np.float32] = self._vectors["vector"][[self._known[_key(text)] for text in texts]]
        return found

    async def fill(self, texts: Sequence[str], embedder: AnyEmbedder) -> float:
        """Embed what is missing, and keep it; returns the seconds of the processor that it took."""
        missing, began = self.missing(texts), time.process_time()
        for at in range(0, len(missing), STEP):
            some = missing[at : at + STEP]
            made = np.empty(len(some), self._record)
            made["key"] = [np.void(_key(text)) for text in some]
            made["vector"] = await embedder.embed(some)
            with self._path.open("ab") as file:
                made.tofile(file)
        before = len(self._vectors)
        self._vectors = np.fromfile(self._path, self._record)
        self._read(before)
        return time.process_time() - began

    def _read(self, first: int) -> None:
        for place in range(first, len(self._vectors)):
            self._known[self._vectors["key"][place].tobytes()] = place


def made_up(real: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Vectors of length 1 around real ones, each of which has about as many.

    Args:
        real: float32 of shape ``(n, dimension)``, each of length 1.
        count: How many.
    """
    chance = np.random.default_rng(1)
    made = chance.standard_normal((count, real.shape[1]), dtype=np.float32)
    made *= np.float32(NOISE / np.sqrt(real.shape[1]))
    for first in range(0, count, len(real)):  # a million vectors are large enough once
        made[first : first + len(real)] += real[: count - first]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
