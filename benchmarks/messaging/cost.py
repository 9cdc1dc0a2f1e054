"""What a message costs in processor time, here and in another checkout in turn.

    .venv/bin/python -m benchmarks.messaging.cost --against ../before --csv

Rates say little on a machine that others use, and nothing of where they end. Processor time per message does,
as long as old and new code are measured in turn: the table has medians, and the median of the ratios of the
turns. The loads are those of ``benchmarks.messaging``; a request is two messages. On two nodes the cost is
told for each of them: the dearer one bounds the rate. Batches that are accepted one after the other, each as
soon as the one before has ended, cost what a batch costs however small it is, and show how long the way is.
Of their commits the longest is told, in processor time: that of a checkpoint stands out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.messaging.loads import SINK, Load, Origin
from benchmarks.messaging.provider import offer, provider
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import machine, percentile, show, write
from node.node import Node
from node.storage.storage import Storage

WINDOW: Final = 3_000
"""Open messages, one way."""


@dataclass(frozen=True, slots=True)
class Case:
    """One load.

    Args:
        nodes: 1, or 2 for a provider in another process.
        in_flight: Requests at a time; 0 for messages that want no answer.
        batch: Of these, how many at a time, each batch after the one before; 0 for as many as go.
        durability: See ``storage.durability``.
    """

    nodes: int
    in_flight: int
    batch: int = 0
    durability: str = "normal"


CASES: Final = {
    "two nodes, one way": Case(2, 0),
    "two nodes, a message at a time": Case(2, 0, 1),
    "two nodes, ten messages at a time": Case(2, 0, 10),
    "two nodes, a hundred messages at a time": Case(2, 0, 100),
    "two nodes, ten messages at a time, durability full": Case(2, 0, 10, "full"),
    "two nodes, a hundred messages at a time, durability full": Case(2, 0, 100, "full"),
    "one node, one way": Case(1, 0),
    "one node, 64 requests at a time": Case(1, 64),
    "one node, one request at a time": Case(1, 1),
}


def main() -> int:
    """Measure each load in turn in both checkouts, and show medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, for example of an earlier commit")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--only", help="loads whose name has this text")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--label", default="messaging-cost", help="begins the name of that file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(trio.run(_measure, CASES[options.case], options.seconds)))
        return 0
    from benchmarks.checkouts import in_turn, measured_in  # noqa: PLC0415 - measured code may lack it

    facts, rows = machine(), []
    checkouts = in_turn(options.against)
    for run in range(options.runs):
        for name in [each for each in CASES if not options.only or options.only in each]:
            for which, checkout in checkouts.items():
                found = measured_in(checkout, __file__, "--case", name, "--seconds", str(options.seconds))
                rows.append({"load": name, "run": run, "checkout": which, **found})
                print(rows[-1], file=sys.stderr)
    _report(rows)
    print(f"\n{facts}\nraw: {write(options.label, facts, rows) if options.csv else 'not written'}")
    return 0


async def _measure(case: Case, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="caxton-cost-") as name:
        directory = Path(name)
        init(directory, ["origin", "provider"][: case.nodes])
        async with running(config(bundle(directory, "origin"), None, case.durability)) as (node, gossip):
            if case.nodes == 1:
                await offer(node, wasm=False)
                return await _cost(node, case, seconds, None)
            async with provider(directory, gossip, durability=case.durability) as process:
                return await _cost(node, case, seconds, process.pid)


async def _cost(node: Node, case: Case, seconds: float, other: int | None) -> dict[str, Any]:
    origin = Origin(node)
    await origin.wait_for_provider()
    await _load(origin, case, 1.0)
    longest = _watch_commits()
    commits, used_s = _commits(node), time.process_time()
    other_s = 0.0 if other is None else _processor_s(other)
    load = await _load(origin, case, seconds)
    used_s = time.process_time() - used_s
    count = load.settled + load.drained or 2 * len(load.latencies)
    row = load.as_row()
    return {
        "messages": count,
        "failed": load.failures,
        "per_s": row["per_s"],
        "p50_ms": row["p50_ms"] if case.in_flight or case.batch else "",
        "p10_ms": round(1000 * percentile(load.latencies, 0.1), 3) if case.batch else "",
        "origin_us": round(used_s / count * 1e6, 2),
        "provider_us": "" if other is None else round((_processor_s(other) - other_s) / count * 1e6, 2),
        "commits": round((_commits(node) - commits) / count, 4),
        "longest_ms": round(1000 * max(longest), 2) if case.batch else "",
    }


async def _load(origin: Origin, case: Case, seconds: float) -> Load:
    if case.in_flight:
        return await origin.closed("cost", in_flight=case.in_flight, duration_s=seconds)
    if case.batch:
        return await _batches(origin, case.batch, seconds)
    return await origin.one_way("cost", window=WINDOW, duration_s=seconds)


async def _batches(origin: Origin, batch: int, seconds: float) -> Load:
    """One batch after the other; a latency is that of a whole batch."""
    load = Load("cost", f"{batch} at a time")
    outbox = origin._node.bus._outbox  # noqa: SLF001 - what it is told, it is told at once: nothing has to poll
    written, open_count, done = outbox._written, 0, trio.Event()  # noqa: SLF001

    def note(changes: Any) -> None:
        nonlocal open_count
        written(changes)
        open_count -= len(changes.ended)
        if open_count <= 0:
            done.set()

    outbox._written = note  # noqa: SLF001
    began = now = time.perf_counter()
    while now < began + seconds:
        open_count, done = batch, trio.Event()
        await origin._node.bus.accept_many([origin._message(SINK) for _ in range(batch)])  # noqa: SLF001
        await done.wait()
        load.latencies.append(time.perf_counter() - now)
        load.settled += batch
        now = time.perf_counter()
    outbox._written = written  # noqa: SLF001
    load.seconds = now - began
    return load


def _watch_commits() -> list[float]:
    """The processor time of each commit from now on, with the checkpoint that it may include."""
    took, commit = [0.0], Storage._commit  # noqa: SLF001

    def timed(self: Any, group: Any) -> None:
        began = time.thread_time()
        commit(self, group)
        took.append(time.thread_time() - began)

    Storage._commit = timed  # type: ignore[method-assign]  # noqa: SLF001
    return took


def _commits(node: Node) -> float:
    return node.bus._storage.statistics()["commits"]  # noqa: SLF001 - what the bus alone has caused


def _processor_s(pid: int) -> float:
    """Processor time of a process's main thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _report(rows: Sequence[dict[str, Any]]) -> None:
    table = []
    for load in dict.fromkeys(row["load"] for row in rows):
        for key in ("origin_us", "provider_us", "commits", "p50_ms", "p10_ms", "longest_ms"):
            before = [row[key] for row in rows if row["load"] == load and row["checkout"] == "before"]
            here = [row[key] for row in rows if row["load"] == load and row["checkout"] == "here"]
            if here[0] == "":
                continue
            ratio = f"{median(h / b for h, b in zip(here, before, strict=True)):.2f}" if before else "-"
            shown = [f"{median(each):.4g}" if each else "-" for each in (before, here)]
            table.append([load, key, *shown, ratio])
    show(("load", "per message", "before", "here", "ratio"), table)


if __name__ == "__main__":
    sys.exit(main())
