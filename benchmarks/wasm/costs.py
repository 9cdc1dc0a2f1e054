"""What a WebAssembly agent costs: a message, its memory, and the event loop's lag beside it.

    .venv/bin/python -m benchmarks.wasm.costs [messages sandboxes lag] [--component FILE]

The agent is the sample `configs/agents/echo.wat`; FILE is any component of the world `caxton:agent@1.0.0`.
Everything runs in this process, without a bus: a message is an :class:`Delivery` of about 300 bytes that goes
through the agent's handler of several messages and a worker thread, as it does in a node. What a start costs
is in `benchmarks.wasm.starts`, the way of a message through a node in `benchmarks.wasm.path`.

The loop's lag is measured by a task that sleeps a millisecond at a time while two agents burn their
instructions on both workers, for several switch intervals of the interpreter.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.report import PROJECT, machine, percentile, show, write
from benchmarks.wasm.agents import DELIVERY, ECHO, MESSAGE, POLICY, load, runtime
from node.agents.wasm import WasmAgent, WasmPolicy, WasmRuntime
from node.agents.wasm.calls import Call, Progress
from node.agents.wasm.engine import WasmEngine, binary_of, guest_module
from node.agents.wasm.host import SEED_BYTES, Moment, Phase
from node.agents.wasm.sandbox import Sandbox
from node.agents.wasm.state import AgentState, StateChanges
from node.messaging.delivery import BATCH_LIMIT, Delivery

PARTS: Final = ("messages", "sandboxes", "lag")
SANDBOXES: Final = 1_000
BURN: Final = b"""(module (memory (export "memory") 1)
  (func (export "caxton_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "agent_init") (result i32) (i32.const 0))
  (func (export "handle_message") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 0)))"""
INTERVALS_S: Final = (0.005, 0.001, 0.0005, 0.0001)


async def messages(
    agent: WasmAgent, delivery: Delivery, together: int, seconds: float
) -> tuple[float, float, list[float]]:
    """Messages a second, processor seconds of each, and how long each batch of so many took."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    batch, done = [delivery] * together, 0
    cpu, begun = time.process_time(), time.perf_counter()
    while time.perf_counter() < end:
        since = time.perf_counter()
        done += len(await agent.handle_many(batch))
        took.append(time.perf_counter() - since)
    return done / (time.perf_counter() - begun), (time.process_time() - cpu) / done, took


def in_the_sandbox(source: bytes, seconds: float) -> list[float]:
    """Processor seconds of a message where nothing but the sandbox works on it, in batches; one per round."""
    made = WasmEngine()
    binary = binary_of(source)
    sandbox = Sandbox(guest_module(made, made.compile(binary), POLICY.grants), POLICY, "node-1")
    state, used = AgentState({}), list[float]()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        moment = Moment(1_700_000_000_000_000, bytes(SEED_BYTES))
        calls = [Call(Phase.MESSAGE, moment, MESSAGE) for _ in range(BATCH_LIMIT)]
        begun = time.thread_time()
        sandbox.make(calls, Progress(), StateChanges(state), frozenset())
        used.append((time.thread_time() - begun) / sum(call.outcome is not None for call in calls))
    return used


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


Note = Callable[..., None]


async def _messages(note: Note, kind: str, source: bytes, seconds: float) -> None:
    used = in_the_sandbox(source, seconds)
    least, middle = min(used) * 1e6, percentile(used, 0.5) * 1e6
    what = f"in the sandbox alone, {BATCH_LIMIT} at a time"
    note(kind, what, cpu_least_us=f"{least:.1f}", cpu_p50_us=f"{middle:.1f}")
    agent = await load(runtime(), source, "one")
    for together in (1, BATCH_LIMIT):
        per_s, cpu_s, took = await messages(agent, DELIVERY, together, seconds)
        note(
            kind,
            f"with task and worker, {together} at a time",
            per_s=f"{per_s:.0f}",
            cpu_us=f"{cpu_s * 1e6:.0f}",
            p50_ms=_ms(percentile(took, 0.5)),
        )


async def _many(note: Note, kind: str, source: bytes, seconds: float) -> None:
    del seconds
    sandboxes = SANDBOXES if kind == "core" else SANDBOXES // 20
    for asked in (False, True):
        made_s, each_kb = await _sandboxes(runtime(), source, sandboxes, asked=asked)
        what = f"{sandboxes} sandboxes" + (", each after a message" if asked else "")
        note(kind, what, made_s=f"{made_s:.2f}", each_kb=f"{each_kb:.1f}")


async def _lags(note: Note, seconds: float) -> None:
    for interval_s, burning in ((INTERVALS_S[0], False), *((each, True) for each in INTERVALS_S)):
        late = await _lag(interval_s, seconds, burning=burning)
        what = f"two agents burn, switch interval {interval_s * 1000:g} ms" if burning else "no agent"
        note(what, p99_ms=_ms(percentile(late, 0.99)), p999_ms=_ms(percentile(late, 0.999)))


async def _measure(part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def note(*names: str, **values: str) -> None:
        *kind, what = names
        rows.extend(
            {"agent": "".join(kind), "what": what, "measure": m, "value": v} for m, v in values.items()
        )

    if part == "lag":
        await _lags(note, options.seconds)
        return rows
    kinds = {"core": ECHO} | ({} if options.component is None else {"component": options.component})
    for kind, path in kinds.items():
        measure = _messages if part == "messages" else _many
        await measure(note, kind, path.read_bytes(), options.seconds)
    return rows


def main() -> None:
    """Measure, write the raw rows and print them."""
    parser = argparse.ArgumentParser(description="What WebAssembly agents cost.")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is named")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--component", type=Path, help="a component to measure as well")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        facts = machine()
        rows = trio.run(_measure, part, options)
        show(("agent", "what", "measure", "value"), (row.values() for row in rows))
        print(facts)
        print("raw:", write(f"wasm-{part}", facts, rows).relative_to(PROJECT))


if __name__ == "__main__":
    main()
