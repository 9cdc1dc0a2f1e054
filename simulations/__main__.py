"""``python -m simulations``: the fixed scenario of whole nodes, and all scenarios of membership."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import click

from node.samples import sample
from simulations.cli import command
from simulations.compare import compare
from simulations.first_slice import Outcome, first_slice
from simulations.kernel import World, run

NOT_DETERMINISTIC: Final = 2
LOST: Final = 129


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Simulate a cluster of production nodes, or its membership alone."""


cli.add_command(command, "members")


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


if __name__ == "__main__":
    cli()
