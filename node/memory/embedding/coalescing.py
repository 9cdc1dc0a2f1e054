"""Many callers, one model: what is asked at the same time shares runs.

Callers queue in the order of their calls and take turns at running the model: whoever has the turn runs the
next portion of what is waiting, whosever it is, and passes the turn on. So there is no task that somebody
would have to own, a run that was cancelled with its caller is done again by the next one, and a call of ten
thousand texts, which goes to the end of the queue after each portion, delays a short one by a single run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from node.errors import EmbeddingFailed, ResourceLimitExceeded, invariant
from node.memory.embedding.cache import VectorCache
from node.memory.embedding.embedder import EmbeddingModel, Vectors
from node.memory.embedding.engine import Engine, TextRefused

WAITING_TEXTS_LIMIT: Final = 32_768
"""Most texts that may wait to be embedded, those of all callers together."""
WAITING_CALLS_LIMIT: Final = 1_024
"""Most callers that may wait."""
LOOKED_AT_LIMIT: Final = 128
"""Most texts that are cut, hashed and looked up in the cache in one turn, on the event loop."""
AT_ONCE_LIMIT: Final = 16
"""Calls of so few texts are answered without a turn where the cache has them all."""


@dataclass(slots=True, eq=False)
class _Call:
    """The texts of one caller, of which the first ``done`` have their vectors in ``rows``."""

    texts: Sequence[str]
    done: int = 0
    rows: Any = None
    failure: EmbeddingFailed | None = None
    alone: bool = False
    """Whether to share no run: a run in which it took part was refused for one of its texts."""

    @property
    def finished(self) -> bool:
        return self.done == len(self.texts) or self.failure is not None


@dataclass(slots=True)
class _Run:
    """A portion of what waits."""

    shares: list[tuple[_Call, list[bytes]]] = field(default_factory=list)
    """Callers, and the keys of their next texts."""
    texts: dict[bytes, str] = field(default_factory=dict)
    """What has to be computed."""
    known: dict[bytes, Any] = field(default_factory=dict)
    """What the cache had."""
    characters: int = 0
    looked_at: int = 0


class CoalescingEmbedder:
    """An embedder for many callers, on an engine that runs one portion at a time.

    Args:
        engine: What computes the vectors.
        cache_entries: Vectors kept for texts that come again.
    """

    def __init__(self, engine: Engine, *, cache_entries: int) -> None:
        self._engine = engine
        self._cache = VectorCache(cache_entries)
        self._waiting: deque[_Call] = deque()
        self._waiting_texts = 0
        self._turn = trio.Lock()
        self._counts = {"embedded": 0, "runs": 0, "failed_runs": 0, "refused_calls": 0}

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""
        return self._engine.model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed ``texts``; see :meth:`node.memory.embedding.embedder.Embedder.embed`.

        Raises:
            EmbeddingFailed: the model does not answer.
            ResourceLimitExceeded: too many texts wait to be embedded.
        """
        invariant(not isinstance(texts, str), "embed takes a sequence of texts")
        await trio.lowlevel.checkpoint()
        if (rows := self._at_once(texts)) is not None:
            return rows
        call = self._admitted(texts)
        try:
            while not call.finished:
                async with self._turn:
                    if not call.finished:
                        await self._run()
        finally:
            self._waiting_texts -= len(texts)
            if call in self._waiting:
                self._waiting.remove(call)
        if call.failure is not None:
            raise call.failure
        made: Vectors = call.rows
        return made

    async def aclose(self) -> None:
        """Let go of the model; the embedder is not used again."""
        await self._engine.aclose()

    def statistics(self) -> dict[str, int | float | str]:
        """Counts and sizes."""
        return {
            "model": self.model.name,
            "waiting_texts": self._waiting_texts,
            "waiting_texts_limit": WAITING_TEXTS_LIMIT,
            "waiting_calls": len(self._waiting),
            "waiting_calls_limit": WAITING_CALLS_LIMIT,
            **self._counts,
            **self._cache.statistics(),
            **self._engine.statistics(),
        }

    def _at_once(self, texts: Sequence[str]) -> Vectors | None:
        """The vectors, if that takes neither a run nor a turn."""
        if not texts:
            return self._blank(0)
        if len(texts) > AT_ONCE_LIMIT or not self._counts["runs"]:
            return None
        rows = self._blank(len(texts))
        for row, text in zip(rows, texts, strict=True):
            found = self._cache.get(self._cache.key(self._counted(text)))
            if found is None:
                return None
            row[:] = found
        return rows

    def _admitted(self, texts: Sequence[str]) -> _Call:
        total = self._waiting_texts + len(texts)
        if total > WAITING_TEXTS_LIMIT or len(self._waiting) >= WAITING_CALLS_LIMIT:
            self._counts["refused_calls"] += 1
            raise ResourceLimitExceeded(
                f"{len(texts)} texts cannot be embedded now",
                why=f"{self._waiting_texts} texts of {len(self._waiting)} callers wait; the limits are "
                f"{WAITING_TEXTS_LIMIT} and {WAITING_CALLS_LIMIT}",
                fix="Embed fewer texts at a time, and try again when those before are done.",
                details={"waiting_texts": self._waiting_texts, "waiting_texts_limit": WAITING_TEXTS_LIMIT},
            )
        self._waiting_texts = total
        call = _Call(texts)
        self._waiting.append(call)
        return call

    async def _run(self) -> None:
        """Run the next portion; nothing has changed if this is cancelled."""
        run = self._next()
        rows: Any = ()
        if run.texts:
            self._counts["runs"] += 1
            try:
                rows = await self._engine.vectors(list(run.texts.values()))
            except EmbeddingFailed as error:
                self._fail(run, error)
                return
            self._counts["embedded"] += len(run.texts)
        for key, row in zip(run.texts, rows, strict=True):
            self._cache.put(key, row)
            run.known[key] = row
        for call, keys in run.shares:
            if call.rows is None:
                call.rows = self._blank(len(call.texts))
            for position, key in enumerate(keys, call.done):
                call.rows[position] = run.known[key]
            call.done += len(keys)
            if call in self._waiting:  # else its caller was cancelled meanwhile
                self._waiting.remove(call)
                if not call.finished:
                    self._waiting.append(call)

    def _next(self) -> _Run:
        run = _Run()
        for call in self._waiting:
            if call.alone and run.shares:
                break
            keys = self._share(call, run)
            if not keys:
                break
            run.shares.append((call, keys))
            if call.alone:
                break
        return run

    def _share(self, call: _Call, run: _Run) -> list[bytes]:
        """Add to ``run`` what it has room for of the next texts of ``call``."""
        portion = self._engine.portion
        keys: list[bytes] = []
        for position in range(call.done, len(call.texts)):
            if run.looked_at == LOOKED_AT_LIMIT:
                break
            run.looked_at += 1
            text = self._counted(call.texts[position])
            key = self._cache.key(text)
            if key not in run.texts and key not in run.known:
                row = self._cache.get(key)
                if row is not None:
                    run.known[key] = row
                else:
                    full = len(run.texts) >= portion.texts or run.characters + len(text) > portion.characters
                    if run.texts and full:
                        break
                    run.texts[key] = text
                    run.characters += len(text)
            keys.append(key)
        return keys

    def _fail(self, run: _Run, error: EmbeddingFailed) -> None:
        self._counts["failed_runs"] += 1
        if isinstance(error, TextRefused) and len(run.shares) > 1:
            for call, _ in run.shares:
                call.alone = True
            return
        for call, _ in run.shares:
            # One exception for each caller: a shared one would collect the tracebacks of all.
            call.failure = EmbeddingFailed(error.what, why=error.why, fix=error.fix, details=error.details)
            call.failure.__cause__ = error.__cause__

    def _counted(self, text: str) -> str:
        """What counts of a text: its beginning, with U+FFFD where a lone surrogate cannot be encoded."""
        text = text[: self._engine.portion.text_characters]
        if text.isascii():
            return text
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _blank(self, rows: int) -> Vectors:
        import numpy as np  # noqa: PLC0415 - loaded by the engine's first run, off the event loop

        return np.zeros((rows, self.model.dimension), np.float32)
