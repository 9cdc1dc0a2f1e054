"""Is the memory's file whole, and does what is kept beside the rows agree with them?

A check looks at one snapshot on a connection of its own, so that nothing waits for it; only the full text is
compared with its rows on the writer, since SQLite takes that for a write. What is found is told, not changed:
see :mod:`node.memory.repairing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

from node.memory.indexes import has_space, tables_of_vectors
from node.memory.schema import connect
from node.memory.vectors import signs_agree
from node.storage.query import number, rows
from node.storage.storage import BUSY_TIMEOUT_MS

EXAMPLES: Final = 5
"""Most examples of one finding."""
PAGE_ROWS: Final = 1_000
"""Vectors that are compared at once."""

INTEGRITY: Final = "integrity"
WORDS: Final = "words"
NAMES: Final = "names"
ORPHANS: Final = "orphans"
REFERENCES: Final = "references"
COUNTS: Final = "counts"
VECTORS: Final = "vectors"
SPACES: Final = "spaces"


_MISSING: Final = {
    "entities are in scopes that are not there": "SELECT e.key FROM entities e"
    " WHERE NOT EXISTS (SELECT 1 FROM realms WHERE key = e.realm)",
    "observations are in another scope than their entities": "SELECT o.key FROM observations o"
    " JOIN entities e ON e.key = o.entity WHERE o.realm <> e.realm",
    "observations are superseded by some that are not there": "SELECT o.key FROM observations o"
    " WHERE o.successor IS NOT NULL AND NOT EXISTS (SELECT 1 FROM observations WHERE key = o.successor)",
    "observations have vectors of models that are not there": "SELECT o.key FROM observations o"
    " WHERE o.model IS NOT NULL AND NOT EXISTS (SELECT 1 FROM models WHERE key = o.model)",
}
"""What is wrong -> how to find the rows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        check: Which comparison found it.
        what: What is wrong, for people.
        count: In how many places.
        examples: Some of them.
    """

    check: str
    what: str
    count: int
    examples: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "check": self.check,
            "what": self.what,
            "count": self.count,
            "examples": list(self.examples),
        }


@dataclass(slots=True)
class Checked:
    """What a check has found.

    Attributes:
        findings: All that is wrong.
        entities: How many there are.
        observations: How many there are.
        relations: How many there are.
        unembedded: Observations without a vector; that is no fault, they get one.
    """

    findings: list[Finding] = field(default_factory=list)
    entities: int = 0
    observations: int = 0
    relations: int = 0
    unembedded: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "ok": self.ok,
            "findings": [finding.as_json() for finding in self.findings],
            "entities": self.entities,
            "observations": self.observations,
            "relations": self.relations,
            "unembedded": self.unembedded,
        }


@contextmanager
def snapshot(path: Path) -> Iterator[apsw.Connection]:
    """A connection of its own to a memory's file that sees one state of it, whatever is written meanwhile.

    Raises:
        StorageFailed: the file is somebody else's.
        apsw.Error: it cannot be opened or read.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connect(connection)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("BEGIN")
        number(connection, "SELECT count(*) FROM sqlite_schema")  # the snapshot is taken by the first read
        yield connection
    finally:
        connection.close(True)


def checked(connection: apsw.Connection) -> Checked:
    """Look at everything but the words themselves.

    Args:
        connection: Of :func:`snapshot`.
    """
    found = Checked()
    for look in (_counted, _integrity, _references, _counts, _full_text, _spaces, _vectors):
        try:
            look(connection, found)
        except apsw.Error as error:  # a damaged page ends one comparison; the next may tell more
            found.findings.append(Finding(INTEGRITY, f"the file cannot be read: {error}"[:300], 1))
    return found


def words_agree(connection: apsw.Connection) -> list[Finding]:
    """Compare the full text with its rows, word by word.

    Args:
        connection: The writer.
    """
    found = []
    for index, check in (("words", WORDS), ("names", NAMES)):
        try:
            connection.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")  # noqa: S608
        except apsw.Error as error:
            found.append(Finding(check, f"the index {index} does not agree with its rows: {error}"[:300], 1))
    return found


def orphaned_relations(connection: apsw.Connection) -> int:
    """Relations one of whose ends is not there."""
    return number(
        connection,
        "SELECT count(*) FROM relations r"
        " WHERE NOT EXISTS (SELECT 1 FROM entities WHERE key = r.source_entity)"
        " OR NOT EXISTS (SELECT 1 FROM entities WHERE key = r.target_entity)",
    )


def indexes_agree(connection: apsw.Connection) -> bool:
    """Whether the full-text indexes have as many rows as they should, which is quick to see."""
    return all(
        number(connection, f"SELECT count(*) FROM {table}")  # noqa: S608 - names of our own
        == number(connection, f"SELECT count(*) FROM {index}_docsize")  # noqa: S608
        for table, index in (("observations", "words"), ("entities", "names"))
    )


