"""How many durable messages per second, and how long one takes, on one node and between two.

Loads per run, after a warm-up: requests one at a time (the latency of an idle cluster), at a fixed rate
(latency counted from the moment a request was due, so that a stall is not hidden), as many as go with a
fixed number in flight (throughput), and messages that want no answer (one way; with two nodes only from an
agent in Python), counted when their end is on disk at their origin: ten thousand a second, from when each is
due, and accepted a hundred at a time while fewer than a window are open.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.messaging.loads import Load, Origin
from benchmarks.messaging.provider import offer, provider
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import show


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        name: What the table calls it.
        nodes: 1, or 2 for a provider in another process.
        wasm: Answered by the WebAssembly sample agent instead of a Python function.
        durability: See ``storage.durability``.
    """

    name: str
    nodes: int
    wasm: bool = False
    durability: str = "normal"


ROWS: Final = (
    Row("one node, Python function", 1),
    Row("one node, Python function, durability full", 1, durability="full"),
    Row("one node, WebAssembly agent", 1, wasm=True),
    Row("two nodes over TLS, Python function", 2),
    Row("two nodes over TLS, WebAssembly agent", 2, wasm=True),
    Row("two nodes over TLS, Python function, durability full", 2, durability="full"),
)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all rows in turn, as often as is asked for, and show their medians."""
    rows: list[dict[str, Any]] = []
    chosen = [row for row in ROWS if not options.only or options.only in row.name]
    for run in range(options.runs):
        for row in chosen:
            print(f"run {run + 1} of {options.runs}: {row.name}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="caxton-messaging-") as directory:
                loads = trio.run(_measure, row, Path(directory), options)
            rows += [{"row": row.name, "run": run, **load.as_row()} for load in loads]
    _report(chosen, rows)
    return rows


async def _measure(row: Row, directory: Path, options: argparse.Namespace) -> list[Load]:
    init(directory, ["origin", "provider"][: row.nodes])
    async with running(config(bundle(directory, "origin"), None, row.durability)) as (node, gossip):
        if row.nodes == 1:
            await offer(node, wasm=row.wasm)
            return await _loads(Origin(node), options, one_way=True)
        async with provider(directory, gossip, wasm=row.wasm, durability=row.durability):
            return await _loads(Origin(node), options, one_way=not row.wasm)


async def _loads(origin: Origin, options: argparse.Namespace, *, one_way: bool) -> list[Load]:
    await origin.wait_for_provider()
    await origin.closed("warm-up", in_flight=8, duration_s=1.0)
    loads = []
    if one_way:  # first: what is forgotten of a load before is work of the one that is measured
        per_s, last_s = options.one_way_rate, options.seconds
        loads.append(await origin.one_way_at_rate("one way at a rate", per_s=per_s, duration_s=last_s))
    loads += [
        await origin.closed("idle", in_flight=1, duration_s=options.seconds),
        await origin.at_rate("fixed rate", per_s=options.rate, duration_s=options.seconds),
        await origin.closed("throughput", in_flight=options.in_flight, duration_s=options.seconds),
    ]
    if one_way:
        loads.append(await origin.one_way("one way", window=options.window, duration_s=options.seconds))
    return loads


def _report(chosen: Sequence[Row], rows: Sequence[dict[str, Any]]) -> None:
    table = []
    for row in chosen:
        cells: list[object] = [row.name]
        for load, columns in (
            ("one way", ("per_s",)),
            ("throughput", ("per_s", "p50_ms", "p99_ms")),
            ("idle", ("p50_ms", "p99_ms")),
            ("fixed rate", ("p50_ms", "p99_ms")),
            ("one way at a rate", ("p50_ms", "p99_ms")),
        ):
            runs = [r for r in rows if r["row"] == row.name and r["load"] == load]
            cells += [f"{median(float(r[column]) for r in runs):.4g}" if runs else "-" for column in columns]
        table.append(cells)
    header = ("row", "one way/s", "requests/s", "p50 ms", "p99 ms")
    header += ("idle p50", "idle p99", "rate p50", "rate p99", "one way at a rate p50", "the same, p99")
    show(header, table)
