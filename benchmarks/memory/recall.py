"""What of the ten nearest is found: by how many candidates, how vectors are rounded, and where signs are cut.

    .venv/bin/python -m benchmarks.memory.recall --cache FOLDER --csv    # the folder of benchmarks.memory

All vectors of the folder are real. Candidates are those whose signs are nearest; they are put in order by
whole numbers of eight bits, with one scale for all vectors (as they were stored before) or with one for each
(as they are). ``centred`` takes the mean of all vectors off before signs are taken; ``weighed`` puts four
times as many candidates in order by their signs, weighed by the question's numbers, and compares a part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import machine, show, write

NEAREST: Final = 10
CANDIDATES: Final = (64, 128, 160, 192, 256, 384, 512)
QUESTIONS: Final = 300

WIDER: Final = 4
"""How many times as many are weighed."""

Matrix = NDArray[np.float32]
Words = NDArray[np.uint64]
Row = dict[str, object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write with ``--csv``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="the folder that has the vectors")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--csv", action="store_true")
    options = parser.parse_args(arguments)
    facts = machine()
    [file] = options.cache.glob("vectors-*.bin")
    record = np.dtype([("key", "V16"), ("vector", "<f4", (options.dimension,))])
    every: Matrix = np.fromfile(file, record)["vector"][: options.questions + options.vectors]
    rows = measured(every[options.questions :], every[: options.questions])
    show(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if options.csv:
        print(f"\nraw: {write('memory-recall', facts, rows)}")
    return 0


def measured(stored: Matrix, questions: Matrix) -> list[Row]:
    """The part of the ten nearest that is found in each way."""
    exact = [set(np.argpartition(-(stored @ vector), NEAREST)[:NEAREST].tolist()) for vector in questions]
    each = np.rint(stored * (127 / np.abs(stored).max(axis=1, keepdims=True))).astype(np.int8)
    rounded = {"one scale for all": np.rint(stored * 127).astype(np.int8), "a scale for each": each}
    rows: list[Row] = []

    def note(way: str, count: int, whole: NDArray[np.int8], near: Sequence[NDArray[np.int64]]) -> None:
        found = [_best(vector, whole, places) for vector, places in zip(questions, near, strict=True)]
        shares = [len(there & known) / NEAREST for there, known in zip(found, exact, strict=True)]
        told = {"vectors": len(stored), "way": way, "candidates": count}
        rows.append({**told, "recall": round(float(np.mean(shares)), 4)})

    for name, whole in rounded.items():
        note(f"{name}, all compared", len(stored), whole, [np.arange(len(stored))] * len(questions))
    mean = stored.mean(axis=0)
    plain = _nearest(_words(questions > 0), _words(stored > 0))
    centred = _nearest(_words(questions > mean), _words(stored > mean))
    for count in CANDIDATES:
        for name, whole in rounded.items():
            note(name, count, whole, plain[count])
        note("a scale for each, centred", count, each, centred[count])
        wide = zip(questions, plain[WIDER * count], strict=True)
        some = [_weighed(vector, stored, places, count) for vector, places in wide]
        note("a scale for each, weighed", count, each, some)
    return rows


def _nearest(questions: Words, stored: Words) -> dict[int, list[NDArray[np.int64]]]:
    """For each number of candidates the places of the nearest, and of those as near as the last of them."""
    counts = sorted({*CANDIDATES, *(WIDER * count for count in CANDIDATES)})
    found: dict[int, list[NDArray[np.int64]]] = {count: [] for count in counts}
    planes = np.ascontiguousarray(stored.T)
    for question in questions:
        distances = np.zeros(len(stored), np.uint16)
        for plane, word in zip(planes, question, strict=True):
            distances += np.bitwise_count(plane ^ word)
        lasts = [min(count, len(distances)) - 1 for count in counts]
        borders = np.partition(distances, lasts)[lasts]
        for count, border in zip(counts, borders, strict=True):
            found[count].append(np.flatnonzero(distances <= border))
    return found


def _words(signs: NDArray[np.bool_]) -> Words:
    bits = np.packbits(signs, axis=1)
    padded = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)


def _weighed(
    question: NDArray[np.float32], stored: Matrix, places: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Of some vectors those whose signs, as numbers, are nearest to the question's numbers."""
    near = np.where(stored[places] > 0, np.float32(1), np.float32(-1)) @ question
    return places[np.argsort(-near, kind="stable")[:count]]


def _best(question: NDArray[np.float32], whole: NDArray[np.int8], places: NDArray[np.int64]) -> set[int]:
    """The ten nearest of some, by their whole numbers."""
    numbers = whole[places].astype(np.float32)
    near = (numbers @ question) / np.linalg.norm(numbers, axis=1)
    return set(places[np.argsort(-near, kind="stable")[:NEAREST]].tolist())


if __name__ == "__main__":
    sys.exit(main())
