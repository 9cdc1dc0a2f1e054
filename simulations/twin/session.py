"""A scenario, simulated and real, side by side: run both for each seed, and tell how far they agree."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from simulations.faults import Fault, write_plan
from simulations.nodes.run import NodeRun
from simulations.nodes.scenario import NodeScenario
from simulations.runner import INTERRUPTED, OK, Result
from simulations.scenario import Scenario, ScenarioError
from simulations.timeline import US_PER_S
from simulations.twin.conditions import longest_delay_s
from simulations.twin.machine import Machine, duration_s, needs, without
from simulations.twin.run import TwinRun

SYSTEMS: Final = ("simulated", "real")
_FIRST: Final = ("accepted", "refused_", "ended_", "answered_", "answer_", "known_", "unknown_")
"""The order of measures, by what their names begin with."""
_WORDS: Final[Mapping[str, str]] = {
    "answer_p50_s": "request to reply, median (s)",
    "answer_p99_s": "request to reply, p99 (s)",
    "answer_max_s": "request to reply, longest (s)",
    "known_ended_s": "all know of an end (s)",
    "known_started_s": "all know of a start (s)",
    "known_resumed_s": "all know who goes on (s)",
    "known_cut_s": "all know of a cut (s)",
    "known_healed_s": "all together after a cut (s)",
    "unknown_cut": "cuts over before all knew",
    "unknown_healed": "healings over before all knew",
    "unknown_ended": "ends over before all knew",
    "unknown_started": "starts over before all knew",
    "unknown_resumed": "pauses over, and others again, before all knew",
}
Row = dict[str, Any]
Tell = Callable[[str], None]


class Impossible(Exception):
    """What a scenario asks for cannot be done.

    Args:
        reasons: Why, by need.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        names = ", ".join(reasons)
        lines = [f"this machine cannot do what the scenario asks: {names}"]
        lines += [f"  {need}: {why}" for need, why in reasons.items()]
        left_out = [need for need in reasons if need not in ("time", "namespaces")]
        if left_out:
            lines.append(f"Leave it out on both sides with --without {','.join(left_out)}.")
        super().__init__("\n".join(lines))


def prepare(
    scenario: Scenario, seed: int, left_out: Sequence[str], machine: Machine
) -> tuple[NodeScenario, tuple[Fault, ...]]:
    """What is run on both sides.

    Args:
        scenario: Of whole nodes.
        seed: Its plan follows from it.
        left_out: Needs that are left out.
        machine: What can be done here.

    Raises:
        ScenarioError: it is no scenario of whole nodes, or a need is none.
        Impossible: the machine cannot do what is left.
    """
    if not isinstance(scenario, NodeScenario):
        raise ScenarioError(f"{scenario.name}: only scenarios of whole nodes (`runs: nodes`) have a twin")
    if scenario.placed:
        raise ScenarioError(f"{scenario.name}: what the cluster places itself (`placed`) has no twin yet")
    chosen, plan = without(left_out, scenario, scenario.plan(seed))
    reasons = {"namespaces": machine.lacking["namespaces"]} if not machine.has("namespaces") else {}
    for need in needs(chosen, plan):
        why = machine.reason(need)
        if why and need not in left_out:
            reasons[need] = why
    if reasons:
        raise Impossible(reasons)
    return chosen, plan


def run_both(
    scenario: NodeScenario, seed: int, plan: Sequence[Fault], machine: Machine, tell: Tell
) -> dict[str, Result]:
    """One run of each system, the simulated one first; without the second if Ctrl-C ends the first.

    Args:
        scenario: From :func:`prepare`.
        seed: Of both.
        plan: From :func:`prepare`.
        machine: What can be done here.
        tell: Is given what is done, line by line.
    """
    tell(f"seed {seed}: {scenario.members} nodes, {duration_s(scenario):g} s")
    for fault in write_plan(plan):
        tell(f"  planned {fault}")
    if not machine.has("netem") and scenario.network.delay_s:
        link = scenario.network.link()
        tell(
            f"  links: up to {1000 * longest_delay_s(link):g} ms simulated, the bridge's own here (no netem)"
        )
    results = {"simulated": NodeRun(scenario, seed, plan=plan).run()}
    if results["simulated"].code == INTERRUPTED:
        return results

    def line(us: int, who: str, what: str, rest: str) -> None:
        if what != "accepted":
            tell(f"  {us / US_PER_S:7.2f} s  {who:<4} {what} {rest}".rstrip())

    results["real"] = TwinRun(scenario, seed, plan=plan, machine=machine, tell=line).run()
    return results


def rows_of(scenario: str, results: Mapping[str, Result]) -> list[Row]:
    """A row of the raw table for each system: what it is, how it ended, what was measured."""
    return [
        {
            "scenario": scenario,
            "seed": result.seed,
            "system": system,
            "code": result.code,
            "failed": " ".join(result.failed),
            "seconds": round(result.virtual_s, 1),
            **result.measures,
        }
        for system, result in results.items()
    ]


def measures_of(rows: Sequence[Row]) -> list[str]:
    """The names of the measures in the order in which they are shown."""
    found = {key for row in rows for key in list(row)[6:]}

    def rank(key: str) -> tuple[int, int, str]:
        first = next((place for place, start in enumerate(_FIRST) if key.startswith(start)), len(_FIRST))
        quantile = {"p50": 0, "p99": 1, "max": 2}.get(key.split("_")[1] if "_" in key else "", 3)
        return first, quantile, key

    return sorted(found, key=rank)


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Measure, simulated, real: medians of the runs, with the smallest and largest where they differ."""
    by_system = {system: [row for row in rows if row["system"] == system] for system in SYSTEMS}
    lines: list[tuple[str, ...]] = [("measure", *SYSTEMS)]
    for key in measures_of(rows):
        cells = (_cell(key, by_system[system]) for system in SYSTEMS)
        lines.append((_WORDS.get(key, key.replace("_", " ")), *cells))
    held = (_verdict(by_system[system]) for system in SYSTEMS)
    lines.append(("properties", *held))
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table for people."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the raw table.

    Raises:
        OSError: it cannot be written.
    """
    columns = [*list(rows[0])[:6], *measures_of(rows)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _cell(key: str, rows: Sequence[Row]) -> str:
    counted = key.startswith(("refused_", "ended_", "answered_", "unknown_"))
    values = [row.get(key, 0 if counted else None) for row in rows]
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    middle, digits = statistics.median(known), 2 if key.endswith("_s") else 0
    shown = f"{middle:.{digits}f}"
    if known[0] != known[-1]:
        shown += f" ({known[0]:.{digits}f} to {known[-1]:.{digits}f})"
    return shown if len(known) == len(values) else f"{shown}, in {len(known)} of {len(values)} runs"


def _verdict(rows: Sequence[Row]) -> str:
    bad = sorted({name for row in rows for name in str(row["failed"]).split()})
    if any(row["code"] != OK and not row["failed"] for row in rows):
        bad.append("did not end as it must")
    return ", ".join(bad) or ("all held" if rows else "-")
