"""The table of a sweep (`sweep --csv`) as data for a page: what was run, what failed, how measures spread."""

from __future__ import annotations

import csv
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulations.report.words import CODES, cut
from simulations.runner import OK
from simulations.scenario import ScenarioError

MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
"""A larger table is refused."""
MAX_ROWS: Final = 200_000
MAX_COLUMNS: Final = 200
MAX_SEEDS_SHOWN: Final = 5_000
"""Runs that are shown one by one, the first by seed."""
MAX_FAILURES_SHOWN: Final = 500
MAX_BARS: Final = 24
"""Bars of a histogram."""
FIXED: Final = ("scenario", "seed", "code", "failed", "virtual_s", "cpu_s", "lines", "digest")
"""Columns that every table of a sweep has; all others are measures."""
MEASURED: Final = ("virtual_s", "cpu_s", "lines")
"""Those of them that are measures too; shown after the others."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a sweep.

    Args:
        seed: Its seed.
        code: How it ended.
        failed: The properties that did not hold.
        measures: What was measured, by name; nothing where a run has no such measure.
    """

    seed: int
    code: int
    failed: tuple[str, ...]
    measures: dict[str, float]


def read_table(path: Path) -> tuple[str, list[Row]]:
    """Read the table of a sweep.

    Returns:
        The scenario, and the runs in the order of the table.

    Raises:
        ScenarioError: it is none; with the line where that shows.
    """
    if (size := path.stat().st_size) > MAX_TABLE_BYTES:
        raise ScenarioError(f"{path.name}: {size} bytes; a table may have {MAX_TABLE_BYTES}")
    rows: list[Row] = []
    scenarios: dict[str, None] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            if missing := [column for column in FIXED if column not in columns]:
                raise ScenarioError(f"{path.name}:1: no table of a sweep: it has no column {missing[0]!r}")
            if len(columns) > MAX_COLUMNS:
                raise ScenarioError(f"{path.name}:1: {len(columns)} columns; at most {MAX_COLUMNS}")
            for entry in reader:
                if len(rows) >= MAX_ROWS:
                    raise ScenarioError(f"{path.name}:{reader.line_num}: more than {MAX_ROWS} runs")
                rows.append(_row(entry, f"{path.name}:{reader.line_num}"))
                scenarios[str(entry["scenario"])] = None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{path.name}: this is no table of a sweep ({error})") from None
    if not rows:
        raise ScenarioError(f"{path.name}: the table has no runs")
    if len(scenarios) > 1:
        raise ScenarioError(
            f"{path.name}: runs of {', '.join(sorted(scenarios)[:5])}; one table is one scenario's"
        )
    return next(iter(scenarios)), rows


def _row(entry: dict[str, Any], where: str) -> Row:
    if None in entry or None in entry.values():
        raise ScenarioError(f"{where}: another number of columns than in line 1")
    measures = {}
    for name, text in entry.items():
        if (name not in FIXED or name in MEASURED) and text != "":
            measures[name] = _number(text, f"{where}: {name}")
    code = _whole(entry["code"], f"{where}: code")
    if code not in CODES:
        raise ScenarioError(f"{where}: code: {code} is none of {', '.join(map(str, CODES))}")
    return Row(_whole(entry["seed"], f"{where}: seed"), code, tuple(entry["failed"].split()), measures)


def _whole(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ScenarioError(f"{where}: {cut(text, 40)!r} is no whole number") from None


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ScenarioError(f"{where}: {cut(text, 40)!r} is no number")
    return value


def table_content(scenario: str, rows: Sequence[Row], *, artifacts: Path, command: str) -> dict[str, Any]:
    """Everything the page of a sweep shows.

    Args:
        scenario: What was run.
        rows: The runs.
        artifacts: Where failures were kept, if they were.
        command: What runs the simulator.
    """
    ordered = sorted(rows, key=lambda row: row.seed)
    failures = [row for row in ordered if row.code != OK]
    codes = Counter(row.code for row in ordered)
    properties = Counter(name for row in failures for name in dict.fromkeys(row.failed))
    names = list(dict.fromkeys(name for row in ordered for name in row.measures))
    names.sort(key=lambda name: name in MEASURED)
    notes = [
        "A table does not say which changes (--set) a sweep was made with; add them to a command of `run`."
    ]
    if len(ordered) > MAX_SEEDS_SHOWN:
        notes.append(
            f"The first {MAX_SEEDS_SHOWN} of {len(ordered)} runs are shown one by one; all are counted."
        )
    if len(failures) > MAX_FAILURES_SHOWN:
        notes.append(f"The first {MAX_FAILURES_SHOWN} of {len(failures)} failures are listed.")
    return {
        "page": "table",
        "scenario": cut(scenario, 100),
        "runs": len(ordered),
        "codes": [[code, codes[code], CODES[code]] for code in CODES if codes[code]],
        "seeds": [[row.seed, row.code] for row in ordered[:MAX_SEEDS_SHOWN]],
        "properties": [[cut(name, 100), count] for name, count in properties.most_common(50)],
        "failures": [
            {
                "seed": row.seed,
                "code": row.code,
                "failed": [cut(name, 100) for name in row.failed[:20]],
                "again": _again(scenario, row.seed, artifacts, command),
            }
            for row in failures[:MAX_FAILURES_SHOWN]
        ],
        "measures": [measure for name in names if (measure := _spread(name, ordered)) is not None],
        "notes": notes,
    }


def _again(scenario: str, seed: int, artifacts: Path, command: str) -> str:
    """The command that runs a failure again: by what was kept of it, if that is there."""
    kept = artifacts / f"{scenario}-{seed}.json"
    if kept.is_file():
        return f"{command} replay {shlex.quote(str(kept))}"
    return f"{command} run {shlex.quote(scenario)} --seed {seed}"


def _spread(name: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    """How a measure spreads over the runs: quantiles and a histogram, failures apart."""
    found = [(row.measures[name], row.code != OK) for row in rows if name in row.measures]
    if not found:
        return None
    values = sorted(value for value, _ in found)
    last = len(values) - 1
    low, high = values[0], values[-1]
    is_whole = all(value.is_integer() for value in values)
    bars = min(MAX_BARS, max(1, round(high - low) + 1)) if is_whole else MAX_BARS
    if low == high:
        bars = 1
    width = (high - low) / bars
    held, failed = [0] * bars, [0] * bars
    for value, is_failure in found:
        place = min(bars - 1, int((value - low) / width)) if width else 0
        (failed if is_failure else held)[place] += 1
    return {
        "name": cut(name, 100),
        "runs": len(values),
        "low": low,
        "median": values[round(last * 0.5)],
        "p99": values[round(last * 0.99)],
        "high": high,
        "held": held,
        "failed": failed,
    }
