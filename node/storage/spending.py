"""What has been spent on language models, as it must come back after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from node.storage.query import rows


@dataclass(frozen=True, slots=True)
class SpendingRow:
    """What was spent under one name in one period.

    Args:
        scope: ``agent``, ``conversation`` or ``cluster``.
        name: Of the agent or conversation; empty for the cluster.
        period: Number of the period, counted from 1970.
        tokens: Tokens.
        micros: Millionths of the currency.
        tool_calls: Tool calls.
    """

    scope: str
    name: str
    period: int
    tokens: int
    micros: int
    tool_calls: int


def save_spending(connection: apsw.Connection, found: Iterable[SpendingRow]) -> None:
    """Store what was spent, replacing what was stored under the same name."""
    connection.executemany(
        "INSERT OR REPLACE INTO llm_spending (scope, name, period, tokens, micros, tool_calls)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [(r.scope, r.name, r.period, r.tokens, r.micros, r.tool_calls) for r in found],
    )


def load_spending(connection: apsw.Connection, period: int) -> list[SpendingRow]:
    """What was spent in a period, in the order of scopes and names."""
    found = rows(
        connection,
        "SELECT scope, name, period, tokens, micros, tool_calls FROM llm_spending"
        " WHERE period = ? ORDER BY scope, name",
        (period,),
    )
    return [SpendingRow(*row) for row in found]


def forget_spending(connection: apsw.Connection, period: int, names: Iterable[tuple[str, str]] = ()) -> None:
    """Forget all other periods, and these (scope, name) of any."""
    connection.execute("DELETE FROM llm_spending WHERE period <> ?", (period,))
    connection.executemany("DELETE FROM llm_spending WHERE scope = ? AND name = ?", list(names))
