"""Messages this node accepted, the providers each was given to, and what happened to them.

Nearly every message has one provider and one end, so its first route stands in the row of the message: one
insert when it is accepted, one update when it has ended. Further routes (of a broadcast, or after a move) are
in a table of their own; :func:`routes` reads both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw

from node.storage import conversations
from node.storage.query import Forgotten, number, of_conversation, rows
from node.storage.weight import STEP_BYTES, WEIGHT

EVENT_LIMIT: Final = 64
"""Most events kept for one message; a message that moves for ever must not fill the disk."""
RETENTION_BATCH: Final = 1_000
"""Rows looked at by one step of retention."""
SYSTEM: Final = "system"
"""The name under which a node answers for those who did not."""

_COLUMNS: Final = (
    "seq, message_id, conversation_id, reply_with, state, broadcast, accepted_s, expires_s, hops, "
    "traceparent, sealed, ended_s, answered_by, reason, answers, cause"
)
_ROUTE_COLUMNS: Final = (
    "seq, agent, node, epoch, state, attempts, routed_s, sent_s, received_s, ended_s, reason, decision"
)
_OWN_ROUTE_COLUMNS: Final = (
    "route_agent, route_node, route_epoch, route_state, route_attempts, route_routed_s, route_sent_s, "
    "route_received_s, route_ended_s, route_reason, route_decision"
)
_NO_ROUTE: Final = (None,) * 11
_INSERT: Final = f"INSERT INTO outbox ({_COLUMNS}, {_OWN_ROUTE_COLUMNS}) VALUES ({', '.join('?' * 27)})"  # noqa: S608
_PASSED: Final = (
    "seq > ? AND seq <= ? AND ended_s IS NOT NULL AND (ended_s < ? OR seq <= ?)"
    " AND seq NOT IN (SELECT seq FROM expected_replies)"
)
_BESIDE: Final = ("routes", "message_events", "decisions")
"""Tables of what hangs on messages."""
_INSERT_NEW: Final = f"{_INSERT} ON CONFLICT (message_id) DO NOTHING"


class OutboxRow(NamedTuple):
    """One accepted message.

    Args:
        seq: Order of acceptance on this node.
        message_id: The message's id.
        conversation_id: The message's conversation.
        reply_with: What replies quote, or None where it is the message id.
        state: ``open`` or how it ended (settled, failed, expired).
        broadcast: Whether every provider gets it.
        accepted_s: Unix seconds.
        expires_s: Unix seconds after which it is given up.
        hops: Messages that led to it.
        traceparent: W3C Trace Context of its acceptance, or the empty string.
        sealed: The sealed message.
        ended_s: Unix seconds of the end, or None while it is open.
        answered_by: Who replied first, or None.
        reason: Why it ended as it did.
        answers: The inbox row (its seq) that it goes back for, or None.
        cause: The id of the message whose handling caused it, or that it repeats; or None.
    """

    seq: int
    message_id: str
    conversation_id: str
    reply_with: str | None
    state: str
    broadcast: bool
    accepted_s: float
    expires_s: float
    hops: int
    traceparent: str
    sealed: bytes
    ended_s: float | None = None
    answered_by: str | None = None
    reason: str = ""
    answers: int | None = None
    cause: str | None = None


class RouteRow(NamedTuple):
    """One provider a message was given to; times in Unix seconds, ``decision`` is CBOR."""

    seq: int
    agent: str
    node: str
    epoch: int
    state: str
    attempts: int
    routed_s: float
    sent_s: float | None
    received_s: float | None
    ended_s: float | None
    reason: str
    decision: bytes | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something worth telling about a message."""

    at_s: float
    event: str
    detail: str


