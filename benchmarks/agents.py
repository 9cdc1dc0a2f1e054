"""What the runtime of configured agents costs: turns, tool calls, deployments, many conversations at once.

    .venv/bin/python -m benchmarks.agents --csv      # about a minute

One node in this process, without an admin API, whose model is a script that answers at once, or after 50 ms.
What is left is the runtime: the prompt, the loop, the tools, the answer, and for conversations the way of
their messages, durable and answered.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import machine, percentile, show, write
from node.config import NodeConfig
from node.message import Message
from node.messaging.delivery import Delivery
from node.node import Node
from node.tools.host import CallContext
from node.vocabulary import Performative

SCRIPT: Final = """\
rules:
  - {match: {content: slow}, times: 0, latency_s: 0.05, text: "done"}
  - {match: {content: tool, turn: 1}, times: 0, tool_calls: [{name: time_now, arguments: {}}]}
  - {times: 0, text: "done"}
"""
AGENT: Final = """\
---
name: %s
version: %s
capabilities: [%s]
tools: [time]
system_prompt: |
  You answer briefly, and you compute with your tools.
---
"""
LATENCY_S: Final = 0.05
"""What the script takes for a slow model."""


def main() -> int:
    """Measure, print, write; the exit status is 1 when an answer failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the conversations")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    options = parser.parse_args()
    facts = machine()
    rows: list[dict[str, Any]] = []
    for run in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="caxton-agents-") as name:
            found = trio.run(_measure, Path(name), options)
        rows += [{"run": run, **row} for row in found]
    _report(rows)
    print(f"\n{facts}\nraw: {write('agents', facts, rows) if options.csv else 'not written'}")
    return int(any(row["failed"] for row in rows))


def _report(rows: Sequence[dict[str, Any]]) -> None:
    table = []
    for what in dict.fromkeys(row["what"] for row in rows):
        found = [row for row in rows if row["what"] == what]
        median = {
            key: percentile([float(row[key]) for row in found], 0.5) for key in ("figure", "p50_ms", "p99_ms")
        }
        shown = [f"{median[key]:.3g}" if median[key] else "-" for key in median]
        table.append([what, found[0]["unit"], *shown])
    show(("what", "unit", "figure", "p50 ms", "p99 ms"), table)


async def _measure(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    init(directory, ["n"])
    script = directory / "script.yaml"
    script.write_text(SCRIPT, encoding="utf-8")
    async with running(scripted(bundle(directory, "n"), script)) as (node, _):
        rows = [await _deployments(node, options.agents)]
        rows += [await _turns(node, "one turn", "quick", options.turns)]
        rows += [await _turns(node, "two turns and a tool call", "tool", options.turns // 2)]
        rows += [await _tool_calls(node, options.turns)]
        rows += [await _reloads(node, 50)]
        rows += [await _conversations(node, options.agents, options.seconds)]
        return rows


def scripted(path: Path, script: Path) -> NodeConfig:
    """A configuration with a script in the place of the model."""
    plain = config(path)
    llm = plain.llm.model_copy(
        update={"provider": "scripted", "scripted": plain.llm.scripted.model_copy(update={"path": script})}
    )
    return plain.model_copy(update={"llm": llm})


async def _deployments(node: Node, agents: int) -> dict[str, Any]:
    before, began = resident_kb(), time.perf_counter()
    times = []
    for number in range(agents):
        since = time.perf_counter()
        name = f"agent-{number}"
        await node.supervisor.deploy(agent_file(name, "1.0.0"), filename=f"{name}.md")
        times.append(time.perf_counter() - since)
    seconds = time.perf_counter() - began
    weight = (resident_kb() - before) / agents
    return _row(f"{agents:,} agents deployed", "s", seconds, times) | {"kb_each": round(weight, 1)}


async def _turns(node: Node, what: str, content: str, count: int) -> dict[str, Any]:
    """The runtime alone: a message in, drafts out."""
    runtime = node.supervisor._agents["agent-0"].runtime  # noqa: SLF001 - the runtime alone is measured
    if runtime is None:
        raise SystemExit("the agent does not run")
    times, failed = [], 0
    for _ in range(count):
        delivery = Delivery(_message(node, "agent-0", content), node.name, "", 1, 0, None)
        since = time.perf_counter()
        [draft] = await runtime.handle(delivery)
        times.append(time.perf_counter() - since)
        failed += draft.performative is not Performative.INFORM
    return _row(what, "turns/s", count / sum(times), times, failed)


async def _tool_calls(node: Node, count: int) -> dict[str, Any]:
    times = []
    for _ in range(count):
        since = time.perf_counter()
        await node.tools.call("time_now", {}, CallContext("agent-0", ("time",)))
        times.append(time.perf_counter() - since)
    return _row("a tool call in the process", "calls/s", count / sum(times), times)


async def _reloads(node: Node, count: int) -> dict[str, Any]:
    """From a changed file to the first answer of the new version."""
    times = []
    for number in range(count):
        since = time.perf_counter()
        await node.supervisor.deploy(
            agent_file("agent-0", f"1.0.{number + 1}"), filename="agent-0.md", replace=True
        )
        await node.bus.request(_message(node, "agent-0", "quick"), timeout_s=30.0)
        times.append(time.perf_counter() - since)
    return _row("a changed agent answers", "per s", count / sum(times), times)


async def _conversations(node: Node, count: int, seconds: float) -> dict[str, Any]:
    """So many conversations at once, each asking again when it has its answer."""
    times: list[float] = []
    failed = 0
    began = time.perf_counter()
    end = began + seconds

    async def talk(agent: str) -> None:
        nonlocal failed
        while time.perf_counter() < end:
            since = time.perf_counter()
            reply = await node.bus.request(_message(node, agent, "slow"), timeout_s=60.0)
            failed += reply.performative is not Performative.INFORM
            times.append(time.perf_counter() - since)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(talk, f"agent-{number}")
    took = time.perf_counter() - began
    return _row(
        f"{count:,} conversations, {LATENCY_S * 1000:.0f} ms of model",
        "turns/s",
        len(times) / took,
        times,
        failed,
    )


def _row(what: str, unit: str, figure: float, times: Sequence[float], failed: int = 0) -> dict[str, Any]:
    return {
        "what": what,
        "unit": unit,
        "figure": round(figure, 3),
        "p50_ms": round(1000 * percentile(times, 0.5), 3),
        "p99_ms": round(1000 * percentile(times, 0.99), 3),
        "failed": failed,
        "kb_each": "",
    }


def agent_file(name: str, version: str) -> bytes:
    """An agent that answers with what the script says, with one tool."""
    return (AGENT % (name, version, f"work-{name}")).encode()


def _message(node: Node, agent: str, content: str) -> Message:
    identifier = node.environment.new_id()
    return Message(
        id=identifier,
        performative=Performative.REQUEST,
        sender=f"client@{node.name}",
        receiver=f"{agent}@{node.name}",
        content=content,
        conversation_id=identifier,
        reply_with=identifier,
        timestamp_s=node.environment.clock.wall(),
    )


def resident_kb() -> float:
    """Memory of this process that is in use."""
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


if __name__ == "__main__":
    sys.exit(main())
