"""What ``caxton simulate replay`` says of a recording."""

from __future__ import annotations

import platform
import sys
import zlib
from pathlib import Path
from typing import Final

import click

from node.errors import CaxtonError
from node.recording.format import Header, Recording
from node.telemetry.version import software_version
from simulations.recording.replay import CoreResult, Replayed, Result, replay
from simulations.recording.show import differing_lines, step_lines

DIFFERENT: Final = 2


def run(file: Path, *, until: int | None, show: int | None) -> None:
    """Replay a recording and say what became of it; exits with 2 if anything differs.

    Args:
        file: The recording.
        until: The last step to be done.
        show: A step to be shown.

    Raises:
        ClickException: it is no recording of this format, or has no such step.
    """
    try:
        recording = Recording(file)
        result = replay(recording, until=until, show=show)
    except CaxtonError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{recording.header.node}, {result.steps} inputs{_ended(result, until, show)}")
    for core in result.cores.values():
        click.echo(_core_line(core))
    if result.shown is not None:
        _show(result.shown)
    else:
        for core in result.cores.values():
            if core.difference is not None:
                _show(core.difference)
    if not result.same:
        _tell_versions(recording.header)
        sys.exit(DIFFERENT)


def _ended(result: Result, until: int | None, show: int | None) -> str:
    if result.broken:
        return f"; {result.broken}"
    if result.end:
        return f"; {result.end}"
    return "" if until is None and show is None else "; there may be more"


def _core_line(core: CoreResult) -> str:
    counts = f"{core.name:<24} {core.inputs:>8} inputs {core.outputs:>8} outputs"
    if core.unknown:
        return f"{core.name:<24} not replayed: {core.unknown}"
    if core.difference is None:
        return f"{counts}  the same"
    left = f", {core.left} inputs after it were not done" if core.left else ""
    return f"{counts}  differs at step {core.difference.number}{left}"


def _show(done: Replayed) -> None:
    for line in step_lines(done.number, done.core, done.step):
        click.echo(line)
    for note in done.notes:
        click.echo(f"  ! {note}")
    if done.same:
        for line in done.found_lines():
            click.echo(f"    {line}")
        return
    click.echo("  outputs, - as recorded, + as found now:")
    for line in differing_lines(done.expected_lines(), done.found_lines()):
        click.echo(f"  {line}")


def _tell_versions(header: Header) -> None:
    """Say what differs between who recorded and who replays."""
    here = Header(header.node, software_version(), platform.python_version(), zlib.ZLIB_RUNTIME_VERSION, 0.0)
    named = (("Caxton", "version"), ("Python", "python"), ("zlib", "zlib"))
    told = [
        f"{what} {getattr(header, of)} (this is {getattr(here, of)})"
        for what, of in named
        if getattr(header, of) != getattr(here, of)
    ]
    if told:
        click.echo(f"recorded by {', '.join(told)}", err=True)
