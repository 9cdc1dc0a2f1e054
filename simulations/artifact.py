"""What is kept of a run that failed: enough to run it again, and its last lines."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from simulations.faults import Fault, read_plan, write_plan
from simulations.runner import Result
from simulations.scenario import Scenario, ScenarioError, check

FORMAT: Final = 1


def write(directory: Path, scenario: Scenario, result: Result) -> Path:
    """Write the artifact of a run.

    Args:
        directory: Where; made if there is none.
        scenario: What was run, changes included.
        result: How it ended.

    Returns:
        The file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.scenario}-{result.seed}.json"
    content: dict[str, Any] = {
        "format": FORMAT,
        "scenario": scenario.model_dump(mode="json", exclude_defaults=True),
        "seed": result.seed,
        "plan": write_plan(result.plan),
        "code": result.code,
        "violations": [asdict(violation) for violation in result.violations],
        "crash": result.crash,
        "virtual_s": result.virtual_s,
        "digest": result.digest,
        "lines": result.lines,
        "python": platform.python_version(),
        "last": result.tail,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[Scenario, int, tuple[Fault, ...], dict[str, Any]]:
    """Read an artifact.

    Returns:
        The scenario, the seed, the plan, and the whole content.

    Raises:
        ScenarioError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ScenarioError(f"{path.name}: format {content['format']}; this version reads {FORMAT}")
        plan = read_plan(content["plan"])
        return check(content["scenario"], path.name), int(content["seed"]), plan, content
    except (ValueError, KeyError, TypeError) as error:
        raise ScenarioError(f"{path.name}: this is no artifact of a run ({error})") from None


def is_artifact(path: Path) -> bool:
    """Whether a file begins as artifacts do; recordings of nodes do not."""
    with path.open("rb") as file:
        return file.read(1) == b"{"
