"""Storing, searching and walking a memory of one size: through the store, as a caller does.

Run by ``python -m benchmarks.memory``. Vectors are given, so that embedding, which has a benchmark of its
own, is in no figure but the one that says so. Each figure is told twice: as the clock on the wall has it,
which others at work lengthen, and as the processor has it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import trio
from numpy.typing import NDArray

from benchmarks.report import PROJECT, percentile
from node.environment import Environment, system_environment
from node.memory.embedding import Embedder, EmbeddingModel, Vectors
from node.memory.graph import Direction, Walk
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.planes import Planes
from node.memory.question import Question
from node.memory.records import Limits, MemorySettings
from node.memory.schema import MEMORY
from node.memory.scopes import Scoped, for_agent
from node.memory.search import Conditions, by_meaning
from node.memory.store import MemoryStore
from node.memory.vectors import Vector
from node.storage import Storage

PER_ENTITY: Final = 10
"""Observations of one entity."""
REQUEST: Final = 1_000
"""Observations of one request."""
WARM: Final = 50
"""Calls before those that are measured."""
NEAREST: Final = 10
COMMON: Final = 3
"""Very common words of one question."""
ADA: Final = for_agent("ada")
HERS: Final = Realm(Scope.AGENT, "ada")
LAG_EVERY_S: Final = 0.002
ROOMY: Final = MemorySettings(Limits(1_000_000, 1_000_000))
IN_THE_FILE: Final = "vector search, signs in the file"
"""As it is where the signs have no room in memory; a tenth of the calls, since it takes ten times as long."""
MODEL: Final = EmbeddingModel("given", "f" * 64, 384)

Row = dict[str, object]
Question_ = tuple[str, Vector]
"""A text that is asked for, and its vector."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is stored and asked for.

    Attributes:
        texts: Distinct, as many as are stored.
        vectors: Theirs, float32 of shape ``(n, 384)``, each of length 1.
        questions: Texts that are not stored, with their vectors.
    """

    texts: Sequence[str]
    vectors: NDArray[np.float32]
    questions: Sequence[Question_]


class GivenEmbedder:
    """Has the vectors of the questions, and makes none: another text has that of the first."""

    def __init__(self, questions: Sequence[Question_]) -> None:
        self.model = MODEL
        self._known, self._other = dict(questions), questions[0][1]

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text."""
        made: Vectors = np.stack([self._known.get(text, self._other) for text in texts])
        return made


class SameSpace:
    """The model that ships, in the space of the vectors that were given."""

    def __init__(self, embedder: Embedder) -> None:
        self.model = MODEL
        self.embed = embedder.embed


async def fill(memory: MemoryStore, corpus: Corpus) -> tuple[float, float]:
    """Store everything; returns seconds on the wall and of the processor, those of the caller left out."""
    wall = processor = 0.0
    for at in range(0, len(corpus.texts), REQUEST):
        drafts, known = [], {}
        for first in range(at, min(at + REQUEST, len(corpus.texts)), PER_ENTITY):
            some = range(first, min(first + PER_ENTITY, len(corpus.texts)))
            name = f"entity {first}"
            facts = tuple(ObservationDraft(corpus.texts[each]) for each in some)
            drafts.append(EntityDraft(name, "note", facts))
            known.update({(name, corpus.texts[each]): corpus.vectors[each] for each in some})
        began, used = time.perf_counter(), time.process_time()
        await memory.remember(ADA, HERS, drafts, known=known)
        wall, processor = wall + time.perf_counter() - began, processor + time.process_time() - used
    return wall, processor


