"""Messages this node received for its agents and clients; also the memory that duplicates are known by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from node.storage import conversations
from node.storage.query import Forgotten, each, number, of_conversation, rows
from node.storage.weight import STEP_BYTES, WEIGHT

RETENTION_BATCH: Final = 1_000
"""Rows looked at by one step of retention."""

_COLUMNS: Final = (
    "origin, message_id, target, epoch, state, attempts, conversation_id, in_reply_to, hops, received_s, "
    "expires_s, traceparent, sealed, ended_s, reason, proof_id, seq, started_s"
)
PROOF: Final = 15
"""Where in a row its proof is; what comes after it is the table's to give."""
_INSERT: Final = (
    f"INSERT INTO inbox ({_COLUMNS.removesuffix(', seq, started_s')}) VALUES ({', '.join('?' * (PROOF + 1))})"  # noqa: S608
)
_INSERT_NEW: Final = f"{_INSERT} ON CONFLICT (message_id, target, origin) DO NOTHING"
_FINISH: Final = (
    "UPDATE inbox SET state = ?, ended_s = ?, reason = ?, started_s = coalesce(?, started_s),"
    " attempts = attempts + ? WHERE seq = ? AND ended_s IS NULL"
)
_FINISH_TOLD: Final = f"{_FINISH} RETURNING seq"


class InboxRow(NamedTuple):
    """One received message for one target.

    Args:
        origin: The authenticated node it came from.
        message_id: The message's id.
        target: The agent it is for.
        epoch: The highest route epoch it was delivered under.
        state: ``held`` or how it ended (settled, failed, refused, late).
        attempts: Handler runs that failed so far.
        conversation_id: The message's conversation.
        in_reply_to: What it answers, or None.
        hops: Messages that led to it.
        received_s: Unix seconds.
        expires_s: Unix seconds after which nobody wants it any more.
        traceparent: W3C Trace Context of its origin, or the empty string.
        sealed: The sealed message.
        ended_s: Unix seconds of the end, or None while it is held.
        reason: Why it ended as it did.
        proof_id: The frame's signature, or None for messages of this node.
        seq: Order of receipt; given by the table.
        started_s: Unix seconds at which the last handler run that has ended began, or None.
    """

    origin: str
    message_id: str
    target: str
    epoch: int
    state: str
    attempts: int
    conversation_id: str
    in_reply_to: str | None
    hops: int
    received_s: float
    expires_s: float
    traceparent: str
    sealed: bytes
    ended_s: float | None = None
    reason: str = ""
    proof_id: int | None = None
    seq: int = 0
    started_s: float | None = None


End = tuple[str, float, str, float | None, int, int]
"""How a held message ended: state, Unix seconds, reason, when its last handler run began, how many runs have
failed that were not counted before, and its seq."""


class KnownRow(NamedTuple):
    """What is known about a deduplication key."""

    seq: int
    epoch: int
    state: str
    reason: str


class HeldKey(NamedTuple):
    """What the end of a held message is told by."""

    seq: int
    origin: str
    message_id: str
    epoch: int


_HELD_KEYS: Final = "SELECT seq, origin, message_id, epoch FROM inbox WHERE target = ? AND ended_s IS NULL"


def find_key(connection: apsw.Connection, origin: str, message_id: str, target: str) -> KnownRow | None:
    """What is known about a deduplication key, or None."""
    found = rows(
        connection,
        "SELECT seq, epoch, state, reason FROM inbox WHERE origin = ? AND message_id = ? AND target = ?",
        (origin, message_id, target),
    )
    return KnownRow(*found[0]) if found else None


def insert(connection: apsw.Connection, row: InboxRow, proof_id: int | None) -> int:
    """Store a received message; returns its seq; raises ``apsw.ConstraintError`` when its key is known."""
    connection.execute(_INSERT, (*row[:PROOF], proof_id))
    return connection.last_insert_rowid()


def insert_many(connection: apsw.Connection, received: Sequence[tuple[object, ...]]) -> Sequence[int] | None:
    """Store received messages; returns their seqs, or None, and has stored nothing, where one is known.

    Nobody else writes meanwhile, so the seqs are those up to the last one: asking for each (``RETURNING``)
    would cost as much as storing it. A savepoint, to undo what is stored beside one that is known, would
    cost a sixth of it, for what is rare.

    Args:
        connection: A writing connection.
        received: Of each its :class:`InboxRow` up to the proof, and that.
    """
    before = connection.total_changes()
    connection.executemany(_INSERT_NEW, received)
    stored, last = connection.total_changes() - before, connection.last_insert_rowid()
    if stored == len(received):
        return range(last - stored + 1, last + 1)
    connection.execute("DELETE FROM inbox WHERE seq > ? AND seq <= ?", (last - stored, last))
    return None


