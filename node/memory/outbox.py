"""Which observations a server of vectors has not heard of yet: a table that triggers fill.

Theory of operation. Whatever changes an observation that has a vector, here or on behalf of another node,
puts its key into the table ``outbox``, in the same transaction: triggers do it, so no way of writing can
forget to. Whoever empties it tells the server what the row is *now*, or that it is gone, and takes the key
out if nobody has put it in again meanwhile. So what is told may be told twice, and is never lost: keys that
were told of before a ``kill -9`` are told of once more. A key is in the table once, and the table is as long
as the memory at most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import numpy as np

from node.memory.indexes import keep_setting, postponed, spaces, vectors_in
from node.memory.scopes import OPERATOR, Scoped
from node.memory.vectors import unquantised
from node.storage.query import number, rows

BATCH: Final = 256
"""Most observations that are told of at once."""
TARGET: Final = "outbox_target"
"""What the file's settings name the server by that the outbox is for."""

_PUT: Final = "BEGIN DELETE FROM outbox WHERE key = {0}.key; INSERT INTO outbox (key) VALUES ({0}.key); END"
_TRIGGERS: Final = {
    "outbox_added": "AFTER INSERT ON observations WHEN new.model IS NOT NULL " + _PUT.format("new"),
    "outbox_changed": "AFTER UPDATE OF model, vector, ended, realm ON observations"
    " WHEN old.model IS NOT NULL OR new.model IS NOT NULL " + _PUT.format("new"),
    "outbox_dropped": "AFTER DELETE ON observations WHEN old.model IS NOT NULL " + _PUT.format("old"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a server is to be told.

    Attributes:
        change: Its number; a later change of the same row has another.
        key: The row.
        digest: Of the model of its vector; empty when there is nothing to find any more.
        realm: Where it is; minus that when it no longer holds.
        vector: Its numbers.
    """

    change: int
    key: int
    digest: str = ""
    realm: int = 0
    vector: tuple[float, ...] = ()


def attach(connection: apsw.Connection, target: str) -> bool:
    """Have all changes put down for a server; says whether it has to be told of everything.

    Args:
        connection: The writer.
        target: What the server is known by.
    """
    known = rows(connection, "SELECT value FROM meta WHERE key = ?", (TARGET,))
    if known and known[0][0] == target:
        return False
    detach(connection)
    for name, does in _TRIGGERS.items():
        connection.execute(f"CREATE TRIGGER {name} {does}")
    keep_setting(connection, TARGET, target)
    refill(connection)
    return True


def detach(connection: apsw.Connection) -> None:
    """Put nothing down any more."""
    for name in _TRIGGERS:
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")
    connection.execute("DELETE FROM outbox")
    keep_setting(connection, TARGET, None)


def attached(connection: apsw.Connection) -> bool:
    """Whether changes are put down for a server."""
    return bool(rows(connection, "SELECT 1 FROM meta WHERE key = ?", (TARGET,)))


def refill(connection: apsw.Connection) -> None:
    """Put down every observation that has a vector: one statement, about a second for a million rows."""
    connection.execute("DELETE FROM outbox")
    connection.execute(
        "INSERT INTO outbox (key) SELECT key FROM observations WHERE model IS NOT NULL ORDER BY key"
    )


def waiting(connection: apsw.Connection, limit: int) -> list[int]:
    """Keys that a server has not been told of, the newest first."""
    found = rows(connection, "SELECT key FROM outbox ORDER BY change DESC LIMIT ?", (limit,))
    return [key for (key,) in found]


def length(connection: apsw.Connection) -> int:
    """How many they are."""
    return number(connection, "SELECT count(*) FROM outbox")


def changes(connection: apsw.Connection, limit: int = BATCH) -> list[Change]:
    """What a server is to be told next, the oldest first, as the rows are now."""
    put = rows(connection, "SELECT change, key FROM outbox ORDER BY change LIMIT ?", (limit,))
    digests = dict(rows(connection, "SELECT key, digest FROM models"))
    found = {
        key: (digests.get(model, ""), -realm if ended else realm, vector)
        for key, realm, ended, model, vector in Scoped(connection, OPERATOR).rows(
            "SELECT o.key, o.realm, o.ended, o.model, o.vector FROM {observations} o"
            " WHERE o.model IS NOT NULL AND o.key IN (SELECT value FROM json_each(?))",
            (json.dumps([key for _, key in put]),),
        )
    }
    told = []
    for change, key in put:
        digest, realm, stored = found.get(key, ("", 0, b""))
        numbers = np.frombuffer(stored, np.int8)
        if not numbers.any():  # near nothing: no server needs to know
            told.append(Change(change, key))
            continue
        vector = tuple(unquantised(stored).tolist())
        told.append(Change(change, key, digest, realm, vector))
    return told


def told(connection: apsw.Connection, numbers: Sequence[int]) -> None:
    """Take out what a server was told; what has changed since has another number, and stays."""
    connection.execute(
        "DELETE FROM outbox WHERE change IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),)
    )


def indexed(connection: apsw.Connection, dimension: int) -> dict[str, int]:
    """Digest of each model of a dimension -> how many vectors of it there are; quick to count."""
    later = postponed(connection)
    of_dimension = rows(connection, "SELECT digest FROM models WHERE dimension = ?", (dimension,))
    fitting = [digest for (digest,) in of_dimension]
    return {
        digest: vectors_in(connection, key) + later for key, digest in spaces(connection) if digest in fitting
    }


def findable(connection: apsw.Connection, dimension: int) -> dict[str, int]:
    """The same without vectors of zeros, of which no server is told; reads all of them."""
    found = Scoped(connection, OPERATOR).rows(
        "SELECT m.digest, count(*) FROM {observations} o JOIN models m ON m.key = o.model"
        " WHERE m.dimension = ? AND o.vector <> zeroblob(length(o.vector)) GROUP BY m.digest",
        (dimension,),
    )
    return {str(digest): int(count) for digest, count in found}
