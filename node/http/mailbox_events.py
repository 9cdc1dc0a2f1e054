"""A mailbox as server-sent events: each held message is one, with an identifier that acknowledges it."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.types import Receive

from node.errors import CaxtonError, ValidationFailed
from node.http.event_streams import HEARTBEAT_S, Events
from node.http.services import NodeServices
from node.http.streams import Write
from node.messaging.mailboxes import Entry

AT_ONCE: Final = 16
"""Most messages read from the mailbox at once."""
_IDENTIFIER: Final = re.compile(r"([0-9]{1,19})-([\x21-\x7e]{1,3072})")


def event_id(entry: Entry) -> str:
    """By what a client acknowledges a message: its number with its id, so that none is taken for another."""
    return f"{entry.seq}-{quote(entry.message.id, safe='')}"


def parse_event_id(text: str, field: str) -> tuple[int, str]:
    """The number and the message that :func:`event_id` named.

    Raises:
        ValidationFailed: it named none.
    """
    found = _IDENTIFIER.fullmatch(text)
    if found is None or int(found[1]) >= 1 << 63:
        raise ValidationFailed(
            f"{text[:80]!r} is not the id of an event",
            why="it is a number, a dash and a message's id, as the stream has sent it",
            fix="Give back the id of the last event.",
            details={"field": field},
        )
    return int(found[1]), unquote(found[2])


class MailboxEvents:
    """One client that reads a mailbox.

    Args:
        services: The rooms of the node.
        name: The mailbox.
        window: Most messages it is given before it has acknowledged some.
    """

    def __init__(self, services: NodeServices, name: str, window: int) -> None:
        self._services, self._name, self._window = services, name, window

    async def run(self, write: Write, receive: Receive) -> None:
        """Tell what the mailbox holds and gets, until the client goes or another one takes over."""
        del receive
        clock, events = self._services.environment.clock, Events(write, self._services.environment.clock)
        await events.beat()
        try:
            with self._services.bus.mailboxes.consume(self._name, self._window) as consumer:
                while not consumer.reason:
                    found: list[Entry] = []
                    with clock.move_on_after(HEARTBEAT_S):
                        found = await consumer.take(AT_ONCE)
                    for entry in found:
                        await events.send("message", held_json(self._name, entry), event_id(entry))
                    await events.beat()
            await events.send("end", {"mailbox": self._name, "reason": consumer.reason})
        except CaxtonError as error:
            await events.send("error", error.as_json())


def held_json(name: str, entry: Entry) -> dict[str, Any]:
    """A held message as a client of the mailbox is shown it."""
    return {"mailbox": name, "id": event_id(entry), "message": entry.message.as_json()}
