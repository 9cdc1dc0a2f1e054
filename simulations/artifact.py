"""What is kept of a run that failed: enough to run it again, and its last lines."""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from simulations.faults import Fault, read_plan, write_plan
from simulations.runner import Result
from simulations.scenario import Scenario, ScenarioError, check

FORMAT: Final = 1
_ROOT: Final = Path(__file__).resolve().parents[1]
_PACKAGES: Final = ("swim", "node", "simulations")


def code_hash() -> str:
    """Which code runs, wherever it came from: 16 digits of the SHA-256 of its modules' names and texts."""
    found = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            found.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def compared(kept: Mapping[str, Any], result: Result) -> str:
    """Say whether a run left the trace of the one that was kept, and if not, what may be why.

    Args:
        kept: The artifact's content.
        result: Of running it again.
    """
    if result.digest == kept["digest"]:
        return "the same trace"
    if "code_hash" not in kept:
        return "another trace"
    if kept["code_hash"] != code_hash():
        return "another trace, since the code has changed"
    others = [
        f"{what} {kept[what]} instead of {now}"
        for what, now in _below().items()
        if kept.get(what, now) != now
    ]
    return f"another trace, of the same code{', by ' if others else ''}{' and '.join(others)}"


def _below() -> dict[str, str]:
    """Versions of what a trace follows from beside the code: zlib decides how long compressed data is."""
    return {"python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}


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
        "code_hash": code_hash(),
        **_below(),
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
