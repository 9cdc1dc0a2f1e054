"""Webhooks, how far each has read, and what each is still to be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import apsw

from node.storage.query import number, rows

State = Literal["watched", "queued", "dead"]
_COLUMNS: Final = "id, url, events, filter, secret, owner, created_s, inbox_seq, dead_seq, missed"
_DELIVERY: Final = (
    "webhook_id, delivery_id, event, about, state, body, created_s, next_s, attempts, reason, seq"
)


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One webhook.

    Args:
        id: Its id.
        url: Where it is told.
        events: Of what.
        chosen: Field of a message -> the value that it must have.
        secret: What deliveries are signed with.
        owner: Name of the token that made it.
        created_s: Unix seconds.
        inbox_seq: The last row of the inbox that it has read.
        dead_seq: The last dead letter that it has read.
        missed: Rows that were forgotten before it has read them.
    """

    id: str
    url: str
    events: tuple[str, ...]
    chosen: Mapping[str, str]
    secret: str = field(repr=False)
    owner: str
    created_s: float
    inbox_seq: int = 0
    dead_seq: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One thing that a webhook is to be told.

    Args:
        webhook_id: The webhook.
        delivery_id: By what its receiver knows it again.
        event: What has happened.
        about: The message or conversation.
        state: ``watched`` (a conversation that may complete), ``queued``, or ``dead``.
        body: What is sent.
        created_s: Unix seconds.
        next_s: Unix seconds before which nothing is done about it.
        attempts: How often it was tried.
        reason: What went wrong the last time.
        seq: Its place; given by the table.
    """

    webhook_id: str
    delivery_id: str
    event: str
    about: str
    state: State
    body: bytes
    created_s: float
    next_s: float = 0.0
    attempts: int = 0
    reason: str = ""
    seq: int = 0


def load(connection: apsw.Connection, limit: int) -> list[WebhookRow]:
    """All webhooks, the oldest first."""
    found = rows(connection, f"SELECT {_COLUMNS} FROM webhooks ORDER BY created_s, id LIMIT ?", (limit,))  # noqa: S608
    return [
        WebhookRow(row[0], row[1], tuple(json.loads(row[2])), json.loads(row[3]), *row[4:]) for row in found
    ]


def add(connection: apsw.Connection, row: WebhookRow) -> WebhookRow:
    """Store a webhook; returns it as one that has read everything there is, and is told what comes."""
    inbox_seq = number(connection, "SELECT coalesce(max(seq), 0) FROM inbox")
    dead_seq = number(
        connection,
        "SELECT max((SELECT coalesce(max(seq), 0) FROM dead_letters),"
        " (SELECT coalesce(max(dead_seq), 0) FROM webhooks))",
    )
    connection.execute(
        f"INSERT INTO webhooks ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,0)",  # noqa: S608
        (
            row.id,
            row.url,
            json.dumps(row.events),
            json.dumps(dict(row.chosen)),
            row.secret,
            row.owner,
            row.created_s,
            inbox_seq,
            dead_seq,
        ),
    )
    return WebhookRow(
        row.id, row.url, row.events, row.chosen, row.secret, row.owner, row.created_s, inbox_seq, dead_seq
    )


def is_there(connection: apsw.Connection, webhook_id: str) -> bool:
    """Whether there is such a webhook."""
    return number(connection, "SELECT count(*) FROM webhooks WHERE id = ?", (webhook_id,)) > 0


def delete(connection: apsw.Connection, webhook_id: str) -> None:
    """Forget a webhook and all that it is to be told."""
    connection.execute("DELETE FROM webhook_deliveries WHERE webhook_id = ?", (webhook_id,))
    connection.execute("DELETE FROM webhooks WHERE id = ?", (webhook_id,))


def read_up_to(
    connection: apsw.Connection, webhook_id: str, inbox_seq: int, dead_seq: int, missed: int
) -> None:
    """Remember how far a webhook has read."""
    connection.execute(
        "UPDATE webhooks SET inbox_seq = ?, dead_seq = ?, missed = ? WHERE id = ?",
        (inbox_seq, dead_seq, missed, webhook_id),
    )


def queue(connection: apsw.Connection, row: DeliveryRow) -> None:
    """Store a delivery."""
    connection.execute(
        f"INSERT INTO webhook_deliveries ({_DELIVERY.removesuffix(', seq')}) VALUES (?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
        (
            row.webhook_id, row.delivery_id, row.event, row.about, row.state, row.body,
            row.created_s, row.next_s, row.attempts, row.reason,
        ),
    )  # fmt: skip


def due(
    connection: apsw.Connection, webhook_id: str, state: State, wall: float, limit: int
) -> list[DeliveryRow]:
    """The oldest of a state of which something is to be done by now."""
    found = rows(
        connection,
        f"SELECT {_DELIVERY} FROM webhook_deliveries"  # noqa: S608
        " WHERE webhook_id = ? AND state = ? AND next_s <= ? ORDER BY seq LIMIT ?",
        (webhook_id, state, wall, limit),
    )
    return [DeliveryRow(*row) for row in found]


def first(connection: apsw.Connection, webhook_id: str) -> DeliveryRow | None:
    """What a webhook is to be told next, in order."""
    found = due(connection, webhook_id, "queued", float("inf"), 1)
    return found[0] if found else None


def watches(connection: apsw.Connection, webhook_id: str, about: str) -> bool:
    """Whether a conversation is watched already."""
    query = "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = ? AND state = 'watched' AND about = ?"
    return number(connection, query, (webhook_id, about)) > 0


def watch_again(connection: apsw.Connection, seq: int, next_s: float, attempts: int) -> None:
    """A conversation goes on: look at it later."""
    connection.execute(
        "UPDATE webhook_deliveries SET next_s = ?, attempts = ? WHERE seq = ?", (next_s, attempts, seq)
    )


def failed(connection: apsw.Connection, seq: int, next_s: float, attempts: int, reason: str) -> None:
    """A delivery was tried in vain, and is tried again."""
    connection.execute(
        "UPDATE webhook_deliveries SET next_s = ?, attempts = ?, reason = ? WHERE seq = ?",
        (next_s, attempts, reason, seq),
    )


def done(connection: apsw.Connection, seq: int) -> None:
    """A delivery has arrived, or is needed no more."""
    connection.execute("DELETE FROM webhook_deliveries WHERE seq = ?", (seq,))


def give_up(connection: apsw.Connection, row: DeliveryRow, reason: str, keep: int) -> None:
    """A delivery was tried often enough; of the dead ones of a webhook the newest ``keep`` stay."""
    connection.execute(
        "UPDATE webhook_deliveries SET state = 'dead', attempts = attempts + 1, reason = ? WHERE seq = ?",
        (reason, row.seq),
    )
    connection.execute(
        "DELETE FROM webhook_deliveries WHERE webhook_id = ?1 AND state = 'dead' AND seq NOT IN"
        " (SELECT seq FROM webhook_deliveries WHERE webhook_id = ?1 AND state = 'dead'"
        " ORDER BY seq DESC LIMIT ?2)",
        (row.webhook_id, keep),
    )


def dead(connection: apsw.Connection, webhook_id: str, limit: int) -> list[DeliveryRow]:
    """The deliveries of a webhook that were given up, the newest first."""
    found = rows(
        connection,
        f"SELECT {_DELIVERY} FROM webhook_deliveries WHERE webhook_id = ? AND state = 'dead'"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?",
        (webhook_id, limit),
    )
    return [DeliveryRow(*row) for row in found]


def counts(connection: apsw.Connection, webhook_id: str) -> dict[str, int]:
    """How many deliveries of a webhook are in each state."""
    found = rows(
        connection,
        "SELECT state, count(*) FROM webhook_deliveries WHERE webhook_id = ? GROUP BY state",
        (webhook_id,),
    )
    return {"watched": 0, "queued": 0, "dead": 0} | {str(state): int(count) for state, count in found}