def insert(
    connection: apsw.Connection, accepted: Sequence[tuple[OutboxRow, RouteRow | None]]
) -> frozenset[int]:
    """Store accepted messages, each with its own route where it has one.

    Returns:
        The seqs of those whose id was known already: they are not stored.
    """
    before = connection.total_changes()
    connection.executemany(
        _INSERT_NEW, [row + (_NO_ROUTE if route is None else route[1:]) for row, route in accepted]
    )
    if connection.total_changes() - before == len(accepted):
        return frozenset()
    return frozenset(row.seq for row, _ in accepted if not _is_stored(connection, row.seq))


def _is_stored(connection: apsw.Connection, seq: int) -> bool:
    return bool(rows(connection, "SELECT 1 FROM outbox WHERE seq = ?", (seq,)))


def save_own_route(connection: apsw.Connection, row: RouteRow) -> None:
    """Store what became of the route that stands in the row of its message; a stored decision stays."""
    connection.execute(
        "UPDATE outbox SET route_agent=?2, route_node=?3, route_epoch=?4, route_state=?5, route_attempts=?6,"
        " route_routed_s=?7, route_sent_s=?8, route_received_s=?9, route_ended_s=?10, route_reason=?11,"
        " route_decision=coalesce(?12, route_decision) WHERE seq=?1",
        row,
    )


def save_route(connection: apsw.Connection, row: RouteRow) -> None:
    """Store a further route, or what became of it; a stored decision stays."""
    connection.execute(
        "INSERT INTO routes VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (seq, agent, node) DO UPDATE SET"
        " epoch=excluded.epoch, state=excluded.state, attempts=excluded.attempts, routed_s=excluded.routed_s,"
        " sent_s=excluded.sent_s, received_s=excluded.received_s, ended_s=excluded.ended_s,"
        " reason=excluded.reason, decision=coalesce(excluded.decision, decision)",
        row,
    )


def finish(connection: apsw.Connection, ends: Iterable[tuple[int, str, float, str]]) -> None:
    """Write down how messages ended: (seq, state, Unix seconds, reason) of each."""
    connection.executemany(
        "UPDATE outbox SET state=?2, ended_s=?3, reason=?4 WHERE seq=?1 AND ended_s IS NULL", ends
    )


EndWithRoute = tuple[int, str, float, str, str, int, float | None, float | None, float | None, str]
"""How a message with one route ended: (seq, state, Unix seconds, reason) of it, and (state, attempts, sent,
received, ended, reason) of its route."""


def finish_with_route(connection: apsw.Connection, ends: Iterable[EndWithRoute]) -> None:
    """Write down how messages with one route ended, and their routes with them."""
    connection.executemany(
        "UPDATE outbox SET state=?2, ended_s=?3, reason=?4, route_state=?5, route_attempts=?6,"
        " route_sent_s=?7, route_received_s=?8, route_ended_s=?9, route_reason=?10"
        " WHERE seq=?1 AND ended_s IS NULL",
        ends,
    )


def add_event(connection: apsw.Connection, seq: int, event: EventRow) -> None:
    """Add an event to a message's history, up to :data:`EVENT_LIMIT` of them."""
    connection.execute(
        "INSERT INTO message_events SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM message_events"
        " WHERE seq = ?1 HAVING coalesce(max(number), 0) < ?5"
        " AND EXISTS (SELECT 1 FROM outbox WHERE seq = ?1)",
        (seq, event.at_s, event.event, event.detail, EVENT_LIMIT),
    )


def reply_arrived(
    connection: apsw.Connection, quoted: str, responder: str, at_s: float, *, is_offer: bool = False
) -> bool:
    """Note who answered the message that is quoted; False when somebody else had answered before.

    A message that was given to one provider after another is answered by the first who replies; a
    broadcast by everybody; a message that is not known here by anybody. Once this node has told its sender
    that no (other) reply comes, those that come all the same are late. An offer (a bid, an acceptance)
    counts nevertheless: whoever makes it waits for an answer in turn.
    """
    found = rows(
        connection,
        "SELECT seq, answered_by, broadcast FROM outbox WHERE message_id = ?1 UNION ALL"
        " SELECT seq, answered_by, broadcast FROM outbox WHERE reply_with = ?1 LIMIT 2",
        (quoted,),
    )
    if len(found) != 1:  # unknown here, or a label that a client uses more than once
        return True
    seq, answered_by, broadcast = found[0]
    if answered_by is None:
        connection.execute("UPDATE outbox SET answered_by = ? WHERE seq = ?", (responder, seq))
        return True
    is_over = answered_by.startswith(f"{SYSTEM}@")
    if answered_by == responder or (is_offer if is_over else broadcast):
        return True
    add_event(connection, seq, EventRow(at_s, "late_reply", f"from {responder}"))
    return False


