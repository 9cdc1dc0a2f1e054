"""A node with a thousand agents of all kinds, and messages of all kinds for them at fixed rates.

Half of the agents are configured (a script in the place of the model), a quarter WebAssembly, a quarter
Python functions. Messages go to any of them, hold 100 bytes to 4 KB and have any priority; half of them want
an answer, which is a message as well. A latency is that of a request until its answer, from the moment at
which it was due. What has no answer after five seconds has failed. ``--kind`` has all agents of one kind,
which tells whose messages cost how much processor time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.agents import SCRIPT, agent_file, resident_kb, scripted
from benchmarks.nodes import bundle, init, running
from benchmarks.report import PROJECT, percentile, show
from node.collector import keep_what_is_there
from node.errors import CaxtonError
from node.message import Message
from node.messaging.delivery import Delivery, Draft
from node.node import Node
from node.vocabulary import Performative

AGENTS: Final = 1_000
RATES: Final = (250, 500, 1_000, 2_500, 5_000)
"""Messages offered per second, answers included."""
TEXTS: Final = (100, 300, 1_000, 4_000)
SECONDS: Final = 5.0
ALL: Final = ("configured", "configured", "wasm", "python")
KINDS: Final = ("configured", "wasm", "python")
_ECHO: Final = (
    "---\nname: %s\nversion: 1.0.0\ncapabilities: [work-%s]\nruntime: wasm\nmodule: echo.wat\n---\n"
)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each rate on a new node, as often as is asked for, and show every run."""
    rows: list[dict[str, Any]] = []
    for run in range(options.runs):
        print(f"run {run + 1} of {options.runs}: {options.agents:,} agents", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="caxton-mixed-") as name:
            rows += [{"run": run, **row} for row in trio.run(_measure, Path(name), options)]
    columns = ("run", "kind", "per_s", "answered", "failed", "p50_ms", "p99_ms", "cpu_us", "resident_mb")
    show(columns, [[row[column] for column in columns] for row in rows])
    return rows


async def _measure(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    init(directory, ["origin"])
    script = directory / "script.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    async with running(scripted(bundle(directory, "origin"), script)) as (node, _):
        await _settle_in(node, options.agents, options.kind)
        keep_what_is_there()  # a node that is started again has its agents before it is ready
        return [
            {
                "kind": options.kind or "all",
                "agents": options.agents,
                **await _offered(node, rate, options.agents),
            }
            for rate in options.rates
        ]


async def _settle_in(node: Node, agents: int, kind: str | None) -> None:
    """Have so many agents, of one kind or of all."""
    module = {"echo.wat": (PROJECT / "configs" / "agents" / "echo.wat").read_bytes()}
    for number in range(agents):
        name, this = f"agent-{number}", kind or ALL[number % len(ALL)]
        if this == "configured":
            await node.supervisor.deploy(agent_file(name, "1.0.0"), filename=f"{name}.md")
        elif this == "wasm":
            await node.supervisor.deploy((_ECHO % (name, name)).encode(), artifacts=module)
        else:
            node.bus.attach(name, _answer, capacity=100, concurrency=1)
            node.membership.registry.publish(
                name, version="1.0.0", capabilities=(f"work-{name}",), priority=50, health=1.0
            )


async def _answer(delivery: Delivery) -> list[Draft]:
    if delivery.message.performative is Performative.INFORM:
        return []
    return [Draft(Performative.INFORM, {"length": len(str(delivery.message.content))})]


@dataclass(slots=True)
class _Seen:
    agents: int
    times: list[float] = field(default_factory=list)
    taken: int = 0
    failed: int = 0


async def _offered(node: Node, rate: int, agents: int) -> dict[str, Any]:
    """Offer so many messages a second: of three, one is a request, one its answer, one wants none."""
    chance, seen = random.Random(rate), _Seen(agents)
    sent = int(rate * SECONDS * 2 / 3)
    began, used_s = time.perf_counter(), time.process_time()
    with trio.move_on_after(SECONDS + 5.0):
        async with trio.open_nursery() as nursery:
            for number in range(sent):
                due = began + number * SECONDS / sent
                early_s = due - time.perf_counter()
                if early_s > 0:  # what is late goes at once: a pass of the loop for each would hold it back
                    await trio.sleep(early_s)
                nursery.start_soon(_one, node, chance, due, seen, number % 2 == 0)
    while node.bus.statistics()["outbox"]["open"]:
        await trio.sleep(0.05)
    used_s, times = time.process_time() - used_s, seen.times or [float("nan")]
    return {
        "per_s": rate,
        "answered": len(seen.times),
        "taken": seen.taken,
        "failed": sent - len(seen.times) - seen.taken,
        "p50_ms": round(1000 * percentile(times, 0.5), 2),
        "p99_ms": round(1000 * percentile(times, 0.99), 2),
        "cpu_us": round(used_s / max(1, 2 * len(seen.times) + seen.taken) * 1e6),
        "resident_mb": round(resident_kb() / 1024),
    }


async def _one(node: Node, chance: random.Random, due: float, seen: _Seen, is_request: bool) -> None:
    identifier = node.environment.new_id()
    message = Message(
        id=identifier,
        performative=Performative.REQUEST if is_request else Performative.INFORM,
        sender=f"client@{node.name}",
        receiver=f"agent-{chance.randrange(seen.agents)}",
        content={"text": "x" * chance.choice(TEXTS)},
        priority=chance.randrange(10),
        conversation_id=identifier,
        reply_with=identifier,
        timestamp_s=node.environment.clock.wall(),
    )
    try:
        if not is_request:
            await node.bus.accept(message)
            seen.taken += 1
            return
        reply = await node.bus.request(message, timeout_s=30.0)
    except CaxtonError:
        return
    if reply.performative is Performative.INFORM:
        seen.times.append(time.perf_counter() - due)
