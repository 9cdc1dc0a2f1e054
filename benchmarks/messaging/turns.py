"""What one turn of an agent costs by itself: its handler called again and again, without messaging around it.

    .venv/bin/python -m benchmarks.messaging.turns --against ../before --csv

Processor time of all threads, least of some rounds, and function calls of the loop's thread. A turn of a
configured agent answers a request by a script in the place of a model; one of a WebAssembly agent is a hop to
a worker and back for one message. With ``--against`` another checkout runs in turn.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.agents import SCRIPT, scripted
from benchmarks.messaging import mixed
from benchmarks.nodes import bundle, init, running
from benchmarks.report import machine, show, write
from node.message import Message
from node.messaging.delivery import BatchHandler, Delivery
from node.node import Node
from node.vocabulary import Performative

KINDS: Final = ("configured", "wasm")
TURNS: Final = 500
ROUNDS: Final = 7


def main() -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, for example of an earlier commit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory(prefix="caxton-turns-") as name:
            print(json.dumps(trio.run(_measure, Path(name), options.measure)))
        return 0
    from benchmarks.checkouts import in_turn, measured_in  # noqa: PLC0415 - measured code may lack it

    facts, rows = machine(), list[dict[str, Any]]()
    checkouts = in_turn(options.against)
    for run in range(options.runs):
        for kind in KINDS:
            for which, checkout in checkouts.items():
                rows.append(
                    {
                        "run": run,
                        "checkout": which,
                        "kind": kind,
                        **measured_in(checkout, __file__, "--measure", kind),
                    }
                )
    columns = tuple(rows[0])
    show(columns, [[row[column] for column in columns] for row in rows])
    path = write("messaging-turns", facts, rows) if options.csv else "not written"
    print(f"\n{facts}\nraw: {path}")
    return 0


async def _measure(directory: Path, kind: str) -> dict[str, Any]:
    init(directory, ["origin"])
    script = directory / "script.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    async with running(scripted(bundle(directory, "origin"), script)) as (node, _):
        await mixed._settle_in(node, 1, kind)  # noqa: SLF001 - the same agents
        await _turns(node, TURNS)
        least_s = float("inf")
        for _ in range(ROUNDS):
            used_s = time.process_time()
            await _turns(node, TURNS)
            least_s = min(least_s, time.process_time() - used_s)
        profile = cProfile.Profile()
        profile.enable()
        await _turns(node, TURNS)
        profile.disable()
        calls: int = vars(pstats.Stats(profile))["total_calls"]
        return {"cpu_us": round(least_s / TURNS * 1e6, 1), "calls": round(calls / TURNS, 1)}


async def _turns(node: Node, count: int) -> None:
    handler = node.bus._handlers._agents["agent-0"].handler  # noqa: SLF001 - what the bus would call
    for _ in range(count):
        delivery = _delivery(node)
        if isinstance(handler, BatchHandler):
            await handler.many([delivery])
        else:
            await handler(delivery)


def _delivery(node: Node) -> Delivery:
    identifier = node.environment.new_id()
    message = Message(
        id=identifier,
        performative=Performative.REQUEST,
        sender=f"client@{node.name}",
        receiver="agent-0",
        content={"text": "x" * 1_000},
        conversation_id=identifier,
        reply_with=identifier,
        timestamp_s=node.environment.clock.wall(),
    )
    return Delivery(message, node.name, "", 1, 0, node.environment.clock.now() + 30.0)


if __name__ == "__main__":
    sys.exit(main())
