"""Durable messages: how many per second, and how long one takes, on one node and between two.

    .venv/bin/python -m benchmarks.messaging

The node that sends runs in this process and is driven through its bus, so that HTTP is no part of the
figures; the node that answers is a process of its own (the same one in the rows of one node). Every request
is stored by its origin, signed, sent over TLS 1.3, stored and deduplicated by its provider, handled, and
answered in one transaction with its settled mark; the answer goes back the same way: two messages each.

Loads per run, after a warm-up: requests one at a time (the latency of an idle cluster), at a fixed rate
(latency counted from the moment a request was due, so that a stall is not hidden), as many as go with a
fixed number in flight (throughput), and messages that want no answer (one way; with two nodes only from an
agent in Python): accepted a hundred at a time while fewer than a window are open, and counted when their end
is on disk at their origin.
Each run has new processes, new keys and empty disks.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from benchmarks.report import PROJECT, caxton, machine, percentile, show, write
from node.config import NodeConfig, load_config
from node.environment import system_environment
from node.errors import CaxtonError
from node.message import Message
from node.messaging.delivery import Delivery, Draft
from node.node import Node
from node.security.identity import NodeCredentials, SecurityPaths
from node.security.tokens import Tokens
from node.vocabulary import Performative

CAPABILITY: Final = "echo"
"""What the requests ask for; the sample agent in WebAssembly offers it too."""
PAYLOAD: Final = "x" * 200
SINK: Final = "sink"
"""What messages ask for that want no answer."""
BATCH: Final = 100
"""Messages accepted in one write, one way."""
REQUEST_TIMEOUT_S: Final = 30.0
READY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        name: What the table calls it.
        nodes: 1, or 2 for a provider in another process.
        wasm: Answered by the WebAssembly sample agent instead of a Python function.
        durability: See ``storage.durability``.
    """

    name: str
    nodes: int
    wasm: bool = False
    durability: str = "normal"


SINK_FILE: Final = (
    f"---\nname: {SINK}\nversion: 1.0.0\ncapabilities: [{SINK}]\nruntime: wasm\nmodule: sink.wat\n---\n"
)
SINK_MODULE: Final = """(module (memory (export "memory") 1)
  (func (export "caxton_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "agent_init") (result i32) (i32.const 0))
  (func (export "handle_message") (param i32 i32) (result i32) (i32.const 0)))"""
"""An agent that takes messages and does nothing."""
ROWS: Final = (
    Row("one node, Python function", 1),
    Row("one node, WebAssembly agent", 1, wasm=True),
    Row("two nodes over TLS, Python function", 2),
    Row("two nodes over TLS, WebAssembly agent", 2, wasm=True),
    Row("two nodes over TLS, Python function, durability full", 2, durability="full"),
)


@dataclass(slots=True)
class Load:
    """What one load has measured; latencies in seconds."""

    name: str
    setting: str
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    settled: int = 0

    def as_row(self, row: Row, run: int) -> dict[str, object]:
        """The raw figures."""
        times = self.latencies or [float("nan")]
        done = self.settled or len(self.latencies)
        return {
            "row": row.name,
            "run": run,
            "load": self.name,
            "setting": self.setting,
            "seconds": round(self.seconds, 3),
            "answered": done,
            "failed": self.failures,
            "requests_per_s": round(done / self.seconds, 1),
            "p50_ms": round(1000 * percentile(times, 0.50), 3),
            "p99_ms": round(1000 * percentile(times, 0.99), 3),
            "max_ms": round(1000 * max(times), 3),
        }


