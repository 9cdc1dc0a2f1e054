"""What a WebAssembly agent costs: its start, a message, its memory, and the event loop's lag beside it.

    .venv/bin/python -m benchmarks.wasm.costs [--component FILE]

The agent is the sample `configs/agents/echo.wat`; FILE is any component of the world `caxton:agent@1.0.0`.
Everything runs in this process, without a bus: a message is an :class:`Delivery` of about 300 bytes that goes
through the agent's handler, its batches and a worker thread, as it does in a node.

The loop's lag is measured by a task that sleeps a millisecond at a time while two agents burn their
instructions on both workers, for several switch intervals of the interpreter.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.report import PROJECT, machine, percentile, show, write
from node.agents.journal import Journal
from node.agents.wasm import Grant, WasmAgent, WasmPolicy, WasmRuntime
from node.environment import system_environment
from node.message import Message
from node.messaging.delivery import Delivery
from node.storage.storage import Storage
from node.telemetry.tracing import Tracing
from node.vocabulary import Performative

ECHO: Final = PROJECT / "configs" / "agents" / "echo.wat"
STARTS: Final = 200
SANDBOXES: Final = 1_000
IN_FLIGHT: Final = 64
SEALED_AFTER_S: Final = 2.1
"""A compiled module is sealed when it is loaded so long after it was written, as after a restart."""
POLICY: Final = WasmPolicy(frozenset(Grant), fuel=2_000_000_000, timeout_s=5.0, memory_bytes=64 * 1024 * 1024)
BURN: Final = b"""(module (memory (export "memory") 1)
  (func (export "caxton_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "agent_init") (result i32) (i32.const 0))
  (func (export "handle_message") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 0)))"""
INTERVALS_S: Final = (0.005, 0.001, 0.0005, 0.0001)

_environment = system_environment()
MESSAGE: Final = Message(
    id="message-1",
    performative=Performative.REQUEST,
    sender="client@node-1",
    capability="echo",
    content="x" * 100,
    conversation_id="conversation-1",
    reply_with="message-1",
)
DELIVERY: Final = Delivery(MESSAGE, "node-1", "", 1, 0, None)


def runtime(storage: Storage | None = None, cache: Path | None = None) -> WasmRuntime:
    """A runtime of its own."""
    return WasmRuntime(_environment, "node-1", Tracing.off(), storage, None, cache)


async def load(shared: WasmRuntime, source: bytes, agent: str, policy: WasmPolicy = POLICY) -> WasmAgent:
    """An agent in a sandbox."""
    return await shared.load(source, agent=agent, journal=Journal(_environment.clock, 100), policy=policy)


async def starts(
    source: bytes,
    count: int,
    directory: Path,
    delivery: Delivery = DELIVERY,
    policy: WasmPolicy = POLICY,
    *,
    first: bool = True,
) -> tuple[list[float], list[float]]:
    """Seconds from the compiled cache to the first answer, and processor seconds of this process meanwhile.

    Args:
        source: The module.
        count: How often.
        directory: For the cache.
        delivery: The message that is answered.
        policy: What the agent may do.
        first: Whether each is the first agent of its runtime, which makes the engine too; else each is a
            further one, of a module that no other agent has in memory.
    """
    took: list[float] = []
    used: list[float] = []
    async with _cached(directory) as fresh:
        await load(fresh(), source, "warm", policy)
        await trio.sleep(SEALED_AFTER_S)
        await load(fresh(), source, "sealing", policy)
        shared = fresh()
        await load(shared, ECHO.read_bytes() + b" ", "engine", policy)
        for number in range(count):
            runtime_ = fresh() if first else shared
            begun, cpu = time.perf_counter(), time.process_time()
            agent = await load(runtime_, source, f"agent-{number}", policy)
            await agent.handle(delivery)
            took.append(time.perf_counter() - begun)
            used.append(time.process_time() - cpu)
            await agent.aclose()
            del agent
            gc.collect()  # its module leaves the memory
    return took, used


@asynccontextmanager
async def _cached(directory: Path) -> AsyncIterator[Callable[[], WasmRuntime]]:
    """Makes runtimes that share a database and a cache of compiled modules."""
    storage = Storage.open(directory / "caxton.db", durability="normal", environment=_environment)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        yield lambda: runtime(storage, directory / "cache")
        nursery.cancel_scope.cancel()
    storage.close()


async def messages(
    agent: WasmAgent, delivery: Delivery, in_flight: int, seconds: float
) -> tuple[float, float, list[float]]:
    """Messages a second, CPU seconds of each, and how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            await agent.handle(delivery)
            took.append(time.perf_counter() - begun)

    cpu, begun = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(ask)
    return len(took) / (time.perf_counter() - begun), (time.process_time() - cpu) / len(took), took


async def _sandboxes(shared: WasmRuntime, source: bytes, count: int, *, asked: bool) -> tuple[float, float]:
    """Seconds to make so many, and KB of each; ``asked`` has each handle a message first."""
    kept = [await load(shared, source, "first")]
    await kept[0].handle(DELIVERY)
    gc.collect()
    before, begun = own_kb(), time.perf_counter()
    for number in range(count):
        kept.append(await load(shared, source, f"agent-{number}"))
        if asked:
            await kept[-1].handle(DELIVERY)
    return time.perf_counter() - begun, (own_kb() - before) / count


async def _lag(interval_s: float, seconds: float, *, burning: bool) -> list[float]:
    """How late a sleep of a millisecond ends while two agents burn on the workers."""
    sys.setswitchinterval(interval_s)
    late: list[float] = []
    policy = WasmPolicy(fuel=50_000_000, timeout_s=5.0, quarantine_after=10**9)
    async with trio.open_nursery() as nursery:
        if burning:
            for number in range(2):
                nursery.start_soon(_burn, await load(runtime(), BURN, f"burn-{number}", policy))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            due = time.perf_counter() + 0.001
            await trio.sleep(0.001)
            late.append(max(0.0, time.perf_counter() - due))
        nursery.cancel_scope.cancel()
    return late


async def _burn(agent: WasmAgent) -> None:
    while True:
        await agent.handle(DELIVERY)


def own_kb() -> float:
    """Memory of this process, a page that is mapped several times being counted once.

    Sandboxes share the image of their module's memory until they write to it; what is resident counts such a
    page once per sandbox.
    """
    facts = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in facts if line.startswith("Pss:"))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


