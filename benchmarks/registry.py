"""Ten nodes with two thousand agents each: how soon everybody knows all of them, and what that weighs.

    .venv/bin/python -m benchmarks.registry --csv       # about two minutes

Every node is a process of its own on loopback, with TLS and all rooms but the admin API. All of them announce
their agents at once; the time is from the last announcement to the moment at which a node's registry has all
of them. Then one more node starts, without any knowledge, and the time is from its start to the same moment.
Processes of one machine share its monotonic clock, so moments of different ones are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.nodes import config, running
from benchmarks.report import PROJECT, caxton, machine, percentile, show, write
from node.cluster.provider import Offer
from node.messaging.delivery import Delivery, Draft
from node.node import Node

POLL_S: Final = 0.005
"""How often a node looks at its registry."""
PATIENCE_S: Final = 120.0
"""Longest wait for anything."""
CAPABILITIES: Final = 100
"""Capabilities that the agents of a node share among them."""


def main() -> int:
    """Measure, print, write; the exit status is 1 when a node did not come to know all agents."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--agents", type=int, default=2_000, help="on each node")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.config is not None:
        trio.run(_node, options.config, options.seed or None, options.agents)
        return 0
    facts = machine()
    rows = [row for run in range(options.runs) for row in _measure(run, options.nodes, options.agents)]
    _report(rows)
    print(f"\n{facts}\nraw: {write('registry', facts, rows) if options.csv else 'not written'}")
    return 0


def _report(rows: Sequence[dict[str, Any]]) -> None:
    table = []
    for what in dict.fromkeys(row["what"] for row in rows):
        found = [row for row in rows if row["what"] == what]
        seconds = [float(row["seconds"]) for row in found]
        weights = [float(row["resident_mb"]) for row in found]
        processor = [float(row["processor_s"]) for row in found]
        table.append(
            [
                what,
                f"{percentile(seconds, 0.5):.2f}",
                f"{max(seconds):.2f}",
                f"{percentile(processor, 0.5):.2f}",
                f"{percentile(weights, 0.5):.0f}",
                len(found),
            ]
        )
    show(("what", "median s", "longest s", "processor s", "resident MB", "nodes measured"), table)


class _Process:
    """One node, and what it says."""

    def __init__(self, config: Path, seed: str, agents: int) -> None:
        command = [sys.executable, "-m", "benchmarks.registry", "--config", str(config), "--seed", seed]
        self._process = subprocess.Popen(
            [*command, "--agents", str(agents)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str) -> None:
        """Have it do something; what it has to say about that is read by :meth:`hear`."""
        if self._process.stdin is not None:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next that it says.

        Raises:
            SystemExit: it has ended.
        """
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit("a node has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Have it stop."""
        self._process.kill()
        self._process.wait()


def _measure(run: int, nodes: int, agents: int) -> list[dict[str, Any]]:
    names = [f"n{number}" for number in range(nodes + 1)]
    with tempfile.TemporaryDirectory(prefix="caxton-registry-") as name:
        directory = Path(name)
        named = [part for each in names for part in ("--node", each)]
        subprocess.run([*caxton(), "init", directory, *named], check=True, stdout=subprocess.DEVNULL)
        files = [directory / "nodes" / each / "node.yaml" for each in names]
        processes = [_Process(files[0], "", agents)]
        try:
            seed = processes[0].hear()["gossip"]
            processes += [_Process(file, seed, agents) for file in files[1:-1]]
            for process in processes[1:]:
                process.hear()
            _ask_all(processes, f"members {nodes}")
            total = nodes * agents
            for process in processes:
                process.tell("publish")
            announced = [process.hear() for process in processes]
            known = _ask_all(processes, f"entries {total}")
            since, what = max(each["at"] for each in announced), "all nodes know all agents"
            rows = [
                _row(run, what, each, since=since, total=total, processor_s=before["processor_s"])
                for each, before in zip(known, announced, strict=True)
            ]
            began = time.monotonic()
            processes.append(_Process(files[-1], seed, agents))
            ready = processes[-1].hear()
            joined = _ask_all(processes[-1:], f"entries {total}")
            rows += [
                _row(
                    run, "one more knows them, from its process's start", joined[0], since=began, total=total
                )
            ]
            rows += [
                _row(
                    run, "one more knows them, from its readiness", joined[0], since=ready["at"], total=total
                )
            ]
            return rows
        finally:
            for process in processes:
                process.end()


def _ask_all(processes: Sequence[_Process], command: str) -> list[dict[str, Any]]:
    for process in processes:
        process.tell(command)
    return [process.hear() for process in processes]


def _row(
    run: int, what: str, found: dict[str, Any], *, since: float, total: int, processor_s: float = 0.0
) -> dict[str, Any]:
    return {
        "run": run,
        "what": what,
        "agents": total,
        "seconds": round(max(0.0, found["at"] - since), 3),
        "processor_s": round(found["processor_s"] - processor_s, 3),
        "resident_mb": found["resident_mb"],
    }


async def _node(path: Path, seed: str | None, agents: int) -> None:
    """The process of one node: does what it is told on standard input."""
    async with running(config(path, seed)) as (node, gossip):
        _say(gossip=gossip)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command, _, number = line.strip().partition(" ")
            with trio.fail_after(PATIENCE_S):
                if command == "publish":
                    await _publish(node, agents)
                elif command == "members":
                    while node.membership.view().up < int(number):
                        await trio.sleep(POLL_S)
                else:
                    while node.membership.registry.statistics()["entries"] < int(number):
                        await trio.sleep(POLL_S)
            _say()


async def _publish(node: Node, agents: int) -> None:
    names = [f"agent-{number}" for number in range(agents)]
    for number, agent in enumerate(names):
        node.bus.attach(agent, _answer, capacity=100, concurrency=1)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    node.membership.registry.publish_many(
        [Offer(agent, "1.0.0", (f"work-{number % CAPABILITIES}",)) for number, agent in enumerate(names)]
    )


async def _answer(delivery: Delivery) -> Sequence[Draft]:
    del delivery
    return ()


def _say(**more: object) -> None:
    weight = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = {"at": time.monotonic(), "processor_s": time.process_time(), "resident_mb": round(weight)}
    print(json.dumps(said | more), flush=True)


if __name__ == "__main__":
    sys.exit(main())
