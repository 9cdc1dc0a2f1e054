"""Search, walks, ingest and size of the memory at 100,000 observations.

    .venv/bin/python -m benchmarks.memory.search                               # made-up sentences
    .venv/bin/python -m benchmarks.memory.search --sentences sentences.txt     # real ones, one a line
    .venv/bin/python -m benchmarks.memory.search --observations 10000 --no-csv

Vectors are drawn around 2,000 centres, by the hash of the text: embedding is measured by its own benchmark.
Searches go through the store, as a caller's do; "processor" is the time of the thread that reads, "wall"
what the caller waits. Recall is held against all float32 vectors.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio

from benchmarks.report import machine, percentile, show, write
from node.environment import Environment, system_environment
from node.memory import search as search_module
from node.memory.embedding import EmbeddingModel, Vectors
from node.memory.graph import Direction, Walk
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.question import Question
from node.memory.schema import MEMORY
from node.memory.scopes import Scoped, for_agent
from node.memory.store import MemoryStore
from node.storage import Storage

DIMENSION: Final = 384
CENTRES: Final = 2_000
PER_ENTITY: Final = 5
"""Observations of one entity."""
SEARCHES: Final = 300
ADA: Final = for_agent("ada")
HERS: Final = Realm(Scope.AGENT, "ada")
LAG_EVERY_S: Final = 0.002


class ClusteredEmbedder:
    """Vectors around centres; equal texts have equal ones."""

    def __init__(self) -> None:
        self.model = EmbeddingModel("clustered", hashlib.sha256(b"clustered").hexdigest(), DIMENSION)
        chance = np.random.default_rng(1)
        self._centres = chance.standard_normal((CENTRES, DIMENSION)).astype(np.float32)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text."""
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Any:
        """The vector of a text."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        chance = np.random.default_rng(seed)
        found = self._centres[seed % CENTRES] + 0.9 * chance.standard_normal(DIMENSION, dtype=np.float32)
        return found / np.linalg.norm(found)


def made_up(count: int) -> list[str]:
    """Sentences of words whose frequencies follow Zipf's law."""
    chance = random.Random(1)
    words = [f"{chance.choice('bdfgklmnprst')}{chance.choice('aeiou')}{n:x}" for n in range(20_000)]
    weights = [1 / (place + 1) for place in range(len(words))]
    return [" ".join(chance.choices(words, weights, k=chance.randint(6, 18))) for _ in range(count)]


async def fill(memory: MemoryStore, sentences: Sequence[str]) -> float:
    """Store the sentences a hundred entities at a time; returns observations a second."""
    started = time.perf_counter()
    spent = 0.0
    drafts = [
        EntityDraft(
            f"entity {at}", "note", tuple(ObservationDraft(text) for text in sentences[at : at + PER_ENTITY])
        )
        for at in range(0, len(sentences), PER_ENTITY)
    ]
    for at in range(0, len(drafts), 100):
        await memory.remember(ADA, HERS, drafts[at : at + 100])
    spent = time.perf_counter() - started
    return len(sentences) / spent


async def measured(
    memory: MemoryStore, ask: Callable[[int], Any], count: int = SEARCHES
) -> tuple[list[float], list[float]]:
    """Milliseconds that calls take: on the wall, and of the processor of this process."""
    wall, processor = [], []
    for number in range(count):
        began, used = time.perf_counter(), time.process_time()
        await ask(number)
        wall.append((time.perf_counter() - began) * 1000)
        processor.append((time.process_time() - used) * 1000)
    del memory
    return wall, processor


async def recall(memory: MemoryStore, embedder: ClusteredEmbedder, told: Sequence[str]) -> float:
    """The part of the exact ten nearest that is found."""
    rows = await memory.storage.read(
        lambda c: c.execute(
            "SELECT o.key, e.name, o.text FROM observations o JOIN entities e ON e.key = o.entity"
        ).fetchall()
    )
    matrix = np.stack([embedder.vector(f"{name} (note): {text}") for _, name, text in rows])
    keys = [row[0] for row in rows]
    shares = []
    for text in told[:100]:
        vector = embedder.vector(f"about {text}")
        exact = {keys[place] for place in np.argpartition(-(matrix @ vector), 10)[:10]}
        found = await memory.storage.read(
            lambda c, vector=vector: search_module.by_meaning(
                Scoped(c, ADA), Question("x"), 1, vector, ("1", ())
            )
        )
        shares.append(len(exact & {key for key, _, _ in found[:10]}) / 10)
    return sum(shares) / len(shares)


