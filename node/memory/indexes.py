"""What is kept beside the rows so that they are found: full text, names, bit vectors. By key, never shown.

The full-text indexes have no copy of the text, so whoever takes a row out must give back the text that went
in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from node.memory.embedding import EmbeddingModel
from node.memory.scopes import SHARDS
from node.memory.vectors import signs_of_quantised
from node.storage.query import number, rows

VECTOR_CHUNK: Final = 256
"""Vectors in one block of a shard: small enough that the first observation costs no megabyte."""

MERGE_PAGES: Final = 256
"""Pages of full text that one step of tidying writes."""


@dataclass(frozen=True, slots=True)
class Space:
    """An embedding model as this file knows it.

    Attributes:
        key: Its number here; its bit vectors are in ``vectors_KEY``.
        model: Which one it is.
    """

    key: int
    model: EmbeddingModel


def space_of(connection: apsw.Connection, model: EmbeddingModel) -> Space | None:
    """The space of a model, or None when nothing was embedded with it yet."""
    found = rows(connection, "SELECT key FROM models WHERE digest = ?", (model.digest,))
    return Space(int(found[0][0]), model) if found else None


def make_space(connection: apsw.Connection, model: EmbeddingModel) -> Space:
    """The space of a model, made when there is none yet."""
    found = space_of(connection, model)
    if found is not None:
        return found
    connection.execute(
        "INSERT INTO models (digest, name, dimension) VALUES (?, ?, ?)",
        (model.digest, model.name, model.dimension),
    )
    key = connection.last_insert_rowid()
    make_table(connection, key, model.dimension)
    return Space(key, model)


def make_table(connection: apsw.Connection, space: int, dimension: int) -> None:
    """Make the table of the bit vectors of a space.

    Raises:
        apsw.IOError: there is no room for it, which sqlite-vec says in words of its own.
    """
    bits = (dimension + 7) // 8 * 8
    try:
        connection.execute(
            f"CREATE VIRTUAL TABLE vectors_{space} USING vec0 (key INTEGER PRIMARY KEY,"
            f" shard INTEGER PARTITION KEY, realm INTEGER, bits bit[{bits}], chunk_size={VECTOR_CHUNK})"
        )
    except apsw.SQLError as error:
        raise apsw.IOError(str(error)) from error


def index_vector(
    connection: apsw.Connection, space: Space, observation: int, realm: int, bits: bytes
) -> None:
    """Make an observation findable by meaning, by the signs of its vector."""
    file_vector(connection, space.key, observation, realm, bits)


def postpone_vector(connection: apsw.Connection, observation: int) -> None:
    """Have an observation's vector indexed later: that costs as much as all the rest of its row."""
    connection.execute("INSERT INTO postponed (key) VALUES (?)", (observation,))


def index_postponed(connection: apsw.Connection, limit: int) -> int:
    """Index some of the vectors that were postponed; returns how many."""
    found = rows(
        connection,
        "SELECT o.key, o.realm, o.ended, o.vector, m.key, m.name, m.digest, m.dimension FROM postponed p"
        " JOIN observations o ON o.key = p.key JOIN models m ON m.key = o.model LIMIT ?",
        (limit,),
    )
    for key, realm, ended, vector, space_key, name, digest, dimension in found:
        connection.execute("DELETE FROM postponed WHERE key = ?", (key,))
        space = Space(space_key, EmbeddingModel(name, digest, dimension))
        index_vector(connection, space, key, -realm if ended else realm, signs_of_quantised(vector))
    return len(found)


def postponed(connection: apsw.Connection) -> int:
    """How many vectors wait for their index."""
    return number(connection, "SELECT count(*) FROM postponed")


def end_vector(connection: apsw.Connection, space: int, observation: int, realm: int) -> None:
    """File an observation's vector among those that no longer hold."""
    if number(connection, "SELECT count(*) FROM postponed WHERE key = ?", (observation,)):
        return  # it will be filed where it belongs
    sql = f"UPDATE vectors_{space} SET realm = ? WHERE key = ?"  # noqa: S608 - a number of our own
    connection.execute(sql, (-realm, observation))


def forget_vector(connection: apsw.Connection, space: int, observation: int) -> None:
    """Take an observation's vector out."""
    connection.execute("DELETE FROM postponed WHERE key = ?", (observation,))
    if connection.changes():
        return
    connection.execute(f"DELETE FROM vectors_{space} WHERE key = ?", (observation,))  # noqa: S608


