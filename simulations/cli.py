"""``caxton simulate``: run scenarios of whole nodes or of membership, sweep over seeds, replay failures."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from simulations import artifact
from simulations.compare import compare
from simulations.faults import Fault, write_plan
from simulations.report.cli import Watched, again, report_command
from simulations.report.page import check_target, save
from simulations.runner import CRASHED, INTERRUPTED, OK, Result, run
from simulations.scenario import Scenario, ScenarioError, available, load
from simulations.shrink import MAX_RUNS, shrink
from simulations.sweep import stopping, sweep, write_csv
from simulations.twin.cli import command as twin_command

UNMET: Final = 3
"""Exit code of a sweep in which something never happened that the scenario is there to meet."""
NOT_DETERMINISTIC: Final = 2
ARTIFACTS: Final = Path("simulation-failures")
COMMAND: Final = "caxton simulate"

_CHANGES = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the scenario, as in network.loss=0.05.",
)
_TRACE = click.option("--trace", type=click.Path(path_type=Path), help="Write every line of the trace here.")
_ARTIFACTS = click.option(
    "--artifacts",
    type=click.Path(path_type=Path),
    default=ARTIFACTS,
    show_default=True,
    help="Where what is kept of a failure goes.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document, on a terminal, too.")


def tell_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Tell what is wrong with a scenario, or with a file, without a traceback."""

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except ScenarioError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Run clusters from a seed: whole nodes, or thousands of members without nodes.

    Exit codes: 0 all held, 127 the core raised, 128 a liveness property failed, 129 a safety property failed.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@tell_errors
def list_command(as_json: bool) -> None:
    """List the scenarios."""
    if as_json:
        scenarios = [load(name) for name in available()]
        shown = [{"name": s.name, "runs": s.runs, "members": s.members, "about": s.about} for s in scenarios]
        click.echo(json.dumps(shown))
        return
    for name in available():
        scenario = load(name)
        click.echo(f"{name:<18} {scenario.members:>5} {scenario.runs:<8} {scenario.about}")


@command.command("run")
@click.argument("scenario")
@click.option("--seed", type=int, default=1, show_default=True, help="Everything random follows from it.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page to look at here.")
@_TRACE
@_CHANGES
@_ARTIFACTS
@_JSON
@tell_errors
def run_command(  # noqa: PLR0917 - one parameter per option
    scenario: str,
    seed: int,
    report: Path | None,
    trace: Path | None,
    changes: tuple[str, ...],
    artifacts: Path,
    as_json: bool,
) -> None:
    """Run a scenario once and print what was measured."""
    loaded = load(scenario, changes)
    watched = None
    if report is not None:
        check_target(report, force=False)
        watched = Watched(loaded, seed)
    began = time.process_time()
    result = _run(loaded, seed, trace=trace, watched=watched)
    cpu_s = time.process_time() - began
    _show(summary(loaded, result, cpu_s), as_json=as_json)
    if result.code != OK:
        report_failure(loaded, result, artifacts)
    if watched is not None and report is not None:
        save(report, watched.page(result, again(scenario, seed, changes)))
    if result.code != OK:
        sys.exit(result.code)


