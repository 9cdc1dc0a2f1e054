"""What a message costs on its whole way through one node: with a module, and with functions beside it.

    .venv/bin/python -m benchmarks.wasm.path --csv

A node in this process, without an admin API; nothing else sends. Messages that want no answer are accepted a
hundred at a time while fewer than 3,000 are open, requests are 64 at a time, and one at a time. Processor
time is that of the whole process, and of the thread of the event loop; what is left is the worker's, where a
module runs. The agents are measured in turn, each on a node of its own:

* a function that is called once per message, and one that is given several;
* a module that does nothing (one way), and the sample ``echo.wat`` (requests).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.messaging.loads import CAPABILITY, SINK, Load, Origin
from benchmarks.messaging.provider import offer
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import machine, show, write
from node.messaging.delivery import Answer, BatchHandler, Delivery, Draft
from node.node import Node
from node.vocabulary import Performative

AGENTS: Final = ("function", "function, in batches", "module")
IN_FLIGHT: Final = 64
WINDOW: Final = 3_000


async def _measure(agent: str, directory: Path, seconds: float) -> list[dict[str, Any]]:
    init(directory, ["n"])
    async with running(config(bundle(directory, "n"))) as (node, _):
        if agent == "function, in batches":
            _offer_batches(node)
        else:
            await offer(node, wasm=agent == "module")
        origin = Origin(node)
        await origin.wait_for_provider()
        await origin.closed("warm-up", in_flight=8, duration_s=1.0)
        await origin.one_way("warm-up", window=WINDOW, duration_s=1.0)
        return [
            await _costs(node, agent, lambda: origin.one_way("one way", window=WINDOW, duration_s=seconds)),
            await _costs(
                node, agent, lambda: origin.closed("requests", in_flight=IN_FLIGHT, duration_s=seconds)
            ),
            await _costs(
                node, agent, lambda: origin.closed("one at a time", in_flight=1, duration_s=seconds)
            ),
        ]


async def _costs(node: Node, agent: str, run: Callable[[], Awaitable[Load]]) -> dict[str, Any]:
    before = node.bus.statistics()["handlers"]
    process, loop = time.process_time(), time.thread_time()
    load = await run()
    process, loop = time.process_time() - process, time.thread_time() - loop
    after = node.bus.statistics()["handlers"]
    count = (load.settled + load.drained) or len(load.latencies)
    batches = after["batches"] - before["batches"]
    row = load.as_row()
    return {
        "agent": agent,
        "load": load.name,
        "per_s": row["per_s"],
        "p50_ms": row["p50_ms"],
        "p99_ms": row["p99_ms"],
        "cpu_us": round(1e6 * process / count, 1),
        "loop_us": round(1e6 * loop / count, 1),
        "batch": round((after["batched"] - before["batched"]) / batches, 1) if batches else "",
        "failed": load.failures,
    }


def _offer_batches(node: Node) -> None:
    for agent, capability, answer in (("echo", CAPABILITY, _echo), (SINK, SINK, _take)):
        node.bus.attach(agent, _several(answer), capacity=1000, concurrency=8)
        node.membership.registry.publish(
            agent, version="1.0.0", capabilities=(capability,), priority=50, health=1.0
        )


def _several(answer: Callable[[Delivery], Sequence[Draft]]) -> BatchHandler:
    async def many(deliveries: Sequence[Delivery]) -> Sequence[Answer]:
        return [answer(delivery) for delivery in deliveries]

    async def one(delivery: Delivery) -> Sequence[Draft]:
        return answer(delivery)

    return BatchHandler(many, one)


def _take(delivery: Delivery) -> Sequence[Draft]:
    del delivery
    return ()


def _echo(delivery: Delivery) -> Sequence[Draft]:
    return [Draft(Performative.INFORM, {"echo": delivery.message.content})]


def main() -> int:
    """Measure, print, write; the exit status is 1 when a message failed."""
    parser = argparse.ArgumentParser(description="What a message costs on its way through one node.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--only", choices=AGENTS, help="this agent only")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    options = parser.parse_args()
    facts, rows = machine(), list[dict[str, Any]]()
    for run in range(options.runs):
        for agent in AGENTS if options.only is None else (options.only,):
            print(f"run {run + 1} of {options.runs}: {agent}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="caxton-path-") as name:
                found = trio.run(_measure, agent, Path(name), options.seconds)
            rows += [{"run": run, **row} for row in found]
    columns = ("per_s", "p50_ms", "p99_ms", "cpu_us", "loop_us", "batch")
    table = []
    for agent, load in dict.fromkeys((row["agent"], row["load"]) for row in rows):
        of = [row for row in rows if (row["agent"], row["load"]) == (agent, load)]
        medians = [[float(row[column]) for row in of if row[column] != ""] for column in columns]
        table.append([agent, load, *(f"{median(values):.4g}" if values else "-" for values in medians)])
    show(("agent", "load", *columns), table)
    print(f"\n{facts}\nraw: {write('wasm-path', facts, rows) if options.csv else 'not written'}")
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
