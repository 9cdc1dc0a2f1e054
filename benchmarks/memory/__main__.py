"""Everything that memory is held against, in one run: storing, searching, walking, embedding, replicating.

    .venv/bin/python -m benchmarks.memory --cache FOLDER                     # the first time half an hour
    .venv/bin/python -m benchmarks.memory --cache FOLDER --curve 10000,300000      # and how cost grows

Texts are sentences of installed packages (``corpus.py``), vectors are made of them by the model that ships
(``vectors.py``) and kept in the folder; what is asked for are other sentences of the same kind. Where fewer
sentences have vectors than a size needs, the rest are made up around real ones; the file of the results says
how many are real.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import trio
from tokenizers import Tokenizer

from benchmarks.memory import embedding, replication, search
from benchmarks.memory.corpus import sentences
from benchmarks.memory.plot import growth
from benchmarks.memory.search import Corpus, Row
from benchmarks.memory.vectors import Cache, made_up
from benchmarks.report import machine, show, write
from node.collector import collect_less_often
from node.environment import system_environment
from node.memory.embedding import EmbeddingSettings, make_embedder
from node.memory.embedding.folder import BUNDLED

OBSERVATIONS: Final = 100_000
QUESTIONS: Final = 300
SEARCHES: Final = 1_000
SHORT_S: Final = 5.0


class Goal(NamedTuple):
    """What one figure is held against."""

    measure: str
    figure: str
    limit: float
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


GOALS: Final = (
    Goal("vector search", "wall_p99", 6),
    Goal("recall@10 by meaning against float32", "recall", 0.97, at_least=True),
    Goal("hybrid search", "wall_p99", 6),
    Goal("hybrid search, common words", "wall_p99", 6),
    Goal("hybrid search, short question embedded", "wall_p99", 10),
    Goal("walk, depth 3 and fan-out 10", "wall_p99", 5),
    Goal("size of an observation", "file", 1024),
    Goal("ingest, vectors given", "wall", 10_000, at_least=True),
    Goal("ingest, vectors given", "loop_lag_p999", 10),
    Goal("hybrid search", "loop_lag_p999", 10),
    Goal("short texts embedded", "processor", 400, at_least=True),
    Goal("resident memory of the model", "added", 110),
    Goal("replication to each of 4 peers", "converged", 5),
    Goal("replication to each of 4 peers", "loop_lag_p999", 10),
)
CURVES: Final = {
    "vector search": "processor_p50",
    "vector search, signs in the file": "processor_p50",
    "hybrid search": "processor_p50",
    "hybrid search, common words": "processor_p50",
    "walk, depth 3 and fan-out 10": "processor_p50",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status is 1 with ``--check`` when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache", type=Path, required=True, help="the folder that keeps sentences and vectors"
    )
    parser.add_argument("--observations", type=int, default=OBSERVATIONS)
    parser.add_argument("--curve", default="", help="other sizes, with commas between them")
    parser.add_argument(
        "--real", type=int, default=None, help="at most so many real vectors; others are made up"
    )
    parser.add_argument("--searches", type=int, default=SEARCHES, help="calls of each kind")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seconds", type=float, default=SHORT_S, help="how long short texts are embedded")
    parser.add_argument("--operations", type=int, default=10_000, help="replicated to four peers; 0 for none")
    parser.add_argument("--no-csv", action="store_true")
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    options = parser.parse_args(arguments)
    facts = machine()
    rows, real = trio.run(_measured, options)
    facts["real_vectors"] = str(real)
    if options.seconds:
        added = embedding.fresh()["resident memory added, 32 texts of 256 tokens embedded, MB"]
        rows.append(_row(0, "resident memory of the model", "added", added, "MB"))
    if options.operations:
        rows += _replicated(options.operations)
    missed = _report(rows, options.observations)
    if not options.no_csv:
        path = write("memory", facts, rows)
        path.with_suffix(".svg").write_text(_plot(rows), encoding="utf-8")
        print(f"\nraw: {path}")
    print(f"\n{facts}")
    return int(bool(missed) and options.check)


async def _measured(options: argparse.Namespace) -> tuple[list[Row], int]:
    """All rows that need no other process, and how many vectors are real."""
    embedder = await make_embedder(EmbeddingSettings(), system_environment())
    sizes = sorted({options.observations, *(int(size) for size in options.curve.split(",") if size)})
    wanted = options.observations if options.real is None else options.real
    texts = _sentences(options.cache, max(options.observations, wanted) + options.questions)
    cache = Cache(options.cache, embedder.model.digest, embedder.model.dimension)
    asked, stored = texts[: options.questions], texts[options.questions :]
    await cache.fill([*asked, *stored[:wanted]], embedder)
    vectors = cache.vectors(stored[:wanted])
    questions = list(zip(asked, cache.vectors(asked), strict=True))
    rows: list[Row] = []
    for size in sizes:
        extra = made_up(vectors, max(0, size - len(vectors)))
        some = Corpus(_texts(stored, size), np.concatenate([vectors[:size], extra]), questions)
        with tempfile.TemporaryDirectory(prefix="caxton-memory-") as folder:
            # Beyond the goals' size as many fewer calls as there is more to search.
            calls = max(1, options.searches * options.observations // max(size, options.observations))
            found = await search.run(some, Path(folder), calls, embedder)
        show(tuple(found[0]), [tuple(row.values()) for row in found])
        rows += found
    if options.seconds:
        rows += await _embedded(stored, options.seconds)
    await embedder.aclose()
    return rows, len(vectors)


def _sentences(folder: Path, count: int) -> list[str]:
    """So many sentences, found once: to read all that is installed takes minutes."""
    path = folder / "sentences.txt"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if len(known) < count:
        known = sentences(count)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{text}\n" for text in known), encoding="utf-8")
    return known[:count]


def _texts(known: Sequence[str], size: int) -> list[str]:
    """So many distinct texts: the sentences there are, then the same again with the number of the round."""
    rounds = -(-size // len(known))
    return [text if turn == 0 else f"{text} ({turn})" for turn in range(rounds) for text in known][:size]


async def _embedded(texts: Sequence[str], seconds: float) -> list[Row]:
    """The rate of short texts, without a cache, which would answer those that come round again."""
    embedder = await make_embedder(EmbeddingSettings(cache_entries=0), system_environment())
    await embedder.embed(["the model is loaded"])
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    tokenizer.no_padding()
    low, high = embedding.SHORT_TOKENS
    short = [text for text in texts[:5_000] if low <= len(tokenizer.encode(text).ids) <= high]
    wall, processor, number = await embedding.timed(embedder, short, 32, seconds)
    await embedder.aclose()
    rate = {"wall": number / sum(wall), "processor": number / processor}
    return [_row(0, "short texts embedded", name, value, "texts/s") for name, value in rate.items()]


def _replicated(operations: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="caxton-replication-") as folder:
        told = replication.measured(Path(folder), operations, 4)
    digests = {row["digest"] for row in told if row["digest"]}
    peers = [row for row in told if str(row["node"]).startswith("peer")]
    measure = "replication to each of 4 peers"
    figures = {"converged": ("converged_s", "s"), "processor": ("processor_s", "s")}
    figures |= {"loop_lag_p999": ("lag_p999_ms", "ms"), "loop_lag_p999_own": ("held_p999_ms", "ms")}
    rows = [
        _row(operations, measure, name, max(float(peer[column]) for peer in peers), unit)
        for name, (column, unit) in figures.items()
        if all(peer[column] != "" for peer in peers)
    ]
    return [*rows, _row(operations, "different digests after replication", "number", len(digests), "")]


def _row(observations: int, measure: str, figure: str, value: float, unit: str) -> Row:
    return {
        "observations": observations,
        "measure": measure,
        "figure": figure,
        "value": round(value, 4),
        "unit": unit,
    }


def _report(rows: Sequence[Row], size: int) -> list[Goal]:
    """Print all figures, then what was reached of the goals; returns what was missed."""
    print()
    table, missed = [], []
    for goal in GOALS:
        found = [row for row in rows if (row["measure"], row["figure"]) == (goal.measure, goal.figure)]
        found = [row for row in found if row["observations"] == size] or found
        if not found:
            continue
        value, unit = float(str(found[-1]["value"])), found[-1]["unit"]
        met = goal.reached(value)
        missed += [] if met else [goal]
        sign = ">=" if goal.at_least else "<="
        told = (
            f"{goal.measure}, {goal.figure}",
            f"{sign} {goal.limit:g} {unit}",
            f"{value:g}",
            "yes" if met else "no",
        )
        table.append(told)
    show(("measure", "goal", "value", "reached"), table)
    return missed


def _plot(rows: Sequence[Row]) -> str:
    shown: dict[str, list[Any]] = {}
    for measure, figure in CURVES.items():
        points = [row for row in rows if (row["measure"], row["figure"]) == (measure, figure)]
        shown[measure] = [(float(str(row["observations"])), float(str(row["value"]))) for row in points]
    return growth("What a search costs, median", "observations", "ms of processor", shown)


if __name__ == "__main__":
    collect_less_often()  # as a process that is a node does
    sys.exit(main())
