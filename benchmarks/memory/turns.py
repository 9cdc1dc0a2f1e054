"""The searches of two checkouts in turn: whether they answer the same, and what each costs beside the other.

    .venv/bin/python -m benchmarks.memory.turns --cache FOLDER --before CHECKOUT --csv

Each checkout has a process and a file of its own, which it has filled itself. Every question is asked of one
and then of the other, so that what else is at work, and a processor whose speed changes by the minute, is in
both alike. Answers are compared to the last digit: names, scores, similarities, texts, reasons.
Each round begins with a store that has counted no word yet; of each call the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import trio

from benchmarks.memory.parts import _corpus
from benchmarks.memory.search import ADA, COMMON, ROOMY, WARM, GivenEmbedder, common_words, fill, grow_tree
from benchmarks.report import PROJECT, machine, percentile, show, write
from node.collector import collect_less_often
from node.environment import system_environment
from node.memory.question import Question
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage

OBSERVATIONS: Final = 100_000
CALLS: Final = 600
ROUNDS: Final = 3
KINDS: Final = ("hybrid search", "hybrid search, common words", "hybrid search, of one type")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write with ``--csv``; the exit status is 1 when answers differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="the folder that has sentences and vectors")
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    parser.add_argument("--observations", type=int, default=OBSERVATIONS)
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of each kind and round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder is not None:
        trio.run(_answer, options)
        return 0
    if options.before is None:
        parser.error("--before names the checkout that this one is compared with")
    facts = machine()
    rows, different = _compared(options)
    show(tuple(rows[0]), [tuple(row.values()) for row in rows])
    print(f"\nanswers that differ: {different}\n{facts}")
    if options.csv:
        print(f"raw: {write('memory-turns', facts | {'answers_that_differ': str(different)}, rows)}")
    return int(bool(different))


def _compared(options: argparse.Namespace) -> tuple[list[Row], int]:
    least: dict[tuple[str, str, int], tuple[float, float]] = {}
    different = 0
    with tempfile.TemporaryDirectory(prefix="caxton-turns-") as folder:
        asked = {
            name: _start(options, checkout, Path(folder) / name)
            for name, checkout in (("before", options.before), ("now", PROJECT))
        }
        try:
            for process in asked.values():
                _ask(process, "begin")
            for round_, kind in itertools.product(range(options.rounds), KINDS):
                for process in asked.values():
                    _ask(process, "anew")
                for call in range(-WARM, options.calls):
                    names = sorted(asked, reverse=bool((call + round_) % 2))
                    told = {name: _ask(asked[name], kind, max(call, call + WARM)) for name in names}
                    different += told["before"]["answer"] != told["now"]["answer"]
                    for name, one in told.items() if call >= 0 else ():
                        wall, processor = least.get((kind, name, call), (one["wall"], one["processor"]))
                        least[kind, name, call] = min(wall, one["wall"]), min(processor, one["processor"])
        finally:
            for process in asked.values():
                process.kill()
                with process:  # closes its pipes, and waits
                    pass
    return [_row(kind, name, least, options.calls) for kind in KINDS for name in asked], different


def _row(kind: str, name: str, least: dict[tuple[str, str, int], tuple[float, float]], calls: int) -> Row:
    wall, processor = zip(*(least[kind, name, call] for call in range(calls)), strict=True)
    row: Row = {"measure": kind, "checkout": name}
    for figure, values in (("wall", wall), ("processor", processor)):
        for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            row[f"{figure}_{label}_ms"] = round(percentile(list(values), share), 3)
    return row


def _start(options: argparse.Namespace, checkout: Path, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--folder", str(folder)]
    command += ["--cache", str(options.cache.resolve()), "--observations", str(options.observations)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(process: subprocess.Popen[str], kind: str, call: int = 0) -> dict[str, Any]:
    given, told = _pipe(process.stdin), _pipe(process.stdout)
    given.write(json.dumps([kind, call]) + "\n")
    given.flush()
    line = told.readline()
    if not line:
        raise SystemExit("a checkout has ended before it was measured")
    found: dict[str, Any] = json.loads(line)
    return found


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise SystemExit("a checkout was started without pipes")
    return pipe


# ---- in the process of one checkout -------------------------------------------------------------------


async def _answer(options: argparse.Namespace) -> None:
    """Do what is asked for on the standard input, a line each, until it ends."""
    corpus = _corpus(options.cache, options.observations)
    asked = _questions([text for text, _ in corpus.questions], common_words(corpus.texts, 2 * COMMON))
    environment, embedder = system_environment(), GivenEmbedder(corpus.questions)
    path = options.folder / "memory.db"
    storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
    memory = MemoryStore(storage, embedder, environment, node="bench", settings=ROOMY)
    for line in sys.stdin:
        kind, call = json.loads(line)
        told: dict[str, Any] = {}
        if kind == "begin":
            await fill(memory, corpus)
            await grow_tree(memory)
        elif kind == "anew":
            memory = MemoryStore(storage, embedder, environment, node="bench", settings=ROOMY)
        else:
            told = await _timed(memory, asked[kind][call % len(asked[kind])])
        print(json.dumps(told), flush=True)
    storage.close()


async def _timed(memory: MemoryStore, question: Question) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    found = await memory.search(ADA, question)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    answer = [
        (
            hit.entity.name,
            hit.score,
            hit.similarity,
            [one.text for one in hit.entity.observations],
            hit.reasons,
        )
        for hit in found.hits
    ]
    return {"wall": wall * 1000, "processor": processor * 1000, "answer": repr((found.total, answer))}


def _questions(texts: Sequence[str], common: Sequence[str]) -> dict[str, list[Question]]:
    """What is asked for in the searches of ``benchmarks.memory`` of these kinds."""
    return {
        KINDS[0]: [Question(text) for text in texts],
        KINDS[1]: [Question(" ".join(words)) for words in itertools.combinations(common, COMMON)],
        KINDS[2]: [Question(text, types=("note",)) for text in texts],
    }


if __name__ == "__main__":
    collect_less_often()  # as a process that is a node does
    sys.exit(main())
