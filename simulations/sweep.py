"""Many seeds of one scenario: until they are done or the time is up, on as many processes as asked for."""

from __future__ import annotations

import csv
import math
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

from simulations.production import Identities
from simulations.runner import OK, Result, run
from simulations.scenario import Scenario

AHEAD: Final = 2
"""Runs per process that are handed out before their turn."""


@dataclass(slots=True)
class Sweep:
    """How a sweep ended.

    Args:
        scenario: What was run.
        rows: One per run, in the order of the seeds.
        failures: The results of runs that failed.
        sometimes: What was met in all runs together.
        checks: How often each property was put to the test in all runs together, zeros included.
        unmet: What the scenario asked for and no run met.
    """

    scenario: Scenario
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Result] = field(default_factory=list)
    sometimes: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)

    @property
    def unmet(self) -> list[str]:
        """What the scenario asked for and no run has met."""
        return [name for name in self.scenario.sometimes if not self.sometimes[name]]

    @property
    def code(self) -> int:
        """The worst code of all runs."""
        return max((result.code for result in self.failures), default=OK)

    def add(self, result: Result, cpu_s: float) -> None:
        """Take in a run."""
        self.rows.append(row(result, cpu_s))
        self.sometimes.update(result.sometimes)
        self.checks.update(result.checks)
        if result.code != OK:
            self.failures.append(result)


def sweep(
    scenario: Scenario,
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    budget_s: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Result], None] = lambda result: None,
) -> Sweep:
    """Run seeds in order.

    Args:
        scenario: What is run.
        seeds: Which.
        jobs: On how many processes.
        budget_s: Seconds of real time after which no run is begun any more; the first always is.
        stop: Whether no run shall be begun any more.
        progress: Told of each run.
    """
    found = Sweep(scenario)
    until = math.inf if budget_s is None else _now() + budget_s

    def is_over() -> bool:
        return stop() or _now() >= until

    results = _inline(scenario, seeds, is_over) if jobs == 1 else _parallel(scenario, seeds, jobs, is_over)
    for result, cpu_s in results:
        found.add(result, cpu_s)
        progress(result)
    found.rows.sort(key=lambda entry: int(entry["seed"]))
    found.failures.sort(key=lambda result: result.seed)
    return found


@contextmanager
def stopping() -> Iterator[Event]:
    """An event that the first Ctrl-C sets instead of interrupting; the second one interrupts."""
    stop = Event()

    def on_interrupt(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _now() -> float:
    return time.monotonic()  # noqa: TID251 - a budget of real time


def _inline(
    scenario: Scenario, seeds: Sequence[int], is_over: Callable[[], bool]
) -> Iterator[tuple[Result, float]]:
    identities = Identities()
    for number, seed in enumerate(seeds):
        if number and is_over():
            return
        yield _run(scenario, seed, identities)


def _parallel(
    scenario: Scenario, seeds: Sequence[int], jobs: int, is_over: Callable[[], bool]
) -> Iterator[tuple[Result, float]]:
    waiting = iter(seeds)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _ignore_interrupts) as pool:
        running: set[Future[tuple[Result, float]]] = set()
        exhausted = False
        while running or not exhausted:
            while not exhausted and len(running) < jobs * AHEAD:
                seed = None if running and is_over() else next(waiting, None)
                if seed is None:
                    exhausted = True
                else:
                    running.add(pool.submit(_run, scenario, seed))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda each: each.result()[0].seed):
                yield future.result()


def _ignore_interrupts() -> None:
    """A terminal tells all processes of Ctrl-C; the one that hands out runs decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(scenario: Scenario, seed: int, identities: Identities | None = None) -> tuple[Result, float]:
    began = time.process_time()
    result = run(scenario, seed, identities=identities)
    return result, time.process_time() - began


def row(result: Result, cpu_s: float) -> dict[str, Any]:
    """One line of the table of a sweep."""
    numbers = {
        key: value
        for key, value in result.measures.items()
        if value is None or isinstance(value, int | float)
    }
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "code": result.code,
        "failed": " ".join(result.failed),
        "virtual_s": round(result.virtual_s, 6),
        "cpu_s": round(cpu_s, 3),
        "lines": result.lines,
        "digest": result.digest,
        **numbers,
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the table of a sweep."""
    columns = list(dict.fromkeys(column for entry in rows for column in entry))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
