"""Is a run the same in two processes? Compared byte for byte, under different hash seeds."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import Final

import click

HASH_SEEDS: Final = ("1", "4711")
"""The two processes of a check differ in the order of their sets, as any two processes do."""


def compare(command: list[str], accepted: Container[int] = ()) -> tuple[str, int]:
    """Run a command that takes ``--trace FILE`` in two processes that differ in their hash seed.

    Args:
        command: Without ``--trace``.
        accepted: Exit statuses other than 0 that are no reason to stop: a failing run has a trace too.

    Returns:
        Where the traces differ (empty where they do not), and how many lines the first has.

    Raises:
        click.ClickException: a process failed in another way.
    """
    with tempfile.TemporaryDirectory() as directory:
        traces = [Path(directory) / f"{hash_seed}.trace" for hash_seed in HASH_SEEDS]
        runs = [
            subprocess.Popen(  # noqa: S603 - the caller's own program
                [*command, "--trace", str(trace)],
                env=os.environ | {"PYTHONHASHSEED": hash_seed},
                stdout=subprocess.DEVNULL if accepted else None,
                stderr=subprocess.DEVNULL if accepted else None,
            )
            for hash_seed, trace in zip(HASH_SEEDS, traces, strict=True)
        ]
        statuses = [process.wait() for process in runs]
        if any(status and status not in accepted for status in statuses):
            raise click.ClickException(f"a run failed: exit statuses {statuses}")
        first, second = (trace.read_bytes() for trace in traces)
    if first == second:
        return "", len(first.splitlines())
    return first_difference(first, second), len(first.splitlines())


def first_difference(first: bytes, second: bytes) -> str:
    """The first line in which two traces differ, with the line before it."""
    before = ""
    lines = zip(first.decode().splitlines(), second.decode().splitlines(), strict=False)
    for number, (one, other) in enumerate(lines, 1):
        if one != other:
            return f"line {number}, after {before!r}:\n  {one}\n  {other}"
        before = one
    return "one trace is the beginning of the other"
