"""``caxton test --sim``: a user's own agent on simulated nodes, while models, nodes and links fail."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, Final

import click

from node.agents.definition import AgentDefinition, parse_definition
from node.errors import ValidationFailed
from simulations.cli import ARTIFACTS, report_failure, seed_range, tell_errors
from simulations.faults import Crash, Disturb, Fault, Partition, Provider, Reset, Restart, write_plan
from simulations.nodes.models import KINDS
from simulations.nodes.run import NodeRun
from simulations.nodes.scenario import NodeScenario
from simulations.runner import OK, Result
from simulations.scenario import check

LASTS_S: Final = 30.0
"""How long requests are sent."""
PATIENCE_S: Final = 60.0
"""How long a client waits for its answer."""
NODES: Final = 3
_TOLD: Final = {
    "rate_limited": "refused (429)",
    "timeout": "timed out",
    "cut": "cut off",
    "malformed": "malformed",
}


@click.command("test")
@click.argument("agent", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--sim", is_flag=True, required=True, help="On simulated nodes, in virtual time.")
@click.option("--seed", "seeds", default="1", show_default=True, help="A seed, or a range such as 1..20.")
@click.option("--request", default=None, help="What clients send, JSON or text; by default a number.")
@click.option(
    "--attach",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="File to send along; repeatable.",
)
@click.option("--capability", default=None, help="What clients ask for; by default the agent's first.")
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
@click.option("--json", "as_json", is_flag=True, help="One JSON document per seed.")
@tell_errors
def command(  # noqa: PLR0917 - one parameter per option
    agent: Path,
    sim: bool,
    seeds: str,
    request: str | None,
    attach: tuple[str, ...],
    capability: str | None,
    per_s: float,
    no_faults: bool,
    artifacts: Path,
    as_json: bool,
) -> None:
    """Try AGENT out: three nodes run it while its models fail, a node crashes and links break.

    What goes wrong, and when, follows from the seed. Exit codes are those of `caxton simulate`.
    """
    del sim
    definition = parse_definition(agent.read_bytes())
    wanted = capability or next(iter(definition.capabilities), "")
    if not wanted:
        raise ValidationFailed(
            f"{agent.name} offers no capability", fix="Give it `capabilities`, or name one with --capability."
        )
    worst = OK
    for seed in seed_range(seeds):
        scenario = scenario_of(agent, definition, wanted, request=request, files=attach, per_s=per_s)
        run = NodeRun(scenario, seed, plan=() if no_faults else draw(seed, scenario.names()))
        result = run.run()
        worst = max(worst, result.code)
        failures = run.model_failures()
        if as_json:
            click.echo(json.dumps(_as_json(result, failures)))
        else:
            _tell(result, failures, definition, scenario)
        if result.code != OK:
            report_failure(scenario, result, artifacts)
    sys.exit(worst)


def scenario_of(
    agent: Path,
    definition: AgentDefinition,
    capability: str,
    *,
    request: str | None,
    files: tuple[str, ...],
    per_s: float,
) -> NodeScenario:
    """The scenario that tries an agent out.

    Args:
        agent: Its file.
        definition: What that says.
        capability: What clients ask for.
        request: What they send.
        files: What goes with it.
        per_s: Requests a second.

    Raises:
        ScenarioError: something cannot be read.
    """
    data = {
        "name": agent.stem,
        "about": f"{definition.name} while models, nodes and links fail.",
        "runs": "nodes",
        "members": NODES,
        "agents": [
            {"agent": str(agent), "artifacts": [definition.module] if definition.module is not None else []}
        ],
        "workload": {
            "capability": capability,
            "per_s": per_s,
            "content": _content(request),
            "files": files,
            "reply_within_s": PATIENCE_S,
        },
        "safety_s": LASTS_S,
    }
    scenario = check(data, agent.name)
    if not isinstance(scenario, NodeScenario):
        raise TypeError(scenario)
    return scenario


def draw(seed: int, names: list[str]) -> tuple[Fault, ...]:
    """The faults of a seed: models fail everywhere, a node crashes, another is cut off, links get worse."""
    chance = random.Random(f"{seed}/agent")
    shares = {kind: round(chance.uniform(0.02, 0.2), 2) for kind in KINDS}
    crashed, cut = chance.sample(names, 2)
    rest = tuple(name for name in names if name != cut)
    at_s = [round(chance.uniform(first, first + 4), 1) for first in (4, 9, 16, 22)]
    found = (
        Provider(
            at_s=at_s[0], for_s=16, members=tuple(names), takes_s=round(chance.uniform(0.1, 2), 2), **shares
        ),
        Crash(at_s=at_s[1], members=(crashed,)),
        Restart(at_s=at_s[1] + 4, members=(crashed,)),
        Partition(at_s=at_s[2], for_s=4, sides=((cut,), rest)),
        Disturb(at_s=at_s[2], for_s=10, loss=round(chance.uniform(0, 0.1), 3), delay_s=0.02),
        Reset(at_s=at_s[3]),
    )
    return tuple(sorted(found, key=lambda fault: fault.at_s))


def _content(request: str | None) -> Any:
    try:
        return None if request is None else json.loads(request)
    except json.JSONDecodeError:
        return request


def _as_json(result: Result, failures: dict[str, int]) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "code": result.code,
        "failed": result.failed,
        "plan": write_plan(result.plan),
        "models": failures,
        **result.measures,
    }


def _tell(
    result: Result, failures: dict[str, int], definition: AgentDefinition, scenario: NodeScenario
) -> None:
    click.echo(f"{definition.name}, seed {result.seed}: {scenario.members} nodes, {result.virtual_s:.0f} s")
    for line in _lines(result.measures, failures):
        click.echo(f"  {line}")
    for fault in write_plan(result.plan):
        ((kind, values),) = fault.items()
        at_s = values.pop("at_s")
        rest = " ".join(f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in values.items())
        click.echo(f"  {at_s:>5.1f} s   {kind} {rest}")
    click.echo(f"  {'held: nothing was lost, and everything ended' if result.code == OK else 'FAILED'}")


def _lines(measures: dict[str, Any], failures: dict[str, int]) -> list[str]:
    def of(prefix: str) -> str:
        found = {key.removeprefix(prefix): value for key, value in measures.items() if key.startswith(prefix)}
        return ", ".join(f"{value} {key}" for key, value in found.items() if key[-2:] != "_s") or "none"

    lines = [f"requests  {measures.get('accepted', 0)} accepted; not taken: {of('refused_')}"]
    lines += [f"ends      {of('ended_')}", f"answers   {of('answered_')}"]
    if "answer_p50_s" in measures:
        times = ", ".join(f"{name} {measures[f'answer_{name}_s']:.2f} s" for name in ("p50", "p99", "max"))
        lines.append(f"time      {times}")
    if failures:
        told = [f"{failures[kind]} {_TOLD[kind]}" for kind in KINDS if kind in failures]
        lines.append(f"models    {', '.join(told)}")
    return lines
