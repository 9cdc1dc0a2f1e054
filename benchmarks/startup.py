"""How long a node takes to be there, and what it weighs when it has nothing to do.

    .venv/bin/python -m benchmarks.startup
    .venv/bin/python -m benchmarks.startup --against ../old --runs 15   # start by start in turn

Each figure is the median of several runs of real processes, started as a user starts them. "Ready" is the
first healthy answer of the admin API, polled every 5 ms from the moment before the process is created.
Processor time is what the process has used by then, all of its threads together: it says the same on a busy
machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import httpx

from benchmarks.report import caxton, machine, show, write

GOALS: Final[Mapping[str, tuple[str, float | None]]] = {
    "python -c pass": ("ms", None),
    "caxton --help": ("ms", 150.0),
    "caxton start, fresh data directory": ("ms", 1500.0),
    "caxton start, existing data directory": ("ms", 1500.0),
    "caxton start, processor time": ("ms", None),
    "caxton stop (SIGTERM to exit)": ("ms", None),
    "idle node, resident memory": ("MB", 120.0),
    "idle node, processor": ("% of a core", None),
}
"""What is measured -> its unit and the most it may be; the first is what the interpreter costs here."""

IDLE_S: Final = 5.0
"""How long a node has been ready when its memory is read."""
POLL_S: Final = 0.005
READY_S: Final = 60.0


@dataclass(slots=True)
class Started:
    """A node process that answers its health check."""

    process: subprocess.Popen[bytes]
    ready_ms: float


def main() -> int:
    """Measure, print, write; the exit status is 1 with ``--check`` when a goal is missed."""
    parser = argparse.ArgumentParser(description="Start-up time and idle memory of a node.")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    parser.add_argument("--against", type=Path, help="a checkout to compare processor times with")
    options = parser.parse_args()
    facts = machine()
    if options.against is not None:
        return compare(options.against.resolve(), options.runs, facts)
    rows = [
        {"measure": measure, "run": run, "value": round(value, 2), "unit": GOALS[measure][0]}
        for run in range(options.runs)
        for measure, value in one_run(idle=run < 3)
    ]
    path = write("startup", facts, rows)
    missed = _report(rows)
    print(f"\n{facts}\nraw: {path}")
    return 1 if missed and options.check else 0


def compare(other: Path, runs: int, facts: dict[str, str]) -> int:
    """The processor time of starts of two checkouts, one after the other, with compiled modules."""
    trees = {"this": Path(__file__).resolve().parents[1], "other": other}
    rows: list[dict[str, object]] = []
    values: dict[str, list[int]] = {tree: [] for tree in trees}
    for run in range(-1, runs):  # the first compiles what is not compiled yet
        for tree, root in trees.items():
            variables = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": ""}
            with (
                tempfile.TemporaryDirectory(prefix="caxton-startup-") as directory,
                node(Path(directory), **variables) as started,
            ):
                used_ms = round(1000.0 * _processor_s(started.process.pid))
            if run >= 0:
                values[tree].append(used_ms)
                rows.append({"checkout": tree, "run": run, "processor_ms": used_ms})
    path = write("startup-against", facts, rows)
    table = [(tree, f"{median(v):.0f} ms", f"{min(v)} to {max(v)}", len(v)) for tree, v in values.items()]
    show(("checkout", "median", "range", "runs"), table)
    ratio = median(values["this"]) / median(values["other"])
    print(f"\nthis takes {ratio:.2f} of the other\n{facts}\nraw: {path}")
    return 0


def one_run(*, idle: bool) -> Iterator[tuple[str, float]]:
    """Each measure once.

    Args:
        idle: Whether to wait for the measures of an idle node, too.
    """
    yield "python -c pass", _wall_ms(sys.executable, "-c", "pass")
    yield "caxton --help", _wall_ms(*caxton(), "--help")
    with tempfile.TemporaryDirectory(prefix="caxton-startup-") as directory:
        with node(Path(directory)) as fresh:
            yield "caxton start, fresh data directory", fresh.ready_ms
        with node(Path(directory)) as again:
            yield "caxton start, existing data directory", again.ready_ms
            yield "caxton start, processor time", 1000.0 * _processor_s(again.process.pid)
            if idle:
                before = _processor_s(again.process.pid)
                time.sleep(IDLE_S)
                used_s = _processor_s(again.process.pid) - before
                yield "idle node, resident memory", _resident_mb(again.process.pid)
                yield "idle node, processor", 100.0 * used_s / IDLE_S
            began = time.perf_counter()
            again.process.send_signal(signal.SIGTERM)
            again.process.wait(READY_S)
            yield "caxton stop (SIGTERM to exit)", 1000.0 * (time.perf_counter() - began)


@contextmanager
def node(directory: Path, **variables: str) -> Iterator[Started]:
    """A node on loopback, ready, with its data and all that it leaves in ``directory``."""
    port = _free_port()
    options = ["--data-dir", str(directory / "data"), "--port", str(port), "--bind", "127.0.0.1:0"]
    options += ["--set", "cluster.link_port=0"]
    environment = _environment(directory) | variables
    with (directory / "node.log").open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen([*caxton(), "start", *options], stdout=log, stderr=log, env=environment)
    try:
        _wait_until_healthy(process, port, directory / "node.log")
        yield Started(process, 1000.0 * (time.perf_counter() - began))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(READY_S)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.perf_counter() + READY_S
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=5) as client:
        while time.perf_counter() < deadline:
            if process.poll() is not None:
                break
            try:
                if client.get("/health").json().get("status") == "healthy":
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_S)
    raise SystemExit(f"the node did not become healthy:\n{log.read_text(errors='replace')[-2000:]}")


def _report(rows: list[dict[str, object]]) -> list[str]:
    table, missed = [], []
    for measure, (unit, goal) in GOALS.items():
        values = [float(str(row["value"])) for row in rows if row["measure"] == measure]
        middle = median(values)
        met = goal is None or middle <= goal
        if not met:
            missed.append(measure)
        goal_text = "" if goal is None else f"<= {goal:g} {unit}, {'met' if met else 'missed'}"
        spread = f"{min(values):.0f} to {max(values):.0f}"
        table.append((measure, f"{middle:.0f} {unit}", spread, len(values), goal_text))
    show(("measure", "median", "range", "runs", "goal"), table)
    return missed


def _environment(directory: Path) -> dict[str, str]:
    """This process's environment, less what would configure the node."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CAXTON_")}
    return kept | {"HOME": str(directory), "XDG_STATE_HOME": str(directory / "state")}


def _wall_ms(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1000.0 * (time.perf_counter() - began)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