def no_more_answers(connection: apsw.Connection, seq: int, node: str) -> None:
    """Whatever answers a message from now on is late: ``node`` has told its sender so."""
    connection.execute("UPDATE outbox SET answered_by = ? WHERE seq = ?", (f"{SYSTEM}@{node}", seq))


StoredMessage = tuple[OutboxRow, RouteRow | None, list[RouteRow]]
"""A message as it was on disk, with its own route and further ones."""


def load_open(connection: apsw.Connection, limit: int) -> list[StoredMessage]:
    """The messages that have not ended, oldest first, with their routes."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS}, {_OWN_ROUTE_COLUMNS} FROM outbox WHERE ended_s IS NULL"  # noqa: S608
        " ORDER BY seq LIMIT ?",
        (limit,),
    )
    return [
        (_outbox_row(row[:16]), _own_route(row[0], row[16:]), _further(connection, row[0])) for row in found
    ]


def routes(connection: apsw.Connection, seq: int) -> list[RouteRow]:
    """The routes of a message, in the order they were taken."""
    own = rows(connection, f"SELECT {_OWN_ROUTE_COLUMNS} FROM outbox WHERE seq = ?", (seq,))  # noqa: S608
    found = _further(connection, seq)
    for values in own:
        route = _own_route(seq, values)
        found += [] if route is None else [route]
    return sorted(found, key=lambda route: (route.epoch, route.node, route.agent))


def _own_route(seq: int, values: tuple[Any, ...]) -> RouteRow | None:
    return None if values[0] is None else RouteRow(seq, *values)


def _further(connection: apsw.Connection, seq: int) -> list[RouteRow]:
    found = rows(connection, f"SELECT {_ROUTE_COLUMNS} FROM routes WHERE seq = ?", (seq,))  # noqa: S608
    return [RouteRow(*row) for row in found]


def events(connection: apsw.Connection, seq: int) -> list[EventRow]:
    """The events of a message, oldest first."""
    found = rows(
        connection, "SELECT at_s, event, detail FROM message_events WHERE seq = ? ORDER BY number", (seq,)
    )
    return [EventRow(*row) for row in found]


def find(connection: apsw.Connection, message_id: str) -> OutboxRow | None:
    """The accepted message of that id, or None."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM outbox WHERE message_id = ?",  # noqa: S608
        (message_id,),
    )
    return _outbox_row(found[0]) if found else None


def get(connection: apsw.Connection, seq: int) -> OutboxRow | None:
    """The accepted message of that seq, or None."""
    found = rows(connection, f"SELECT {_COLUMNS} FROM outbox WHERE seq = ?", (seq,))  # noqa: S608
    return _outbox_row(found[0]) if found else None