async def _measure_kind(
    note: Callable[..., None], kind: str, source: bytes, count: int, *, directory: Path, seconds: float
) -> None:
    for first, what in ((True, "start, first of a node"), (False, "start, further of a node")):
        took, used = await starts(source, count, directory, first=first)
        note(
            kind,
            what,
            p50_ms=_ms(percentile(took, 0.5)),
            p99_ms=_ms(percentile(took, 0.99)),
            cpu_p50_ms=_ms(percentile(used, 0.5)),
            cpu_least_ms=_ms(min(used)),
        )
    async with _cached(directory) as fresh:
        agent = await load(fresh(), source, "one")
        for in_flight in (1, IN_FLIGHT):
            per_s, cpu_s, took = await messages(agent, DELIVERY, in_flight, seconds)
            note(
                kind,
                f"messages, {in_flight} in flight",
                per_s=f"{per_s:.0f}",
                cpu_us=f"{cpu_s * 1e6:.0f}",
                p50_ms=_ms(percentile(took, 0.5)),
            )
        sandboxes = SANDBOXES if kind == "core" else SANDBOXES // 20
        for asked in (False, True):
            made_s, each_kb = await _sandboxes(fresh(), source, sandboxes, asked=asked)
            what = f"{sandboxes} sandboxes" + (", each after a message" if asked else "")
            note(kind, what, made_s=f"{made_s:.2f}", each_kb=f"{each_kb:.1f}")


async def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def note(agent: str, what: str, **values: float | str) -> None:
        rows.extend({"agent": agent, "what": what, "measure": m, "value": v} for m, v in values.items())

    kinds = {"core": (ECHO, STARTS)}
    if options.component is not None:
        kinds["component"] = (options.component, STARTS // 4)
    for kind, (path, count) in kinds.items():
        source = path.read_bytes()
        with tempfile.TemporaryDirectory() as directory:
            await _measure_kind(note, kind, source, count, directory=Path(directory), seconds=options.seconds)
    late = await _lag(INTERVALS_S[0], options.seconds, burning=False)
    note("none", "loop lag, idle", p99_ms=_ms(percentile(late, 0.99)), p999_ms=_ms(percentile(late, 0.999)))
    for interval_s in INTERVALS_S:
        late = await _lag(interval_s, options.seconds, burning=True)
        what = f"loop lag, two agents burn, switch interval {interval_s * 1000:g} ms"
        note("core", what, p99_ms=_ms(percentile(late, 0.99)), p999_ms=_ms(percentile(late, 0.999)))
    return rows


def main() -> None:
    """Measure, write the raw rows and print them."""
    parser = argparse.ArgumentParser(description="What WebAssembly agents cost.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--component", type=Path, help="a component to measure as well")
    options = parser.parse_args()
    facts = machine()
    rows = trio.run(_measure, options)
    show(("agent", "what", "measure", "value"), (row.values() for row in rows))
    print(facts)
    print("raw:", write("wasm", facts, rows).relative_to(PROJECT))


if __name__ == "__main__":
    main()
