"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere, nothing for programs.

The story writes into a :class:`Scene`; a screen renders it. The story and whoever watches the cluster run in
threads of their own: each field of the scene has one writer and is replaced whole, so a screen always
finds something that was true.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from node.cli.output import safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

FLOW_LINES: Final = 4
"""Messages shown at once, the latest last."""
FRAMES_PER_S: Final = 10
_FRAME_LINES: Final = 4
"""Of the table of nodes, besides the nodes: its title and its lines; the table itself counts as a part."""
AGENTS_SHOWN: Final = 6
"""Agents named per node."""

_STATE_STYLES: Final = {"alive": "green", "suspect": "yellow", "dead": "bold red", "left": "dim"}


@dataclass(slots=True)
class NodeRow:
    """One node of the table.

    Args:
        name: The node's name.
        role: What it is in the story.
        pid: Its process.
        state: Its state of membership, as the sender sees it.
        agents: The agents it runs.
        unsettled: Requests of the sender it has not settled.
        answered: Requests it has answered.
    """

    name: str
    role: str = ""
    pid: int | None = None
    state: str = "starting"
    agents: tuple[str, ...] = ()
    unsettled: int = 0
    answered: int = 0


@dataclass(slots=True)
class Step:
    """One step of the story; times in seconds since its beginning."""

    title: str
    at_s: float
    took_s: float | None = None
    detail: str = ""
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        """The step for programs."""
        return {
            "step": self.title,
            "at_seconds": round(self.at_s, 3),
            "seconds": None if self.took_s is None else round(self.took_s, 3),
            "detail": self.detail,
        }


@dataclass(slots=True)
class Scene:
    """All there is to show.

    Args:
        nodes: By name, in order.
        steps: Those begun so far; the last one runs while it has no duration.
        flow: The latest messages.
        sent: Requests of the burst that a node has accepted.
        answered: Of them, answered.
        rerouted: Of them, given to another provider.
    """

    nodes: dict[str, NodeRow]
    started_s: float = field(default_factory=time.monotonic)
    steps: list[Step] = field(default_factory=list)
    flow: deque[str] = field(default_factory=lambda: deque(maxlen=FLOW_LINES))
    sent: int = 0
    answered: int = 0
    rerouted: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started_s


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of the answer.

    Args:
        title: Above it.
        columns: Their names; all but the first hold numbers.
        rows: Their cells.
        notes: Lines below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Screen(Protocol):
    """Where the story is shown."""

    def __enter__(self) -> Screen:
        """Begin to show."""
        ...

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""
        ...

    def ended(self, step: Step) -> None:
        """A step has ended."""
        ...

    def moved(self, line: str) -> None:
        """A message has moved."""
        ...

    def sheet(self, sheet: Sheet) -> None:
        """Show a table that stays."""
        ...

    def say(self, text: str = "") -> None:
        """Show a line that stays."""
        ...

    def command(self, text: str) -> None:
        """Show a command to copy."""
        ...


class SilentScreen:
    """Shows nothing."""

    def __enter__(self) -> SilentScreen:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""

    def ended(self, step: Step) -> None:
        """Nothing."""

    def moved(self, line: str) -> None:
        """Nothing."""

    def sheet(self, sheet: Sheet) -> None:
        """Nothing."""

    def say(self, text: str = "") -> None:
        """Nothing."""

    def command(self, text: str) -> None:
        """Nothing."""


