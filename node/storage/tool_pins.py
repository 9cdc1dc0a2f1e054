"""What was approved of the tools of other programs' servers; see ``node.tools.pins``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apsw

from node.storage.query import rows


class PinRow(NamedTuple):
    """One tool as it was approved.

    Args:
        server: Of which server.
        tool: Its name; empty for the server itself.
        canonical: Name, description and input schema in canonical JSON.
        pinned_s: Unix seconds.
    """

    server: str
    tool: str
    canonical: str
    pinned_s: float


def save(connection: apsw.Connection, pins: Iterable[PinRow]) -> None:
    """Store pins, in place of older ones."""
    connection.executemany("INSERT OR REPLACE INTO tool_pins VALUES (?, ?, ?, ?)", pins)


def load(connection: apsw.Connection) -> list[PinRow]:
    """All of them."""
    found = rows(connection, "SELECT server, tool, canonical, pinned_s FROM tool_pins ORDER BY server, tool")
    return [PinRow(*row) for row in found]
