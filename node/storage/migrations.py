"""The schema as numbered steps; ``PRAGMA user_version`` says how many of them a file has seen.

A step is never edited once released: a change is a new step at the end. Each runs in a transaction of its
own, so a crash between two steps leaves a file that the next start carries on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from node.errors import StorageFailed
from node.storage.query import number

_FIRST: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- Messages this node accepted. The sealed bytes come last: reading a state never walks their overflow pages.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL,
    reply_with TEXT,                 -- NULL where it is the message id
    state TEXT NOT NULL,
    broadcast INTEGER NOT NULL,
    accepted_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    ended_s REAL,
    hops INTEGER NOT NULL,
    answered_by TEXT,
    reason TEXT NOT NULL DEFAULT '',
    traceparent TEXT NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX outbox_open ON outbox (seq) WHERE ended_s IS NULL;
CREATE INDEX outbox_reply_with ON outbox (reply_with) WHERE reply_with IS NOT NULL;
CREATE INDEX outbox_conversation ON outbox (conversation_id);

-- One row per provider a message was given to; epoch grows with every re-routing of the message.
CREATE TABLE routes (
    seq INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    agent TEXT NOT NULL,
    node TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    routed_s REAL NOT NULL,
    sent_s REAL,
    received_s REAL,
    ended_s REAL,
    reason TEXT NOT NULL DEFAULT '',
    decision BLOB,
    PRIMARY KEY (seq, agent, node)
) WITHOUT ROWID;

-- What is worth telling about a message beside its routes' times: waits, moves, retries, late outcomes.
CREATE TABLE message_events (
    seq INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at_s REAL NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;

-- Messages this node received. (origin, message_id, target) is the deduplication key; the id comes first in
-- its index because it is looked for alone, too.
CREATE TABLE inbox (
    seq INTEGER PRIMARY KEY,
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    target TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    conversation_id TEXT NOT NULL,
    in_reply_to TEXT,
    hops INTEGER NOT NULL,
    received_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    ended_s REAL,
    reason TEXT NOT NULL DEFAULT '',
    traceparent TEXT NOT NULL,
    proof_id INTEGER,
    sealed BLOB NOT NULL,
    UNIQUE (message_id, target, origin)
);
CREATE INDEX inbox_held ON inbox (target, seq) WHERE ended_s IS NULL;
CREATE INDEX inbox_proof ON inbox (proof_id) WHERE proof_id IS NOT NULL;
CREATE INDEX inbox_reply ON inbox (in_reply_to) WHERE in_reply_to IS NOT NULL;
CREATE INDEX inbox_conversation ON inbox (conversation_id);

-- One row per frame: the origin's signature over the hashes of the messages in it.
CREATE TABLE proofs (proof_id INTEGER PRIMARY KEY, origin TEXT NOT NULL, proof BLOB NOT NULL);

CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    at_s REAL NOT NULL,
    reason TEXT NOT NULL,
    history BLOB NOT NULL
);

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    workspace TEXT NOT NULL,
    status TEXT NOT NULL,
    deployed_at_s REAL NOT NULL,
    artifacts BLOB NOT NULL,
    content BLOB NOT NULL
);

CREATE TABLE snapshots (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""

_ANSWERS: Final = """
-- The inbox row whose handling caused a message of the outbox: its end is told when these have arrived.
ALTER TABLE outbox ADD COLUMN answers INTEGER;
"""

_OWN_ROUTE: Final = """
-- The first route of a message stands in its own row: nearly every message has no other.
ALTER TABLE outbox ADD COLUMN route_agent TEXT;
ALTER TABLE outbox ADD COLUMN route_node TEXT;
ALTER TABLE outbox ADD COLUMN route_epoch INTEGER;
ALTER TABLE outbox ADD COLUMN route_state TEXT;
ALTER TABLE outbox ADD COLUMN route_attempts INTEGER;
ALTER TABLE outbox ADD COLUMN route_routed_s REAL;
ALTER TABLE outbox ADD COLUMN route_sent_s REAL;
ALTER TABLE outbox ADD COLUMN route_received_s REAL;
ALTER TABLE outbox ADD COLUMN route_ended_s REAL;
ALTER TABLE outbox ADD COLUMN route_reason TEXT;
ALTER TABLE outbox ADD COLUMN route_decision BLOB;
-- What is open is looked for once, at a start; an index of it would be written twice for every message.
DROP INDEX outbox_open;
"""

_FOR_OPERATORS: Final = """
-- What a retry of a dead letter needs, and what became of it. Letters of before are not found by capability.
ALTER TABLE dead_letters ADD COLUMN capability TEXT;
ALTER TABLE dead_letters ADD COLUMN hops INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN retried_as TEXT;
ALTER TABLE dead_letters ADD COLUMN retried_s REAL;
ALTER TABLE dead_letters ADD COLUMN sealed BLOB;
UPDATE dead_letters SET sealed =
    (SELECT sealed FROM outbox WHERE outbox.message_id = dead_letters.message_id);
