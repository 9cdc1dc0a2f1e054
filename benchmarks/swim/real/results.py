"""Results of runs: written and read as CSV, and shown side by side in one table."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from benchmarks.report import percentile, show
from benchmarks.swim.real.experiment import AT_ONCE, ONE_BY_ONE, Detection, Summary

SYSTEMS: Final = ("memberlist", "caxton")
NOTHING: Final = "-"


@dataclass(slots=True)
class Results:
    """All runs so far.

    Attributes:
        summaries: one for each run.
        detections: one for each run, survivor and victim.
    """

    summaries: list[Summary]
    detections: list[Detection]

    def write(self, path: Path, facts: Mapping[str, str]) -> None:
        """Write detections to `path` and summaries beside it, the machine's facts above both as comments."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, facts, Detection, self.detections)
        _write(summaries_path(path), facts, Summary, self.summaries)


def summaries_path(path: Path) -> Path:
    """Where the summaries lie that belong to a file of detections."""
    return path.with_name(f"{path.stem}-runs{path.suffix}")


def read(path: Path) -> tuple[Results, dict[str, str]]:
    """Read what `Results.write` has written, and the machine's facts."""
    facts = dict(
        line[2:].rstrip("\n").split(": ", 1)
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.startswith("# ") and ": " in line
    )
    detections = [
        Detection(
            int(row["run"]), row["system"], row["phase"], row["survivor"], row["victim"],
            _number(row["detection_s"]), row["outcome"],
        )
        for row in _rows(path)
    ]  # fmt: skip
    summaries = [
        Summary(**{key: text if key == "system" else _whole(_number(text)) for key, text in row.items()})
        for row in _rows(summaries_path(path))
    ]
    return Results(summaries, detections), facts


def read_simulated(path: Path) -> list[float | None]:
    """Read detection times of simulated crashes: a column `detection_s`, empty where it was missed."""
    return [_number(row["detection_s"]) for row in _rows(path)]


def show_table(results: Results, simulated: Sequence[float | None], labels: Mapping[str, str]) -> None:
    """Print one table: each system that was run, and the simulation, in columns.

    Args:
        results: of the runs.
        simulated: detection times in seconds, None for missed; empty without a simulation.
        labels: what a column is called, by the system's name.
    """
    systems = [name for name in SYSTEMS if any(one.system == name for one in results.summaries)]
    header = ["measure", *(labels.get(name, name) for name in systems)]
    header += ["caxton, simulated"] if simulated else []
    rows: list[list[str]] = []

    def add(measure: str, cell: Callable[[str], str], of_simulation: str = NOTHING) -> None:
        rows.append([measure, *(cell(name) for name in systems), *([of_simulation] if simulated else [])])

    for phase in (AT_ONCE, ONE_BY_ONE, ""):
        times = {name: [d.detection_s for d in _chosen(results, name, phase)] for name in systems}
        label = f"detection, killed {phase}" if phase else "detection, all"
        told = simulated if not phase else []
        for measure, figure in (("p50", _share(0.5)), ("p99", _share(0.99)), ("max", _share(1.0))):
            add(f"{label}: {measure}, s", lambda name, t=times, f=figure: f(t[name]), figure(told))
        missed = {name: sum(d.outcome == "missed" for d in _chosen(results, name, phase)) for name in systems}
        add(
            f"{label}: missed of",
            lambda name, t=times, m=missed: f"{m[name]} of {len(t[name])}",
            f"{sum(t is None for t in told)} of {len(told)}" if told else NOTHING,
        )
    add("spread of one death over the survivors: median, max, s", lambda name: _spread(results, name))
    for measure, columns in MEASURES.items():
        add(measure, lambda name, c=columns: _summarised(results, name, c))
    show(header, rows)


def _runs_without(values: Sequence[Any]) -> str:
    return str(sum(value is None for value in values))


def _middle_and_worst(values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.4g} ({max(known):.4g})" if known else NOTHING


def _total(values: Sequence[Any]) -> str:
    return str(sum(value or 0 for value in values))


def _number_of(values: Sequence[Any]) -> str:
    return str(len(values))


MEASURES: Final[dict[str, tuple[str, Callable[[Sequence[Any]], str]]]] = {
    "false deaths, all runs": ("false_deaths", _total),
    "accusations of living members, all runs": ("false_accusations", _total),
    "dead held alive again, all runs": ("resurrected", _total),
    "runs": ("run", _number_of),
    "runs that did not converge": ("join_s", _runs_without),
    "join, all see all, s": ("join_s", _middle_and_worst),
    "join, the median member sees all, s": ("join_p50_s", _middle_and_worst),
    "start of all processes, s": ("start_s", _middle_and_worst),
    "start of one process, s": ("start_one_s", _middle_and_worst),
    "processor until joined, s a member": ("join_cpu_s", _middle_and_worst),
    "idle: processor, s a member and minute": ("cpu_s_per_minute", _middle_and_worst),
    "idle: bytes/s sent in datagrams by a member": ("datagram_bytes_per_s", _middle_and_worst),
    "idle: bytes/s sent in streams by a member": ("stream_bytes_per_s", _middle_and_worst),
    "idle: datagrams/s sent by a member": ("packets_per_s", _middle_and_worst),
    "resident memory, MB": ("rss_mb", _middle_and_worst),
    "proportional memory, MB": ("pss_mb", _middle_and_worst),
    "idle: p99 lateness of timers, s": ("late_p99_s", _middle_and_worst),
    "start and join: latest timer, s": ("late_join_max_s", _middle_and_worst),
    "idle: cores used by the members": ("cores_members", _middle_and_worst),
    "idle: cores used on the machine": ("cores_busy", _middle_and_worst),
    "highest local health penalty": ("health_max", _middle_and_worst),
    "share of datagrams lost": ("lost_share", _middle_and_worst),
    "datagrams dropped for full receive buffers": ("buffer_drops", _middle_and_worst),
}
"""Rows made of the runs' summaries: median over the runs, and the worst run in brackets."""


def _chosen(results: Results, system: str, phase: str) -> list[Detection]:
    """Detections of a system, of one phase or of all."""
    return [d for d in results.detections if d.system == system and phase in {"", d.phase}]


def _share(share: float) -> Callable[[Iterable[float | None]], str]:
    """Make a function that tells a percentile of what is known."""

    def tell(times: Iterable[float | None]) -> str:
        known = [time for time in times if time is not None]
        return f"{percentile(known, share):.2f}" if known else NOTHING

    return tell


def _spread(results: Results, system: str) -> str:
    """From the first survivor's verdict on a victim to the last one's."""
    times: dict[tuple[int, str], list[float]] = {}
    for one in _chosen(results, system, ""):
        if one.detection_s is not None:
            times.setdefault((one.run, one.victim), []).append(one.detection_s)
    spreads = [max(some) - min(some) for some in times.values()]
    return f"{statistics.median(spreads):.2f}, {max(spreads):.2f}" if spreads else NOTHING


def _summarised(results: Results, system: str, column: tuple[str, Callable[[Sequence[Any]], str]]) -> str:
    name, tell = column
    return tell([getattr(one, name) for one in results.summaries if one.system == system])


def _write(path: Path, facts: Mapping[str, str], kind: type[Any], rows: Sequence[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        table = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value
