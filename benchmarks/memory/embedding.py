"""What embedding costs: latency by length, texts a second, memory, time to load, nearness to the float model.

    .venv/bin/python -m benchmarks.memory.embedding             # about a minute and a half
    .venv/bin/python -m benchmarks.memory.embedding --check     # fails when a goal is missed

Texts are sentences of docstrings (``benchmarks/memory/corpus.py``), joined or cut to the length measured.
Calls go through the embedder as agents' do, worker thread and all, without the cache. Times are told twice:
as the clock on the wall has them, which others at work lengthen, and as the processor has them, which is
nearer to what one core alone would need. Memory and loading are measured in processes of their own.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np
import trio
from tokenizers import Tokenizer

from benchmarks.memory.corpus import sentences
from benchmarks.report import PROJECT, machine, percentile, show, write
from node.environment import system_environment
from node.memory.embedding import AnyEmbedder, EmbeddingSettings, make_embedder
from node.memory.embedding.folder import BUNDLED

LENGTHS: Final = (8, 16, 32, 64, 128, 256)
"""Tokens of a text, special ones included."""
BATCHES: Final = (1, 8)
SHORT_TOKENS: Final = (6, 16)
"""A short text has from so many tokens to so many."""
BATCH_S: Final = 2.0
"""How long each cell is measured."""
SHORT_S: Final = 10.0
"""How long short texts are measured, whose rate has a goal."""
AT_LEAST: Final = 3
"""Calls in each cell."""
GOALS: Final[Mapping[str, Callable[[float], bool]]] = {
    "short texts per processor second": lambda value: value >= 400,
    "resident memory added, 32 texts of 256 tokens embedded": lambda value: value <= 110,
    "mean cosine to the float model": lambda value: value >= 0.99,
}
REFERENCE: Final = PROJECT / "tests" / "node" / "memory" / "embedding" / "minilm_reference.json"
_CHILD: Final = """
import json, sys, time
def resident(key="VmRSS"):
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
import trio, node.environment
measured = {}
def mark(name, began, before):
    measured[name + ", ms"] = 1000 * (time.perf_counter() - began)
    measured[name + ", MB"] = resident() - before
began, before = time.perf_counter(), resident()
from node.memory.embedding import EmbeddingSettings, make_embedder
async def run():
    embedder = await make_embedder(EmbeddingSettings(cache_entries=0), node.environment.system_environment())
    mark("import and configure, nothing embedded", began, before)
    loading = time.perf_counter()
    await embedder.embed(["text"])
    mark("first text: import, verify, load, embed", loading, before)
    await embedder.embed([f"{number} " + "word " * 300 for number in range(32)])
    measured["resident memory added, 32 texts of 256 tokens embedded, MB"] = resident() - before
    measured["the same at its highest, MB"] = resident("VmHWM") - before
