"""Variables from a file, as other MCP clients name one with ``envFile``: ``NAME=value``, one a line.

Blank lines and those that begin with ``#`` say nothing; ``export`` before a name, and quotes around a value,
are left out. Nothing in a value is looked up or expanded: it means its text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from node.errors import ToolFailed

FILE_LIMIT_BYTES: Final = 65_536
"""Largest file."""
VARIABLES_LIMIT: Final = 256
"""Most variables of one file."""
_LINE: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,127})\s*=\s*(.*)")


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file.

    Raises:
        ToolFailed: it cannot be read, or a line is none; no value is quoted.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT_BYTES + 1)
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ToolFailed(f"its envFile {path} cannot be read", why=why) from None
    if len(raw) > FILE_LIMIT_BYTES or b"\x00" in raw:
        raise ToolFailed(f"its envFile {path} cannot be used", why="it is too large, or no text")
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or len(found) >= VARIABLES_LIMIT:
            why = "it has too many variables" if match else f"line {number} is not NAME=value"
            raise ToolFailed(f"its envFile {path} cannot be used", why=why)
        value = match[2].strip()
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
        found[match[1]] = value[1:-1] if quoted else value
    return found
