"""What an agent costs in each language: the template of ``caxton build``, built, started and asked.

    .venv/bin/python -m benchmarks.wasm.languages

Every language whose toolchain is installed is measured; the others are named. The agent greets: it reads and
writes JSON, keeps a count, asks for the time and a number, and logs. Of each language are taken the size of
its module, the time of the first compilation on one core, as a node does it, the start from the compiled
cache to the first answer, the memory of each further sandbox, and its messages through the agent's handler.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from benchmarks.report import PROJECT, machine, percentile, show, write
from benchmarks.wasm.agents import MESSAGE, environment, runtime
from benchmarks.wasm.costs import messages, own_kb
from benchmarks.wasm.starts import starts
from node.agents.definition import parse_definition
from node.agents.journal import Journal
from node.agents.settings import AgentSettings
from node.agents.wasm import WasmPolicy
from node.cli.build import build
from node.cli.build_languages import ENGINES, LANGUAGES
from node.cli.build_template import AGENT_FILE, new_project
from node.cli.errors import BuildFailed, ToolchainMissing
from node.messaging.delivery import BATCH_LIMIT, Delivery

STARTS: Final = 100
SANDBOXES: Final = 30
ASKED: Final = Delivery(msgspec.structs.replace(MESSAGE, content={"name": "Ada"}), "node-1", "", 1, 0, None)


async def _measure(language: str, engine: str | None, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        project = directory / "project"
        new_project(project, "greeter", language)
        module = directory / "agent.wasm"
        begun = time.perf_counter()
        build(project, language, module, engine)
        built_s = time.perf_counter() - begun
        source = module.read_bytes()
        definition = parse_definition((project / AGENT_FILE).read_bytes())
        policy = WasmPolicy.of(definition, AgentSettings())
        journal = Journal(environment.clock, 100)

        shared = runtime()
        begun, cpu = time.perf_counter(), time.process_time()
        agent = await shared.load(source, agent="first", journal=journal, policy=policy)
        compiled_s, compiled_cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        per_s, cpu_s, _ = await messages(agent, ASKED, BATCH_LIMIT, seconds)
        _, _, alone = await messages(agent, ASKED, 1, seconds / 2)
        gc.collect()
        before_kb = own_kb()
        kept = []
        for number in range(SANDBOXES):
            kept.append(await shared.load(source, agent=f"agent-{number}", journal=journal, policy=policy))
            await kept[-1].handle(ASKED)
        each_kb = (own_kb() - before_kb) / SANDBOXES
        took = (await starts(source, STARTS, directory, ASKED, policy, first=True)).took
    return {
        "language": language if engine is None else f"{language} ({engine})",
        "module_kb": f"{len(source) / 1024:.0f}",
        "build_s": f"{built_s:.1f}",
        "compile_s": f"{compiled_s:.2f}",
        "compile_cpu_s": f"{compiled_cpu_s:.2f}",
        "start_p50_ms": f"{percentile(took, 0.5) * 1000:.2f}",
        "start_p99_ms": f"{percentile(took, 0.99) * 1000:.2f}",
        "sandbox_kb": f"{each_kb:.0f}",
        "alone_p50_ms": f"{percentile(alone, 0.5) * 1000:.2f}",
        "per_s": f"{per_s:.0f}",
        "cpu_us": f"{cpu_s * 1e6:.0f}",
    }


def main() -> None:
    """Measure, write the raw rows and print them."""
    parser = argparse.ArgumentParser(description="What WebAssembly agents cost in each language.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--language", choices=list(LANGUAGES), action="append", help="only these")
    parser.add_argument(
        "--engine", choices=ENGINES, help="of JavaScript and TypeScript, which are to be named"
    )
    options = parser.parse_args()
    facts = machine()
    rows: list[dict[str, Any]] = []
    for language in options.language or LANGUAGES:
        try:
            rows.append(trio.run(_measure, language, options.engine, options.seconds))
        except (ToolchainMissing, BuildFailed) as error:
            print(f"{language} is left out: {error}")
    show(tuple(rows[0]), (row.values() for row in rows))
    print(facts)
    print("raw:", write(f"wasm-{options.engine or 'languages'}", facts, rows).relative_to(PROJECT))


if __name__ == "__main__":
    main()