class PlainScreen(SilentScreen):
    """Writes lines, for logs and pipes."""

    def __enter__(self) -> PlainScreen:
        return self

    def ended(self, step: Step) -> None:
        """One line per step, when it has ended."""
        took = f"{step.took_s or 0.0:6.2f} s"
        click.echo(safe(f"{took}  {step.title}" + (f": {step.detail}" if step.detail else "")))

    def moved(self, line: str) -> None:
        """One line per message that is worth telling."""
        click.echo(safe(f"          {line}"))

    def sheet(self, sheet: Sheet) -> None:
        """Aligned columns."""
        rows = [[safe(cell) for cell in row] for row in (sheet.columns, *sheet.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        click.echo(safe(f"  {sheet.title}"))
        for first, *numbers in rows:
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            click.echo(f"    {'  '.join(cells)}".rstrip())
        for note in sheet.notes:
            click.echo(safe(f"    {note}"))
        click.echo()

    def say(self, text: str = "") -> None:
        """The line."""
        click.echo(safe(text))

    def command(self, text: str) -> None:
        """The command, indented."""
        click.echo(safe(f"  {text}"))


class LiveScreen(SilentScreen):
    """A table that changes while the cluster works, drawn by rich.

    Args:
        scene: What to draw.
        console: Where; standard output by default.
    """

    def __init__(self, scene: Scene, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole  # noqa: PLC0415 - slow to import, and only terminals need it
        from rich.live import Live as RichLive  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415

        self._scene = scene
        self._console = console or RichConsole(highlight=False)
        self._spinner = Spinner("dots", style="cyan")
        self._ended = False
        self._live: Live = RichLive(
            console=self._console,
            get_renderable=lambda: render(self._scene, self._spinner, self._lines),
            refresh_per_second=FRAMES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveScreen:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last frame on the terminal, in full."""
        self._ended = True
        self._live.__exit__(None, None, None)

    @property
    def _lines(self) -> int | None:
        """How many lines a frame may have; any number once it is the last."""
        return None if self._ended else self._console.size.height - 1

    def moved(self, line: str) -> None:
        """Add it to the messages shown."""
        self._scene.flow.append(line)

    def sheet(self, sheet: Sheet) -> None:
        """Above the live table, where it stays."""
        from rich.markup import escape  # noqa: PLC0415 - see the constructor
        from rich.table import Table as RichTable  # noqa: PLC0415

        table = RichTable(title=escape(safe(sheet.title)), title_justify="left", title_style="bold")
        for number, column in enumerate(sheet.columns):
            table.add_column(escape(safe(column)), justify="right" if number else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(escape(safe(cell)) for cell in row))
        self._console.print(table)
        for note in sheet.notes:
            self.say(note)
        self.say()

    def say(self, text: str = "") -> None:
        """Above the live table while it is there, below it afterwards."""
        self._console.print(safe(text), markup=False)

    def command(self, text: str) -> None:
        """Unbroken, so that it can be copied whole."""
        self._console.print(safe(f"  {text}"), markup=False, soft_wrap=True)


def render(scene: Scene, spinner: RenderableType, lines: int | None = None) -> RenderableType:
    """One frame: nodes, messages, steps; with ``lines``, one line each and the latest steps that fit."""
    from rich.console import Group  # noqa: PLC0415 - see LiveScreen
    from rich.text import Text  # noqa: PLC0415

    parts: list[RenderableType] = [_nodes(scene, short=lines is not None)]
    if scene.sent:
        parts.append(
            Text.assemble(
                (" requests ", "bold"),
                f"{scene.sent} sent  ",
                (f"{scene.answered} answered", "green"),
                "  ",
                (f"{scene.rerouted} re-routed", "yellow" if scene.rerouted else "dim"),
            )
        )
    parts += [
        Text(f" {safe(line)}", style="dim", no_wrap=True, overflow="ellipsis") for line in list(scene.flow)
    ]
    room = None if lines is None else max(1, lines - _FRAME_LINES - len(scene.nodes) - len(parts))
    parts.append(_steps(scene, spinner, room))
    return Group(*parts)


def _nodes(scene: Scene, *, short: bool) -> Table:
    from rich.table import Table as RichTable  # noqa: PLC0415 - see LiveScreen
    from rich.text import Text  # noqa: PLC0415

    table = RichTable(
        title=f"caxton demo   {scene.elapsed_s:4.1f} s", title_justify="left", title_style="bold"
    )
    for name in ("node", "process", "member", "agents"):
        table.add_column(name, no_wrap=name != "agents")  # what may wrap is what shrinks
    for name in ("unsettled", "answered"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in list(scene.nodes.values()):
        agents = ", ".join(row.agents[:AGENTS_SHOWN]) + (" ..." if len(row.agents) > AGENTS_SHOWN else "")
        table.add_row(
            Text.assemble(row.name, (f" {row.role}" if row.role else "", "cyan")),
            str(row.pid or ""),
            Text(row.state, style=_STATE_STYLES.get(row.state, "")),
            Text(safe(agents), no_wrap=short, overflow="ellipsis" if short else "fold"),
            str(row.unsettled or ""),
            str(row.answered or ""),
        )
    return table


def _mark(step: Step) -> Text:
    from rich.text import Text as RichText  # noqa: PLC0415 - see LiveScreen

    return RichText("\u2718", style="bold red") if step.failed else RichText("\u2714", style="green")


def _steps(scene: Scene, spinner: RenderableType, room: int | None) -> Table:
    from rich.table import Table as RichTable  # noqa: PLC0415 - see LiveScreen
    from rich.text import Text  # noqa: PLC0415

    table = RichTable.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(justify="right", width=7, no_wrap=True)
    table.add_column()
    short = room is not None
    for step in list(scene.steps)[-room if room else 0 :]:
        running = step.took_s is None
        took = scene.elapsed_s - step.at_s if step.took_s is None else step.took_s
        mark: RenderableType = spinner if running else _mark(step)
        text = Text(
            step.title, "bold" if running else "", no_wrap=short, overflow="ellipsis" if short else "fold"
        )
        text.append(f"  {safe(step.detail)}", "dim not bold")
        table.add_row(mark, Text(f"{took:.2f} s", style="dim"), text)
    return table