async def grow_tree(memory: MemoryStore) -> None:
    """An entity with ten others, each with ten, each with ten."""
    names, level = ["root"], ["root"]
    edges: list[tuple[str, str]] = []
    for _ in range(3):
        following = [f"{name}.{n}" for name in level for n in range(10)]
        edges += [(name.rpartition(".")[0], name) for name in following]
        names += following
        level = following
    for at in range(0, len(names), 100):
        await memory.remember(ADA, HERS, [EntityDraft(name, "node") for name in names[at : at + 100]])
    for at in range(0, len(edges), 500):
        some = edges[at : at + 500]
        await memory.relate(ADA, HERS, [RelationDraft(a, b, "has") for a, b in some])


async def lag(environment: Environment, found: list[float]) -> None:
    """How late the event loop serves a task that wants to run every 2 ms, in milliseconds."""
    while True:
        wanted = environment.clock.now() + LAG_EVERY_S
        await environment.clock.sleep_until(wanted)
        found.append((environment.clock.now() - wanted) * 1000)


def common_words(sentences: Sequence[str], count: int) -> list[str]:
    """The words that most sentences have."""
    counted: dict[str, int] = {}
    for text in sentences:
        for word in set(text.lower().split()):
            if word.isalnum():
                counted[word] = counted.get(word, 0) + 1
    return sorted(counted, key=lambda word: (-counted[word], word))[:count]


async def run(sentences: Sequence[str], folder: Path) -> list[dict[str, object]]:
    """All measurements, as rows."""
    environment, embedder = system_environment(), ClusteredEmbedder()
    storage = Storage.open(folder / "memory.db", durability="normal", environment=environment, design=MEMORY)
    memory = MemoryStore(storage, embedder, environment, node="bench")
    rows: list[dict[str, object]] = []

    def note(what: str, unit: str, **values: float) -> None:
        rows.extend(
            {"what": what, "figure": name, "value": round(value, 4), "unit": unit}
            for name, value in values.items()
        )

    rate = await fill(memory, sentences)
    storage.close()
    size = (folder / "memory.db").stat().st_size
    note("ingest, drawing the vectors included", "observations/s", rate=rate)
    note("size, with vectors and full text", "bytes/observation", size=size / len(sentences))
    storage = Storage.open(folder / "memory.db", durability="normal", environment=environment, design=MEMORY)
    memory = MemoryStore(storage, embedder, environment, node="bench")
    await grow_tree(memory)
    common = common_words(sentences, 3)
    chance = random.Random(2)
    picked = [chance.choice(sentences) for _ in range(SEARCHES)]
    queries: dict[str, Callable[[int], Any]] = {
        "by meaning alone": lambda n: memory.search(ADA, Question(f"?? {n} ??")),
        "hybrid, words of a sentence": lambda n: memory.search(ADA, Question(picked[n])),
        "hybrid, three very common words": lambda n: memory.search(ADA, Question(" ".join(common))),
        "hybrid, of one type": lambda n: memory.search(ADA, Question(picked[n], types=("note",))),
        "walk, depth 3 and fan-out 10": lambda n: memory.walk(
            ADA, "root", Walk(depth=3, nodes=2_000, direction=Direction.OUT)
        ),
    }
    for what, ask in queries.items():
        lags: list[float] = []
        await measured(memory, ask, 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag, environment, lags)
            wall, processor = await measured(memory, ask)
            nursery.cancel_scope.cancel()
        note(what, "ms", wall_p50=percentile(wall, 0.5), wall_p99=percentile(wall, 0.99))
        note(what, "ms", processor_p50=percentile(processor, 0.5), processor_p99=percentile(processor, 0.99))
        note(what, "ms", loop_lag_p999=percentile(lags, 0.999))
    note("recall@10 of meaning against float32", "share", recall=await recall(memory, embedder, picked))
    storage.close()
    return rows


def main() -> None:
    """Measure, print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--observations", type=int, default=100_000)
    parser.add_argument("--sentences", type=Path, help="a file with a sentence a line")
    parser.add_argument("--no-csv", action="store_true")
    options = parser.parse_args()
    if options.sentences is None:
        sentences = made_up(options.observations)
    else:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        sentences = lines[: options.observations]
    facts = machine() | {
        "observations": str(len(sentences)),
        "text": "made up" if options.sentences is None else "sentences of a file",
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = trio.run(run, sentences, Path(folder))
    show(("what", "figure", "value", "unit"), [tuple(row.values()) for row in rows])
    if not options.no_csv:
        print(write("memory-search", facts, rows))


if __name__ == "__main__":
    main()
