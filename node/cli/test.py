"""``caxton test``: the scenarios of an agent or a suite, or an agent on simulated nodes while things fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
OUT: Final = click.Path(path_type=Path, dir_okay=False)
ARTIFACTS: Final = Path("simulation-failures")


@click.command("test", epilog="For example: caxton test --suite configs/agents")
@click.argument("agent", required=False, type=FILE)
@click.option(
    "--suite",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory of agents to run.",
)
@click.option("--provider", metavar="NAME", help="builtin, scripted, recording, live, or one of --config.")
@click.option("--scenario", metavar="NAME", help="The only scenario to run.")
@click.option("--config", type=FILE, help="Configuration (YAML) of providers and tools.")
@click.option("--junit", type=OUT, help="File that a report in JUnit's XML is written to.")
@click.option("--sim", is_flag=True, help="On simulated nodes, in virtual time; with the options below.")
@click.option("--seed", "seeds", default="1", show_default=True, help="A seed, or a range such as 1..20.")
@click.option("--request", help="What clients send, JSON or text; by default a number.")
@click.option("--attach", type=FILE, multiple=True, help="File to send along; repeatable.")
@click.option("--capability", help="What clients ask for; by default the agent's first.")
@click.option(
    "--per-s", type=click.FloatRange(0.01, 100), default=2.0, show_default=True, help="Requests a second."
)
@click.option("--no-faults", is_flag=True, help="Let nothing go wrong.")
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    default=ARTIFACTS,
    show_default=True,
    help="Where what is kept of a failure goes.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --sim, one per seed.")
def command(
    agent: Path | None,
    suite: Path | None,
    provider: str | None,
    scenario: str | None,
    config: Path | None,
    junit: Path | None,
    sim: bool,
    seeds: str,
    request: str | None,
    attach: tuple[Path, ...],
    capability: str | None,
    per_s: float,
    no_faults: bool,
    artifacts: Path,
    as_json: bool,
) -> int:
    """Run the scenarios of AGENT, or of all agents of a suite, as `caxton agent test` does.

    With --sim, try AGENT out instead: three simulated nodes run it while its models fail, a node crashes and
    links break. What goes wrong, and when, follows from the seed. Exit codes are then those of
    `caxton simulate`; else 1 says that a scenario was not as expected.
    """
    if sim:
        if agent is None or suite is not None:
            raise click.UsageError("--sim takes one AGENT, and no suite.")
        from simulations.agent_test import TryOut, try_out  # noqa: PLC0415 - not for --help
        from simulations.scenario import ScenarioError  # noqa: PLC0415

        files = tuple(map(str, attach))
        how = TryOut(seeds, request, files, capability, per_s, not no_faults, artifacts)
        try:
            sys.exit(try_out(agent, how, as_json=as_json))
        except ScenarioError as error:
            raise click.ClickException(str(error)) from None
    named = [place for place in (agent, suite) if place is not None]
    if not named:
        raise click.UsageError("Name an AGENT, or a directory of agents with --suite.")
    from node.cli.agent_test import Choice, agents_of, try_agents  # noqa: PLC0415 - not for --help

    choice = Choice(provider, scenario, config)
    return try_agents(agents_of(named), choice, as_json=as_json, junit=junit)
