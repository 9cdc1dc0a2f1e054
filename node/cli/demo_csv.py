"""The CSV file of the demo: read once, checked before any node is started."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import ValidationFailed
from node.tools.csv_table import Table, read_table

MAX_CSV_BYTES: Final = 1_000_000
"""Largest file: its message stays below the default ``messaging.max_message_bytes``."""
NAME_LIMIT: Final = 80
_FIX: Final = "Name a CSV file with a header row, in UTF-8, with --csv FILE."


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A file that the tools can analyze.

    Args:
        name: Under which it travels; ends in .csv.
        data: Its bytes.
        rows: Complete rows below the header.
    """

    name: str
    data: bytes
    rows: int

    @classmethod
    def read(cls, path: Path) -> CsvFile:
        """Read and check the file.

        Raises:
            ValidationFailed: it cannot be read, is too large, is empty, or is not CSV.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CSV_BYTES + 1)
        except OSError as error:
            raise _refused(path, error.strerror or str(error)) from error
        if len(data) > MAX_CSV_BYTES:
            raise _refused(
                path, f"it is too large: the demo sends at most {MAX_CSV_BYTES:,} bytes per message"
            )
        try:
            table = read_table(data)
        except ValidationFailed as error:
            raise _refused(path, error.why) from error
        reason = _objection(table)
        if reason:
            raise _refused(path, reason)
        return cls(_travelling_name(path), data, len(table.rows))

    def store(self, directory: Path) -> Path:
        """Write a private copy into a node's data directory."""
        path = directory / self.name
        path.touch(mode=0o600)
        path.write_bytes(self.data)
        return path


def attachment(path: Path) -> dict[str, Any]:
    """A node's private copy as it travels with a message."""
    return {
        "name": path.name,
        "media_type": "text/csv",
        "base64": base64.b64encode(path.read_bytes()).decode("ascii"),
    }


def _objection(table: Table) -> str:
    """Why a table that could be parsed is still not worth sending; empty when it is."""
    if table.columns[0].name.startswith(("{", "[", "<")):
        return "it is not CSV: it begins like JSON or markup"
    if not table.rows and not table.ragged_rows:
        return "it has a header and no rows"
    if table.ragged_rows > len(table.rows):
        width = len(table.columns)
        return f"it is not CSV: {table.ragged_rows} rows do not have the {width} values of the first"
    if len(table.columns) == 1 and not table.columns[0].is_number:
        return "it is not CSV: it has one column and no numbers"
    return ""


def _travelling_name(path: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:NAME_LIMIT]
    return f"{stem or 'data'}.csv"


def _refused(path: Path, why: str) -> ValidationFailed:
    return ValidationFailed(f"{path} cannot be analyzed", why=why, fix=_FIX, details={"file": str(path)})
