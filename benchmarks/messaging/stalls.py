"""What holds up the loop while a thousand agents are sent messages of all kinds, here and elsewhere in turn.

    .venv/bin/python -m benchmarks.messaging.stalls --against ../before --rates 500,1000,2500 --csv

The load is that of ``benchmarks.messaging mixed``. Beside its latencies this tells what the loop did in one
piece: how often a step of a task, whatever it is, took more than 5 ms of the thread's processor time (a busy
machine takes the processor away as well, which no code of ours can help), how long the searches for cyclic
garbage lasted, and how long commits did. With ``--against`` old and new code run in turn, and the table has
medians and the median of the ratios of the turns. The first rate on each node is a warm-up and left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.agents import SCRIPT, scripted
from benchmarks.messaging import mixed
from benchmarks.nodes import bundle, init, running
from benchmarks.report import machine, show, write
from node.storage.storage import Storage

LONG_MS: Final = 5.0
"""Processor time of a step from which on it is counted."""
WARM_UP: Final = 250
"""Messages offered per second at first."""
SHOWN: Final = ("p50_ms", "p99_ms", "cpu_us", "commits", "long_steps", "gc_passes", "gc_ms", "gc_max_ms")


class Steps(trio.abc.Instrument):
    """Times each step of each task, each search for garbage and each commit."""

    def __init__(self) -> None:
        self._since = time.thread_time()
        self.forget()
        gc.callbacks.append(self._searched)
        commit = Storage._commit  # noqa: SLF001 - what commits cost is told by nothing else

        def timed(storage: Storage, group: list[Any]) -> None:
            since = time.thread_time()
            commit(storage, group)
            self.commits.append(time.thread_time() - since)

        Storage._commit = timed  # type: ignore[method-assign]  # noqa: SLF001

    def forget(self) -> None:
        """Begin anew."""
        self.long, self.searches, self.commits = 0, list[float](), list[float]()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note when it begins."""
        del task
        self._since = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count it where it was long."""
        del task
        self.long += 1000 * (time.thread_time() - self._since) > LONG_MS

    def _searched(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._search = time.thread_time()
        else:
            self.searches.append(time.thread_time() - self._search)

    def as_row(self, messages: int) -> dict[str, Any]:
        """The figures so far."""
        return {
            "commits": round(len(self.commits) / messages, 3),
            "long_steps": self.long,
            "gc_passes": len(self.searches),
            "gc_ms": round(1000 * sum(self.searches), 1),
            "gc_max_ms": round(1000 * max(self.searches, default=0.0), 1),
            "commits_over_5_ms": sum(1000 * each > LONG_MS for each in self.commits),
        }


def main() -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, for example of an earlier commit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--agents", type=int, default=mixed.AGENTS)
    parser.add_argument("--kind", choices=mixed.KINDS, help="of all agents")
    parser.add_argument("--rates", default="500,1000,2500", help="messages per second, answers included")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory(prefix="caxton-stalls-") as name:
            print(json.dumps(trio.run(_measure, Path(name), options)))
        return 0
    from benchmarks.checkouts import in_turn, measured_in  # noqa: PLC0415 - measured code may lack it

    facts, rows = machine(), list[dict[str, Any]]()
    checkouts = in_turn(options.against)
    arguments = ["--measure", "--rates", options.rates, "--agents", str(options.agents)]
    arguments += ["--kind", options.kind] if options.kind else []
    for run in range(options.runs):
        for which, checkout in checkouts.items():
            for row in measured_in(checkout, __file__, *arguments):
                rows.append({"run": run, "checkout": which, **row})
                print(rows[-1], file=sys.stderr)
    _report(rows)
    kind = f"-{options.kind}" if options.kind else ""
    path = write(f"messaging-stalls{kind}", facts, rows) if options.csv else "not written"
    print(f"\n{facts}\nraw: {path}")
    return 0


async def _measure(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    init(directory, ["origin"])
    script = directory / "script.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    steps, rows = Steps(), []
    async with running(scripted(bundle(directory, "origin"), script)) as (node, _):
        await mixed._settle_in(node, options.agents, options.kind)  # noqa: SLF001 - the same load
        trio.lowlevel.add_instrument(steps)
        for rate in (WARM_UP, *map(int, options.rates.split(","))):
            steps.forget()
            row = await mixed._offered(node, rate, options.agents)  # noqa: SLF001
            rows.append(
                {"kind": options.kind or "all", **row, **steps.as_row(2 * row["answered"] + row["taken"])}
            )
    return rows[1:]


def _report(rows: list[dict[str, Any]]) -> None:
    table = []
    for rate in dict.fromkeys(row["per_s"] for row in rows):
        for key in SHOWN:
            before, here = (
                [row[key] for row in rows if row["per_s"] == rate and row["checkout"] == which]
                for which in ("before", "here")
            )
            ratios = [h / b for h, b in zip(here, before, strict=False) if b]
            shown = [f"{median(each):.4g}" if each else "-" for each in (before, here)]
            table.append([rate, key, *shown, f"{median(ratios):.2f}" if ratios else "-"])
    show(("per s", "figure", "before", "here", "ratio"), table)


if __name__ == "__main__":
    sys.exit(main())
