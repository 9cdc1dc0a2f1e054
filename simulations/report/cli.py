"""``caxton simulate report``, and what ``run --report`` does: run, watch, and write a page."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import click

from simulations import artifact
from simulations.faults import Fault
from simulations.report.content import content
from simulations.report.page import check_target, render, save
from simulations.report.story import Story, shown
from simulations.report.table import read_table, table_content
from simulations.runner import Result, run
from simulations.scenario import RUNS, Scenario, ScenarioError, available, load

COMMAND: Final = "caxton simulate"
MAX_ARTIFACT_BYTES: Final = 64 * 1024 * 1024
"""A larger file is no artifact."""


class Watched:
    """A run, and all that its page needs.

    Args:
        scenario: What is run.
        seed: Everything random follows from it.
        plan: The faults, if they shall be others than those that follow from the seed.
        spoken_of: Texts of violations, if they are known already.
    """

    def __init__(
        self, scenario: Scenario, seed: int, *, plan: Sequence[Fault] | None = None, spoken_of: str = ""
    ) -> None:
        self.scenario, self.seed, self.plan = scenario, seed, plan
        faults = scenario.plan(seed) if plan is None else plan
        names = shown(scenario.names(), faults, spoken_of)
        module, name = RUNS[scenario.runs].collector
        self.story = Story(names, max(scenario.members, len(names)))
        self._collector: Any = getattr(importlib.import_module(module), name)(self.story)

    def run(self, sink: TextIO | None = None) -> Result:
        """Run it, and watch; the same run as without."""
        result = run(self.scenario, self.seed, plan=self.plan, sink=sink, observe=self._collector.observe)
        self._collector.finish()
        return result

    def page(self, result: Result, replay: str, *, same: bool | None = None) -> str:
        """The page of the run.

        Args:
            result: How it ended.
            replay: The command that runs it again.
            same: Whether the trace is that of the artifact that was run again; None if none was.
        """
        collector = self._collector
        return render(
            content(
                self.scenario, result, self.story, charts=collector.CHARTS, flows=collector.FLOWS,
                replay=replay, same=same,
            )
        )  # fmt: skip


def again(name: str, seed: int, changes: Sequence[str]) -> str:
    """The command that runs a scenario again."""
    words = [*COMMAND.split(), "run", name, "--seed", str(seed)]
    for change in changes:
        words += ["--set", change]
    return shlex.join(words)


@click.command("report")
@click.argument("file")
@click.option("--seed", type=int, default=None, help="Of a scenario: everything random follows from it; 1.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="Change the scenario, as in network.loss=0.05.",
)  # fmt: skip
@click.option(
    "--out", "-o", type=click.Path(path_type=Path),
    help="Where the page goes; beside the file, or named after scenario and seed.",
)  # fmt: skip
@click.option(
    "--artifacts", type=click.Path(path_type=Path), default=Path("simulation-failures"), show_default=True,
    help="Of a table: where what is kept of failures is looked for.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite a file that is no report.")
@click.option(
    "--open", "opens", type=click.Choice(["yes", "no"]), default="no", show_default=True,
    help="Show the page in a browser.",
)  # fmt: skip
def report_command(  # noqa: PLR0917 - one parameter per option
    file: str,
    seed: int | None,
    changes: tuple[str, ...],
    out: Path | None,
    artifacts: Path,
    force: bool,
    opens: str,
) -> None:
    """Make a page to look at: of an artifact or a scenario, which is run, or of the table of a sweep.

    FILE is an artifact (.json), a table (.csv), or a scenario by its name or its file (.yaml).
    """
    try:
        said, target = _make(file, seed, changes, out, artifacts, force=force)
    except ScenarioError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{said}; {target}")
    if opens == "yes" and click.launch(str(target)):
        raise click.ClickException(f"no browser could be started; open {target}")


def _make(
    file: str, seed: int | None, changes: Sequence[str], out: Path | None, artifacts: Path, *, force: bool
) -> tuple[str, Path]:
    """Make the page of whatever a word stands for; say what was found, and where the page is."""
    path = Path(file)
    if file.endswith((".yaml", ".yml")) or file in available():
        return _of_scenario(file, 1 if seed is None else seed, changes, out, force=force)
    if not path.is_file():
        raise ScenarioError(_unknown(file))
    if seed is not None or changes:
        raise ScenarioError(f"{file} is no scenario; --seed and --set are for scenarios")
    if _is_artifact(path):
        return _of_artifact(path, out, force=force)
    return _of_table(path, out, artifacts, force=force)


def _unknown(name: str) -> str:
    """Why a word is neither a file nor a scenario, in the words of whoever looks scenarios up."""
    try:
        load(name)
    except ScenarioError as error:
        return f"there is no file {name!r}, and {error}"
    return f"{name!r} can not be read"


def _is_artifact(path: Path) -> bool:
    """Whether a file begins like an artifact; tables of sweeps do not."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"{"


def _of_scenario(
    name: str, seed: int, changes: Sequence[str], out: Path | None, *, force: bool
) -> tuple[str, Path]:
    scenario = load(name, changes)
    target = out or Path(f"{scenario.name}-{seed}.html")
    check_target(target, force=force)
    watched = Watched(scenario, seed)
    result = watched.run()
    save(target, watched.page(result, again(name, seed, changes)))
    return f"seed {seed}: exit code {result.code}", target


def _of_artifact(path: Path, out: Path | None, *, force: bool) -> tuple[str, Path]:
    if (size := path.stat().st_size) > MAX_ARTIFACT_BYTES:
        raise ScenarioError(f"{path.name}: {size} bytes; an artifact has less than {MAX_ARTIFACT_BYTES}")
    scenario, seed, plan, kept = artifact.read(path)
    target = out or path.with_suffix(".html")
    check_target(target, force=force)
    watched = Watched(scenario, seed, plan=plan, spoken_of=str(kept.get("violations", "")))
    result = watched.run()
    same = result.digest == kept["digest"]
    save(target, watched.page(result, f"{COMMAND} replay {shlex.quote(str(path))}", same=same))
    trace = artifact.compared(kept, result)
    return f"seed {seed}: {trace}, exit code {result.code} (it was {kept['code']})", target


def _of_table(path: Path, out: Path | None, artifacts: Path, *, force: bool) -> tuple[str, Path]:
    scenario, rows = read_table(path)
    target = out or path.with_suffix(".html")
    check_target(target, force=force)
    data = table_content(scenario, rows, artifacts=artifacts, command=COMMAND)
    save(target, render(data))
    failed = sum(row.code != 0 for row in rows)
    return f"{len(rows)} runs of {scenario}, {failed} failed", target
