"""How long it takes until what one node stores for all is on every other node.

    .venv/bin/python -m benchmarks.memory.replication --csv      # half a minute

Five real nodes on loopback, each a process of its own, linked by TLS. One has stored 10,000 operations for
all (100 entities with 99 observations each) and then says that it holds something; what is measured is when
each of the four others holds them all, and that the digests of the rows are equal. Then a newcomer starts,
and is measured from when it is ready. Every process notes what it has cost it, and how late its event loop
serves a task that wants to run every 2 ms. Vectors are made by the embedder ``hash``, so that embedding,
which has a benchmark of its own, is not in the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import trio

from benchmarks.memory.search import lag
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
    return int(len({row["digest"] for row in rows}) != 1)


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
        _go(running["origin"])
        wrote = _line(running["origin"])
        rows = [_row(name, _line(running[name]), wrote["at"]) for name in names[1:-1]]
        _go(running["origin"])
        rows.insert(0, _row("origin", _line(running["origin"]), wrote["at"]))
        running["newcomer"] = _start(directory, "newcomer", seed, operations)
        ready = _line(running["newcomer"])
        _go(running["newcomer"])
        rows.append(_row("newcomer", _line(running["newcomer"]), ready["at"]))
        return rows
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _row(name: str, told: dict[str, Any], began: float) -> dict[str, Any]:
    return {
        "node": name,
        "converged_s": round(told["at"] - began, 3) if name != "origin" else "",
        "processor_s": round(told["processor_s"], 2),
        "lag_p50_ms": round(told["lag_ms"][0], 2),
        "lag_p999_ms": round(told["lag_ms"][1], 2),
        "lag_max_ms": round(told["lag_ms"][2], 2),
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


async def _measured(node: Node, wait: Callable[[], Awaitable[None]]) -> None:
    """Tell when something has come to pass, and what it has cost this process until then."""
    late: list[float] = []
    before_s = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag, system_environment(), late)
        await wait()
        nursery.cancel_scope.cancel()
    at, spent_s = time.monotonic(), time.process_time() - before_s
    lags = (percentile(late, 0.5), percentile(late, 0.999), max(late))
    _tell(at=at, processor_s=spent_s, lag_ms=lags, digest=await _digest(node))


async def _asked() -> None:
    await trio.to_thread.run_sync(sys.stdin.readline)


async def _digest(node: Node) -> str:
    store = await node.memory.file()
    return "" if store.shared is None else await store.shared.digest()


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