def _counted(connection: apsw.Connection, found: Checked) -> None:
    for table in ("entities", "observations", "relations"):
        setattr(found, table, number(connection, f"SELECT count(*) FROM {table}"))  # noqa: S608 - own names
    found.unembedded = number(connection, "SELECT count(*) FROM observations WHERE model IS NULL")


def _integrity(connection: apsw.Connection, found: Checked) -> None:
    told = [text for (text,) in rows(connection, "PRAGMA integrity_check(20)") if text != "ok"]
    if told:
        _add(found, INTEGRITY, "SQLite finds the file damaged", told)


def _references(connection: apsw.Connection, found: Checked) -> None:
    orphans = rows(
        connection,
        "SELECT 'observation ' || o.key FROM observations o WHERE NOT EXISTS"
        " (SELECT 1 FROM entities WHERE key = o.entity)",
    )
    _add(found, ORPHANS, "observations are about entities that are not there", [row[0] for row in orphans])
    if count := orphaned_relations(connection):
        found.findings.append(Finding(ORPHANS, "relations lead to entities that are not there", count))
    for what, sql in _MISSING.items():
        _add(found, REFERENCES, what, [f"key {row[0]}" for row in rows(connection, sql)])


def _counts(connection: apsw.Connection, found: Checked) -> None:
    wrong = []
    for table in ("entities", "observations", "relations"):
        real = dict(rows(connection, f"SELECT realm, count(*) FROM {table} GROUP BY realm"))  # noqa: S608
        for key, count in rows(connection, f"SELECT key, {table} FROM realms"):  # noqa: S608 - own names
            if count != real.get(key, 0):
                wrong.append(f"scope {key}: {table}")
    _add(found, COUNTS, "scopes have other counts than rows", wrong)
    known = rows(
        connection,
        "SELECT e.key FROM entities e"
        " WHERE e.known <> (SELECT count(*) FROM observations WHERE entity = e.key)",
    )
    _add(found, COUNTS, "entities have other counts than observations", [f"entity {row[0]}" for row in known])


def _full_text(connection: apsw.Connection, found: Checked) -> None:
    for table, index, check in (("observations", "words", WORDS), ("entities", "names", NAMES)):
        missing = rows(connection, f"SELECT key FROM {table} EXCEPT SELECT id FROM {index}_docsize")  # noqa: S608
        extra = rows(connection, f"SELECT id FROM {index}_docsize EXCEPT SELECT key FROM {table}")  # noqa: S608
        _add(found, check, f"{table} are missing in the index {index}", [f"key {row[0]}" for row in missing])
        _add(
            found, check, f"the index {index} has rows that are not there", [f"key {row[0]}" for row in extra]
        )


def _spaces(connection: apsw.Connection, found: Checked) -> None:
    models = rows(connection, "SELECT key, name FROM models")
    missing = [name for key, name in models if not has_space(connection, key)]
    _add(found, SPACES, "models have no table of their vectors", missing)
    known = {key for key, _ in models}
    extra = [f"vectors_{key}" for key in tables_of_vectors(connection) if key not in known]
    _add(found, SPACES, "tables of vectors have no model", extra)


def _vectors(connection: apsw.Connection, found: Checked) -> None:
    wrong: dict[str, list[str]] = {}

    def add(what: str, key: int) -> None:
        wrong.setdefault(what, []).append(f"observation {key}")

    for space, dimension in rows(connection, "SELECT key, dimension FROM models"):
        if not has_space(connection, space):
            continue
        _compare(connection, space, dimension, add)
        extra = rows(
            connection,
            f"SELECT rowid FROM vectors_{space}_rowids EXCEPT SELECT key FROM observations WHERE model = ?",  # noqa: S608
            (space,),
        )
        for (key,) in extra:
            add("a space has vectors of observations that are not in it", key)
    for what, examples in wrong.items():
        _add(found, VECTORS, what, examples)


def _compare(
    connection: apsw.Connection, space: int, dimension: int, add: Callable[[str, int], None]
) -> None:
    after = -1
    while True:
        page = rows(
            connection,
            "SELECT key, realm, ended, vector FROM observations WHERE model = ? AND key > ?"
            " ORDER BY key LIMIT ?",
            (space, after, PAGE_ROWS),
        )
        if not page:
            return
        for key, realm, ended, vector in page:
            if vector is None or len(vector) != dimension:
                add("vectors have another dimension than their model", key)
                continue
            there = rows(connection, f"SELECT realm, bits FROM vectors_{space} WHERE key = ?", (key,))  # noqa: S608
            if not there and number(connection, "SELECT count(*) FROM postponed WHERE key = ?", (key,)):
                continue  # it came from another node, and is indexed when there is time
            if not there:
                add("observations are missing in the space of their model", key)
            elif not signs_agree(there[0][1], vector) or there[0][0] != (-realm if ended else realm):
                add("a space has other vectors than the observations", key)
        after = page[-1][0]


def _add(found: Checked, check: str, what: str, places: list[str]) -> None:
    if places:
        found.findings.append(Finding(check, what, len(places), tuple(places[:EXAMPLES])))
