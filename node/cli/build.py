"""``caxton build``: the module of an agent, from its sources."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from node.cli.build_languages import ENGINES, LANGUAGES, Plan, guess
from node.cli.build_template import AGENT_FILE, new_project
from node.cli.errors import BuildFailed
from node.cli.options import json_option
from node.cli.output import print_json, safe
from node.cli.whole_file import whole_file
from node.errors import ValidationFailed

MODULE: Final = "agent.wasm"
"""What a module is called unless --output says."""
STEP_TIMEOUT_S: Final = 1800.0
"""Longest run of one command, in seconds: a compiler that hangs ends."""


@click.command(
    "build",
    epilog="For example: caxton build --new greeter --language rust && caxton build greeter",
)
@click.argument(
    "directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--language", type=click.Choice(list(LANGUAGES)), help="By default what the files say.")
@click.option(
    "--engine", type=click.Choice(ENGINES), help="Of JavaScript and TypeScript; by default quickjs."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Where to write the module; by default {MODULE} in DIR.",
)
@click.option(
    "--new", "name", metavar="NAME", help="Make a project in DIR, by default NAME, and build nothing."
)
@click.option("--check/--no-check", default=True, help="Whether what was built must be an agent.")
@json_option
def command(
    directory: Path | None,
    language: str | None,
    engine: str | None,
    output: Path | None,
    name: str | None,
    check: bool,
    as_json: bool,
) -> None:
    """Build the WebAssembly module of the project in DIR, by default here, with its language's own tools.

    A compiler speaks for itself. Nothing is installed: what is missing is named, and how to get it.
    """
    if name is not None:
        if engine is not None:
            raise click.UsageError("--new builds nothing: leave --engine out.")
        _make(directory or Path(name), name, language, output, as_json=as_json)
        return
    project = directory or Path()
    if not project.is_dir():
        raise ValidationFailed(f"{project} is no directory", fix="Name the directory of a project.")
    chosen = language or guess(project)
    target = output or project / MODULE
    build(project.resolve(), chosen, target, engine)
    found: dict[str, Any] = {"language": chosen, "module": str(target), "bytes": target.stat().st_size}
    if check:
        found |= _checked(target)
    if as_json:
        print_json(found)
        return
    told = f", a {found['kind']}; needs grants: {', '.join(found['grants']) or 'none'}" if check else ""
    click.echo(safe(f"Built {target}: {found['bytes']:,} bytes{told}"))


def build(project: Path, language: str, target: Path, engine: str | None = None) -> None:
    """Build a project's module.

    Args:
        project: Its directory, absolute.
        language: One of ``LANGUAGES``.
        target: Where the module is written, when it has been built whole.
        engine: One of ``ENGINES`` for languages that have a choice; None for the usual one.

    Raises:
        ToolchainMissing: something is not installed.
        BuildFailed: a command failed.
        ValidationFailed: the project is not what it should be, or the module cannot be written.
    """
    from node.agents.wasm.interface import without_debug  # noqa: PLC0415 - wasmtime takes 120 ms

    with tempfile.TemporaryDirectory(prefix="caxton-build-") as scratch:
        plan = LANGUAGES[language].planner(engine)(project, Path(scratch))
        carry_out(plan, project)
        if not plan.product.is_file():
            raise BuildFailed(
                f"{project} was built, and there is no module",
                why=f"{plan.product.name} was not written",
                fix="Make the project a library: see the template of its language.",
            )
        try:
            with whole_file(target, force=True) as file:
                file.write(without_debug(plan.product.read_bytes()))
        except OSError as error:
            raise ValidationFailed(f"{target} cannot be written", why=error.strerror or str(error)) from error


def carry_out(plan: Plan, project: Path) -> None:
    """Run the commands of a plan in a directory, one after the other.

    Raises:
        BuildFailed: one of them failed.
    """
    for step in plan.steps:
        tool = Path(step.arguments[0]).name
        try:
            status = subprocess.run(  # noqa: S603 - a list of arguments of our own, without a shell
                step.arguments,
                cwd=project,
                env={**os.environ, **step.variables},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_file(sys.stderr) else None,
                timeout=STEP_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise BuildFailed("the build takes too long", why=f"{tool} ran {STEP_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise BuildFailed("the build failed", why=f"{tool}: {error.strerror or error}") from None
        if status != 0:
            raise BuildFailed(
                "the build failed", why=f"{tool} ended with status {status}", fix="See what it says above."
            )


def _has_file(stream: Any) -> bool:
    try:
        return isinstance(stream.fileno(), int)
    except (OSError, ValueError, AttributeError):
        return False


def _checked(module: Path) -> dict[str, Any]:
    """Kind and grants of what was built, if it is an agent."""
    from node.cli.wasm_inspect import inspect  # noqa: PLC0415 - wasmtime takes 120 ms

    found = inspect(module)
    if found["problem"]:
        raise BuildFailed(
            f"{module} was built, and is no agent",
            why=found["problem"],
            fix="See docs/wasm.md, and the template of its language; --no-check keeps it all the same.",
        )
    return {name: found[name] for name in ("kind", "grants", "sha256")}


def _make(directory: Path, name: str, language: str | None, output: Path | None, *, as_json: bool) -> None:
    if language is None:
        raise click.UsageError("--new needs --language.")
    if output is not None:
        raise click.UsageError("--new builds nothing: leave --output out.")
    files = new_project(directory, name, language)
    if as_json:
        print_json(
            {"directory": str(directory), "language": language, "files": [str(file) for file in files]}
        )
        return
    click.echo(safe(f"Wrote {', '.join(str(directory / file) for file in files)}."))
    click.echo(safe(f"Next: caxton build {directory} && caxton deploy {directory / AGENT_FILE}"))