@command.command("sweep")
@click.argument("scenario")
@click.option("--seeds", default="1..20", show_default=True, help="First and last seed, as in 1..100.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option("--budget", default=None, help="Begin no run after so much real time, as in 60s or 5m.")
@click.option("--csv", "table", type=click.Path(path_type=Path), help="Write one line per run here.")
@_CHANGES
@_ARTIFACTS
@_JSON
@tell_errors
def sweep_command(  # noqa: PLR0917 - one parameter per option
    scenario: str,
    seeds: str,
    jobs: int,
    budget: str | None,
    table: Path | None,
    changes: tuple[str, ...],
    artifacts: Path,
    as_json: bool,
) -> None:
    """Run a scenario with many seeds; fails with the worst code of its runs.

    Ctrl-C lets the present runs end, and tells of those there were; a second one ends at once.
    """
    loaded = load(scenario, changes)
    if table is not None:
        table.touch()  # what cannot be written is told before hours of runs, not after them
    wanted, budget_s = seed_range(seeds), None if budget is None else seconds(budget)
    with stopping() as stop, click.progressbar(length=len(wanted), label=loaded.name, file=sys.stderr) as bar:
        found = sweep(
            loaded, wanted, jobs=jobs, budget_s=budget_s, stop=stop.is_set, progress=lambda _: bar.update(1)
        )
    if table is not None:
        write_csv(table, found.rows)
    met = dict(sorted(found.sometimes.items()))
    counts = {"checks": dict(found.checks), "sometimes": met}
    _show({"runs": len(found.rows), "failed": len(found.failures), **counts}, as_json=as_json)
    for result in found.failures:
        report_failure(loaded, result, artifacts)
    if found.failures:
        sys.exit(found.code)
    if stop.is_set():
        click.echo(f"interrupted after {len(found.rows)} of {len(wanted)} runs", err=True)
        sys.exit(INTERRUPTED)
    if found.unmet:
        click.echo(f"never met: {', '.join(found.unmet)}", err=True)
        sys.exit(UNMET)


@command.command("replay")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_TRACE
@click.option("--until", type=click.IntRange(1), metavar="STEP", help="Of a recording: do no later input.")
@click.option("--show", type=click.IntRange(1), metavar="STEP", help="Of a recording: show this input.")
@tell_errors
def replay_command(file: Path, trace: Path | None, until: int | None, show: int | None) -> None:
    """Do again what an artifact was kept of, or what a node has recorded, and say whether the same happens.

    A recording (`caxton start --record`) ends with code 2 if anything comes out differently.
    """
    if not artifact.is_artifact(file):
        if trace is not None:
            raise click.UsageError("--trace is of artifacts; a recording is shown by --show STEP")
        # Recordings are of whole nodes, and membership is simulated without them.
        importlib.import_module("simulations.recording.command").run(file, until=until, show=show)
        return
    if until is not None or show is not None:
        raise click.UsageError("--until and --show are of recordings, and this is an artifact")
    scenario, seed, plan, kept = artifact.read(file)
    result = _run(scenario, seed, trace=trace, plan=plan)
    trace_again = artifact.compared(kept, result)
    click.echo(f"seed {seed}: {trace_again}, exit code {result.code} (it was {kept['code']})")
    _tell(result)
    sys.exit(result.code)


@command.command("shrink")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_ARTIFACTS
@tell_errors
def shrink_command(file: Path, artifacts: Path) -> None:
    """Leave out faults, members and seconds of a failing run as long as it fails on the same property."""
    scenario, seed, plan, kept = artifact.read(file)
    with click.progressbar(length=MAX_RUNS, label="runs", file=sys.stderr) as bar:
        smallest, result = shrink(scenario, seed, plan, progress=lambda _: bar.update(1))
    click.echo(
        f"{len(result.plan)} of {len(kept['plan'])} faults, {smallest.members} of {scenario.members} members "
        f"and {smallest.safety_s:g} of {scenario.safety_s:g} s are needed:"
    )
    for fault in write_plan(result.plan):
        click.echo(f"  {json.dumps(fault)}")
    path = artifact.write(artifacts / "shrunk", smallest, result)
    click.echo(f"{COMMAND} replay {shlex.quote(str(path))}")


@command.command("check-determinism")
@click.argument("scenario", default="swarm")
@click.option("--seed", type=int, default=1, show_default=True, help="The seed that is run twice.")
@_CHANGES
@tell_errors
def check_command(scenario: str, seed: int, changes: tuple[str, ...]) -> None:
    """Run in two processes that differ in their hash seed, and compare the traces byte for byte."""
    load(scenario, changes)
    command = [sys.executable, "-m", "simulations", "members", "run", scenario, "--seed", str(seed)]
    for change in changes:
        command += ["--set", change]
    with tempfile.TemporaryDirectory() as artifacts:
        difference, lines = compare([*command, "--artifacts", artifacts], accepted=range(CRASHED, 256))
    if difference:
        click.echo(difference, err=True)
        sys.exit(NOT_DETERMINISTIC)
    click.echo(f"{scenario}, seed {seed}: {lines} lines, the same in both processes")


command.add_command(report_command)
command.add_command(twin_command)


def seed_range(text: str) -> range:
    """The seeds that ``1..20``, or a single number, stands for."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise click.BadParameter(f"{text!r} is no range of seeds; write 1..20", param_hint="--seeds")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def seconds(text: str) -> float:
    """The seconds that ``90``, ``90s``, ``5m`` or ``1h`` stands for."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration; write 60s or 5m", param_hint="--budget")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _run(
    scenario: Scenario,
    seed: int,
    *,
    trace: Path | None,
    plan: tuple[Fault, ...] | None = None,
    watched: Watched | None = None,
) -> Result:
    with ExitStack() as stack:
        sink = None if trace is None else stack.enter_context(trace.open("w", encoding="utf-8"))
        if watched is not None:
            return watched.run(sink)
        return run(scenario, seed, plan=plan, sink=sink)


def summary(scenario: Scenario, result: Result, cpu_s: float) -> dict[str, Any]:
    """What a run prints; ``simulations/README.md`` says what it means."""
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "code": result.code,
        "failed": result.failed,
        "virtual_s": result.virtual_s,
        "cpu_s": round(cpu_s, 3),
        "member_seconds_per_cpu_s": round(scenario.members * result.virtual_s / max(cpu_s, 1e-9)),
        "digest": result.digest,
        "lines": result.lines,
        **result.measures,
        "checks": result.checks,
        "sometimes": dict(sorted(result.sometimes.items())),
    }


def _show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Tell what was found: on a terminal one line for each thing, elsewhere one JSON document on one line."""
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        if isinstance(value, Mapping) and value:
            click.echo(key)
            for name, count in value.items():
                click.echo(f"  {name:<56} {count:>12}")
        else:
            told = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"{key:<26} {'-' if told in (None, '', {}) else told}")


def report_failure(scenario: Scenario, result: Result, artifacts: Path) -> None:
    """Say what failed, and the one command that runs it again."""
    click.echo(f"SEED={result.seed} of {result.scenario} failed with {result.code}", err=True)
    _tell(result)
    try:
        path = artifact.write(artifacts, scenario, result)
    except OSError as error:
        click.echo(f"it cannot be kept in {artifacts}: {error.strerror}", err=True)
    else:
        click.echo(f"{COMMAND} replay {shlex.quote(str(path))}", err=True)


def _tell(result: Result) -> None:
    for violation in result.violations[:10]:
        click.echo(f"  {violation.at_us / 1e6:.6f} s  {violation.property}: {violation.text}", err=True)
    if result.crash:
        click.echo(result.crash, err=True)
