"""``caxton simulate twin``: a scenario of whole nodes, simulated and on real processes, in one table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

import click

from simulations.runner import INTERRUPTED, OK
from simulations.scenario import ScenarioError, load

CANNOT: Final = 4
"""Exit code: this machine, or any real one, cannot do what the scenario asks for."""


@click.command("twin")
@click.argument("scenario", required=False)
@click.option("--check", is_flag=True, help="Say what this machine can do, and stop.")
@click.option("--seed", type=int, default=1, show_default=True, help="The first seed.")
@click.option("--runs", type=click.IntRange(1, 100), default=1, show_default=True, help="Seeds in a row.")
@click.option(
    "--without", default="", metavar="NAME,...", help="What is left out on both sides, as in clock,disk."
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path, dir_okay=False), help="Write the raw table here."
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the scenario.")
def command(  # noqa: PLR0917 - one parameter per option
    scenario: str | None,
    check: bool,
    seed: int,
    runs: int,
    without: str,
    table: Path | None,
    changes: tuple[str, ...],
) -> None:
    """Run SCENARIO simulated and on real processes in network namespaces, and compare.

    Virtual seconds are real ones here. It needs root, or a user namespace. Exit codes are those of
    `caxton simulate run`, and 4: this machine cannot do what the scenario asks.
    """
    # Membership is simulated without Trio and without nodes, so these come when they are asked for.
    machine = importlib.import_module("simulations.twin.machine").look()
    session = importlib.import_module("simulations.twin.session")
    if check:
        for line in machine.lines():
            click.echo(line)
        sys.exit(OK if machine.has("namespaces") and machine.has("nft") else CANNOT)
    if scenario is None:
        raise click.UsageError("name a scenario, or ask with --check what this machine can do")
    left_out = [name.strip() for name in without.split(",") if name.strip()]
    try:
        loaded = load(scenario, changes)
        prepared = [
            (number, *session.prepare(loaded, number, left_out, machine))
            for number in range(seed, seed + runs)
        ]
    except ScenarioError as error:
        raise click.ClickException(str(error)) from None
    except session.Impossible as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT)
    sys.exit(_run(session, machine, prepared, table))


def _run(session: Any, machine: Any, prepared: list[tuple[Any, ...]], table: Path | None) -> int:
    rows: list[dict[str, Any]] = []
    worst = OK
    for seed, scenario, plan in prepared:
        results = session.run_both(scenario, seed, plan, machine, lambda line: click.echo(line, err=True))
        rows += session.rows_of(scenario.name, results)
        for system, result in results.items():
            worst = max(worst, result.code)
            for violation in result.violations[:10]:
                click.echo(f"{system}: {violation.property}: {violation.text}", err=True)
            if result.crash:
                click.echo(f"{system}: {result.crash}", err=True)
        if worst == INTERRUPTED:
            break
    for line in session.aligned(session.table(rows)):
        click.echo(line)
    if table is not None:
        try:
            session.write_rows(table, rows)
        except OSError as error:
            raise click.ClickException(f"{table}: {error.strerror}") from None
    return worst