async def measured(ask: Callable[[int], Awaitable[object]], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds that calls take: on the wall, and of the processor of this process."""
    wall, processor = [], []
    for number in range(min(WARM, count)):
        await ask(number)
    for number in range(count):
        began, used = time.perf_counter(), time.process_time()
        await ask(number)
        wall.append((time.perf_counter() - began) * 1000)
        processor.append((time.process_time() - used) * 1000)
    return wall, processor


async def nearest(storage: Storage, vector: Vector, planes: Planes) -> list[int]:
    """Keys of the ten that are found by meaning alone, the nearest first."""
    found = await storage.read(
        lambda c: by_meaning(Scoped(c, ADA), Question("x"), 1, vector, Conditions(), planes=planes)
    )
    return [key for key, *_ in found[:NEAREST]]


async def recall(storage: Storage, corpus: Corpus) -> float:
    """The part of the exact ten nearest by float32 that is found."""
    planes = Planes()
    keys = await storage.read(lambda c: c.execute("SELECT key FROM observations ORDER BY key").fetchall())
    shares = []
    for _, vector in corpus.questions:
        exact = np.argpartition(-(corpus.vectors @ vector), NEAREST)[:NEAREST]
        found = await nearest(storage, vector, planes)
        shares.append(len({keys[place][0] for place in exact} & set(found)) / NEAREST)
    return sum(shares) / len(shares)


async def grow_tree(memory: MemoryStore) -> None:
    """An entity with ten others, each with ten, each with ten."""
    level, names = ["root"], ["root"]
    edges: list[tuple[str, str]] = []
    for _ in range(3):
        edges += [(name, f"{name}.{number}") for name in level for number in range(10)]
        level = [f"{name}.{number}" for name in level for number in range(10)]
        names += level
    for at in range(0, len(names), 100):
        await memory.remember(ADA, HERS, [EntityDraft(name, "node") for name in names[at : at + 100]])
    for at in range(0, len(edges), 500):
        some = edges[at : at + 500]
        await memory.relate(ADA, HERS, [RelationDraft(start, end, "has") for start, end in some])


async def lag(environment: Environment, found: list[float]) -> None:
    """How late the event loop serves a task that wants to run every 2 ms, in milliseconds."""
    while True:
        wanted = environment.clock.now() + LAG_EVERY_S
        await environment.clock.sleep_until(wanted)
        found.append((environment.clock.now() - wanted) * 1000)


def common_words(texts: Sequence[str], count: int) -> list[str]:
    """The words that most texts have."""
    counted: dict[str, int] = {}
    for text in texts:
        for word in set(text.lower().split()):
            if word.isalnum():
                counted[word] = counted.get(word, 0) + 1
    return sorted(counted, key=lambda word: (-counted[word], word))[:count]


async def run(corpus: Corpus, folder: Path, searches: int, real: Embedder | None = None) -> list[Row]:
    """All measurements of one size.

    Args:
        corpus: What is stored and asked for.
        folder: An empty one, for the file.
        searches: Calls of each kind that are measured.
        real: The model that made the vectors, for searches that embed their question, or None for none.
    """
    rows: list[Row] = []
    size = len(corpus.texts)

    def note(measure: str, unit: str, **values: float) -> None:
        rows.extend(
            {"observations": size, "measure": measure, "figure": name, "value": round(value, 4), "unit": unit}
            for name, value in values.items()
        )

    environment, embedder = system_environment(), GivenEmbedder(corpus.questions)
    path = folder / "memory.db"
    lags: list[float] = []
    storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag, environment, lags)
        memory = MemoryStore(storage, embedder, environment, node="bench", settings=ROOMY)
        wall, processor = await fill(memory, corpus)
        nursery.cancel_scope.cancel()
    storage.close()
    note("ingest, vectors given", "observations/s", wall=size / wall, processor=size / processor)
    note("ingest, vectors given", "ms", loop_lag_p999=percentile(lags or [0.0], 0.999))
    note("size of an observation", "bytes", file=path.stat().st_size / size)
    note("resident memory of searches", "MB", added=resident(path, corpus))
    storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
    memory = MemoryStore(storage, embedder, environment, node="bench", settings=ROOMY)
    await grow_tree(memory)
    planes, began = Planes(), time.perf_counter()
    await nearest(storage, corpus.questions[0][1], planes)
    note("signs read into memory", "s", wall=time.perf_counter() - began)
    note("signs in memory", "MB", held=planes.statistics()["bytes"] / 1024**2)
    for measure, ask in _asked(memory, storage, corpus, real).items():
        calls = max(1, searches // 10) if measure == IN_THE_FILE else searches
        wall_ms, processor_ms = await measured(ask, calls)
        lags.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag, environment, lags)
            for number in range(calls):
                await ask(number)
            nursery.cancel_scope.cancel()
        note(measure, "ms", wall_p50=percentile(wall_ms, 0.5), wall_p99=percentile(wall_ms, 0.99))
        note(
            measure,
            "ms",
            processor_p50=percentile(processor_ms, 0.5),
            processor_p99=percentile(processor_ms, 0.99),
        )
        note(measure, "ms", loop_lag_p999=percentile(lags or [0.0], 0.999))
    note("recall@10 by meaning against float32", "share", recall=await recall(storage, corpus))
    storage.close()
    return rows


def _asked(
    memory: MemoryStore, storage: Storage, corpus: Corpus, real: Embedder | None
) -> dict[str, Callable[[int], Awaitable[object]]]:
    """What is measured, as functions of the number of a call."""
    planes, none = Planes(), Planes(0)
    common = common_words(corpus.texts, 2 * COMMON)
    threes = [" ".join(words) for words in itertools.combinations(common, COMMON)]
    texts = [text for text, _ in corpus.questions]
    short = [" ".join(text.split()[:8]) for text in texts]
    way = Walk(depth=3, nodes=2_000, direction=Direction.OUT)
    asked: dict[str, Callable[[int], Awaitable[object]]] = {
        "vector search": lambda n: nearest(storage, corpus.questions[n % len(texts)][1], planes),
        IN_THE_FILE: lambda n: nearest(storage, corpus.questions[n % len(texts)][1], none),
        "hybrid search": lambda n: memory.search(ADA, Question(texts[n % len(texts)])),
        "hybrid search, common words": lambda n: memory.search(ADA, Question(threes[n % len(threes)])),
        "hybrid search, of one type": lambda n: memory.search(
            ADA, Question(texts[n % len(texts)], types=("note",))
        ),
        "walk, depth 3 and fan-out 10": lambda n: memory.walk(ADA, "root", way),
    }
    if real is not None:
        whole = MemoryStore(storage, SameSpace(real), system_environment(), node="bench")
        # Each of them once: what was embedded before would come out of a cache.
        asked["hybrid search, short question embedded"] = lambda n: whole.search(
            ADA, Question(f"{short[n % len(short)]} {n % 97}")
        )
    return asked


def resident(path: Path, corpus: Corpus) -> float:
    """Megabytes that searching a file adds to a fresh process."""
    given = path.with_name("questions.npy")
    np.save(given, np.stack([vector for _, vector in corpus.questions]))
    command = [sys.executable, "-m", "benchmarks.memory.search", str(path), str(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=PROJECT)
    return float(json.loads(done.stdout))


async def _searched(path: Path, questions: NDArray[np.float32]) -> float:
    before = _resident_mb()
    environment = system_environment()
    storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
    planes = Planes()
    for vector in questions:
        await nearest(storage, vector, planes)
    after = _resident_mb()
    storage.close()
    return after - before


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Search a file in this process, and print the megabytes that it has taken."""
    parser = argparse.ArgumentParser(description="What searching a file adds to a process.")
    parser.add_argument("file", type=Path)
    parser.add_argument("questions", type=Path)
    options = parser.parse_args(arguments)
    print(json.dumps(trio.run(_searched, options.file, np.load(options.questions))))


if __name__ == "__main__":
    main()
