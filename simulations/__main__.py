"""``python -m simulations``: run the fixed scenario from a seed, or check that a seed gives the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import click

from node.samples import sample
from simulations.first_slice import Outcome, first_slice
from simulations.kernel import World, run

HASH_SEEDS: Final = ("1", "4711")
"""The two processes of a check differ in the order of their sets, as any two processes do."""
NOT_DETERMINISTIC: Final = 2
LOST: Final = 129


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Simulate a cluster of production nodes."""


@cli.command("run")
@click.option("--seed", type=int, default=1, show_default=True, help="Everything random follows from it.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write every line of the trace here.")
def run_command(seed: int, trace: Path | None) -> None:
    """Run the scenario once; exits with 129 when a request was lost."""
    outcome = run_first_slice(seed, trace)
    click.echo(json.dumps(asdict(outcome)))
    sys.exit(0 if outcome.failed == 0 else LOST)


@cli.command("check-determinism")
@click.option("--seed", type=int, default=1, show_default=True, help="The seed that is run twice.")
def check_command(seed: int) -> None:
    """Run in two processes and compare the traces byte for byte; exits with 2 on a difference."""
    difference, lines = compare([sys.executable, "-m", "simulations", "run", "--seed", str(seed)])
    if difference:
        click.echo(difference, err=True)
        sys.exit(NOT_DETERMINISTIC)
    click.echo(f"seed {seed}: {lines} lines, the same in both processes")


def compare(command: list[str]) -> tuple[str, int]:
    """Run a command that takes ``--trace FILE`` in two processes that differ in their hash seed.

    Args:
        command: Without ``--trace``.

    Returns:
        Where the traces differ (empty where they do not), and how many lines the first has.
    """
    with tempfile.TemporaryDirectory() as directory:
        traces = [Path(directory) / f"{hash_seed}.trace" for hash_seed in HASH_SEEDS]
        runs = [
            subprocess.Popen(  # noqa: S603 - the caller's own program
                [*command, "--trace", str(trace)], env=os.environ | {"PYTHONHASHSEED": hash_seed}
            )
            for hash_seed, trace in zip(HASH_SEEDS, traces, strict=True)
        ]
        statuses = [process.wait() for process in runs]
        if any(statuses):
            raise click.ClickException(f"a run failed: exit statuses {statuses}")
        first, second = (trace.read_bytes() for trace in traces)
    if first == second:
        return "", len(first.splitlines())
    return first_difference(first, second), len(first.splitlines())


def run_first_slice(seed: int, trace: Path | None = None) -> Outcome:
    """Run the scenario with the sample echo agent.

    Args:
        seed: Everything random follows from it.
        trace: Where to write the trace.
    """
    agent = sample("agents/echo.md").read_bytes()
    artifacts = {"echo.wat": sample("agents/echo.wat").read_bytes()}
    with tempfile.TemporaryDirectory() as directory:
        world: list[World] = []

        async def scenario(new_world: World) -> Outcome:
            world.append(new_world)
            return await first_slice(new_world, Path(directory), agent, artifacts)

        outcome = run(partial(scenario), seed)
    if trace is not None:
        trace.write_text("\n".join(world[0].trace.tail()) + "\n", encoding="utf-8")
    return outcome


def first_difference(first: bytes, second: bytes) -> str:
    """The first line in which two traces differ, with the line before it."""
    before = ""
    lines = zip(first.decode().splitlines(), second.decode().splitlines(), strict=False)
    for number, (one, other) in enumerate(lines, 1):
        if one != other:
            return f"line {number}, after {before!r}:\n  {one}\n  {other}"
        before = one
    return "one trace is the beginning of the other"


if __name__ == "__main__":
    cli()
