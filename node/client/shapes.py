"""What a client gets: receipts, and messages of a mailbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""A message as the public API shows it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message that the node has accepted: it is durable.

    Args:
        message_id: Its id.
        conversation_id: Its conversation.
        routed_to: Who gets it, as far as that is decided.
        status: How it stood when it was accepted; ``duplicate`` where an earlier attempt had got through.
    """

    message_id: str
    conversation_id: str
    routed_to: tuple[str, ...]
    status: str

    @classmethod
    def of(cls, found: Message) -> Receipt:
        """The receipt in an answer."""
        return cls(
            str(found["message_id"]),
            str(found["conversation_id"]),
            tuple(str(address) for address in found.get("routed_to") or ()),
            str(found.get("status", "")),
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a mailbox, held by the node until it is acknowledged.

    Args:
        id: By what it is acknowledged.
        message: The message.
    """

    id: str
    message: Message

    @property
    def content(self) -> Any:
        """What it says."""
        return self.message.get("content")
