"""Processor time of whole nodes in a seed: five of them, ten virtual minutes, a steady load.

    .venv/bin/python -m benchmarks.simulation.speed --csv      # two minutes, alone on the machine

A request and its answer are two messages, as in `benchmarks.messaging`: ten requests a second are twenty
messages. Every message is signed, stored in SQLite at both ends, acknowledged twice and settled; nodes probe
each other, gossip and sample their queues as in any scenario of `simulations/scenarios/nodes`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed
from simulations.runner import run as run_scenario
from simulations.scenario import check

REFERENCE: Final = ""
GOAL: Final = "at most 60 CPU s at 20 messages/s"
VIRTUAL_S: Final = 600.0
MESSAGES_PER_REQUEST: Final = 2


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        nodes: How many.
        messages_s: A second, of all nodes together.
        virtual_s: How long.
        agent: What answers: a function (``witness``) or the WebAssembly sample (``echo``).
    """

    seed: int
    nodes: int
    messages_s: float
    virtual_s: float
    agent: str


def run(task: Task) -> Found:
    """Run whole nodes and measure the processor time of this process."""
    artifacts = ["echo.wat"] if task.agent == "echo" else []
    per_s = task.messages_s / MESSAGES_PER_REQUEST
    data = {
        "name": "speed",
        "about": "A steady load.",
        "runs": "nodes",
        "members": task.nodes,
        "agents": [{"agent": task.agent, "artifacts": artifacts}],
        "workload": {"capability": task.agent, "per_s": per_s, "reply_within_s": 5},
        "safety_s": task.virtual_s - 5,
        "bounds": {"converge_s": 5},
    }
    began = time.process_time()
    result = run_scenario(check(data, "speed"), task.seed)
    row: Row = task._asdict() | {
        "cpu_s": fixed(time.process_time() - began),
        "accepted": result.measures.get("accepted", 0),
        "failed": " ".join(result.failed),
        "code": result.code,
        "digest": result.digest,
    }
    return Found([row], {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("What simulating whole nodes costs.", seeds="1..3")
    parser.add_argument("--nodes", type=runs.numbers, default=(5,), help="sizes, as in 3,5")
    parser.add_argument("--messages", type=runs.numbers, default=(20, 40), help="a second, as in 20,40")
    parser.add_argument("--lasts", type=float, default=VIRTUAL_S, help="virtual seconds")
    parser.add_argument("--agents", default="witness,echo", help="of witness, echo")
    options = parser.parse_args(arguments)
    failed = 0
    with Results("speed", options.csv, group="simulation") as results:
        for nodes in options.nodes:
            for messages_s in options.messages:
                for agent in options.agents.split(","):
                    tasks = [Task(seed, nodes, messages_s, options.lasts, agent) for seed in options.seeds]
                    rows: list[Row] = []
                    for found in runs.each(run, tasks, options.jobs):
                        rows += found.rows
                        results.add(found.rows)
                    failed += sum(row["code"] != 0 for row in rows)
                    cpu_s = [float(row["cpu_s"]) for row in rows]
                    what = f"{median(cpu_s):.1f} CPU s ({min(cpu_s):.1f} to {max(cpu_s):.1f})"
                    runs.line(f"{nodes} nodes, {messages_s:g} messages/s, {agent}", what, REFERENCE, GOAL)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
