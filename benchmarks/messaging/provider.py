"""Nodes that answer: in processes of their own, or the one that sends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from benchmarks.messaging.loads import CAPABILITY, READY_S, SINK
from benchmarks.nodes import bundle, config, each, running
from benchmarks.report import PROJECT, caxton
from node.messaging.delivery import Delivery, Draft
from node.node import Node
from node.vocabulary import Performative

SINK_FILE: Final = (
    f"---\nname: {SINK}\nversion: 1.0.0\ncapabilities: [{SINK}]\nruntime: wasm\nmodule: sink.wat\n---\n"
)
SINK_MODULE: Final = """(module (memory (export "memory") 1)
  (func (export "caxton_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "agent_init") (result i32) (i32.const 0))
  (func (export "handle_message") (param i32 i32) (result i32) (i32.const 0)))"""
"""An agent that takes messages and does nothing."""


async def offer(node: Node, *, wasm: bool) -> None:
    """Have a node of this process answer: by Python functions, or by agents in WebAssembly."""
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
async def provider(
    directory: Path, seed: str, *, name: str = "provider", wasm: bool = False, durability: str = "normal"
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Another node: for the WebAssembly agent started and told as a user does it.

    Args:
        directory: Of the cluster's bundles.
        seed: Where the node that sends gossips.
        name: Of the node, which has a bundle.
        wasm: Answered by the WebAssembly sample agent instead of a Python function.
        durability: See ``storage.durability``.
    """
    file, ready_file = bundle(directory, name), directory / f"{name}.json"
    if wasm:
        settings = ["cluster.bind_port=0", "cluster.link_port=0", "cluster.profile=local", "server.port=0"]
        settings += [f"storage.durability={durability}", "security.agents.require_signed=never"]
        start = ["start", "--config", str(file), "--seed", seed, "--ready-file", str(ready_file)]
        command = [*caxton(), *start, *each("--set", settings)]
    else:
        command = [sys.executable, "-m", "benchmarks.messaging.provider", str(file), seed, durability]
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
    try:
        if wasm:
            await trio.to_thread.run_sync(_deploy, process, directory, ready_file)
        yield process
    finally:
        if process.poll() is not None:
            print((directory / f"{name}.log").read_text(errors="replace")[-2000:], file=sys.stderr)
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


async def _serve(path: Path, seed: str, durability: str) -> None:
    """The process of a provider that answers by Python functions."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with running(config(path, seed, durability)) as (node, _):
            await offer(node, wasm=False)
            async for _ in signals:
                break


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]), sys.argv[2], sys.argv[3])