def _drop_proofs(
    connection: apsw.Connection,
    dropped: set[int | None],
    kept: set[int | None],
    found: Sequence[tuple[Any, ...]],
) -> None:
    """Drop proofs whose messages are gone.

    Those of one proof were stored one after the other, so others of it can only be among the rows that were
    looked at, or right before or after them.

    Args:
        connection: A writing connection.
        dropped: The proofs of rows that were dropped.
        kept: The proofs of those rows that were looked at and stay.
        found: The rows that were looked at, in order.
    """
    unneeded = dropped - kept - {None}
    if not unneeded:
        return
    around = rows(
        connection,
        "SELECT proof_id FROM (SELECT proof_id FROM inbox WHERE seq < ? ORDER BY seq DESC LIMIT 1) UNION ALL"
        " SELECT proof_id FROM (SELECT proof_id FROM inbox WHERE seq > ? ORDER BY seq LIMIT 1)",
        (found[0][0], found[-1][0]),
    )
    unneeded -= {proof_id for (proof_id,) in around}
    connection.executemany("DELETE FROM proofs WHERE proof_id = ?", [(proof_id,) for proof_id in unneeded])


def drop_proof(connection: apsw.Connection, proof_id: int) -> None:
    """Forget a signature that no stored message needs."""
    connection.execute("DELETE FROM proofs WHERE proof_id = ?", (proof_id,))


def add_proof(connection: apsw.Connection, origin: str, proof: bytes) -> int:
    """Store one frame's signature; returns its id."""
    connection.execute("INSERT INTO proofs (origin, proof) VALUES (?, ?)", (origin, proof))
    return connection.last_insert_rowid()


def hold_again(connection: apsw.Connection, seq: int, epoch: int, expires_s: float) -> None:
    """A message that was refused is delivered under a higher epoch: start over."""
    connection.execute(
        "UPDATE inbox SET state = 'held', epoch = ?, attempts = 0, ended_s = NULL, reason = '', expires_s = ?"
        " WHERE seq = ?",
        (epoch, expires_s, seq),
    )


def raise_epoch(connection: apsw.Connection, seq: int, epoch: int) -> None:
    """Remember the highest epoch a message was delivered under."""
    connection.execute("UPDATE inbox SET epoch = ? WHERE seq = ? AND epoch < ?", (epoch, seq, epoch))


def finish_many(connection: apsw.Connection, ends: Sequence[End]) -> Sequence[int]:
    """Write down how held messages ended, and their last handler runs.

    Returns:
        The seqs of those that had not ended before.
    """
    if len(ends) == 1:
        connection.execute(_FINISH, ends[0])
        return [ends[0][-1]] if connection.changes() else []
    connection.execute("SAVEPOINT finishing")
    before = connection.total_changes()
    connection.executemany(_FINISH, ends)
    finished: Sequence[int] = [end[-1] for end in ends]
    if connection.total_changes() - before != len(ends):  # some had ended before, which is rare: ask which
        connection.execute("ROLLBACK TO finishing")
        finished = [seq for (seq,) in connection.executemany(_FINISH_TOLD, ends)]
    connection.execute("RELEASE finishing")
    return finished


def count_attempt(connection: apsw.Connection, seq: int, started_s: float | None = None) -> None:
    """A handler run failed."""
    connection.execute(
        "UPDATE inbox SET attempts = attempts + 1, started_s = coalesce(?, started_s) WHERE seq = ?",
        (started_s, seq),
    )


def held(
    connection: apsw.Connection, target: str, known: Callable[[int], bool] = lambda seq: False
) -> Iterator[InboxRow]:
    """The held messages of a target, oldest first, without those ``known`` by their seq.

    The caller stops when it has enough. What is known costs an entry of the index, not a row.
    """
    for (seq,) in each(
        connection, "SELECT seq FROM inbox WHERE target = ? AND ended_s IS NULL ORDER BY seq", (target,)
    ):
        if not known(seq):
            query = f"SELECT {_COLUMNS} FROM inbox WHERE seq = ?"  # noqa: S608
            yield InboxRow(*rows(connection, query, (seq,))[0])


