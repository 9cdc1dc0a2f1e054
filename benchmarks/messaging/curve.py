"""The cost curve: rate, latency and processor time of messages by their size and the number of nodes.

One node sends; the others answer, chosen by ``load_balanced``; a node alone answers itself. All share the
machine's cores, so more nodes than cores have no more processors to work with: what more nodes cost is seen
in the processor time of a message, which is that of all nodes together, load generator included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.messaging.loads import BATCH, Origin
from benchmarks.messaging.provider import offer, provider
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import RESULTS, show
from node.node import Node
from node.vocabulary import RoutingStrategy

NODES: Final = (1, 2, 3, 5, 10)
SIZES: Final = (100, 1_000, 8_000, 64_000)
OPEN_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of open messages, a quarter of what an outbox takes."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every cell in turn, as often as is asked for, and show the medians."""
    rows: list[dict[str, Any]] = []
    for run in range(options.runs):
        for nodes in NODES:
            print(f"run {run + 1} of {options.runs}: {nodes} nodes", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="caxton-curve-") as name:
                found = trio.run(_measure, Path(name), nodes, options)
            rows += [{"run": run, **row} for row in found]
    shown = [(nodes, size) for nodes in NODES for size in SIZES]
    columns = ("per_s", "cpu_us", "p50_ms", "p99_ms")
    show(
        ("nodes", "bytes", "one way/s", "processor, us", "request p50 ms", "p99 ms"),
        [(*cell, *(f"{_median(rows, cell, column):.4g}" for column in columns)) for cell in shown],
    )
    return rows


def _median(rows: Sequence[dict[str, Any]], cell: tuple[int, int], column: str) -> float:
    return median(float(row[column]) for row in rows if (row["nodes"], row["bytes"]) == cell)


async def _measure(directory: Path, nodes: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    others = [f"p{number}" for number in range(1, nodes)]
    init(directory, ["origin", *others])
    async with running(config(bundle(directory, "origin"))) as (node, gossip), AsyncExitStack() as stack:
        processes = [os.getpid()]
        for name in others:
            entered = await stack.enter_async_context(provider(directory, gossip, name=name))
            processes.append(entered.pid)
        if not others:
            await offer(node, wasm=False)
        await Origin(node).wait_for_provider(max(1, len(others)))
        return [await _cell(node, processes, size, options) for size in SIZES]


async def _cell(node: Node, processes: list[int], size: int, options: argparse.Namespace) -> dict[str, Any]:
    origin = Origin(node, payload="x" * size, strategy=RoutingStrategy.LOAD_BALANCED)
    window = min(options.window, OPEN_BYTES // size)
    batch = min(BATCH, window // 4)
    await origin.one_way("warm-up", window=window, duration_s=0.5, batch=batch)
    before = _processor_s(processes)
    way = await origin.one_way("one way", window=window, duration_s=options.seconds, batch=batch)
    spent = _processor_s(processes) - before
    idle = await origin.closed("idle", in_flight=1, duration_s=options.seconds / 2)
    figures = idle.as_row()
    return {
        "nodes": len(processes),
        "bytes": size,
        "per_s": round(way.settled / way.seconds, 1),
        "cpu_us": round(spent / (way.settled + way.drained) * 1e6, 1),
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "failed": way.failures + idle.failures,
    }


def _processor_s(processes: Sequence[int]) -> float:
    """The processor time that processes have had, in seconds."""
    stats = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2] for pid in processes]
    return sum(int(ticks) for stat in stats for ticks in stat.split()[11:13]) / _TICKS


def plot(rows: Sequence[dict[str, Any]], name: str) -> Path:
    """Draw rate and processor time by size, a line for each number of nodes; needs the extra ``charts``."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - of an extra

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2),
        ("per_s", "cpu_us"),
        ("one way, messages per second", "processor time of a message, all nodes, us"),
        strict=True,
    ):
        for nodes in NODES:
            points = [_median(rows, (nodes, size), column) for size in SIZES]
            axes.plot(SIZES, points, marker="o", label=f"{nodes} node{'s' if nodes > 1 else ''}")
        axes.set(xscale="log", yscale="log", xlabel="bytes of text in a message", title=title)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    path = RESULTS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path
