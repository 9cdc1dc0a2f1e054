"""What each optimisation brings: the same work with it and without it, in turn, in one table.

Processor time of the node that sends is told for messages on the way between two nodes, since how long they
take depends on what else the machine does. What is not an option of Caxton's is taken away by changing a
constant of the code for the time of the measurement. Compression of frames is not there: what it would cost
and save is measured on frames as they are sent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks import routing
from benchmarks.messaging.loads import BATCH, Origin
from benchmarks.messaging.provider import provider
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import PROJECT, percentile, show
from benchmarks.wasm import costs
from node.messaging import placement
from node.node import Node
from node.transport import outbound
from node.vocabulary import RoutingStrategy

ON, OFF = "with", "without"
_LAZY: Final = """
import json, resource, sys, time
import node.cli.start, node.node
{more}
print(json.dumps([time.process_time() * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_HEAVY: Final = "import mcp.client.client, mcp.server.mcpserver, wasmtime, onnxruntime, tokenizers"


@dataclass(frozen=True, slots=True)
class _Way:
    """One switch on the way of messages.

    Args:
        name: What the table calls it.
        window: Messages open at once, on and off.
        batch: Messages accepted at once when it is off.
        peer_window: ``messaging.peer_window`` when it is off.
        items: Messages in a frame when it is off.
    """

    name: str
    window: int = 3_000
    batch: int = BATCH
    peer_window: int = 1_024
    items: int = outbound.MAX_ITEMS


WAYS: Final = (
    _Way("batching: accepted a hundred at a time, or one", batch=1),
    _Way("batching: up to 256 messages in a frame, or one", window=300, items=1),
    _Way("pipelining: up to 1,024 messages unsettled, or one", window=300, peer_window=1),
)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each switch on and off in turn, as often as is asked for, and show the medians."""
    rows: list[dict[str, Any]] = []
    for run in range(options.runs):
        for way in WAYS:
            print(f"run {run + 1} of {options.runs}: {way.name}", file=sys.stderr)
            for state, chosen in ((ON, _Way(way.name, way.window)), (OFF, way)):
                with tempfile.TemporaryDirectory(prefix="caxton-switches-") as name:
                    found = trio.run(_messages, Path(name), chosen, options)
                rows += [{"run": run, "switch": way.name, "state": state, **each} for each in found]
        for name, unit, figures in (_routes(), _compression(), _lazy(), _sandboxes()):
            rows += [
                {"run": run, "switch": name, "state": state, "unit": unit, "figure": round(figure, 2)}
                for state, figure in figures.items()
            ]
    _report(rows)
    return rows


def _report(rows: list[dict[str, Any]]) -> None:
    table = []
    for name, unit in dict.fromkeys((row["switch"], row["unit"]) for row in rows):
        of = {
            state: median(
                row["figure"]
                for row in rows
                if (row["switch"], row["unit"], row["state"]) == (name, unit, state)
            )
            for state in (ON, OFF)
        }
        ratio = f"{of[OFF] / of[ON]:.2f}" if of[ON] else "-"
        table.append([name, unit, f"{of[ON]:.4g}", f"{of[OFF]:.4g}", ratio])
    show(("switch", "unit", ON, OFF, "without / with"), table)


async def _messages(directory: Path, way: _Way, options: argparse.Namespace) -> list[dict[str, Any]]:
    init(directory, ["origin", "provider"])
    chosen = config(bundle(directory, "origin"))
    messaging = chosen.messaging.model_copy(update={"peer_window": way.peer_window})
    chosen = chosen.model_copy(update={"messaging": messaging})
    with _changed(outbound, "MAX_ITEMS", way.items):
        async with running(chosen) as (node, gossip), provider(directory, gossip):
            return await _rates(node, way, options)


async def _rates(node: Node, way: _Way, options: argparse.Namespace) -> list[dict[str, Any]]:
    origin = Origin(node)
    await origin.wait_for_provider()
    await origin.one_way("warm-up", window=way.window, duration_s=0.5, batch=way.batch)
    before = time.process_time()
    load = await origin.one_way("one way", window=way.window, duration_s=options.seconds, batch=way.batch)
    spent = time.process_time() - before
    ended = load.settled + load.drained
    return [
        {"unit": "messages/s", "figure": round(load.settled / load.seconds, 1)},
        {"unit": "us of the sender's processor", "figure": round(spent / ended * 1e6, 1)},
    ]


@contextmanager
def _changed(module: Any, name: str, value: Any) -> Iterator[None]:
    """A constant of the code with another value, for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


_Figures = tuple[str, str, dict[str, float]]


def _routes() -> _Figures:
    """Rankings of ten providers that are kept for a while, or made for every message."""
    offering = routing.registry(routing.REGISTERED)

    def cost() -> float:
        return routing.microseconds(offering, "offered-by-10", RoutingStrategy.BEST_MATCH, 3_000)

    kept = cost()
    with _changed(placement, "RANKED_LIMIT_S", 0.0):
        return "route caching, ten providers", "us of processor", {ON: kept, OFF: cost()}


def _compression() -> _Figures:
    """A frame of 256 messages of 300 bytes: its processor time at both ends, by zlib at its quickest."""
    texts = [json.dumps({"order": number, "amount": number * 7, "tags": ["a", "b"]}) for number in range(256)]
    frame = b"".join(f"{number:036d}client@origin{text * 5}".encode() for number, text in enumerate(texts))
    began = time.process_time()
    for _ in range(20):
        zlib.decompress(zlib.compress(frame, 1))
    spent = (time.process_time() - began) / 20 / 256 * 1e6
    saved = 1 - len(zlib.compress(frame, 1)) / len(frame)
    return f"frame compression (not there), saves {saved:.0%}", "us of processor", {ON: spent, OFF: 0.0}


def _lazy() -> _Figures:
    """Memory of a process that has loaded what a node needs, or what its agents could need as well."""

    def resident_mb(more: str) -> float:
        code = [sys.executable, "-c", _LAZY.format(more=more)]
        return float(json.loads(subprocess.run(code, cwd=PROJECT, capture_output=True, check=True).stdout)[1])

    return "lazy loading of what agents need", "MB resident", {ON: resident_mb(""), OFF: resident_mb(_HEAVY)}


def _sandboxes() -> _Figures:
    """A sandbox that lives on between messages, or a new one of a compiled module for each message."""
    return "pooling: the sandbox lives on", "ms per message, p50", trio.run(_sandboxed)


async def _sandboxed() -> dict[str, float]:
    source, shared = costs.ECHO.read_bytes(), costs.runtime()
    agent = await costs.load(shared, source, "kept")
    _, _, kept = await costs.messages(agent, costs.DELIVERY, 1, 1.0)
    anew = []
    for number in range(200):
        began = time.perf_counter()
        each = await costs.load(shared, source, f"agent-{number}")
        await each.handle(costs.DELIVERY)
        anew.append(time.perf_counter() - began)
    return {ON: percentile(kept, 0.5) * 1000, OFF: percentile(anew, 0.5) * 1000}
