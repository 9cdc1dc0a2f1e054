"""Makes what is kept beside the rows anew from the rows, and never takes a fact out.

What is derived (full text, tables of vectors, counts) is rebuilt. An observation or relation whose entity is
not there gets one, named after its number and of the type ``recovered``; what is in no scope gets one that
only operators see. Vectors that cannot be right are dropped, and made again from the texts. Pages that SQLite
cannot read are beyond this: restore a backup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw

from node.memory.checking import (
    COUNTS,
    INTEGRITY,
    NAMES,
    ORPHANS,
    REFERENCES,
    SPACES,
    VECTORS,
    WORDS,
    Checked,
)
from node.memory.indexes import file_vector, make_table, tables_of_vectors
from node.memory.vectors import signs_of_quantised
from node.storage.query import each, rows

RECOVERED: Final = "recovered"
"""Type of an entity that stands for one that was lost."""


def repair(connection: apsw.Connection, found: Checked, *, now_s: float, new_id: Callable[[], bytes]) -> None:
    """Repair what a check has found, in one transaction.

    Args:
        connection: The writer, inside a job.
        found: What is wrong.
        now_s: Unix seconds, for what has to be made.
        new_id: Makes ids, for the same.

    Raises:
        apsw.Error: the file is damaged beyond this; nothing was changed.
    """
    wrong = {finding.check for finding in found.findings}
    if INTEGRITY in wrong:
        connection.execute("REINDEX")
    if wrong & {ORPHANS, REFERENCES, INTEGRITY}:
        connection.execute("PRAGMA defer_foreign_keys = 1")
        _references(connection, now_s, new_id)
    if wrong & {ORPHANS, REFERENCES, COUNTS, INTEGRITY}:
        _counts(connection)
    if wrong & {WORDS, NAMES, ORPHANS, REFERENCES, INTEGRITY}:
        for index in ("words", "names"):
            connection.execute(f"INSERT INTO {index} ({index}) VALUES ('rebuild')")  # noqa: S608 - own names
    if wrong & {VECTORS, SPACES, REFERENCES, INTEGRITY}:
        _vectors(connection)


def _references(connection: apsw.Connection, now_s: float, new_id: Callable[[], bytes]) -> None:
    execute = connection.execute
    execute(
        "INSERT INTO realms (key, scope, owner) SELECT DISTINCT e.realm, 0, 'recovered ' || e.realm"
        " FROM (SELECT realm FROM entities UNION SELECT realm FROM observations"
        " UNION SELECT realm FROM relations) e"
        " WHERE NOT EXISTS (SELECT 1 FROM realms WHERE key = e.realm)"
    )
    lost = (
        "SELECT o.entity, o.realm FROM observations o UNION SELECT r.source_entity, r.realm FROM relations r"
        " UNION SELECT r.target_entity, r.realm FROM relations r"
    )
    missing: dict[int, Any] = {}
    for key, realm in each(
        connection,
        f"SELECT * FROM ({lost}) l WHERE NOT EXISTS (SELECT 1 FROM entities WHERE key = l.entity)",  # noqa: S608
    ):
        missing.setdefault(key, realm)
    for key, realm in missing.items():
        execute(
            "INSERT INTO entities (key, id, realm, name, type, confidence, strength, version, created_s,"
            " updated_s) VALUES (?, ?, ?, ?, ?, 1.0, 1.0, 1, ?, ?)",
            (key, new_id(), realm, f"{RECOVERED} {key}", RECOVERED, now_s, now_s),
        )
    execute(
        "UPDATE observations SET realm = (SELECT realm FROM entities WHERE key = entity)"
        " WHERE realm <> (SELECT realm FROM entities WHERE key = entity)"
    )
    execute("UPDATE observations SET successor = NULL WHERE successor NOT IN (SELECT key FROM observations)")
    execute("UPDATE observations SET model = NULL, vector = NULL WHERE model NOT IN (SELECT key FROM models)")


def _counts(connection: apsw.Connection) -> None:
    connection.execute(
        "UPDATE entities SET known = (SELECT count(*) FROM observations WHERE entity = entities.key)"
    )
    for table in ("entities", "observations", "relations"):
        real = rows(connection, f"SELECT realm, count(*) FROM {table} GROUP BY realm")  # noqa: S608 - own names
        connection.execute(f"UPDATE realms SET {table} = 0")  # noqa: S608
        connection.executemany(
            f"UPDATE realms SET {table} = ? WHERE key = ?",  # noqa: S608
            [(count, key) for key, count in real],
        )


def _vectors(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM postponed")  # all are indexed below
    for space in tables_of_vectors(connection):
        connection.execute(f"DROP TABLE vectors_{space}")
    for space, dimension in rows(connection, "SELECT key, dimension FROM models"):
        connection.execute(
            "UPDATE observations SET model = NULL, vector = NULL"
            " WHERE model = ? AND (vector IS NULL OR length(vector) <> ?)",
            (space, dimension),
        )
        make_table(connection, space, dimension)
        sql = "SELECT key, realm, ended, vector FROM observations WHERE model = ?"
        for key, realm, ended, vector in each(connection, sql, (space,)):
            file_vector(connection, space, key, -realm if ended else realm, signs_of_quantised(vector))
