"""An engine that is watched, for the tests of what is above engines."""

from collections.abc import Callable, Sequence

import numpy as np
import trio

from node.environment import SystemClock
from node.errors import EmbeddingFailed
from node.memory.embedding.embedder import EmbeddingModel, Vectors
from node.memory.embedding.engine import Portion, TextRefused


class WatchedEngine:
    """Gives a text its length as vector, in one second of the clock, and remembers every run."""

    def __init__(self, *, texts: int = 4, characters: int = 1_000, text_characters: int = 100) -> None:
        self.model = EmbeddingModel("watched", "00", 2)
        self.portion = Portion(texts, characters, text_characters)
        self.runs: list[list[str]] = []
        self.fails: Callable[[Sequence[str]], EmbeddingFailed | None] = lambda texts: None
        self.closed = False

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        self.runs.append(list(texts))
        await SystemClock().sleep(1)
        if (failure := self.fails(texts)) is not None:
            raise failure
        return np.array([[len(text), 1] for text in texts], np.float32)

    def statistics(self) -> dict[str, int | float | str]:
        return {"watched": 1}

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


def refused(word: str) -> Callable[[Sequence[str]], EmbeddingFailed | None]:
    """Refuse every run with a text that is ``word``."""
    return lambda texts: (
        TextRefused("refused", why="that word", fix="another word") if word in texts else None
    )


def broken(texts: Sequence[str]) -> EmbeddingFailed | None:
    """Refuse every run."""
    return EmbeddingFailed("broken", why=f"{len(texts)} texts", fix="mend it")