def find_quoted(connection: apsw.Connection, label: str) -> OutboxRow | None:
    """The accepted message that a reply quotes by ``label``; None where there is none, or more than one."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM outbox WHERE message_id = ?1 AND reply_with IS NULL UNION ALL"  # noqa: S608
        f" SELECT {_COLUMNS} FROM outbox WHERE reply_with = ?1 LIMIT 2",
        (label,),
    )
    return _outbox_row(found[0]) if len(found) == 1 else None


def conversation(connection: apsw.Connection, conversation_id: str, limit: int) -> list[OutboxRow]:
    """The newest ``limit`` accepted messages of a conversation, oldest first."""
    found = rows(
        connection,
        of_conversation("outbox", _COLUMNS, newest_first=True),
        (conversation_id, limit),
    )
    return [_outbox_row(row) for row in reversed(found)]


def conversation_after(
    connection: apsw.Connection, conversation_id: str, after: int, limit: int
) -> list[OutboxRow]:
    """The next accepted messages of a conversation, oldest first."""
    found = rows(
        connection,
        of_conversation("outbox", _COLUMNS, further="seq > ?3"),
        (conversation_id, limit, after),
    )
    return [_outbox_row(row) for row in found]


def caused(connection: apsw.Connection, message_id: str, limit: int) -> list[OutboxRow]:
    """The first ``limit`` messages that were accepted here because of another one."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM outbox WHERE cause = ? ORDER BY seq LIMIT ?",  # noqa: S608
        (message_id, limit),
    )
    return [_outbox_row(row) for row in found]


def last_seq(connection: apsw.Connection) -> int:
    """The highest seq ever stored and still here."""
    return number(connection, "SELECT coalesce(max(seq), 0) FROM outbox")


def forget(
    connection: apsw.Connection,
    after: int,
    *,
    ended_before_s: float,
    keep: int,
    noted_before_s: float,
    excess_bytes: int = 0,
) -> Forgotten:
    """Drop ended messages that are too old, too many or too heavy, of the next rows after ``after``.

    One step looks at :data:`RETENTION_BATCH` messages, and stops where it has dropped
    :data:`node.storage.weight.STEP_BYTES` of them.

    Args:
        connection: A writing connection.
        after: The seq to go on after.
        ended_before_s: Messages that ended before go whatever their number.
        keep: Newest rows to keep otherwise.
        noted_before_s: Of messages accepted before, it is remembered when their conversations were active.
        excess_bytes: So much is to go, oldest first, whatever its age and number.
    """
    beyond = last_seq(connection) - keep
    found = rows(
        connection,
        f"SELECT seq, accepted_s, ended_s, {WEIGHT} FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
        (after, RETENTION_BATCH),
    )
    if not found:
        return Forgotten(0, after, finished=True)
    expected = "SELECT seq FROM expected_replies WHERE seq > ? AND seq <= ?"
    awaited = {seq for (seq,) in rows(connection, expected, (after, found[-1][0]))}
    weight, reached, accepted_s = 0, after, ended_before_s
    for reached, accepted_s, ended_s, size in found:  # noqa: B007 - they are needed where it stops
        if ended_s is None or reached in awaited:
            continue
        if weight < excess_bytes:
            beyond = max(beyond, reached)  # all before it that has ended goes, too
        if ended_s < ended_before_s or reached <= beyond:
            weight += size
            if weight >= STEP_BYTES:
                break
    is_last = len(found) < RETENTION_BATCH and reached == found[-1][0]
    passed = after, reached, ended_before_s, beyond
    if min(found[0][1], accepted_s) < noted_before_s:  # else none of them is as old
        noted = rows(
            connection,
            f"SELECT conversation_id, accepted_s FROM outbox WHERE {_PASSED} AND accepted_s < ?",  # noqa: S608
            (*passed, noted_before_s),
        )
        conversations.note(connection, noted)
    before = connection.total_changes()
    connection.execute(f"DELETE FROM outbox WHERE {_PASSED}", passed)  # noqa: S608
    gone = connection.total_changes() - before
    for table in _BESIDE if gone else ():
        connection.execute(
            f"DELETE FROM {table} WHERE seq > ? AND seq <= ? AND seq NOT IN (SELECT seq FROM outbox)",  # noqa: S608
            (after, reached),
        )
    finished = weight >= excess_bytes and reached > beyond and accepted_s >= ended_before_s
    return Forgotten(gone, reached, is_last or finished, weight)


def _outbox_row(row: Any) -> OutboxRow:
    return OutboxRow(*row)._replace(broadcast=bool(row[5]))