class Origin:
    """The node that sends, and the load on it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._environment = node.environment

    async def closed(self, name: str, *, in_flight: int, duration_s: float) -> Load:
        """Keep ``in_flight`` requests on their way for ``duration_s``."""
        load = Load(name, f"{in_flight} in flight")
        began = time.perf_counter()
        end = began + duration_s

        async def one_after_the_other() -> None:
            while time.perf_counter() < end:
                await self._one(load, time.perf_counter())

        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(one_after_the_other)
        load.seconds = time.perf_counter() - began
        return load

    async def at_rate(self, name: str, *, per_s: float, duration_s: float) -> Load:
        """Send ``per_s`` requests a second, whether the ones before are answered or not."""
        load = Load(name, f"{per_s:g} per second")
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(int(per_s * duration_s)):
                due = began + number / per_s
                await trio.sleep(max(0.0, due - time.perf_counter()))
                nursery.start_soon(self._one, load, due)
        load.seconds = time.perf_counter() - began
        return load

    async def one_way(self, name: str, *, window: int, duration_s: float) -> Load:
        """Have ``window`` messages on their way that want no answer, for ``duration_s``."""
        load = Load(name, f"{window} open, {BATCH} at a time")
        bus = self._node.bus
        before = self._settled()
        began = time.perf_counter()
        while time.perf_counter() < began + duration_s:
            if bus.statistics()["outbox"]["open"] + BATCH > window:
                await trio.sleep(0.001)
                continue
            accepted = await bus.accept_many([self._message(SINK) for _ in range(BATCH)])
            load.failures += sum(isinstance(each, CaxtonError) for each in accepted)
        load.seconds, load.settled = time.perf_counter() - began, self._settled() - before
        while bus.statistics()["outbox"]["open"]:
            await trio.sleep(0.01)
        return load

    def _settled(self) -> int:
        return int(self._node.bus.statistics()["outbox"]["settled"])

    async def wait_for_provider(self) -> None:
        """Return when a request is answered: membership, registry and link are there.

        Raises:
            trio.TooSlowError: none was within a minute.
        """
        with trio.fail_after(READY_S):
            while not self._node.membership.registry.providers(CAPABILITY):
                await trio.sleep(0.05)
            await self._node.bus.request(self._message(), timeout_s=READY_S)

    async def _one(self, load: Load, since: float) -> None:
        try:
            reply = await self._node.bus.request(self._message(), timeout_s=REQUEST_TIMEOUT_S)
        except CaxtonError:
            load.failures += 1
            return
        if reply.performative is Performative.INFORM:
            load.latencies.append(time.perf_counter() - since)
        else:
            load.failures += 1

    def _message(self, capability: str = CAPABILITY) -> Message:
        identifier = self._environment.new_id()
        return Message(
            id=identifier,
            performative=Performative.REQUEST if capability == CAPABILITY else Performative.INFORM,
            sender=f"client@{self._node.name}",
            capability=capability,
            content={"text": PAYLOAD},
            conversation_id=identifier,
            reply_with=identifier,
            timestamp_s=self._environment.clock.wall(),
        )


def main() -> int:
    """Measure, print, write; the exit status is 1 when a request failed."""
    options = _options()
    if options.provider is not None:
        trio.run(_provide, options.provider, options.seed, options.durability)
        return 0
    facts = machine()
    rows: list[dict[str, object]] = []
    chosen = [row for row in ROWS if not options.only or options.only in row.name]
    for run in range(options.runs):
        for row in chosen:
            print(f"run {run + 1} of {options.runs}: {row.name}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="caxton-messaging-") as directory:
                loads = trio.run(_measure, row, Path(directory), options)
            rows += [load.as_row(row, run) for load in loads]
    path = write("messaging", facts, rows) if not options.only else None
    _report(chosen, rows)
    print(f"\n{facts}\nraw: {path or 'not written for a part of the rows'}")
    return 1 if any(row["failed"] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput and latency of durable messages.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--in-flight", type=int, default=64, help="for throughput")
    parser.add_argument("--window", type=int, default=3_000, help="open messages, one way")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second of the fixed rate")
    parser.add_argument("--only", help="rows whose name has this text; writes no results")
    for hidden, kind in (("--provider", Path), ("--seed", str), ("--durability", str)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


async def _measure(row: Row, directory: Path, options: argparse.Namespace) -> list[Load]:
    names = ["origin", "provider"][: row.nodes]
    subprocess.run(
        [*caxton(), "init", directory, *_each("--node", names)], check=True, stdout=subprocess.DEVNULL
    )
    config = _config(directory / "nodes" / "origin" / "node.yaml", None, row.durability)
    async with _running(config) as (node, gossip):
        if row.nodes == 1:
            await _offer(node, wasm=row.wasm)
            return await _loads(Origin(node), options, one_way=True)
        async with _provider(directory, gossip, row):
            return await _loads(Origin(node), options, one_way=not row.wasm)


async def _loads(origin: Origin, options: argparse.Namespace, *, one_way: bool) -> list[Load]:
    await origin.wait_for_provider()
    await origin.closed("warm-up", in_flight=8, duration_s=1.0)
    loads = [
        await origin.closed("idle", in_flight=1, duration_s=options.seconds),
        await origin.at_rate("fixed rate", per_s=options.rate, duration_s=options.seconds),
        await origin.closed("throughput", in_flight=options.in_flight, duration_s=options.seconds),
    ]
    if one_way:
        loads.append(await origin.one_way("one way", window=options.window, duration_s=options.seconds))
    return loads


@asynccontextmanager
async def _running(config: NodeConfig) -> AsyncIterator[tuple[Node, str]]:
    """A node in this process, without an admin API, and where it gossips."""
    environment = system_environment()
    security = config.security
    paths = SecurityPaths.of_files(security.files())
    node = Node(
        config,
        environment=environment,
        credentials=NodeCredentials.load(paths, environment),
        tokens=Tokens.load(paths.tokens),
        serve_http=False,
    )
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(node.run)
        try:
            yield node, f"{ready.gossip[0]}:{ready.gossip[1]}"
        finally:
            node.shutdown()


async def _offer(node: Node, *, wasm: bool) -> None:
    """Offer the capability on ``node``."""
    if wasm:
        agents = PROJECT / "configs" / "agents"
        module = {"echo.wat": (agents / "echo.wat").read_bytes()}
        await node.supervisor.deploy((agents / "echo.md").read_bytes(), filename="echo.md", artifacts=module)
        await node.supervisor.deploy(SINK_FILE.encode(), artifacts={"sink.wat": SINK_MODULE.encode()})
        return
    handler: Callable[[Delivery], Awaitable[Sequence[Draft]]] = _answer
    node.bus.attach("echo", handler, capacity=1000, concurrency=8)
    node.bus.attach(SINK, _take, capacity=1000, concurrency=8)
    for agent, capability in (("echo", CAPABILITY), (SINK, SINK)):
        node.membership.registry.publish(
            agent, version="1.0.0", capabilities=(capability,), priority=50, health=1.0
        )


async def _take(delivery: Delivery) -> Sequence[Draft]:
    del delivery
    return ()


async def _answer(delivery: Delivery) -> Sequence[Draft]:
    return [Draft(Performative.INFORM, {"echo": delivery.message.content})]


@asynccontextmanager
async def _provider(directory: Path, seed: str, row: Row) -> AsyncIterator[None]:
    """The other node: for the WebAssembly agent started and told as a user does it."""
    config = directory / "nodes" / "provider" / "node.yaml"
    ready_file = directory / "ready.json"
    if row.wasm:
        settings = ["cluster.bind_port=0", "cluster.link_port=0", "cluster.profile=local", "server.port=0"]
        settings += [f"storage.durability={row.durability}", "security.agents.require_signed=never"]
        start = ["start", "--config", str(config), "--seed", seed, "--ready-file", str(ready_file)]
        command = [*caxton(), *start, *_each("--set", settings)]
    else:
        own = [sys.executable, "-m", "benchmarks.messaging", "--provider", str(config)]
        command = [*own, "--seed", seed, "--durability", row.durability]
    with (directory / "provider.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
    try:
        if row.wasm:
            await trio.to_thread.run_sync(_deploy, process, directory, ready_file)
        yield
    finally:
        if process.poll() is not None:
            print((directory / "provider.log").read_text(errors="replace")[-2000:], file=sys.stderr)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def _deploy(process: subprocess.Popen[bytes], directory: Path, ready_file: Path) -> None:
    deadline = time.perf_counter() + READY_S
    while not ready_file.exists():
        if time.perf_counter() > deadline or process.poll() is not None:
            raise SystemExit("the provider did not become ready")
        time.sleep(0.05)
    api = json.loads(ready_file.read_text(encoding="utf-8"))["api"]
    where = ["--api", api if "://" in api else f"http://{api}", "--token-file", directory / "admin.token"]
    agent = PROJECT / "configs" / "agents" / "echo.md"
    subprocess.run([*caxton(), "deploy", agent, *where], check=True, stdout=subprocess.DEVNULL)


async def _provide(path: Path, seed: str, durability: str) -> None:
    """The process of a provider that answers by a Python function."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with _running(_config(path, seed, durability)) as (node, _):
            await _offer(node, wasm=False)
            async for _ in signals:
                break


