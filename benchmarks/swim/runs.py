"""Runs of a simulated benchmark: seeds, processes, and raw rows as CSV with what they depend on above them.

Every script of this package does the same: it makes tasks, one per run, lets a function turn each into rows,
on as many processes as asked for, and prints what the rows of a cell come to, beside the reference and the
goal. A run follows from its task alone, so rows do not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TextIO, TypeVar

from benchmarks.report import RESULTS, machine
from simulations.links import Link
from simulations.members import MemberCluster
from simulations.production import Identities, configuration
from swim.broadcast import Replicated
from swim.config import SwimConfig

DELAY_S: Final = 0.001
JITTER_S: Final = 0.002
"""2 ms +- 1 ms one way: at least 1 ms, and up to 2 ms more, uniformly."""
LOSS: Final = 0.01
AUTOMATIC: Final = "results"
"""What ``--csv`` without a file stands for."""
MAX_BINS: Final = 100_000

Row = dict[str, Any]
Task = TypeVar("Task")


class Found(NamedTuple):
    """What one run came to.

    Attributes:
        rows: For the CSV.
        times_s: What is too much for the CSV: all detections, say, by two names or numbers that tell of what.
    """

    rows: list[Row]
    times_s: Mapping[tuple[str, str], float | None]


class Run(Generic[Task]):
    """A function of a task that notes what its run has cost, too; it can be sent to another process.

    Args:
        function: Turns a task into what was found.
    """

    def __init__(self, function: Callable[[Task], Found]) -> None:
        self._function = function

    def __call__(self, task: Task) -> Found:
        """Run a task."""
        began = time.process_time()
        found = self._function(task)
        cpu_s = (time.process_time() - began) / len(found.rows)
        for row in found.rows:
            row["cpu_s"] = round(cpu_s, 3)
        return found


def each(function: Callable[[Task], Found], tasks: Sequence[Task], jobs: int) -> Iterator[Found]:
    """Run all tasks and yield what they came to, in their order.

    Args:
        function: Of a module, so that another process finds it.
        tasks: What it is given, one after the other.
        jobs: Processes.
    """
    run = Run(function)
    if jobs == 1 or len(tasks) == 1:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run, tasks)


# ---- the simulated cluster -------------------------------------------------------------------------


@cache
def identities() -> Identities:
    """Who everybody is: the same in all runs of this process, because each identity takes a signature."""
    return Identities()


@cache
def names(count: int) -> tuple[str, ...]:
    """The names of so many members."""
    return tuple(f"m{number:04d}" for number in range(count))


def cluster(
    seed: int,
    config: SwimConfig | None = None,
    *,
    loss: float = LOSS,
    gossip_keys: Sequence[bytes] = (),
    replicated: Callable[[str], Replicated] | None = None,
    shared_cryptography: bool = True,
) -> MemberCluster:
    """An empty cluster on links of 2 ms +- 1 ms.

    Args:
        seed: Everything random follows from it.
        config: The parameters of all members; the profile ``lan`` by default.
        loss: Probability that a datagram is lost.
        gossip_keys: Keys of the packets' encryption; a checksum without any.
        replicated: Makes the map that rides along, by the member's name.
        shared_cryptography: Whether one member uses what another has computed of signatures and keys.
    """
    return MemberCluster(
        seed,
        config or configuration("lan", {}),
        link=Link(delay_s=DELAY_S, jitter_s=JITTER_S, loss=loss),
        gossip_keys=gossip_keys,
        replicated=replicated,
        identities=identities(),
        shared_cryptography=shared_cryptography,
    )


# ---- the command line ------------------------------------------------------------------------------


def parser(about: str, *, seeds: str, resumable: bool = False) -> argparse.ArgumentParser:
    """The options that all scripts have.

    Args:
        about: What is measured.
        seeds: The default of ``--seeds``.
        resumable: Whether the raw rows say all that is measured, so that a long sweep can be done in parts.
    """
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    made.add_argument(
        "--seeds", type=seed_range, default=seed_range(seeds), help="first and last, as in 1..100"
    )
    made.add_argument("--jobs", type=positive, default=1, help="processes")
    made.add_argument(
        "--csv",
        nargs="?",
        const=AUTOMATIC,
        help="write raw rows here; without a file name to benchmarks/results, with the date",
    )
    made.set_defaults(resume=None)
    if resumable:
        made.add_argument(
            "--resume",
            type=Path,
            metavar="FILE",
            help="take what an earlier sweep of the same code has written there, and run only the rest",
        )
    return made


class SeedRange(Sequence[int]):
    """Seeds as they are written: ``1..20``.

    Args:
        first: The first.
        last: The last.
    """

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: Any) -> Any:
        return self._range[index]

    def __str__(self) -> str:
        return f"{self._range[0]}..{self._range[-1]}"


def seed_range(text: str) -> SeedRange:
    """The seeds that ``1..20``, or a single number, stands for.

    Raises:
        argparse.ArgumentTypeError: it is no range.
    """
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds; write 1..20")
    return SeedRange(int(match[1]), int(match[2] or match[1]))


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(positive(part) for part in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """Numbers from 0 on with commas between them."""
    found = tuple(float(part) for part in text.split(","))
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} has a number below 0")
    return found


# ---- results ---------------------------------------------------------------------------------------


class Results:
    """Writes raw rows as they come, so that an interrupt loses none; nothing without a file.

    Args:
        name: Of the benchmark.
        csv_option: What ``--csv`` was given.
        script: The module, if it is not called as the benchmark.
        group: The package it belongs to, which its files begin with.
        resume: Raw rows of an earlier sweep, which are taken over.
    """

    def __init__(
        self,
        name: str,
        csv_option: str | None,
        *,
        script: str = "",
        group: str = "swim",
        resume: Path | None = None,
    ) -> None:
        self.path: Path | None = None
        self._known = [] if resume is None else read(resume)
        command = f"python -m benchmarks.{group}.{script or name} {' '.join(sys.argv[1:])}"
        self._facts = machine() | {"command": command}
        self._file: TextIO | None = None
        self._table: csv.DictWriter[str] | None = None
        if csv_option == AUTOMATIC:
            RESULTS.mkdir(exist_ok=True)
            self.path = RESULTS / f"{group}-{name}-{self._facts['date'][:10]}.csv"
        elif csv_option is not None:
            self.path = Path(csv_option)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            print(f"raw: {self.path}")

    def each(self, function: Callable[[Any], Found], tasks: Sequence[Any], jobs: int) -> Iterator[Found]:
        """Run all tasks but those of the earlier sweep, write what they came to, and yield it in their order.

        Args:
            function: As for `each`.
            tasks: Named tuples, whose fields are columns of their rows.
            jobs: Processes.
        """
        known = [[row for row in self._known if _is_of(row, task)] for task in tasks]
        found = each(function, [task for task, rows in zip(tasks, known, strict=True) if not rows], jobs)
        for rows in known:
            if rows:
                yield Found(rows, {})
            else:
                new = next(found)
                self.add(new.rows)
                yield new

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows; the first says which columns there are."""
        if self.path is None:
            return
        for row in rows:
            if self._table is None:
                self._file = self.path.open("w", encoding="utf-8", newline="")
                self._table = _table(self._file, list(row), self._facts)
                self._table.writerows(self._known)
            self._table.writerow(row)
        if self._file is not None:
            self._file.flush()

    def beside(self, what: str, rows: Sequence[Row]) -> None:
        """Write a second table, ``FILE-WHAT.csv``, once."""
        if self.path is None or not rows:
            return
        path = self.path.with_name(f"{self.path.stem}-{what}.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            _table(file, list(rows[0]), self._facts).writerows(rows)


def _is_of(row: Row, task: Any) -> bool:
    fields: dict[str, Any] = task._asdict()
    return all(
        row.get(name) == _value(str(int(told) if isinstance(told, bool) else told))
        for name, told in fields.items()
    )


def _table(file: TextIO, columns: list[str], facts: Mapping[str, str]) -> csv.DictWriter[str]:
    file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
    table = csv.DictWriter(file, columns, lineterminator="\n")
    table.writeheader()
    return table


def newest(name: str, directory: Path = RESULTS, suffix: str = "") -> Path | None:
    """The latest raw results of a benchmark, None if there are none.

    Args:
        name: Of the benchmark.
        directory: Where results are.
        suffix: Of a second table, as `Results.beside` was given it.
    """
    ending = f"-{suffix}" if suffix else ""
    pattern = re.compile(rf"swim-{re.escape(name)}-\d{{4}}-\d\d-\d\d{ending}\.csv")
    found = sorted(path for path in directory.glob(f"swim-{name}-*.csv") if pattern.fullmatch(path.name))
    return found[-1] if found else None


def read(path: Path) -> list[Row]:
    """Raw rows as they were written, numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    return [{column: _value(told) for column, told in row.items()} for row in csv.DictReader(lines)]


def _value(told: str) -> Any:
    for kind in (int, float):
        try:
            return kind(told)
        except ValueError:
            continue
    return told


def binned(bins: Sequence[Row], bin_s: float, share: float) -> float:
    """A percentile of a histogram: the upper edge of the bin that it falls into.

    Args:
        bins: From `histogram`, at least one.
        bin_s: How wide they are.
        share: 0 to 1.
    """
    total = sum(row["count"] for row in bins)
    rank = min(total - 1, int(share * total))
    for row in sorted(bins, key=lambda each: float(each["from_s"])):
        rank -= row["count"]
        if rank < 0:
            return float(row["from_s"]) + bin_s
    raise ValueError("a histogram without values has no percentile")


def histogram(values: Iterable[float], bin_s: float) -> list[Row]:
    """How many values are in each bin; a bin holds its lower edge."""
    counts = Counter(min(MAX_BINS, int(value / bin_s)) for value in values)
    return [{"from_s": round(at * bin_s, 6), "count": counts[at]} for at in sorted(counts)]


def line(cell: str, measured: str, reference: str, goal: str) -> None:
    """Print what a cell came to, beside the reference and the goal."""
    print(f"{cell}: {measured} | reference: {reference} | goal: {goal}", flush=True)


def text(value: float | None, digits: int = 2) -> str:
    """A number as it is printed; a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def cost(rows: Iterable[Row], count: int, what: str) -> str:
    """What rows have cost, as text: processor seconds for each of so many units."""
    return f"{sum(row['cpu_s'] for row in rows) / max(1, count):.2f} CPU s per {what}"


fixed = partial(round, ndigits=3)
"""Seconds as they are written into a CSV."""
