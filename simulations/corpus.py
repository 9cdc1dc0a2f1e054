"""Runs that are always repeated: what was found once must not come back.

An entry is a YAML file in ``simulations/corpus``: a scenario (by name, with changes, or inline), a seed,
perhaps a plan in place of the one that follows from the seed, and how the run has to end. A flaw that is
known and not mended yet is kept as an entry that expects it: mending it shows here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulations.faults import Fault, read_plan
from simulations.runner import Result, run
from simulations.scenario import Scenario, ScenarioError, check, check_strikes, load

CORPUS: Final = Path(__file__).parent / "corpus"


class _File(BaseModel):
    """What is in a file of the corpus.

    Attributes:
        about: Why it is kept.
        scenario: Name of a scenario, or a scenario.
        changes: Changes to a named scenario, as ``--set`` takes them.
        seed: The seed.
        plan: Faults in place of those that follow from the seed.
        code: The exit code that is expected.
        failed: The properties that are expected to fail.
    """

    model_config = ConfigDict(extra="forbid")
    about: str
    scenario: str | dict[str, Any]
    changes: list[str] = Field(default_factory=list)
    seed: int
    plan: list[dict[str, Any]] | None = None
    code: int = 0
    failed: list[str] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of the corpus.

    Args:
        name: Its file's.
        about: Why it is kept.
        scenario: What is run.
        seed: With which seed.
        plan: With which faults; None for those of the seed.
        code: How it has to end.
        failed: Which properties have to fail.
    """

    name: str
    about: str
    scenario: Scenario
    seed: int
    plan: tuple[Fault, ...] | None
    code: int
    failed: Sequence[str]

    def run(self) -> Result:
        """Run it."""
        return run(self.scenario, self.seed, plan=self.plan)

    def differs(self, result: Result) -> str:
        """In what a result differs from what is expected; empty where it does not."""
        if (result.code, result.failed) == (self.code, list(self.failed)):
            return ""
        texts = [violation.text for violation in result.violations[:5]]
        return (
            f"{self.name}: exit code {result.code} with {result.failed}, expected {self.code} with "
            f"{list(self.failed)}: {texts} {result.crash}"
        )


def entries() -> list[Entry]:
    """All runs of the corpus."""
    return [read(path) for path in sorted(CORPUS.glob("*.yaml"))]


def read(path: Path) -> Entry:
    """Read a file of the corpus.

    Raises:
        ScenarioError: something in it is wrong.
    """
    try:
        file = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        plan = None if file.plan is None else read_plan(file.plan)
    except (ValidationError, ValueError, KeyError) as error:
        raise ScenarioError(f"{path.name}: {error}") from None
    if isinstance(file.scenario, str):
        scenario = load(file.scenario, file.changes)
    else:
        scenario = check({"name": path.stem, **file.scenario}, path.name)
    check_strikes(scenario, path.name, plan=plan)
    return Entry(path.stem, file.about, scenario, file.seed, plan, file.code, file.failed)
