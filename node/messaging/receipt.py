"""What is known of a message as soon as it has been accepted."""

from __future__ import annotations

import msgspec


class Receipt(msgspec.Struct, frozen=True):
    """What is known of a message when it has been accepted.

    Args:
        message_id: The message.
        conversation_id: Its conversation.
        routed_to: The agents it was given to (``agent@node``); none yet while it waits for a provider.
        routing_strategy: How they were chosen.
        status: ``routed``, ``waiting``, or how it ended at once.
        timestamp_s: Unix seconds at which it was accepted.
    """

    message_id: str
    conversation_id: str
    routed_to: tuple[str, ...]
    routing_strategy: str
    status: str
    timestamp_s: float
