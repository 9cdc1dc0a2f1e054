"""Reads on in a conversation: what this node has accepted or received of it since the last look."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import apsw

from node.message import Message
from node.messaging.receiver import ItemState, reported
from node.storage import accepted, inbox

STEP: Final = 100
"""Most messages of each table read at once."""
MARGIN: Final = 64
"""Rows before the last one that are looked at again: a number may be written before an earlier one is."""
SEEN_LIMIT: Final = 1_024
"""Messages that are known to have been shown."""


class ConversationCursor:
    """How far somebody has read.

    Args:
        conversation_id: The conversation.
    """

    def __init__(self, conversation_id: str) -> None:
        self._conversation_id = conversation_id
        self._sent = self._received = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    def read(self, connection: apsw.Connection) -> list[tuple[Message, str]]:
        """What is new, with how it stands; in order of time, each message once."""
        found: dict[str, tuple[float, Message, str]] = {}
        sent = accepted.conversation_after(
            connection, self._conversation_id, self._sent - MARGIN, STEP + MARGIN
        )
        for row in sent:
            if row.message_id not in self._seen:
                found[row.message_id] = (row.accepted_s, Message.unseal(row.sealed), row.state)
        got = inbox.conversation_after(
            connection, self._conversation_id, self._received - MARGIN, STEP + MARGIN
        )
        for copy in got:
            if copy.message_id not in self._seen and copy.message_id not in found:
                state = reported(ItemState(copy.state)) if copy.state != ItemState.LATE else copy.state
                found[copy.message_id] = (copy.received_s, Message.unseal(copy.sealed), state)
        self._sent = max([self._sent, *(row.seq for row in sent)])
        self._received = max([self._received, *(row.seq for row in got)])
        for message_id in found:
            self._seen[message_id] = None
            if len(self._seen) > SEEN_LIMIT:
                self._seen.popitem(last=False)
        ordered = sorted(found.values(), key=lambda entry: (entry[0], entry[1].id))
        return [(message, state) for _, message, state in ordered]
