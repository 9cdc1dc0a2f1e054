"""What verbs print: one JSON document, or text and tables for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and newline, those that reorder text or end lines, and halves of surrogates."""


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    click.echo(json.dumps(value, default=str))


def safe(text: object) -> str:
    """Text from elsewhere, without the characters that could drive a terminal or disguise what it shows."""
    return _CONTROL.sub("\ufffd", str(text))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn on a terminal, aligned columns elsewhere, so that other programs can read it."""
    cells = [[safe(cell).replace("\n", "\\n") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [list(columns), *cells]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only terminals need it
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns, title=title, title_justify="left")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
