"""Vectors from an ONNX model on a worker thread, one text after the other.

One text per run of the session, without padding: the scales of an int8 model depend on everything in its run,
and so would a vector on its neighbours. On one thread a batch would hardly be faster, and padding makes it
slower. Memory is bounded by the longest text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from node.environment import Clock, Workers
from node.errors import EmbeddingFailed, invariant
from node.memory.embedding.embedder import EmbeddingModel, Vectors
from node.memory.embedding.engine import Portion
from node.memory.embedding.folder import ModelFolder

RUN_TEXTS: Final = 32
RUN_CHARACTERS: Final = 1_024
"""About as many as one text of 256 tokens has: a caller who comes now waits for no more than that."""
CHARACTERS_PER_TOKEN: Final = 32
"""What is tokenised of a text per token that counts; tokens have five characters on average."""
LOAD_AGAIN_AFTER_S: Final = 30.0
"""How long a model that could not be loaded is not tried again."""
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_SENTENCE: Final = "sentence_embedding"
"""The output that is pooled already, as sentence-transformers names it."""


class OnnxEngine:
    """An engine on a model on disk, which is verified and loaded when the first text comes.

    Args:
        folder: The model.
        workers: Where it runs (lane ``model``).
        clock: Says when a model that failed is tried again.
        threads: Threads that share one text.
    """

    def __init__(self, folder: ModelFolder, workers: Workers, clock: Clock, *, threads: int = 1) -> None:
        self._folder = folder
        self._workers = workers
        self._clock = clock
        self._threads = threads
        self._portion = Portion(RUN_TEXTS, RUN_CHARACTERS, folder.max_tokens * CHARACTERS_PER_TOKEN)
        self._loaded: LoadedModel | None = None
        self._failure: EmbeddingFailed | None = None
        self._again_at = 0.0
        self._busy_s = 0.0

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""
        return self._folder.model

    @property
    def portion(self) -> Portion:
        """How much one run takes."""
        return self._portion

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """The vectors of ``texts``; the first call loads the model.

        Raises:
            EmbeddingFailed: the model cannot be loaded, or gave no finite numbers.
        """
        loaded = self._loaded or await self._load()
        started = self._clock.now()
        rows = await self._workers.run("model", loaded.vectors, texts)
        self._busy_s += self._clock.now() - started
        return rows

    def statistics(self) -> dict[str, int | float | str]:
        """Counts and sizes; ``failure`` says why the model could not be loaded."""
        return {
            "loaded": int(self._loaded is not None),
            "busy_s": round(self._busy_s, 3),
            "failure": str(self._failure or ""),
        }

    async def aclose(self) -> None:
        """Let go of the model's memory."""
        self._loaded = None
        await trio.lowlevel.checkpoint()

    async def _load(self) -> LoadedModel:
        if self._failure is not None and self._clock.now() < self._again_at:
            raise self._failure
        try:
            self._loaded = await self._workers.run("model", LoadedModel, self._folder, self._threads)
        except EmbeddingFailed as error:
            self._failure = error
            self._again_at = self._clock.now() + LOAD_AGAIN_AFTER_S
            raise
        self._failure = None
        return self._loaded


class LoadedModel:
    """Session and tokenizer of a verified model; everything here blocks.

    Args:
        folder: The model.
        threads: Threads that share one text.

    Raises:
        EmbeddingFailed: a file is damaged, or the graph is not that of an embedding model.
    """

    def __init__(self, folder: ModelFolder, threads: int) -> None:
        import numpy as np  # noqa: PLC0415 - these three take a third of a second and 35 MB
        import onnxruntime  # noqa: PLC0415
        import tokenizers  # noqa: PLC0415

        folder.verify()
        self._numpy: Any = np
        self._folder = folder
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder.tokenizer))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(folder.max_tokens)
            self._special = len(self._tokenizer.encode("").ids)
            options = _session_options(onnxruntime, threads, optimised=folder.optimised)
            self._session = onnxruntime.InferenceSession(
                str(folder.graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise what derives from Exception alone
            raise self._unusable(str(error)) from error
        names = [node.name for node in self._session.get_inputs()]
        if "input_ids" not in names or not set(names) <= set(_INPUTS):
            raise self._unusable(
                f"it has the inputs {', '.join(names)}; those of {', '.join(_INPUTS)} are given"
            )
        self._inputs = names
        self._output, self._pooled = self._output_of_sentences()
        found = len(self._vector(self._tokenizer.encode("a").ids))
        if found != folder.model.dimension:
            raise self._unusable(f"its vectors have {found} numbers, not {folder.model.dimension}")

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One row per text; zeros for a text without tokens of its own.

        Raises:
            EmbeddingFailed: a vector has numbers that are not finite.
        """
        rows: Vectors = self._numpy.zeros((len(texts), self._folder.model.dimension), self._numpy.float32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._tokenizer.encode(text).ids
            if len(ids) > self._special:
                row[:] = self._vector(ids)
        return rows

    def _vector(self, ids: Sequence[int]) -> Any:
        np = self._numpy
        given = np.array([ids], np.int64)
        inputs = {
            "input_ids": given,
            "attention_mask": np.ones_like(given),
            "token_type_ids": np.zeros_like(given),
        }
        try:
            (out,) = self._session.run([self._output], {name: inputs[name] for name in self._inputs})
        except Exception as error:  # onnxruntime's errors derive from Exception alone
            raise self._unusable(str(error)) from error
        if not self._pooled:
            out = out[:, 0] if self._folder.pooling == "cls" else out.mean(1)
        vector = out[0].astype(np.float32)
        length = float(np.linalg.norm(vector))
        if not 0 < length < float("inf"):
            raise self._unusable("it gave a vector without a direction")
        return vector / np.float32(length)

    def _output_of_sentences(self) -> tuple[str, bool]:
        """The output to read, and whether it is one vector per text already."""
        ranks = {node.name: len(node.shape) for node in self._session.get_outputs()}
        if ranks.get(_SENTENCE) == 2:
            return _SENTENCE, True
        for name, rank in ranks.items():
            if rank == 3:
                return name, False
        raise self._unusable(f"none of its outputs ({', '.join(ranks)}) has one vector per token")

    def _unusable(self, why: str) -> EmbeddingFailed:
        return EmbeddingFailed(
            f"the embedding model {self._folder.model.name} cannot be used",
            why=why,
            fix="Install Caxton again." if self._folder.optimised else "Name another model, or none.",
            details={"file": str(self._folder.graph)},
        )


def _session_options(onnxruntime: Any, threads: int, *, optimised: bool) -> Any:
    invariant(threads >= 1, "a session has a thread")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = (
        4  # what goes wrong is raised; the library's own lines would go past the node's log
    )
    # An arena keeps the room of the longest text for ever, and patterns one for each length.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph that ships is fused where that is faster; what onnxruntime would fuse besides is slower.
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if optimised else levels.ORT_ENABLE_ALL
    return options