def held_after(
    connection: apsw.Connection, target: str, after: int, wall: float, limit: int
) -> list[InboxRow]:
    """The next held messages of a target whose time is not up, oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM inbox WHERE target = ? AND ended_s IS NULL AND seq > ? AND expires_s > ?"  # noqa: S608
        " ORDER BY seq LIMIT ?",
        (target, after, wall, limit),
    )
    return [InboxRow(*row) for row in found]


def held_seqs(connection: apsw.Connection, target: str) -> list[int]:
    """The numbers of what a target holds."""
    found = rows(connection, "SELECT seq FROM inbox WHERE target = ? AND ended_s IS NULL", (target,))
    return [int(seq) for (seq,) in found]


def held_keys(connection: apsw.Connection, target: str, given: Iterable[tuple[int, str]]) -> list[HeldKey]:
    """Those of these messages (row and id of each) that a target still holds."""
    found = []
    for seq, message_id in given:
        found += rows(connection, f"{_HELD_KEYS} AND seq = ? AND message_id = ?", (target, seq, message_id))
    return [HeldKey(*row) for row in found]


def held_through(connection: apsw.Connection, target: str, seq: int, message_id: str) -> list[HeldKey]:
    """What a target holds up to the row ``seq``; nothing where that is not the row of this message."""
    query = "SELECT count(*) FROM inbox WHERE seq = ? AND target = ? AND message_id = ?"
    if not number(connection, query, (seq, target, message_id)):
        return []
    return [HeldKey(*row) for row in rows(connection, f"{_HELD_KEYS} AND seq <= ?", (target, seq))]


def held_expired(connection: apsw.Connection, target: str, wall: float) -> list[HeldKey]:
    """What a target holds though its time is up."""
    return [HeldKey(*row) for row in rows(connection, f"{_HELD_KEYS} AND expires_s <= ?", (target, wall))]


def next_expiry(connection: apsw.Connection, target: str) -> float:
    """When the first of the messages that a target holds expires, in Unix seconds; infinity without any."""
    query = "SELECT min(expires_s) FROM inbox WHERE target = ? AND ended_s IS NULL"
    [(found,)] = rows(connection, query, (target,))
    return float("inf") if found is None else float(found)


def sealed(connection: apsw.Connection, seq: int) -> bytes:
    """The sealed message of a row that is there."""
    [(found,)] = rows(connection, "SELECT sealed FROM inbox WHERE seq = ?", (seq,))
    return bytes(found)


def owed(connection: apsw.Connection, limit: int) -> list[tuple[str, str, str, int, list[str]]]:
    """Settled messages that have open answers here: their key, epoch, and the answers' ids."""
    found = rows(
        connection,
        "SELECT i.seq, i.origin, i.message_id, i.target, i.epoch, o.message_id"
        " FROM (SELECT seq, message_id, answers FROM outbox WHERE ended_s IS NULL AND answers IS NOT NULL"
        " UNION ALL SELECT seq, message_id, answers FROM backlog WHERE answers IS NOT NULL) o"
        " JOIN inbox i ON i.seq = o.answers WHERE i.state = 'settled' ORDER BY i.seq, o.seq LIMIT ?",
        (limit,),
    )
    by_seq: dict[int, tuple[str, str, str, int, list[str]]] = {}
    for seq, origin, message_id, target, epoch, answer in found:
        by_seq.setdefault(seq, (origin, message_id, target, epoch, []))[4].append(answer)
    return list(by_seq.values())


def held_counts(connection: apsw.Connection) -> dict[str, int]:
    """How many messages are held for each target."""
    found = rows(
        connection, "SELECT target, count(*) FROM inbox WHERE ended_s IS NULL GROUP BY target ORDER BY target"
    )
    return {str(target): int(held) for target, held in found}


def held_by_origin(connection: apsw.Connection) -> list[tuple[str, str, int]]:
    """How many messages of each node are held for each target: (origin, target, count)."""
    found = rows(
        connection,
        "SELECT origin, target, count(*) FROM inbox WHERE ended_s IS NULL GROUP BY origin, target"
        " ORDER BY origin, target",
    )
    return [(str(origin), str(target), int(held)) for origin, target, held in found]


def find(connection: apsw.Connection, message_id: str, limit: int) -> list[InboxRow]:
    """The received copies of a message on this node."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM inbox WHERE message_id = ? ORDER BY seq LIMIT ?",  # noqa: S608
        (message_id, limit),
    )
    return [InboxRow(*row) for row in found]


def replies(connection: apsw.Connection, quoted: str, limit: int) -> list[InboxRow]:
    """Received messages that answer ``quoted``, oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM inbox WHERE in_reply_to = ? ORDER BY seq LIMIT ?",  # noqa: S608
        (quoted, limit),
    )
    return [InboxRow(*row) for row in found]


