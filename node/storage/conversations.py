"""When conversations began, were last active and were closed, and which came out of which.

Most of it is in the messages themselves: the first and the last row of a conversation in the outbox and in
the inbox, each one look into an index. The table ``conversations`` has what must outlive them: when a
conversation whose messages are being forgotten began, and that an operator has closed one. What few messages
say of conversations that branch off others or merge them is in ``conversation_kin``. Both are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge
from typing import Final, NamedTuple

import apsw

from node.storage.query import each, of_conversation, rows

ROW_LIMIT: Final = 100_000
"""Most conversations, and most kinships, that are remembered beyond their messages; the oldest go first."""
KIN_SHOWN: Final = 64
"""Most relatives of one conversation that are read."""
FORGET_BATCH: Final = 1_000
"""Most rows dropped by one step of retention."""

_ACCEPTED: Final = ("outbox", "backlog")

BRANCH: Final = "branch"
"""It came out of the other one."""
MERGE: Final = "merge"
"""It took the other one in."""

_NOTE: Final = (
    "INSERT INTO conversations (conversation_id, created_s, last_s) VALUES (?1, ?2, ?2)"
    " ON CONFLICT (conversation_id) DO UPDATE SET created_s = min(created_s, excluded.created_s),"
    " last_s = max(last_s, excluded.last_s)"
)


class Span(NamedTuple):
    """The life of a conversation, as far as this node knows it; Unix seconds.

    Args:
        created_s: Its first message.
        last_s: Its latest message.
        archived_s: When it was closed by an operator, or None.
    """

    created_s: float
    last_s: float
    archived_s: float | None


class Kin(NamedTuple):
    """How a conversation and another one belong together: ``kind`` is BRANCH or MERGE."""

    conversation_id: str
    kind: str
    other: str


class Place(NamedTuple):
    """A place among the messages that were sent and received: the seqs below which a page goes on.

    What waits in the backlog has its place among those of the outbox, where it goes.
    """

    outbox: int
    inbox: int


class Activity(NamedTuple):
    """One message as a sign of life of its conversation, and the place after it."""

    at_s: float
    conversation_id: str
    place: Place


def note(connection: apsw.Connection, forgotten: Iterable[tuple[str, float]]) -> None:
    """Messages (conversation, Unix seconds) are dropped: remember what they tell of their conversations."""
    connection.executemany(_NOTE, forgotten)


def span(connection: apsw.Connection, conversation_id: str) -> Span | None:
    """The life of a conversation, or None when nothing is known of it (any more)."""
    noted = rows(
        connection,
        "SELECT created_s, last_s, archived_s FROM conversations WHERE conversation_id = ?",
        (conversation_id,),
    )
    times = [time for row in noted for time in row[:2]]
    for table, column in (("outbox", "accepted_s"), ("backlog", "accepted_s"), ("inbox", "received_s")):
        for newest_first in (False, True):
            sql = of_conversation(table, f"{column}, seq", newest_first=newest_first)
            times += [time for time, _ in rows(connection, sql, (conversation_id, 1))]
    return Span(min(times), max(times), noted[0][2] if noted else None) if times else None


def archive(connection: apsw.Connection, conversation_id: str, known: Span, at_s: float) -> None:
    """Close a conversation; one that is closed stays so."""
    note(connection, [(conversation_id, known.created_s), (conversation_id, known.last_s)])
    connection.execute(
        "UPDATE conversations SET archived_s = coalesce(archived_s, ?) WHERE conversation_id = ?",
        (at_s, conversation_id),
    )


def relate(connection: apsw.Connection, kin: Iterable[Kin], at_s: float) -> None:
    """Remember how conversations belong together; what is known is left as it is."""
    connection.executemany(
        "INSERT OR IGNORE INTO conversation_kin (conversation_id, kind, other, at_s) VALUES (?, ?, ?, ?)",
        [(*relative, at_s) for relative in kin],
    )


def kin(connection: apsw.Connection, conversation_id: str) -> list[Kin]:
    """The relatives of a conversation, at most :data:`KIN_SHOWN` each way, in the order of hearing."""
    found: list[Kin] = []
    for column in ("conversation_id", "other"):
        sql = (
            f"SELECT conversation_id, kind, other FROM conversation_kin WHERE {column} = ?"  # noqa: S608
            " ORDER BY seq LIMIT ?"
        )
        found += [Kin(*row) for row in rows(connection, sql, (conversation_id, KIN_SHOWN))]
    return found


def newest(connection: apsw.Connection, before: Place | None, limit: int) -> Sequence[Activity]:
    """The latest ``limit`` messages below a place, sent and received ones merged, the latest first."""
    outbox, inbox = before or Place(1 << 62, 1 << 62)
    sent = merge(
        *(
            each(
                connection,
                f"SELECT accepted_s, seq, conversation_id, 1 FROM {table} WHERE seq < ?"  # noqa: S608
                " ORDER BY seq DESC LIMIT ?",
                (outbox, limit),
            )
            for table in _ACCEPTED
        ),
        key=lambda row: -int(row[1]),
    )
    got = each(
        connection,
        "SELECT received_s, seq, conversation_id, 0 FROM inbox WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        (inbox, limit),
    )
    found: list[Activity] = []
    for at_s, seq, conversation_id, is_sent in merge(sent, got, key=lambda row: -float(row[0])):
        if len(found) == limit:
            break
        outbox, inbox = (seq, inbox) if is_sent else (outbox, seq)
        found.append(Activity(at_s, conversation_id, Place(outbox, inbox)))
    return found


def oldest(connection: apsw.Connection, after: Place | None, limit: int) -> Sequence[Activity]:
    """The same from the other end: the first ``limit`` messages above a place, the first one first."""
    outbox, inbox = after or Place(0, 0)
    sent = merge(
        *(
            each(
                connection,
                f"SELECT accepted_s, seq, conversation_id, 1 FROM {table} WHERE seq > ?"  # noqa: S608
                " ORDER BY seq LIMIT ?",
                (outbox, limit),
            )
            for table in _ACCEPTED
        ),
        key=lambda row: int(row[1]),
    )
    got = each(
        connection,
        "SELECT received_s, seq, conversation_id, 0 FROM inbox WHERE seq > ? ORDER BY seq LIMIT ?",
        (inbox, limit),
    )
    found: list[Activity] = []
    for at_s, seq, conversation_id, is_sent in merge(sent, got, key=lambda row: float(row[0])):
        if len(found) == limit:
            break
        outbox, inbox = (seq, inbox) if is_sent else (outbox, seq)
        found.append(Activity(at_s, conversation_id, Place(outbox, inbox)))
    return found


def has_later(connection: apsw.Connection, conversation_id: str, place: Place) -> bool:
    """Whether a conversation has a message at or above a place: then an earlier page has shown it."""
    places = {"outbox": place.outbox, "backlog": place.outbox, "inbox": place.inbox}
    return any(
        rows(connection, of_conversation(table, "seq", further="seq >= ?3"), (conversation_id, 1, seq))
        for table, seq in places.items()
    )


def forget(connection: apsw.Connection, last_before_s: float) -> None:
    """Drop the oldest of what is remembered when it was last active so long ago, or is beyond the bound."""
    for table, column in (("conversations", "last_s"), ("conversation_kin", "at_s")):
        connection.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM (SELECT seq, {column} AS at_s FROM {table}"  # noqa: S608
            f" ORDER BY seq LIMIT ?) WHERE at_s < ? OR seq <= (SELECT max(seq) FROM {table}) - ?)",
            (FORGET_BATCH, last_before_s, ROW_LIMIT),
        )
