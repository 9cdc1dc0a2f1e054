"""Decisions of the router about messages that moved from provider to provider, or had to wait for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from node.storage.query import rows

DECISION_LIMIT: Final = 33
"""Most decisions kept for one message: as often as it may be given to a provider, and one wait."""


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision: the route epoch it began or waits for, Unix seconds, and its CBOR."""

    seq: int
    epoch: int
    at_s: float
    decision: bytes


def save(connection: apsw.Connection, row: DecisionRow) -> None:
    """Keep a decision; the choice of a provider takes the place of the wait for it.

    The decision that began the message's own route is kept first: its row has room for one.
    """
    connection.execute(
        "INSERT OR IGNORE INTO decisions SELECT seq, route_epoch, route_routed_s, route_decision FROM outbox"
        " WHERE seq = ? AND route_decision IS NOT NULL",
        (row.seq,),
    )
    connection.execute(
        "INSERT INTO decisions SELECT ?1, ?2, ?3, ?4 WHERE ?2 <= ?5"
        " AND EXISTS (SELECT 1 FROM outbox WHERE seq = ?1)"
        " ON CONFLICT (seq, epoch) DO UPDATE SET at_s = excluded.at_s, decision = excluded.decision",
        (row.seq, row.epoch, row.at_s, row.decision, DECISION_LIMIT),
    )


def of_message(connection: apsw.Connection, seq: int) -> list[DecisionRow]:
    """The kept decisions about a message, in order."""
    found = rows(
        connection, "SELECT seq, epoch, at_s, decision FROM decisions WHERE seq = ? ORDER BY epoch", (seq,)
    )
    return [DecisionRow(*row) for row in found]