UPDATE dead_letters SET bytes = length(history) + coalesce(length(sealed), 0);
CREATE INDEX dead_letters_message ON dead_letters (message_id);
CREATE INDEX dead_letters_bytes ON dead_letters (bytes);

-- The message whose handling caused one of the outbox, and when the last handler run of a received one began.
ALTER TABLE outbox ADD COLUMN cause TEXT;
CREATE INDEX outbox_cause ON outbox (cause) WHERE cause IS NOT NULL;
ALTER TABLE inbox ADD COLUMN started_s REAL;

-- Decisions about messages that moved or waited: a route's row has only the latest that chose its provider.
CREATE TABLE decisions (
    seq INTEGER NOT NULL REFERENCES outbox (seq) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    at_s REAL NOT NULL,
    decision BLOB NOT NULL,
    PRIMARY KEY (seq, epoch)
) WITHOUT ROWID;
"""

_CONVERSATIONS: Final = """
-- What outlives the messages of a conversation: when it began, was last active, was closed by an operator.
CREATE TABLE conversations (
    seq INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL UNIQUE,
    created_s REAL NOT NULL,
    last_s REAL NOT NULL,
    archived_s REAL
);

-- Which conversation came out of which (branch), and which took which in (merge).
CREATE TABLE conversation_kin (
    seq INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    other TEXT NOT NULL,
    at_s REAL NOT NULL,
    UNIQUE (conversation_id, kind, other)
);
CREATE INDEX conversation_kin_other ON conversation_kin (other);
"""

_BACKLOG: Final = """
-- Accepted messages beyond those that memory has room for, while whom they are for is away.
CREATE TABLE backlog (
    seq INTEGER PRIMARY KEY,         -- as in the outbox, where the row goes when its turn has come
    message_id TEXT NOT NULL UNIQUE,
    wanted TEXT NOT NULL,
    size INTEGER NOT NULL,
    conversation_id TEXT NOT NULL,
    reply_with TEXT,
    accepted_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    hops INTEGER NOT NULL,
    answers INTEGER,
    cause TEXT,
    traceparent TEXT NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX backlog_wanted ON backlog (wanted, seq, size);
CREATE INDEX backlog_expiry ON backlog (expires_s);
CREATE INDEX backlog_conversation ON backlog (conversation_id);
CREATE INDEX backlog_cause ON backlog (cause) WHERE cause IS NOT NULL;
CREATE INDEX backlog_answers ON backlog (answers) WHERE answers IS NOT NULL;
"""

_EXPECTED_REPLIES: Final = """
-- Messages of agents that want a reply by a certain time (seq is that of the outbox). They stay in the outbox
-- until then.
CREATE TABLE expected_replies (
    seq INTEGER PRIMARY KEY,
    reply_by_s REAL NOT NULL
);
CREATE INDEX expected_replies_by ON expected_replies (reply_by_s);
"""

_CALLS: Final = """
-- Calls for proposals: bids that answer one are decided, also when they come late or the node had stopped.
CREATE TABLE calls (
    message_id TEXT PRIMARY KEY,
    sender TEXT NOT NULL,
    reply_with TEXT NOT NULL,
    at_s REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX calls_at ON calls (at_s);
"""

_SUBSCRIBERS: Final = """
-- Who has subscribed to what agents of this node offer.
CREATE TABLE subscribers (
    agent TEXT NOT NULL,
    label TEXT NOT NULL,
    subscriber TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    protocol TEXT,
    since_s REAL NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (agent, label)
) WITHOUT ROWID;
"""

_MAILBOXES: Final = """
-- Named addresses of clients; what they hold is in the inbox.
CREATE TABLE mailboxes (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created_s REAL NOT NULL,
    used_s REAL NOT NULL,
    idle_s REAL NOT NULL,
    topics TEXT NOT NULL
);
"""

_WEBHOOKS: Final = """
-- Where others are told of what happens here. Each has read the inbox and the dead letters up to a number.
CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    filter TEXT NOT NULL,
    secret TEXT NOT NULL,
    owner TEXT NOT NULL,
    created_s REAL NOT NULL,
    inbox_seq INTEGER NOT NULL,
    dead_seq INTEGER NOT NULL,
    missed INTEGER NOT NULL
);

-- What a webhook is to be told: watched (a conversation that may complete), queued, or dead.
CREATE TABLE webhook_deliveries (
    seq INTEGER PRIMARY KEY,
    webhook_id TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    event TEXT NOT NULL,
    about TEXT NOT NULL,
    state TEXT NOT NULL,
    body BLOB NOT NULL,
    created_s REAL NOT NULL,
    next_s REAL NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX webhook_deliveries_by_state ON webhook_deliveries (webhook_id, state, seq);
"""

_SPENDING: Final = """
-- What was spent on language models in the current period, by agent, by conversation, and by this node.
CREATE TABLE llm_spending (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    period INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    micros INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    PRIMARY KEY (scope, name)
) WITHOUT ROWID;
"""

_AGENT_STATE: Final = """
-- What a WebAssembly agent keeps between messages; bounded by node.agents.wasm.state.
CREATE TABLE agent_state (
    agent TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (agent, key)
) WITHOUT ROWID;
"""

_MESSAGE_BLOBS: Final = """
-- Which blobs (of the file of blobs) accepted messages name; those that no open message names are dropped.
CREATE TABLE message_blobs (
    blob TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (blob, seq)
) WITHOUT ROWID;
"""

_TOOL_PINS: Final = """
-- What was approved of the tools of other programs' servers: name, description and schema as they were read.
CREATE TABLE tool_pins (
    server TEXT NOT NULL,
    tool TEXT NOT NULL,              -- empty for the server itself
    canonical TEXT NOT NULL,
    pinned_s REAL NOT NULL,
    PRIMARY KEY (server, tool)
) WITHOUT ROWID;
"""

_APPROVALS: Final = """
-- Turns of agents that wait until an operator has decided about a call; those that ended have none any more.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    turn_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    caller TEXT NOT NULL,
    server TEXT NOT NULL,
    tool TEXT NOT NULL,
    arguments TEXT NOT NULL,
    binding TEXT NOT NULL,
    state TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_s REAL NOT NULL,
    created_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    ended_s REAL NOT NULL,
    outcome TEXT NOT NULL,
    turn BLOB NOT NULL
);
CREATE INDEX approvals_by_message ON approvals (message_id);
CREATE INDEX approvals_by_state ON approvals (state, created_s);
"""

_REPLICAS: Final = """
-- What the cluster's deployment runs of which an agent is a replica; empty for one that was deployed here.
ALTER TABLE agents ADD COLUMN deployment TEXT NOT NULL DEFAULT '';
"""

_WITHOUT_CASCADES: Final = """
-- What hangs on messages of the outbox goes with them by retention, a thousand at a time: looking into three
-- tables for each message that is dropped cost more than dropping it.
CREATE TABLE routes_alone (
    seq INTEGER NOT NULL,
    agent TEXT NOT NULL,
    node TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    routed_s REAL NOT NULL,
    sent_s REAL,
    received_s REAL,
    ended_s REAL,
    reason TEXT NOT NULL DEFAULT '',
    decision BLOB,
    PRIMARY KEY (seq, agent, node)
) WITHOUT ROWID;
INSERT INTO routes_alone SELECT * FROM routes;
DROP TABLE routes;
ALTER TABLE routes_alone RENAME TO routes;

CREATE TABLE message_events_alone (
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at_s REAL NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;
INSERT INTO message_events_alone SELECT * FROM message_events;
DROP TABLE message_events;
ALTER TABLE message_events_alone RENAME TO message_events;

CREATE TABLE decisions_alone (
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at_s REAL NOT NULL,
    decision BLOB NOT NULL,
    PRIMARY KEY (seq, epoch)
) WITHOUT ROWID;
INSERT INTO decisions_alone SELECT * FROM decisions;
DROP TABLE decisions;
ALTER TABLE decisions_alone RENAME TO decisions;
"""

_OTHER_CONVERSATIONS: Final = """
-- Most messages begin a conversation under their own id, and most of these stay alone in it: they are found
-- by their id, and each was one insertion and one page of every commit more on both sides.
DROP INDEX outbox_conversation;
CREATE INDEX outbox_conversation ON outbox (conversation_id) WHERE conversation_id <> message_id;
DROP INDEX inbox_conversation;
CREATE INDEX inbox_conversation ON inbox (conversation_id) WHERE conversation_id <> message_id;
"""

_PROOFS_WITH_MESSAGES: Final = """
-- Retention drops a proof along with the last of its messages, which are next to each other: nobody looks for
-- the oldest proof that is needed, and each message is written with an index less.
DELETE FROM proofs
    WHERE proof_id < (SELECT coalesce(min(proof_id), 1 << 62) FROM inbox WHERE proof_id IS NOT NULL);
DROP INDEX inbox_proof;
"""

STEPS: Final = (
    *(_FIRST, _ANSWERS, _OWN_ROUTE, _FOR_OPERATORS, _CONVERSATIONS),
    *(_BACKLOG, _EXPECTED_REPLIES, _CALLS, _SUBSCRIBERS),
    *(_SPENDING, _MAILBOXES, _WEBHOOKS, _AGENT_STATE),
    *(_MESSAGE_BLOBS, _TOOL_PINS, _APPROVALS),
    *(_REPLICAS, _WITHOUT_CASCADES, _OTHER_CONVERSATIONS, _PROOFS_WITH_MESSAGES),
)
"""Every step there has ever been, oldest first."""


def migrate(connection: apsw.Connection, steps: Sequence[str] = STEPS) -> int:
    """Bring the file up to the newest schema; returns how many steps were taken.

    Args:
        connection: The writer.
        steps: Every step there has ever been of this kind of file, oldest first.

    Raises:
        StorageFailed: the file was written by a newer Caxton.
    """
    found = number(connection, "PRAGMA user_version")
    if found > len(steps):
        raise StorageFailed(
            f"the data file has schema version {found}, this Caxton knows up to {len(steps)}",
            why="it was written by a newer Caxton",
            fix="Start the newer version again, or give this one a data directory of its own.",
            details={"found": found, "known": len(steps)},
        )
    for version, step in enumerate(steps[found:], start=found + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(step)
            connection.execute(f"PRAGMA user_version = {version}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return len(steps) - found
