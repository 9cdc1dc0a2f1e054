"""``caxton agent init``: a new agent file, and scenarios beside it, from a template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from node.agents.definition import normalise_name, parse_definition
from node.agents.scenarios import read_scenarios
from node.cli.agent_files import scenarios_path
from node.cli.deploy import read_file
from node.cli.output import print_table, safe
from node.cli.whole_file import check_free, whole_file
from node.errors import ValidationFailed, nearest
from node.samples import sample_agents

MINIMAL: Final = "minimal"
"""The template that is no sample."""
_AGENT: Final = """---
name: {name}
version: 0.1.0
description: Answers questions about attached CSV files.
capabilities: [{id}]
tools: [csv_parser]
system_prompt: |
  You answer questions about the attached files. Compute with your tools; never guess a number.
---

# {name}

What it is for, and how to ask it:

    caxton agent test {file}
    caxton deploy {file}
    caxton send --capability {id} --attach FILE.csv 'total by region'
"""
_SCENARIOS: Final = """# caxton agent test {file}
scenarios:
  - name: a total is computed
    input:
      content: {{action: analyze, file: numbers.csv}}
      attachments:
        - name: numbers.csv
          text: |
            region,revenue
            north,10
            south,32
    expect:
      tools: [csv_analyze]
      results:
        - {{tool: csv_analyze, at: /rows, equals: 2}}
      content:
        - {{contains: "42"}}
  - name: a request that has to do with no tool is not understood
    input:
      content: {{action: sing}}
    expect:
      performative: not_understood
      not_tools: [csv_analyze]
"""


def init(name: str, template: str, directory: Path, *, force: bool) -> list[Path]:
    """Write an agent file and its scenarios.

    Args:
        name: Of the agent.
        template: ``minimal``, or the name of a sample agent.
        directory: Where.
        force: Whether files may be overwritten.

    Returns:
        The files.

    Raises:
        ValidationFailed: the name is none, there is no such template, or a file exists.
    """
    identifier = normalise_name(name)
    agent = directory / f"{identifier.replace('-', '_')}.md"
    files = _files(name, identifier, template, agent)
    for path in files:
        check_free(path, force=force)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            with whole_file(path, force=force) as file:
                file.write(content)
    except OSError as error:
        raise ValidationFailed(
            f"{error.filename or directory} cannot be written", why=error.strerror or str(error)
        ) from error
    return list(files)


def tell_templates() -> None:
    """List the templates."""
    rows = [(MINIMAL, "A question about an attached CSV file, with two scenarios.")]
    rows += [
        (_template_of(path), parse_definition(path.read_bytes()).description) for path in sample_agents()
    ]
    print_table("Templates", ("template", "what it is"), rows)


def show(name: str | None, template: str, directory: Path, *, force: bool) -> None:
    """Write the files, or list the templates, and tell."""
    if template == "list":
        tell_templates()
        return
    if name is None:
        raise click.UsageError("NAME is missing.")
    written = init(name, template, directory, force=force)
    for path in written:
        click.echo(safe(f"Wrote {path}"))
    click.echo(safe(f"Try it: caxton agent test {written[0]}"))


def _template_of(path: Path) -> str:
    return path.stem.replace("_", "-")


def _files(name: str, identifier: str, template: str, agent: Path) -> dict[Path, bytes]:
    if template == MINIMAL:
        values = {"name": name, "id": identifier, "file": agent.name}
        return {
            agent: _AGENT.format(**values).encode(),
            scenarios_path(agent): _SCENARIOS.format(**values).encode(),
        }
    samples = {_template_of(path): path for path in sample_agents()}
    path = samples.get(template.replace("_", "-"))
    if path is None:
        guess = nearest(template, [MINIMAL, *samples])
        raise ValidationFailed(
            f"there is no template {template[:80]!r}",
            why=f"there are {', '.join([MINIMAL, *samples])}",
            fix=f"Did you mean {guess!r}?" if guess else "See `caxton agent init --template list`.",
        )
    files = {agent: _renamed(read_file(path), name)}
    module = parse_definition(read_file(path)).module
    if module is not None:
        files[agent.with_name(module)] = read_file(path.with_name(module))
    scenarios = scenarios_path(path)
    if scenarios.is_file():
        for other in _others(scenarios):
            files[agent.with_name(other)] = read_file(path.with_name(other))
        files[scenarios_path(agent)] = scenarios.read_bytes()
    return files


def _others(scenarios: Path) -> list[str]:
    """The files of the other agents that take part in scenarios."""
    found = read_scenarios(read_file(scenarios)).whole(scenarios.name)
    return list(dict.fromkeys(name for scenario in found for name in scenario.agents))


def _renamed(content: bytes, name: str) -> bytes:
    """The agent file under another name; its documentation stays as it is."""
    return re.sub(rb"(?m)^name: .*$", f"name: {name}".encode(), content, count=1)
