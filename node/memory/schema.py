"""The memory's own database file: its tables as numbered steps, and what its connections load.

Inside, everything is known by compact whole numbers; the 16 bytes of an id are for the outside. A row's
vector comes before its text, so that reading vectors never walks a long text's overflow pages. Each
embedding model has a table of bit vectors of its own (``vectors_N``), made with its first vector: spaces
cannot be compared by mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw
import sqlite_vec

from node.errors import StorageFailed
from node.storage.query import number
from node.storage.storage import Design

CACHE_KIB: Final = 65_536
"""Page cache of each connection, in KiB: what 100,000 observations are searched with."""

APPLICATION_ID: Final = 0x4361784D
"""What SQLite's header says of whose file this is: ``CaxM``."""

_FIRST: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- Scope and owner; the counts are kept with every write, so that limits cost no counting.
CREATE TABLE realms (
    key INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL,
    owner TEXT NOT NULL,
    entities INTEGER NOT NULL DEFAULT 0,
    observations INTEGER NOT NULL DEFAULT 0,
    relations INTEGER NOT NULL DEFAULT 0,
    UNIQUE (scope, owner)
);

-- By whose word: one row for all that came with one message.
CREATE TABLE sources (
    key INTEGER PRIMARY KEY,
    agent TEXT NOT NULL,
    conversation TEXT NOT NULL,
    message TEXT NOT NULL,
    node TEXT NOT NULL,
    UNIQUE (message, agent, conversation, node)
);

CREATE TABLE models (
    key INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    dimension INTEGER NOT NULL
);

CREATE TABLE entities (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    realm INTEGER NOT NULL REFERENCES realms (key),
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    confidence REAL NOT NULL,
    strength REAL NOT NULL,
    version INTEGER NOT NULL,
    created_s REAL NOT NULL,
    updated_s REAL NOT NULL,
    valid_from_s REAL,
    valid_to_s REAL,
    source INTEGER REFERENCES sources (key),
    known INTEGER NOT NULL DEFAULT 0,       -- how many observations it has
    metadata TEXT,
    UNIQUE (realm, name)
);
CREATE INDEX entities_type ON entities (type);
CREATE INDEX entities_source ON entities (source) WHERE source IS NOT NULL;

-- ended: 1 when it no longer holds since it was superseded. model is NULL until there is a vector.
CREATE TABLE observations (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    entity INTEGER NOT NULL REFERENCES entities (key),
    realm INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    confidence REAL NOT NULL,
    created_s REAL NOT NULL,
    valid_from_s REAL,
    valid_to_s REAL,
    successor INTEGER,
    source INTEGER REFERENCES sources (key),
    used INTEGER NOT NULL DEFAULT 0,
    used_s REAL,
    accepted INTEGER NOT NULL DEFAULT 0,
    corrected INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    model INTEGER REFERENCES models (key),
    vector BLOB,
    metadata TEXT,
    text TEXT NOT NULL
);
CREATE INDEX observations_entity ON observations (entity, digest);
CREATE INDEX observations_unembedded ON observations (key) WHERE model IS NULL;
CREATE INDEX observations_successor ON observations (successor) WHERE successor IS NOT NULL;
CREATE INDEX observations_source ON observations (source) WHERE source IS NOT NULL;

CREATE TABLE relations (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    realm INTEGER NOT NULL,
    source_entity INTEGER NOT NULL REFERENCES entities (key),
    target_entity INTEGER NOT NULL REFERENCES entities (key),
    type TEXT NOT NULL,
    strength REAL NOT NULL,
    confidence REAL NOT NULL,
    both_ways INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL,
    created_s REAL NOT NULL,
    valid_from_s REAL,
    valid_to_s REAL,
    source INTEGER REFERENCES sources (key),
    metadata TEXT
);
CREATE INDEX relations_from ON relations (source_entity, type, target_entity);
CREATE INDEX relations_to ON relations (target_entity, type);
CREATE INDEX relations_source ON relations (source) WHERE source IS NOT NULL;

-- What was asked under an idempotency key, and what was answered.
CREATE TABLE requests (
    realm INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    at_s REAL NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (realm, key)
) WITHOUT ROWID;
CREATE INDEX requests_age ON requests (at_s);

CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'observations', content_rowid = 'key', tokenize = 'porter unicode61'
);
CREATE VIRTUAL TABLE names USING fts5 (
    name, type, content = 'entities', content_rowid = 'key', tokenize = 'porter unicode61'
);
CREATE VIRTUAL TABLE word_counts USING fts5vocab (words, row);
"""

_SHARED: Final = """
-- Operations on what is shared: one log for each node (and for each time that it lost its place in its own).
-- digest: XOR of the hashes of the operations that hold, but for forgettings; sealed: signed up to here.
CREATE TABLE logs (
    key INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    log BLOB NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0,
    sealed INTEGER NOT NULL DEFAULT 0,
    digest BLOB NOT NULL,
    operations INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (node, log)
);

