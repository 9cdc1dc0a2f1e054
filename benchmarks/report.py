"""What every benchmark needs: facts about the machine, raw results as CSV, percentiles, a table to read."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = PROJECT / "benchmarks" / "results"


def caxton() -> list[str]:
    """The command as it is installed beside this interpreter."""
    return [str(Path(sys.executable).with_name("caxton"))]


def machine() -> dict[str, str]:
    """What the figures depend on, besides the code."""
    processor = _first(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()
    memory_kb = _first(Path("/proc/meminfo"), "MemTotal").removesuffix(" kB")
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": processor,
        "cores": str(os.cpu_count()),
        "memory_gb": f"{int(memory_kb) / 1024**2:.0f}" if memory_kb else "",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "apsw": importlib.metadata.version("apsw"),
        "load_before": load,
    }


def write(name: str, facts: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> Path:
    """Write raw rows to ``results/NAME-DATE.csv``, the machine's facts above them as comments.

    Args:
        name: The benchmark.
        facts: From :func:`machine`.
        rows: All with the same columns, at least one.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{facts['date'][:10]}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile.

    Args:
        values: In any order, at least one.
        share: 0 to 1.
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    for line in lines:
        print("| " + " | ".join(str(cell) for cell in line) + " |")


def _first(path: Path, key: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    try:
        asked = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
