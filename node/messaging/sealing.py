"""The edge every message passes once: checked, sealed, and measured."""

from __future__ import annotations

from node.errors import MessageTooLarge
from node.message import Message, check


def seal(message: Message, max_bytes: int) -> bytes:
    """The message's one encoding.

    Raises:
        ValidationFailed: a field breaks its rule.
        MessageTooLarge: the encoding has more than ``max_bytes``.
    """
    sealed = check(message)
    if len(sealed) > max_bytes:
        raise MessageTooLarge(
            f"the message has {len(sealed)} bytes",
            why=f"the limit is {max_bytes} bytes, attachments included",
            fix="Send less, or raise messaging.max_message_bytes on every node.",
            details={"bytes": len(sealed), "limit": max_bytes},
        )
    return sealed
