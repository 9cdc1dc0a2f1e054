"""How long it takes until what one node stores for all is on every other node.

    .venv/bin/python -m benchmarks.memory.replication --csv      # half a minute

Five real nodes on loopback, each a process of its own, linked by TLS. One has stored 10,000 operations for
all (100 entities with 99 observations each) and then says that it holds something; what is measured is when
each of the four others holds them all, and that the digests of the rows are equal. Then a newcomer starts,
and is measured from when it is ready. Every process notes what it has cost it, and how late its event loop
serves a task that wants to run every 2 ms. Vectors are made by the embedder ``hash``, so that embedding,
which has a benchmark of its own, is not in the figures.

Five nodes share the processors of one machine, so beside the lag it is told what of it is their own: the lag
less what threads of the process have waited for a processor (``/proc``, Linux), and the most processor time
that the loop has spent between two of these looks. A bystander, a process that does nothing but look how late
it is, shows what the machine does to anybody meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import trio

from benchmarks.memory.search import LAG_EVERY_S
from benchmarks.nodes import running
from benchmarks.report import caxton, machine, percentile, show, write
from node.config import NodeConfig, load_config
from node.environment import system_environment
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import OPERATOR
from node.node import Node

OBSERVATIONS: Final = 99
"""Of each entity; with the entity itself a hundred operations."""
LOOK_S: Final = 0.02
LIMIT_S: Final = 120.0
BYSTANDER: Final = "bystander"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status is 1 when the digests differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--node", help=argparse.SUPPRESS)
    parser.add_argument("--seed", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.node:
        trio.run(_node, options)
        return 0
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="caxton-replication-") as name:
        rows = measured(Path(name), options.operations, options.peers)
    show(tuple(rows[0]), [row.values() for row in rows])
    print(f"\n{facts}\nraw: {write('memory-replication', facts, rows) if options.csv else 'not written'}")
    return int(len({row["digest"] for row in rows if row["digest"]}) != 1)


def measured(directory: Path, operations: int, peers: int) -> list[dict[str, Any]]:
    """One row for each node that was told, and one for the newcomer."""
    names = ["origin", *(f"peer{number}" for number in range(1, peers + 1)), "newcomer"]
    chosen = [part for name in names for part in ("--node", name)]
    subprocess.run([*caxton(), "init", directory, *chosen], check=True, stdout=subprocess.DEVNULL)
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        seed = ""
        for name in names[:-1]:
            running[name] = _start(directory, name, seed, operations)
            seed = seed or str(_line(running[name])["gossip"])
        for name in names[1:-1]:
            _line(running[name])
            _go(running[name])
        running[BYSTANDER] = _start(directory, BYSTANDER, seed, operations)
        _line(running[BYSTANDER])
        _go(running["origin"])
        wrote = _line(running["origin"])
        _go(running[BYSTANDER])
        rows = [_row(name, _line(running[name]), wrote["at"]) for name in names[1:-1]]
        _go(running["origin"])
        rows.insert(0, _row("origin", _line(running["origin"]), wrote["at"]))
        _go(running[BYSTANDER])
        rows.append(_row(BYSTANDER, _line(running[BYSTANDER]), wrote["at"]))
        running["newcomer"] = _start(directory, "newcomer", seed, operations)
        ready = _line(running["newcomer"])
        _go(running["newcomer"])
        rows.append(_row("newcomer", _line(running["newcomer"]), ready["at"]))
        return rows
    finally:
        for process in running.values():
            process.kill()
            with process:  # closes its pipes, and waits
                pass


def _row(name: str, told: dict[str, Any], began: float) -> dict[str, Any]:
    return {
        "node": name,
        "converged_s": round(told["at"] - began, 3) if name not in ("origin", BYSTANDER) else "",
        "processor_s": round(told["processor_s"], 2),
        **{figure: "" if value is None else round(value, 2) for figure, value in told["lag"].items()},
        "digest": told["digest"][:16],
    }


def _start(directory: Path, name: str, seed: str, operations: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.memory.replication", "--node", name, "--seed", seed]
    command += ["--directory", str(directory), "--operations", str(operations)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = _pipe(process.stdout).readline()
    if not line:
        raise SystemExit("a node has ended before it was measured")
    found: dict[str, Any] = json.loads(line)
    return found


def _go(process: subprocess.Popen[str]) -> None:
    pipe = _pipe(process.stdin)
    pipe.write("go\n")
    pipe.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise SystemExit("a node was started without pipes")
    return pipe


# ---- in the process of one node -----------------------------------------------------------------------


def _config(directory: Path, name: str, seed: str) -> NodeConfig:
    overrides: dict[str, Any] = {
        "cluster.bind_port": 0,
        "cluster.link_port": 0,
        "cluster.profile": "local",
        "memory.embedding.provider": "hash",
        "cluster.seeds": [seed] if seed else [],
    }
    return load_config(directory / "nodes" / name / "node.yaml", environ={}, overrides=overrides)


async def _node(options: argparse.Namespace) -> None:
    if options.node == BYSTANDER:
        _tell(gossip="", at=time.monotonic())
        await _asked()
        await _measured(None, _asked)
        return
    async with running(_config(options.directory, options.node, options.seed)) as (node, gossip):
        _tell(gossip=gossip, at=time.monotonic())
        if options.node == "origin":
            await _origin(node, options.operations)
        else:
            await _follow(node, options.operations)
        await trio.sleep_forever()


async def _origin(node: Node, operations: int) -> None:
    """Store everything before anybody knows that there is something, then say so."""
    holders: Any = node.membership.holders
    announce, holders.announce = holders.announce, lambda: None
    await _asked()
    store = await node.memory.file()
    for number in range(operations // (OBSERVATIONS + 1)):
        facts = tuple(
            ObservationDraft(f"fact {each} of {number}: lot {number * each} left the line at {each} degrees")
            for each in range(OBSERVATIONS)
        )
        await store.remember(OPERATOR, Realm(Scope.GLOBAL), [EntityDraft(f"entity {number}", "batch", facts)])
    holders.announce = announce
    _tell(at=time.monotonic())
    await _measured(node, _asked)


async def _follow(node: Node, operations: int) -> None:
    async def has_all() -> None:
        with trio.fail_after(LIMIT_S):
            while node.replicas.statistics()["taken"] < operations:
                await trio.sleep(LOOK_S)

    await _asked()
    await _measured(node, has_all)


class Look(NamedTuple):
    """One look at how late the event loop serves a task, in milliseconds."""

    late: float
    held: float | None
    """Less what threads of this process have waited for a processor since the look before."""
    spent: float
    """Of a processor, by the loop's thread since the look before."""


