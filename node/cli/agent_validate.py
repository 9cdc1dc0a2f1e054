"""``caxton agent validate``: everything that is wrong with agent files, at the place where it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from node.agents.definition import AgentDefinition, Examined, examine_definition
from node.agents.frontmatter import FrontMatter, Problem
from node.agents.scenarios import read_scenarios
from node.cli.agent_files import agent_paths, scenarios_path
from node.cli.deploy import read_file
from node.cli.errors import UsageFailed
from node.cli.output import print_json, safe
from node.config import ToolsConfig, load_config
from node.errors import CaxtonError
from node.tools.builtin_servers import builtin_servers
from node.tools.host import KnownTools

INVALID = 1
"""Exit status when a file has a problem that counts."""


def validate(
    named: tuple[Path, ...],
    *,
    strict: bool,
    as_json: bool,
    config: Path | None = None,
    check_tools: bool = False,
) -> int:
    """Examine agent files and their scenarios, and print what is wrong.

    Args:
        named: Files and directories.
        strict: Warnings count.
        as_json: One document instead of lines.
        config: The configuration of a node; its tool servers are known.
        check_tools: Whether those that agents name are started, to see what they offer.

    Returns:
        The exit status.

    Raises:
        UsageFailed: tools are to be checked without a configuration.
        ConfigInvalid: the configuration is not valid.
    """
    if check_tools and config is None:
        raise UsageFailed("--check-tools needs --config", fix="Name the configuration of a node.")
    tools = ToolsConfig() if config is None else load_config(config, environ=os.environ).tools
    known = known_tools(tools)
    agents = [(path, _examine(path, known)) for path in agent_paths(named)]
    if check_tools:
        _add_absent([examined for _, examined in agents], tools)
    found: list[tuple[Path, list[Problem]]] = []
    for path, examined in agents:
        found += [(path, list(examined.problems)), *_scenarios(path)]
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


def known_tools(config: ToolsConfig) -> KnownTools:
    """Every name that an agent's ``tools`` may have on a node with this section ``tools``."""
    own = [name for s in builtin_servers() for name in (s.name, *(f"{s.name}/{tool}" for tool in s.tools))]
    return KnownTools([*own, *config.mcp_servers], config.mcp_servers)


def problems_of(path: Path) -> list[Problem]:
    """The problems of an agent file, those of its module included."""
    return list(_examine(path, known_tools(ToolsConfig())).problems)


def _examine(path: Path, known: KnownTools) -> Examined:
    examined = examine_definition(read_file(path), known_tools=known)
    if examined.definition is not None and examined.definition.module:
        _examine_module(path, examined.definition, examined.front)
    return examined


def _scenarios(agent: Path) -> list[tuple[Path, list[Problem]]]:
    scenarios = scenarios_path(agent)
    return [(scenarios, list(read_scenarios(read_file(scenarios)).problems))] if scenarios.is_file() else []


def _add_absent(agents: Sequence[Examined], tools: ToolsConfig) -> None:
    """Start the servers that agents name, and add what of it leads to nothing."""
    from node.cli.agent_tools import absent_tools  # noqa: PLC0415 - seldom

    whole = [(each.front, each.definition) for each in agents if each.definition is not None]
    absent = absent_tools(tools, [definition.tools for _, definition in whole])
    for (front, definition), missing in zip(whole, absent, strict=True):
        for place, name in enumerate(definition.tools):
            why = missing.get(name) or missing.get(name.partition("/")[0])
            if why is not None:
                front.add("absent_tool", ("tools", place), f"{name!r} cannot be used: {why}")


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
