"""A million messages for an agent whose node is away: what they cost while it is, and how fast they leave.

    .venv/bin/python -m benchmarks.backlog

One node accepts messages for an agent of a node that does not run, a hundred at a time; then it is stopped
and started again (how long does that take, beside a start with an empty disk?); then the other node starts,
and they leave (how many settled per second, and what does the process weigh?). Each step is a process of its
own, driven through the bus, so that HTTP is no part of the figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.messaging.loads import BATCH, PAYLOAD, SINK
from benchmarks.messaging.provider import provider
from benchmarks.nodes import config, running
from benchmarks.report import caxton, machine, show, write
from node.errors import CaxtonError
from node.message import Message
from node.node import Node
from node.vocabulary import Performative

SETTLE_S: Final = 600.0
"""How long the drain may take."""


def main() -> int:
    """Measure, print, write; the exit status is 1 when a message did not settle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        figures = trio.run(STEPS[options.step], options.directory, options.messages)
        print(json.dumps(figures))
        return 0
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="caxton-backlog-") as name:
        directory = Path(name)
        subprocess.run(
            [*caxton(), "init", directory, "--node", "origin", "--node", "provider"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = [_step(step, directory, options.messages) for step in STEPS]
    show(
        ("step", "messages", "seconds", "per second", "resident MB", "start s"),
        [row.values() for row in rows],
    )
    print(f"\n{facts}\nraw: {write('backlog', facts, rows) if options.csv else 'not written'}")
    return int(rows[-1]["messages"] != options.messages)


def _step(step: str, directory: Path, messages: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.backlog", "--step", step]
    done = subprocess.run(
        [*command, "--directory", directory, "--messages", str(messages)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {"step": step, **json.loads(done.stdout.splitlines()[-1])}


async def _empty(directory: Path, messages: int) -> dict[str, Any]:
    """A start with nothing on disk."""
    del messages
    began = time.perf_counter()
    async with running(config(_origin(directory))):
        return _figures(0, 0.0, time.perf_counter() - began)


async def _fill(directory: Path, messages: int) -> dict[str, Any]:
    """Accept them all."""
    async with running(config(_origin(directory))) as (node, _):
        began = time.perf_counter()
        for first in range(0, messages, BATCH):
            accepted = await node.bus.accept_many([_message(node, n) for n in range(first, first + BATCH)])
            refused = [each for each in accepted if isinstance(each, CaxtonError)]
            if refused:
                raise SystemExit(f"refused: {refused[0]}")
        return _figures(messages, time.perf_counter() - began, 0.0)


async def _restart(directory: Path, messages: int) -> dict[str, Any]:
    """A start with all of them on disk."""
    del messages
    began = time.perf_counter()
    async with running(config(_origin(directory))) as (node, _):
        started_s = time.perf_counter() - began
        held = node.bus.statistics()["outbox"]
        return _figures(held["open"] + held["backlog"], 0.0, started_s)


async def _drain(directory: Path, messages: int) -> dict[str, Any]:
    """The other node comes back."""
    async with (
        running(config(_origin(directory))) as (node, gossip),
        provider(directory, gossip),
    ):
        outbox = node.bus.statistics()["outbox"]
        while not outbox["settled"]:
            await trio.sleep(0.01)
            outbox = node.bus.statistics()["outbox"]
        began, before = time.perf_counter(), outbox["settled"]
        with trio.move_on_after(SETTLE_S):
            while outbox["open"] + outbox["backlog"]:
                await trio.sleep(0.05)
                outbox = node.bus.statistics()["outbox"]
        seconds = time.perf_counter() - began
        figures = _figures(outbox["settled"], seconds, 0.0)
        return figures | {"per_second": round((outbox["settled"] - before) / seconds)}


STEPS: Final = {"empty": _empty, "fill": _fill, "restart": _restart, "drain": _drain}


def _figures(messages: int, seconds: float, start_s: float) -> dict[str, Any]:
    return {
        "messages": messages,
        "seconds": round(seconds, 2),
        "per_second": round(messages / seconds) if seconds else "",
        "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "start_s": round(start_s, 2) or "",
    }


def _origin(directory: Path) -> Path:
    return directory / "nodes" / "origin" / "node.yaml"


def _message(node: Node, number: int) -> Message:
    identifier = node.environment.new_id()
    return Message(
        id=identifier,
        performative=Performative.INFORM,
        sender=f"client@{node.name}",
        receiver=f"{SINK}@provider",
        content={"text": PAYLOAD, "number": number},
        conversation_id=identifier,
        reply_with=identifier,
        timestamp_s=node.environment.clock.wall(),
    )


if __name__ == "__main__":
    sys.exit(main())
