"""``caxton agent test``: runs the scenarios of agents, and shows what came of them."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio

from node.agents.scenarios import Make, Scenario, Trial, Verdict, read_scenarios
from node.cli.agent_files import SCENARIOS_SUFFIX, files_below, read_agent, scenarios_path
from node.cli.deploy import read_file
from node.cli.output import print_json, print_table, safe
from node.cli.whole_file import whole_file
from node.config import ToolsConfig, load_config
from node.environment import Environment, system_environment
from node.errors import ValidationFailed, nearest
from node.llm.builtin import BuiltinProvider
from node.llm.provider import Provider
from node.llm.recorder import RecordProvider, ReplayProvider
from node.llm.registry import ProviderRegistry
from node.llm.scripted import ScriptedProvider

FAILED: Final = 1
"""Exit status when a scenario was not as expected."""
LIVE: Final = "live"
"""The provider that the configuration chooses."""
BY_THEMSELVES: Final = ("builtin", "scripted", "recording")
"""Providers that need no configuration."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the scenarios is run, and with what.

    Args:
        provider: One provider instead of those that each scenario names.
        scenario: The name of the only one.
        config: Configuration of providers and tools.
        record: Where what a provider of the configuration answers is written down.
    """

    provider: str | None = None
    scenario: str | None = None
    config: Path | None = None
    record: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    agent: Path
    verdict: Verdict


def try_agents(agents: Sequence[Path], choice: Choice, *, as_json: bool, junit: Path | None) -> int:
    """Run the scenarios of agents, and print what came of them.

    Returns:
        The exit status.
    """
    cases = [(agent, scenario) for agent in agents for scenario in _scenarios(agent)]
    if choice.scenario is not None:
        names = [scenario.name for _, scenario in cases]
        if choice.scenario not in names:
            guess = nearest(choice.scenario, names)
            raise ValidationFailed(
                f"there is no scenario {choice.scenario[:80]!r}",
                why=f"there are {', '.join(names)[:500]}",
                fix=f"Did you mean {guess!r}?" if guess else "Name one of them.",
            )
        cases = [(agent, scenario) for agent, scenario in cases if scenario.name == choice.scenario]
    rows, skipped = trio.run(_run, cases, choice)
    if junit is not None:
        _write(junit, _junit(rows))
    if as_json:
        print_json(_as_json(rows, skipped))
    else:
        _tell(rows, skipped)
    return FAILED if any(not row.verdict.passed for row in rows) else 0


def agents_of(named: Sequence[Path]) -> list[Path]:
    """The agents among files and directories; of a directory, each that has scenarios.

    Raises:
        ValidationFailed: there are none.
    """
    found: dict[Path, None] = {}
    for path in named:
        files = files_below(path, SCENARIOS_SUFFIX) if path.is_dir() else []
        found |= dict.fromkeys(
            file.with_name(file.name.removesuffix(SCENARIOS_SUFFIX) + ".md") for file in files
        )
        found |= {} if path.is_dir() else {path: None}
    if not found:
        raise ValidationFailed(
            "there are no scenarios in " + (", ".join(map(str, named)) or "what was named, which is nothing"),
            why=f"their files end in {SCENARIOS_SUFFIX}",
            fix="Name an agent file or a directory; `caxton agent init` begins scenarios.",
        )
    return list(found)


def _scenarios(agent: Path) -> tuple[Scenario, ...]:
    read_file(agent)
    path = scenarios_path(agent)
    if not path.is_file():
        raise ValidationFailed(
            f"{agent.name} has no scenarios",
            why=f"there is no file {path}",
            fix="Write some; `caxton agent init` begins a file of them.",
        )
    return read_scenarios(read_file(path)).whole(str(path))


async def _run(cases: Sequence[tuple[Path, Scenario]], choice: Choice) -> tuple[list[Row], int]:
    environment = system_environment()
    configured = choice.provider is not None and choice.provider not in BY_THEMSELVES
    registry: ProviderRegistry | None = None
    tools: ToolsConfig | None = None
    if configured or choice.config is not None:
        config = load_config(choice.config, environ=os.environ)
        tools = config.tools
        if configured:
            registry = ProviderRegistry.from_config(config.llm, environment, os.environ)
    rows: list[Row] = []
    skipped = 0
    try:
        for agent, scenario in cases:
            trial = Trial(
                read_agent(agent),
                agent.parent,
                environment=environment,
                read_agent=read_agent,
                read_file=read_file,
                tools=tools,
            )
            makers = list(_makers(agent, scenario, choice, registry, environment))
            skipped += not makers
            rows += [Row(agent, await trial.run(scenario, make)) for make in makers]
    finally:
        if registry is not None:
            await registry.aclose()
    return rows, skipped


def _makers(
    agent: Path,
    scenario: Scenario,
    choice: Choice,
    registry: ProviderRegistry | None,
    environment: Environment,
) -> Iterator[Make]:
    """What makes the provider of each run of a scenario."""
    if registry is not None:
        chosen = registry.choose(None if choice.provider == LIVE else choice.provider)
        if choice.record is not None:
            chosen = RecordProvider(chosen.name, chosen, choice.record, environment.workers)
        yield lambda _: chosen
        return
    for kind in scenario.kinds if choice.provider is None else (choice.provider,):
        if kind == "builtin":
            yield lambda _: BuiltinProvider()
        elif kind == "scripted" and scenario.script is not None:
            yield lambda found: ScriptedProvider(found.script_text, environment.clock)
        elif kind == "recording" and scenario.recording is not None:
            recording = read_file(agent.parent / scenario.recording)
            yield partial(_replay, recording)


def _replay(recording: bytes, _: Scenario) -> Provider:
    return ReplayProvider("recording", recording)


def _write(path: Path, text: str) -> None:
    try:
        with whole_file(path, force=True) as file:
            file.write(text.encode())
    except OSError as error:
        raise ValidationFailed(
            f"{path} cannot be written", why=error.strerror or str(error), fix="Name another file."
        ) from error


def _tell(rows: Sequence[Row], skipped: int) -> None:
    columns = ("agent", "scenario", "provider", "result", "tools", "turns", "tokens", "time")
    print_table("Scenarios", columns, [_cells(row) for row in rows])
    for row in rows:
        if row.verdict.passed:
            continue
        click.echo(safe(f"\n{row.agent}: {row.verdict.scenario} ({row.verdict.provider})"))
        for problem in row.verdict.problems:
            click.echo(safe(f"  {problem}"))
    failed = sum(not row.verdict.passed for row in rows)
    told = f"{len(rows) - failed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")
    click.echo(f"\n{told}")


def _cells(row: Row) -> tuple[object, ...]:
    verdict, conduct = row.verdict, row.verdict.conduct
    return (
        row.agent.stem,
        verdict.scenario,
        verdict.provider,
        "passed" if verdict.passed else "FAILED",
        "" if conduct is None else ", ".join(use.name for use in conduct.uses),
        "" if conduct is None else conduct.turns,
        "" if conduct is None else conduct.tokens,
        f"{verdict.took_s:.2f} s",
    )


def _as_json(rows: Sequence[Row], skipped: int) -> dict[str, Any]:
    failed = sum(not row.verdict.passed for row in rows)
    runs = [{"agent": str(row.agent), "passed": row.verdict.passed, **asdict(row.verdict)} for row in rows]
    return {"passed": len(rows) - failed, "failed": failed, "skipped": skipped, "runs": runs}


def _junit(rows: Sequence[Row]) -> str:
    """The runs as JUnit XML, which most build servers show."""
    failed = sum(not row.verdict.passed for row in rows)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="caxton agent test" tests="{len(rows)}" failures="{failed}">',
    ]
    for row in rows:
        verdict = row.verdict
        name = html.escape(safe(f"{verdict.scenario} ({verdict.provider})"))
        case = f'classname="{html.escape(safe(row.agent.stem))}" name="{name}" time="{verdict.took_s:.3f}"'
        if verdict.passed:
            lines.append(f"  <testcase {case}/>")
            continue
        problems = html.escape(safe("\n".join(verdict.problems)))
        conduct = "" if verdict.conduct is None else json.dumps(verdict.conduct.content)[:2_000]
        lines.append(f'  <testcase {case}><failure message="{html.escape(safe(verdict.problems[0]))}">')
        lines.append(f"{problems}\n{html.escape(safe(conduct))}</failure></testcase>")
    return "\n".join([*lines, "</testsuite>", ""])
