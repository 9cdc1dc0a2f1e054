"""``caxton test --sim``: a user's own agent on simulated nodes, while models, nodes and links fail."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from node.agents.definition import AgentDefinition, parse_definition
from node.errors import ValidationFailed
from simulations.cli import ARTIFACTS, report_failure, seed_range
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


@dataclass(frozen=True, slots=True)
class TryOut:
    """How an agent is tried out.

    Args:
        seeds: A seed, or a range such as 1..20.
        request: What clients send, JSON or text; None for a number.
        files: What goes with it.
        capability: What clients ask for; None for the agent's first.
        per_s: Requests a second.
        faults: Whether anything goes wrong.
        artifacts: Where what is kept of a failure goes.
    """

    seeds: str = "1"
    request: str | None = None
    files: tuple[str, ...] = ()
    capability: str | None = None
    per_s: float = 2.0
    faults: bool = True
    artifacts: Path = ARTIFACTS


def try_out(agent: Path, how: TryOut, *, as_json: bool) -> int:
    """Try an agent out: three nodes run it while its models fail, a node crashes and links break.

    Args:
        agent: Its file.
        how: What is sent, and whether anything goes wrong.
        as_json: One document per seed.

    Returns:
        The worst exit status of all seeds, as those of ``caxton simulate``.

    Raises:
        ValidationFailed: the agent offers nothing that could be asked for.
        ScenarioError: something cannot be read.
    """
    definition = parse_definition(agent.read_bytes())
    wanted = how.capability or next(iter(definition.capabilities), "")
    if not wanted:
        raise ValidationFailed(
            f"{agent.name} offers no capability", fix="Give it `capabilities`, or name one with --capability."
        )
    worst = OK
    for seed in seed_range(how.seeds):
        scenario = scenario_of(
            agent, definition, wanted, request=how.request, files=how.files, per_s=how.per_s
        )
        run = NodeRun(scenario, seed, plan=draw(seed, scenario.names()) if how.faults else ())
        result = run.run()
        worst = max(worst, result.code)
        failures = run.model_failures()
        if as_json:
            click.echo(json.dumps(_as_json(result, failures)))
        else:
            _tell(result, failures, definition, scenario)
        if result.code != OK:
            report_failure(scenario, result, how.artifacts)
    return worst


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
