"""How long an agent takes from the compiled cache to its first answer, and where that time goes.

    .venv/bin/python -m benchmarks.wasm.starts [--component FILE] --csv

Each start loads the agent into a runtime, has it answer one message, and takes it down; the next begins when
its module has left the memory, so that all but the rows *module in memory* come from the cache on disk.

* *first of a node*: the runtime is new, so the engine and its host functions are made, too;
* *further of a node*: another agent runs, of another module;
* *caches cold*: the interpreter's collector has gone through the whole heap just before, as other work would;
* *module in memory*: another agent has the same module;
* *SHA-256 known*: as of a module that is signed, which is hashed when its signature is checked.

Steps are the processor time of the thread that takes it, in further starts of a node; they lie in each other
where they are indented, and those of the last run of their kind are counted.
"""

from __future__ import annotations

import argparse
import functools
import gc
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import trio

from benchmarks.report import PROJECT, machine, percentile, show, write
from benchmarks.wasm.agents import DELIVERY, ECHO, POLICY, cached, load
from node.agents.wasm import WasmPolicy, WasmRuntime, compiled, engine, interface
from node.agents.wasm.component import ComponentInstance
from node.agents.wasm.instance import WasmInstance
from node.agents.wasm.sandbox import Sandbox
from node.messaging.delivery import Delivery

COUNT: Final = 200
OTHER: Final = ECHO.read_bytes().replace(b"(module", b"(module (type $unused (func (param f64)))", 1)
"""Another module, so that there is an engine."""
SEALED_AFTER_S: Final = 2.1
"""A compiled module is sealed when it is loaded so long after it was written, as after a restart."""
RELEASED_S: Final = 0.001
"""How often is looked whether a module has left the memory."""
STEPS: Final[tuple[tuple[Any, str, str], ...]] = (
    (WasmRuntime, "_module", "module"),
    (engine, "binary_of", "  text to binary"),
    (hashlib, "sha256", "  its hash"),
    (compiled.CompiledModules, "load", "  from the cache"),
    (compiled.CompiledModules, "_is_ours", "    its seal"),
    (engine.WasmEngine, "deserialize", "    mapped"),
    (engine, "guest_module", "  checked and linked"),
    (interface, "check_exports", "    exports"),
    (interface, "check_imports", "    imports and grants"),
    (Sandbox, "start", "instance and its start"),
    (WasmInstance, "_instantiate", "  instantiated"),
    (ComponentInstance, "_start", "  instantiated and begun"),
    (Sandbox, "make", "first message"),
)


@dataclass(slots=True)
class Starts:
    """Seconds from the compiled cache to the first answer, and the processor's seconds meanwhile."""

    took: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)


async def starts(
    source: bytes,
    count: int,
    directory: Path,
    delivery: Delivery = DELIVERY,
    policy: WasmPolicy = POLICY,
    *,
    first: bool = False,
    cold: bool = False,
    in_memory: bool = False,
    sha256: str = "",
) -> Starts:
    """Start an agent many times.

    Args:
        source: The module.
        count: How often.
        directory: For the cache.
        delivery: The message that is answered.
        policy: What the agent may do.
        first: Whether each is the first agent of its runtime.
        cold: Whether the collector goes through the heap before each.
        in_memory: Whether another agent has the module.
        sha256: Of the module, where it is known.

    Raises:
        SystemExit: one did not come from where it should have.
    """
    found = Starts()
    async with cached(directory) as fresh:
        await load(fresh(), source, "warm", policy)
        await trio.sleep(SEALED_AFTER_S)
        await load(fresh(), source, "sealing", policy)
        shared = fresh()
        kept = [await load(shared, OTHER, "engine", policy)]
        if in_memory:
            kept.append(await load(shared, source, "kept", policy))
        before = shared.statistics()["modules"]
        for number in range(count):
            used = fresh() if first else shared
            if cold:
                gc.collect()
            begun, cpu = time.perf_counter(), time.process_time()
            agent = await load(used, source, f"agent-{number}", policy, sha256)
            await agent.handle(delivery)
            found.took.append(time.perf_counter() - begun)
            found.used.append(time.process_time() - cpu)
            await agent.aclose()
            del agent
            while used.statistics()["modules"] > (0 if first else before):
                await trio.sleep(RELEASED_S)  # a worker may still have it for a moment
        sealed = shared.statistics().get("compiled", {}).get("sealed", 0)
        if not first and sealed < (1 if in_memory else count):
            raise SystemExit(f"{sealed} of {count} starts came from the cache")
    return found


@contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """While the block runs, take the processor seconds of each step, by its name."""
    taken: dict[str, list[float]] = {}

    def wrapped(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **more: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                taken.setdefault(label, []).append(time.thread_time() - begun)

        return call

    with ExitStack() as stack:
        for owner, name, label in STEPS:
            stack.enter_context(mock.patch.object(owner, name, wrapped(getattr(owner, name), label)))
        yield taken


async def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    kinds = {"core": (ECHO, options.count)}
    if options.component is not None:
        kinds["component"] = (options.component, options.count // 4)
    for kind, (path, count) in kinds.items():
        source = path.read_bytes()
        known = hashlib.sha256(source).hexdigest()
        variants: dict[str, dict[str, Any]] = {
            "first of a node": {"first": True},
            "further of a node": {},
            "further of a node, caches cold": {"cold": True},
            "further of a node, module in memory": {"in_memory": True},
        }
        if kind == "component":
            variants["further of a node, SHA-256 known"] = {"sha256": known}
            variants["further of a node, SHA-256 known, caches cold"] = {"sha256": known, "cold": True}
        for what, more in variants.items():
            print(f"{kind}: {what}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as directory:
                found = await starts(source, count, Path(directory), **more)
            rows += _rows(kind, what, found.took, found.used)
        with tempfile.TemporaryDirectory() as directory, timed() as taken:
            await starts(source, count, Path(directory))
        for _, _, label in STEPS:
            last = taken.get(label, [])[-count:]
            if len(last) == count:  # others are steps of other kinds, taken once for the other module
                rows += _rows(kind, f"step: {label}", None, last)
    return rows


def _rows(kind: str, what: str, took: list[float] | None, used: list[float]) -> list[dict[str, Any]]:
    figures = {f"cpu_{name}_ms": seconds for name, seconds in _of(used).items()}
    if took is not None:
        figures |= {f"{name}_ms": seconds for name, seconds in _of(took).items()}
    return [
        {"agent": kind, "what": what, "measure": measure, "value": f"{1000 * seconds:.3f}"}
        for measure, seconds in figures.items()
    ]


def _of(seconds: list[float]) -> dict[str, float]:
    return {"least": min(seconds), "p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="How long a WebAssembly agent takes to start.")
    parser.add_argument(
        "--count", type=int, default=COUNT, help="starts of each kind; of a component a quarter"
    )
    parser.add_argument("--component", type=Path, help="a component to measure as well")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    options = parser.parse_args()
    facts = machine()
    rows = trio.run(_measure, options)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        found.setdefault((row["agent"], row["what"]), {})[row["measure"]] = row["value"]
    columns = ("cpu_least_ms", "cpu_p50_ms", "cpu_p99_ms", "least_ms", "p50_ms", "p99_ms")
    show(("agent", "what", *columns), ([*key, *(v.get(c, "") for c in columns)] for key, v in found.items()))
    print(facts)
    if options.csv:
        print("raw:", write("wasm-starts", facts, rows).relative_to(PROJECT))


if __name__ == "__main__":
    main()