async def _looks(found: list[Look]) -> None:
    clock, waits = system_environment().clock, Waits()
    waited, spent = waits.total_ms(), time.thread_time()
    while True:
        wanted = clock.now() + LAG_EVERY_S
        await clock.sleep_until(wanted)
        late, since, until = (clock.now() - wanted) * 1000, waited, spent
        waited, spent = waits.total_ms(), time.thread_time()
        held = None if waited is None or since is None else max(0.0, late - max(0.0, waited - since))
        found.append(Look(late, held, (spent - until) * 1000))


class Waits:
    """How long threads of this process could have run and had no processor; Linux counts it."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}

    def total_ms(self) -> float | None:
        """Since the process began, in milliseconds; None where nobody counts."""
        waited = 0
        try:
            with os.scandir("/proc/self/task") as threads:
                for thread in threads:
                    waited += int(os.pread(self._file(thread), 64, 0).split()[1])
        except OSError:  # no such system, or a thread has ended meanwhile
            return None
        return waited / 1e6

    def _file(self, thread: os.DirEntry[str]) -> int:
        if thread.name not in self._files:
            self._files[thread.name] = os.open(f"{thread.path}/schedstat", os.O_RDONLY)
        return self._files[thread.name]


async def _measured(node: Node | None, wait: Callable[[], Awaitable[None]]) -> None:
    """Tell when something has come to pass, and what it has cost this process until then."""
    looks: list[Look] = []
    before_s = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_looks, looks)
        await wait()
        nursery.cancel_scope.cancel()
    at, spent_s = time.monotonic(), time.process_time() - before_s
    late, held = [look.late for look in looks], [look.held for look in looks if look.held is not None]
    lag = {
        "lag_p50_ms": percentile(late, 0.5),
        "lag_p999_ms": percentile(late, 0.999),
        "lag_max_ms": max(late),
        "held_p999_ms": percentile(held, 0.999) if held else None,
        "loop_spent_max_ms": max(look.spent for look in looks),
    }
    _tell(at=at, processor_s=spent_s, lag=lag, digest="" if node is None else await _digest(node))


async def _asked() -> None:
    await trio.to_thread.run_sync(sys.stdin.readline)


async def _digest(node: Node) -> str:
    store = await node.memory.file()
    return "" if store.shared is None else await store.shared.digest()


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
