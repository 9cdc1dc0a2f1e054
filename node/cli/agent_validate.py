"""``caxton agent validate``: everything that is wrong with agent files, at the place where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from node.agents.definition import AgentDefinition, examine_definition
from node.agents.frontmatter import FrontMatter, Problem
from node.agents.scenarios import read_scenarios
from node.cli.agent_files import agent_paths, scenarios_path
from node.cli.deploy import read_file
from node.cli.output import print_json, safe
from node.errors import CaxtonError
from node.tools.builtin_servers import builtin_servers

INVALID = 1
"""Exit status when a file has a problem that counts."""


def validate(named: tuple[Path, ...], *, strict: bool, as_json: bool) -> int:
    """Examine agent files and their scenarios, and print what is wrong.

    Args:
        named: Files and directories.
        strict: Warnings count.
        as_json: One document instead of lines.

    Returns:
        The exit status.
    """
    found = [(path, problems) for agent in agent_paths(named) for path, problems in _examined(agent)]
    if strict:
        found = [(path, [replace(p, severity="error") for p in problems]) for path, problems in found]
    errors = sum(problem.severity == "error" for _, problems in found for problem in problems)
    warnings = sum(len(problems) for _, problems in found) - errors
    if as_json:
        print_json(_as_json(found, errors, warnings))
        return INVALID if errors else 0
    for path, problems in found:
        for problem in problems:
            field = f" {problem.field}" if problem.field else ""
            place = f"{path}:{problem.line}:{problem.column}"
            click.echo(safe(f"{place}: {problem.severity}{field}: {problem.message}"))
    told = ", ".join(_counted(n, word) for n, word in ((errors, "error"), (warnings, "warning")))
    click.echo(f"{_counted(len(found), 'file')}: {told}")
    return INVALID if errors else 0


def known_tools() -> tuple[str, ...]:
    """Every name that an agent's ``tools`` may have on a node without further servers."""
    return tuple(
        name for s in builtin_servers() for name in (s.name, *(f"{s.name}/{tool}" for tool in s.tools))
    )


def problems_of(path: Path) -> list[Problem]:
    """The problems of an agent file, those of its module included."""
    examined = examine_definition(read_file(path), known_tools=known_tools())
    if examined.definition is not None and examined.definition.module:
        _examine_module(path, examined.definition, examined.front)
    return examined.problems


def _examined(agent: Path) -> list[tuple[Path, list[Problem]]]:
    found = [(agent, problems_of(agent))]
    scenarios = scenarios_path(agent)
    if scenarios.is_file():
        found.append((scenarios, list(read_scenarios(read_file(scenarios)).problems)))
    return found


def _examine_module(path: Path, definition: AgentDefinition, front: FrontMatter) -> None:
    """Whether a node could run the module, which lies beside the agent file; nothing of it is run."""
    from node.cli.wasm_inspect import inspect  # noqa: PLC0415 - wasmtime takes 120 ms

    module = path.parent / (definition.module or "")
    if not module.is_file():
        front.add("missing_module", ("module",), f"there is no file {module}")
        return
    try:
        seen = inspect(module)
    except CaxtonError as error:
        front.add("invalid_module", ("module",), str(error))
        return
    if seen["problem"]:
        front.add("invalid_module", ("module",), seen["problem"])
    granted = definition.setting("wasm", "grants", ())
    denied = [grant for grant in seen["grants"] if grant not in granted]
    if denied:
        message = f"the module asks for {', '.join(denied)}, which wasm.grants does not grant"
        front.add("missing_grant", ("wasm", "grants"), message)
    signature = seen["signature"]
    if signature is not None and not signature["valid"]:
        front.add("invalid_signature", ("module",), f"its manifest is not good: {signature['why']}")


def _as_json(found: list[tuple[Path, list[Problem]]], errors: int, warnings: int) -> dict[str, Any]:
    files = [{"file": str(path), "problems": [p.as_json() for p in problems]} for path, problems in found]
    return {"valid": not errors, "errors": errors, "warnings": warnings, "files": files}


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
