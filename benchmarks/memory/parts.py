"""Where the time goes in storing, searching and walking: processor time of each part, beside the whole.

    .venv/bin/python -m benchmarks.memory.parts --cache FOLDER --csv    # the folder of benchmarks.memory

Storing is run whole and without a part, in turn; what a part costs is the difference of the least of each.
The steps of a search and a walk are timed one by one, in the thread that runs them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import numpy as np
import trio

from benchmarks.memory import search as whole
from benchmarks.memory.search import ADA, MODEL, Corpus, GivenEmbedder, fill, grow_tree
from benchmarks.report import machine, percentile, show, write
from node.collector import collect_less_often
from node.environment import system_environment
from node.memory import graph, indexes, search
from node.memory.graph import Direction, Walk
from node.memory.planes import Planes
from node.memory.question import Question
from node.memory.schema import MEMORY
from node.memory.scopes import Scoped
from node.memory.store import MemoryStore
from node.memory.words import Vocabulary
from node.storage import Storage

OBSERVATIONS: Final = 100_000
STORED: Final = 20_000
ROUNDS: Final = 3
QUESTIONS: Final = 300
WALKS: Final = 100

Row = dict[str, object]
Timed = dict[str, list[float]]

LEFT_OUT: Final[dict[str, tuple[str, ...]]] = {
    "the full text": ("index_text",),
    "the signs in the file": ("index_vector",),
}
"""Part of storing -> the functions of :mod:`node.memory.indexes` that do nothing without it."""
STEPS: Final[dict[str, tuple[object, str]]] = {
    "by meaning": (search, "by_meaning"),
    "by meaning: signs": (Planes, "nearest"),
    "by meaning: rows and numbers": (search, "_compared"),
    "which words": (Vocabulary, "asked"),
    "by words": (search, "word_hits"),
    "by names": (search, "name_hits"),
    "the rest compared": (search, "_compare_the_rest"),
    "weighed": (search, "_weighed"),
    "shown": (search, "_shown"),
}
WALKED: Final[dict[str, tuple[object, str]]] = {
    "entities": (graph, "entities_of"),
    "statements": (Scoped, "rows"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write with ``--csv``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="the folder that has sentences and vectors")
    parser.add_argument("--observations", type=int, default=OBSERVATIONS)
    parser.add_argument("--stored", type=int, default=STORED, help="observations of each round of storing")
    parser.add_argument("--csv", action="store_true")
    options = parser.parse_args(arguments)
    facts = machine()
    corpus = _corpus(options.cache, options.observations)
    rows = trio.run(_stored, _first(corpus, options.stored)) + trio.run(_searched, corpus)
    show(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if options.csv:
        print(f"\nraw: {write('memory-parts', facts, rows)}")
    return 0


def _corpus(folder: Path, size: int) -> Corpus:
    [file] = folder.glob("vectors-*.bin")
    record = np.dtype([("key", "V16"), ("vector", "<f4", (MODEL.dimension,))])
    vectors = np.fromfile(file, record)["vector"]
    texts = (folder / "sentences.txt").read_text(encoding="utf-8").splitlines()
    count = min(QUESTIONS, len(vectors) // 2)
    questions = list(zip(texts[:count], vectors[:count], strict=True))
    return Corpus(texts[count : count + size], vectors[count : count + size], questions)


def _first(corpus: Corpus, size: int) -> Corpus:
    return Corpus(corpus.texts[:size], corpus.vectors[:size], corpus.questions)


async def _stored(corpus: Corpus) -> list[Row]:
    """Microseconds of processor for each observation, whole and by part."""
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, functions in {"": (), **LEFT_OUT}.items():
            with _without(functions):
                used = await _filled(corpus)
            least[name] = min(used, least.get(name, used))
    count, total = len(corpus.texts), least[""]
    parts = {"all of it": total, **{name: total - least[name] for name in LEFT_OUT}}
    return [_row(count, "storing", name, used / count * 1e6, "us") for name, used in parts.items()]


async def _filled(corpus: Corpus) -> float:
    environment = system_environment()
    with tempfile.TemporaryDirectory(prefix="caxton-parts-") as folder:
        path = Path(folder) / "memory.db"
        storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
        memory = MemoryStore(storage, GivenEmbedder(corpus.questions), environment, node="bench")
        _, used = await fill(memory, corpus)
        storage.close()
    return used


async def _searched(corpus: Corpus) -> list[Row]:
    """Milliseconds of processor of each step of a search and a walk."""
    environment, rows = system_environment(), list[Row]()
    common = whole.common_words(corpus.texts, 2 * whole.COMMON)
    asked = {
        "hybrid search": [text for text, _ in corpus.questions],
        "hybrid search, common words": [
            " ".join(some) for some in itertools.combinations(common, whole.COMMON)
        ],
    }
    with tempfile.TemporaryDirectory(prefix="caxton-parts-") as folder:
        path = Path(folder) / "memory.db"
        storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
        memory = MemoryStore(storage, GivenEmbedder(corpus.questions), environment, node="bench")
        await fill(memory, corpus)
        await grow_tree(memory)
        for name, texts in asked.items():
            found = await storage.read(lambda c, texts=texts: _timed_searches(c, corpus, texts))
            rows += _told(len(corpus.texts), name, found)
        found = await storage.read(_timed_walks)
        rows += _told(len(corpus.texts), "walk, depth 3 and fan-out 10", found)
        storage.close()
    return rows


def _timed_searches(connection: apsw.Connection, corpus: Corpus, texts: Sequence[str]) -> Timed:
    vocabulary, planes = Vocabulary(connection), Planes()

    def ask(number: int) -> None:
        search.search(
            connection,
            vocabulary,
            ADA,
            Question(texts[number % len(texts)]),
            now_s=time.time(),
            vector=corpus.questions[number][1],
            model=MODEL,
            threshold=0.3,
            planes=planes,
        )

    for number in range(len(corpus.questions)):
        ask(number)  # words are counted, and pages read, once
    with _timing(STEPS) as found:
        for number in range(len(corpus.questions)):
            began = time.thread_time()
            ask(number)
            found["all of it"].append(time.thread_time() - began)
    return found


def _timed_walks(connection: apsw.Connection) -> Timed:
    way = Walk(depth=3, nodes=2_000, direction=Direction.OUT)
    with _timing(WALKED) as found:
        for _ in range(WALKS):
            began = time.thread_time()
            graph.walk(Scoped(connection, ADA), "root", way, time.time())
            found["all of it"].append(time.thread_time() - began)
    # Some statements are asked several times in a walk.
    return {name: _sums(times, WALKS) for name, times in found.items()}


def _sums(times: Sequence[float], count: int) -> list[float]:
    each = len(times) // count
    return [sum(times[first : first + each]) for first in range(0, each * count, each)]


@contextmanager
def _timing(steps: dict[str, tuple[object, str]]) -> Iterator[Timed]:
    """Note how long each call of these functions takes, in seconds of this thread."""
    found: Timed = defaultdict(list)
    before = {name: getattr(owner, function) for name, (owner, function) in steps.items()}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                found[name].append(time.thread_time() - began)

        return call

    for name, (owner, function) in steps.items():
        setattr(owner, function, timed(name, before[name]))
    try:
        yield found
    finally:
        for name, (owner, function) in steps.items():
            setattr(owner, function, before[name])


@contextmanager
def _without(functions: Sequence[str]) -> Iterator[None]:
    before = {name: getattr(indexes, name) for name in functions}
    for name in functions:
        setattr(indexes, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(indexes, name, function)


def _told(size: int, measure: str, found: Timed) -> list[Row]:
    rows = []
    for name in sorted(found, key=lambda each: (each != "all of it", each)):
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            rows.append(_row(size, measure, f"{name}, {label}", percentile(found[name], share) * 1e3, "ms"))
    return rows


def _row(size: int, measure: str, part: str, value: float, unit: str) -> Row:
    return {
        "observations": size,
        "measure": measure,
        "part": part,
        "processor": round(value, 4),
        "unit": unit,
    }


if __name__ == "__main__":
    collect_less_often()  # as a process that is a node does
    sys.exit(main())