-- Those whose effect holds; what a later one makes void is taken out with it.
CREATE TABLE operations (
    key INTEGER PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES logs (key),
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    stamp INTEGER NOT NULL,
    born INTEGER NOT NULL,
    element BLOB NOT NULL,
    entity BLOB,
    other BLOB,
    body BLOB NOT NULL
);
-- Not unique: a node that came back with an older file has used numbers twice.
CREATE INDEX operations_place ON operations (log, seq);
CREATE INDEX operations_element ON operations (element);
CREATE INDEX operations_entity ON operations (entity, born) WHERE entity IS NOT NULL;
CREATE INDEX operations_other ON operations (other) WHERE other IS NOT NULL;
CREATE INDEX operations_forgotten ON operations (stamp) WHERE kind >= 6;

-- Observations from other nodes that have a vector whose signs are not in its table yet.
CREATE TABLE postponed (key INTEGER PRIMARY KEY);

-- One signature of the origin over the hashes of a stretch of its log; zeros stand for what was void before.
CREATE TABLE proofs (
    log INTEGER NOT NULL REFERENCES logs (key),
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    signed_ms INTEGER NOT NULL,
    credential BLOB NOT NULL,
    signature BLOB NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (log, first, signature)
);
CREATE INDEX proofs_place ON proofs (log, last);
"""

_OUTBOX: Final = """
-- Observations that a server of vectors has not heard of yet; filled by triggers where there is one.
CREATE TABLE outbox (change INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL UNIQUE);
"""

CHANGES_KEPT: Final = 50_000
"""Changes of vectors that are put down; who has fallen further behind reads all vectors anew."""

_CHANGES: Final = f"""
-- Rows whose vector, scope or end has changed since they were stored, and rows that are gone, of the last
-- while: who has the signs in memory reads here what is out of date. New rows are known by their keys.
CREATE TABLE changes (change INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL);
CREATE TRIGGER changes_made AFTER UPDATE OF model, vector, ended, realm ON observations
WHEN old.model IS NOT NULL OR new.model IS NOT NULL BEGIN
    INSERT INTO changes (key) VALUES (new.key);
    DELETE FROM changes WHERE change <= last_insert_rowid() - {CHANGES_KEPT};
END;
-- Without a vector, too: its key may be another's in the next moment.
CREATE TRIGGER changes_gone AFTER DELETE ON observations BEGIN
    INSERT INTO changes (key) VALUES (old.key);
    DELETE FROM changes WHERE change <= last_insert_rowid() - {CHANGES_KEPT};
END;
"""  # noqa: S608 - a number of our own

_NAMED: Final = """
-- proof: the stretch that an operation stands on, which is kept for it. What this node has said itself names
-- none, nor does what is from before this step. named: whether operations name a stretch.
ALTER TABLE operations ADD COLUMN proof INTEGER;
CREATE INDEX operations_proof ON operations (proof) WHERE proof IS NOT NULL;
ALTER TABLE proofs RENAME TO proofs_before;
CREATE TABLE proofs (
    key INTEGER PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES logs (key),
    named INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    signed_ms INTEGER NOT NULL,
    credential BLOB NOT NULL,
    signature BLOB NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (log, first, signature)
);
INSERT INTO proofs (log, named, first, last, signed_ms, credential, signature, hashes)
    SELECT log, 0, first, last, signed_ms, credential, signature, hashes FROM proofs_before;
DROP TABLE proofs_before;
CREATE INDEX proofs_place ON proofs (log, last);
-- The bytes of a log are those of its operations and of its stretches.
UPDATE logs SET bytes = bytes + (
    SELECT coalesce(sum(length(credential) + length(signature) + length(hashes)), 0) FROM proofs
    WHERE proofs.log = logs.key
);
"""

STEPS: Final = (_FIRST, _SHARED, _OUTBOX, _CHANGES, _NAMED)
"""Every step there has ever been, oldest first."""


def connect(connection: apsw.Connection) -> None:
    """Load sqlite-vec into a new connection, and let a new file give space back.

    Raises:
        StorageFailed: the file is somebody else's.
    """
    connection.enable_load_extension(True)
    try:
        connection.load_extension(sqlite_vec.loadable_path())
    finally:
        connection.enable_load_extension(False)
    if number(connection, "SELECT count(*) FROM sqlite_schema") == 0:
        # Before the write-ahead log, whose first page settles it.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    elif number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StorageFailed(
            f"the file {Path(connection.filename).name} is no memory of Caxton",
            why="it is a database of something else",
            fix="Move it away, or name another with memory.embedded.database_path.",
        )


MEMORY: Final = Design(
    steps=STEPS,
    on_connect=connect,
    lock="memory.lock",
    write_lane="memory_write",
    read_lane="memory_read",
    cache_kib=CACHE_KIB,
)
"""How the memory's file differs from the node's own: it is written and read on threads, for milliseconds."""