def _config(path: Path, seed: str | None, durability: str) -> NodeConfig:
    overrides: dict[str, Any] = {
        "cluster.bind_port": 0,
        "cluster.link_port": 0,
        "cluster.profile": "local",
        "security.agents.require_signed": "never",
        "storage.durability": durability,
    }
    return load_config(path, environ={}, overrides=overrides | ({"cluster.seeds": [seed]} if seed else {}))


def _report(chosen: Sequence[Row], rows: Sequence[dict[str, object]]) -> None:
    table = []
    for row in chosen:
        cells: list[object] = [row.name]
        for load, columns in (
            ("one way", ("requests_per_s",)),
            ("throughput", ("requests_per_s", "p50_ms", "p99_ms")),
            ("idle", ("p50_ms", "p99_ms")),
            ("fixed rate", ("p50_ms", "p99_ms")),
        ):
            runs = [r for r in rows if r["row"] == row.name and r["load"] == load]
            cells += [
                f"{median(float(str(r[column])) for r in runs):.4g}" if runs else "-" for column in columns
            ]
        table.append(cells)
    header = (
        "row",
        "one way/s",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "idle p50",
        "idle p99",
        "rate p50",
        "rate p99",
    )
    show(header, table)


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


if __name__ == "__main__":
    sys.exit(main())