trio.run(run)
print(json.dumps(measured))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status is 1 with ``--check`` when a goal is missed."""
    parser = argparse.ArgumentParser(description="What embedding text costs.")
    parser.add_argument("--runs", type=int, default=5, help="processes that load the model")
    parser.add_argument("--seconds", type=float, default=BATCH_S, help="how long each cell is measured")
    parser.add_argument(
        "--short-seconds", type=float, default=SHORT_S, help="how long short texts are measured"
    )
    parser.add_argument("--sentences", type=int, default=5_000)
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    options = parser.parse_args(arguments)
    facts = machine() | {"command": "python -m benchmarks.memory.embedding"}
    for library in ("onnxruntime", "tokenizers", "numpy"):
        facts[library] = importlib.metadata.version(library)
    rows = [
        _row(name.rpartition(", ")[0], run, value, name.rpartition(", ")[2])
        for run in range(options.runs)
        for name, value in fresh().items()
    ]
    rows += trio.run(_measured, sentences(options.sentences), options.seconds, options.short_seconds)
    path = write("memory-embedding", facts, rows)
    missed = _report(rows)
    print(f"\n{facts}\nraw: {path}")
    return 1 if missed and options.check else 0


def fresh() -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, check=True, cwd=PROJECT)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


async def _measured(texts: Sequence[str], seconds: float, short_seconds: float) -> list[dict[str, object]]:
    embedder = await make_embedder(EmbeddingSettings(cache_entries=0), system_environment())
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    await embedder.embed(["the model is loaded"])
    rows = list(await _accuracy(embedder))
    counted = [(text, len(tokenizer.encode(text).ids)) for text in texts]
    short = [text for text, tokens in counted if SHORT_TOKENS[0] <= tokens <= SHORT_TOKENS[1]]
    wall, processor, number = await timed(embedder, short, 1, short_seconds)
    rows += [_row("short query, one by one, p50", 0, 1000 * median(wall), "ms")]
    rows += [_row("short query, one by one, p99", 0, 1000 * percentile(wall, 0.99), "ms")]
    wall, processor, number = await timed(embedder, short, 32, short_seconds)
    rows += [_row("short texts per second", 0, number / sum(wall), "/s")]
    rows += [_row("short texts per processor second", 0, number / processor, "/s")]
    for length in LENGTHS:
        cut = _of_length(tokenizer, texts, length)
        for batch in BATCHES:
            wall, processor, number = await timed(embedder, cut, batch, seconds)
            name = f"{length} tokens, {batch} at once"
            rows += [_row(f"{name}, p50", 0, 1000 * median(wall), "ms")]
            rows += [_row(f"{name}, processor per text", 0, 1000 * processor / number, "ms")]
    await embedder.aclose()
    return rows


async def timed(
    embedder: AnyEmbedder, texts: Sequence[str], batch: int, seconds: float
) -> tuple[list[float], float, int]:
    """Seconds on the wall for each call, seconds of the processor for all, and how many texts it were."""
    wall: list[float] = []
    began_processor, until, at = time.process_time(), time.perf_counter() + seconds, 0
    while time.perf_counter() < until or len(wall) < AT_LEAST:
        given = [texts[(at + index) % len(texts)] for index in range(batch)]
        at += batch
        began = time.perf_counter()
        await embedder.embed(given)
        wall.append(time.perf_counter() - began)
    return wall, time.process_time() - began_processor, at


async def _accuracy(embedder: AnyEmbedder) -> Iterator[dict[str, object]]:
    reference: dict[str, Any] = json.loads(REFERENCE.read_text(encoding="utf-8"))
    raw = base64.b64decode(reference["float16_little_endian"])
    exact = np.frombuffer(raw, "<f2").reshape(len(reference["texts"]), -1).astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    told = [index for index, text in enumerate(reference["texts"]) if text.strip()]
    vectors = await embedder.embed([reference["texts"][index] for index in told])
    cosines = (vectors * exact[told]).sum(1)
    return iter(
        [
            _row("mean cosine to the float model", 0, float(cosines.mean()), ""),
            _row("least cosine to the float model", 0, float(cosines.min()), ""),
        ]
    )


def _of_length(tokenizer: Tokenizer, texts: Sequence[str], length: int, number: int = 64) -> list[str]:
    """Texts of ``length`` tokens: sentences one after the other, cut at the end of a token."""
    made: list[str] = []
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        joined = " ".join(parts)
        encoded = tokenizer.encode(joined)
        if len(encoded.ids) >= length:
            made.append(joined[: encoded.offsets[length - 2][1]])
            parts = []
        if len(made) == number:
            break
    return made


def _row(measure: str, run: int, value: float, unit: str) -> dict[str, object]:
    return {"measure": measure, "run": run, "value": round(value, 4), "unit": unit}


def _report(rows: Sequence[Mapping[str, object]]) -> list[str]:
    table, missed = [], []
    for measure, unit in dict.fromkeys((str(row["measure"]), str(row["unit"])) for row in rows):
        values = [
            float(str(row["value"])) for row in rows if row["measure"] == measure and row["unit"] == unit
        ]
        middle = median(values)
        goal = ""
        if measure in GOALS:
            goal = "met" if GOALS[measure](middle) else "missed"
            missed += [measure] if goal == "missed" else []
        table.append((measure, f"{middle:.4g} {unit}", f"{min(values):.4g} to {max(values):.4g}", goal))
    show(("measure", "median", "range", "goal"), table)
    return missed


if __name__ == "__main__":
    sys.exit(main())