def answers(
    connection: apsw.Connection, quoted: str, target: str, between: tuple[int, int], limit: int
) -> list[InboxRow]:
    """The first ``limit`` messages that ``target`` received as answers to ``quoted`` between two seqs."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM inbox WHERE in_reply_to = ? AND target = ? AND seq > ? AND seq < ?"  # noqa: S608
        " ORDER BY seq LIMIT ?",
        (quoted, target, *between, limit),
    )
    return [InboxRow(*row) for row in found]


def earlier(
    connection: apsw.Connection, conversation_id: str, target: str, before: int, limit: int
) -> list[bytes]:
    """The first ``limit`` messages, sealed, that ``target`` received in a conversation before a seq."""
    found = rows(
        connection,
        of_conversation("inbox", "sealed, seq", further="target = ?3 AND seq < ?4"),
        (conversation_id, limit, target, before),
    )
    return [sealed for sealed, _ in found]


def received_s(connection: apsw.Connection, seq: int) -> float | None:
    """Unix seconds at which a message was received, or None when it is not here."""
    found = rows(connection, "SELECT received_s FROM inbox WHERE seq = ?", (seq,))
    return float(found[0][0]) if found else None


def conversation(connection: apsw.Connection, conversation_id: str, limit: int) -> list[InboxRow]:
    """The newest ``limit`` received messages of a conversation, oldest first."""
    found = rows(
        connection,
        of_conversation("inbox", _COLUMNS, newest_first=True),
        (conversation_id, limit),
    )
    return [InboxRow(*row) for row in reversed(found)]


def conversation_after(
    connection: apsw.Connection, conversation_id: str, after: int, limit: int
) -> list[InboxRow]:
    """The next received messages of a conversation, oldest first."""
    found = rows(
        connection,
        of_conversation("inbox", _COLUMNS, further="seq > ?3"),
        (conversation_id, limit, after),
    )
    return [InboxRow(*row) for row in found]


def count(connection: apsw.Connection) -> int:
    """Rows in the table."""
    return number(connection, "SELECT count(*) FROM inbox")


def forget(
    connection: apsw.Connection,
    after: int,
    *,
    ended_before_s: float,
    keep: int,
    noted_before_s: float,
    is_forgotten: Callable[[str, str, str, float], bool],
    excess_bytes: int = 0,
) -> Forgotten:
    """Drop ended rows that no duplicate can follow any more, of the next :data:`RETENTION_BATCH` rows.

    It stops where it has dropped :data:`node.storage.weight.STEP_BYTES` of them.
    While there are mailboxes of clients, or webhooks, the newest row stays, so that no number is given twice:
    by it they know how far they are. Without any, what is too old goes to the last row.

    Args:
        connection: A writing connection.
        after: The seq to go on after.
        ended_before_s: Rows that ended before go whatever their number.
        keep: Newest rows to keep otherwise.
        noted_before_s: Of rows received before, it is remembered when their conversations were active.
        is_forgotten: Whether the origin of (origin, message id, target) that ended at that time has forgotten
            the message.
        excess_bytes: So much is to go, oldest first, whatever its number.
    """
    newest = number(connection, "SELECT coalesce(max(seq), 0) FROM inbox")
    beyond = newest - keep
    numbered = "SELECT (SELECT count(*) FROM mailboxes) + (SELECT count(*) FROM webhooks)"
    kept = newest if number(connection, numbered) else newest + 1
    found = rows(
        connection,
        "SELECT seq, origin, message_id, target, ended_s, conversation_id, received_s, proof_id,"  # noqa: S608
        f" {WEIGHT} FROM inbox WHERE seq > ? ORDER BY seq LIMIT ?",
        (after, RETENTION_BATCH),
    )
    is_last, weight = len(found) < RETENTION_BATCH, 0
    old = []
    for place, row in enumerate(found, start=1):
        seq, origin, message_id, target, ended_s, conversation_id, received_s, proof_id, size = row
        if ended_s is None or seq >= kept:
            continue
        if ended_s < ended_before_s or (
            (seq <= beyond or weight < excess_bytes) and is_forgotten(origin, message_id, target, ended_s)
        ):
            old.append((seq, conversation_id, received_s, proof_id))
            weight += size
            if weight >= STEP_BYTES and place < len(found):
                found, is_last = found[:place], False
                break
    connection.executemany("DELETE FROM inbox WHERE seq = ?", [row[:1] for row in old])
    conversations.note(connection, [row[1:3] for row in old if row[2] < noted_before_s])
    gone = {row[0] for row in old}
    _drop_proofs(connection, {row[3] for row in old}, {row[7] for row in found if row[0] not in gone}, found)
    if is_last:
        return Forgotten(len(old), after, finished=True, weight=weight)
    last, received_s = found[-1][0], found[-1][6]
    finished = weight >= excess_bytes and last > beyond and received_s >= ended_before_s
    return Forgotten(len(old), last, finished, weight)