def file_vector(connection: apsw.Connection, space: int, observation: int, realm: int, bits: bytes) -> None:
    """Put the signs of a vector into a space.

    Args:
        connection: The writer.
        space: Number of the model.
        observation: Key of the observation.
        realm: Its realm; minus its realm, when it no longer holds.
        bits: The signs, as :func:`node.memory.vectors.signs` makes them.
    """
    connection.execute(
        f"INSERT INTO vectors_{space} (key, shard, realm, bits) VALUES (?, ?, ?, vec_bit(?))",  # noqa: S608
        (observation, observation % SHARDS, realm, bits),
    )


def spaces(connection: apsw.Connection) -> list[tuple[int, str]]:
    """Number and digest of every model that vectors were made with."""
    return [(int(key), digest) for key, digest in rows(connection, "SELECT key, digest FROM models")]


def model_names(connection: apsw.Connection) -> dict[int, tuple[str, str]]:
    """Number -> (name, digest) of every model that vectors were made with."""
    found = rows(connection, "SELECT key, name, digest FROM models")
    return {int(key): (name, digest) for key, name, digest in found}


def has_space(connection: apsw.Connection, space: int) -> bool:
    """Whether the table of a space is there."""
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return bool(rows(connection, sql, (f"vectors_{space}",)))


def tables_of_vectors(connection: apsw.Connection) -> list[int]:
    """Numbers of all spaces that have a table, whether or not their models are known."""
    sql = (
        "SELECT substr(name, 9) FROM sqlite_schema WHERE name GLOB 'vectors_[0-9]*'"
        " AND name NOT GLOB 'vectors_*_*' AND type = 'table' ORDER BY name"
    )
    return [int(text) for (text,) in rows(connection, sql)]


def vectors_in(connection: apsw.Connection, space: int) -> int:
    """How many vectors a space has, from the table behind it, which is quick to count."""
    return number(connection, f"SELECT count(*) FROM vectors_{space}_rowids")  # noqa: S608 - a number of our own


def drop_space(connection: apsw.Connection, space: int) -> None:
    """Take a space out that nothing is in."""
    connection.execute(f"DROP TABLE IF EXISTS vectors_{space}")
    connection.execute("DELETE FROM models WHERE key = ?", (space,))


def index_text(connection: apsw.Connection, observation: int, text: str) -> None:
    """Make an observation findable by its words."""
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (observation, text))


def forget_text(connection: apsw.Connection, observation: int, text: str) -> None:
    """Take an observation's words out."""
    connection.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (observation, text))


def index_name(connection: apsw.Connection, entity: int, name: str, type_: str) -> None:
    """Make an entity findable by the words of its name and type."""
    connection.execute("INSERT INTO names (rowid, name, type) VALUES (?, ?, ?)", (entity, name, type_))


def forget_name(connection: apsw.Connection, entity: int, name: str, type_: str) -> None:
    """Take an entity's name out."""
    sql = "INSERT INTO names (names, rowid, name, type) VALUES ('delete', ?, ?, ?)"
    connection.execute(sql, (entity, name, type_))


def source_key(connection: apsw.Connection, source: tuple[str, str, str, str]) -> int | None:
    """The number of a provenance (agent, conversation, message, node), made when new; None for nobody's."""
    if not any(source):
        return None
    where = "agent = ? AND conversation = ? AND message = ? AND node = ?"
    found = rows(connection, f"SELECT key FROM sources WHERE {where}", source)  # noqa: S608 - bound values
    if found:
        return int(found[0][0])
    connection.execute("INSERT INTO sources (agent, conversation, message, node) VALUES (?, ?, ?, ?)", source)
    return connection.last_insert_rowid()


def tidy_text(connection: apsw.Connection, *, first: bool) -> bool:
    """Merge some of the full text's segments, so that what was taken out leaves the file; says if to go on.

    Args:
        connection: The writer.
        first: Whether this is the first of several calls, which decides what will be merged.
    """
    before = connection.total_changes()
    step = -MERGE_PAGES if first else MERGE_PAGES
    connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (step,))
    # The statement itself counts as a change; where nothing was left to merge there is no other.
    return connection.total_changes() - before >= 2


def keep_setting(connection: apsw.Connection, key: str, value: str | None) -> None:
    """Keep a setting of the memory in its file, or drop it."""
    connection.execute("DELETE FROM meta WHERE key = ?", (key,))
    if value is not None:
        connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))
