"""What an agent's handler is given, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from node.errors import CaxtonError
from node.message import Attachment, Message
from node.vocabulary import DeliveryClass, Performative, RoutingStrategy

DRAFT_LIMIT: Final = 64
"""Most messages one handler run may answer with."""
BATCH_LIMIT: Final = 64
"""Most messages one call of a handler of several is given, unless it says otherwise."""


class Speech(Protocol):
    """An answer that is shown while it is made (``node.messaging.partial_sources.Speech``)."""

    def begin(self, turn: int) -> None:
        """A text begins; what was said before is not part of it."""
        ...

    def hear(self, text: str) -> None:
        """The next piece of it."""
        ...


class Audience(Protocol):
    """Whoever watches answers while they are made (``node.messaging.partial_sources.PartialSources``)."""

    def speak(self, agent: str, delivery: Delivery) -> AbstractContextManager[Speech]:
        """Make an answer piece by piece."""
        ...


class Delivery(msgspec.Struct, frozen=True):
    """One message, delivered to one agent.

    Args:
        message: The message.
        sender_node: The authenticated node it came from.
        traceparent: W3C Trace Context to continue, or the empty string.
        attempt: 1 for the first handler run, one more after each that failed.
        hops: Messages that led to this one.
        deadline: Moment on the node's monotonic clock after which nobody wants an answer, or None.
        audience: To whom the answer may be shown while it is made; None where nobody ever watches.
    """

    message: Message
    sender_node: str
    traceparent: str
    attempt: int
    hops: int
    deadline: float | None
    audience: Audience | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """One message a handler answers with; without an address it goes to the sender as a reply.

    Args:
        performative: What it does.
        content: Any JSON value.
        receiver: Another address to send it to.
        capability: A capability to send it to.
        attachments: Files that travel with it.
        protocol: For example ``fipa-request``; a reply keeps the protocol of what it answers.
        conversation_id: Another conversation; it stays in that of the delivery otherwise.
        routing_strategy: How a provider of ``capability`` is chosen.
        priority: 0 to 9; that of the delivery otherwise.
        reply_by_s: Unix seconds after which no answer to it is wanted.
        fallback_versions: Versions of ``capability`` that do, too, in this order.
        topic: A topic to send it to.
        delivery: How often it may be handled when something fails.
    """

    performative: Performative
    content: Any = None
    receiver: str | None = None
    capability: str | None = None
    attachments: tuple[Attachment, ...] = ()
    protocol: str | None = None
    conversation_id: str | None = None
    routing_strategy: RoutingStrategy = RoutingStrategy.BEST_MATCH
    priority: int | None = None
    reply_by_s: float | None = None
    fallback_versions: tuple[str, ...] = ()
    topic: str | None = None
    delivery: DeliveryClass = DeliveryClass.AT_LEAST_ONCE


Handler = Callable[[Delivery], Awaitable[Sequence[Draft]]]
Answer = Sequence[Draft] | Exception
"""What became of one message of several: the answers to it, or what a handler of it alone would raise."""


@dataclass(frozen=True, slots=True)
class BatchHandler:
    """A handler of several messages at once, each of another conversation or sender.

    Args:
        many: Called with what is ready. Answers the first so many of them, at least one, in their order; the
            others it is given again, first.
        one: The same for a message alone: one that is tried again, that may be handled once at most, or for
            which something had to be awaited.
        runs: Most calls of ``many`` at once.
        limit: Most messages of one such call.
    """

    many: Callable[[Sequence[Delivery]], Awaitable[Sequence[Answer]]]
    one: Handler
    runs: int = 1
    limit: int = BATCH_LIMIT


def handler_of_one(handler: Handler | BatchHandler) -> Handler:
    """What is called with one message alone."""
    return handler.one if isinstance(handler, BatchHandler) else handler


def compose(draft: Draft, answered: Message, *, sender: str, identifier: str, wall_s: float) -> Message:
    """The message a draft stands for.

    Args:
        draft: What the handler answered.
        answered: What it was handling.
        sender: The agent's address, ``name@node``.
        identifier: The new message's id.
        wall_s: Unix seconds now.
    """
    is_reply = draft.receiver is None and draft.capability is None and draft.topic is None
    return Message(
        id=identifier,
        performative=draft.performative,
        sender=sender,
        receiver=answered.sender if is_reply else draft.receiver,
        capability=draft.capability,
        content=draft.content,
        conversation_id=draft.conversation_id or answered.conversation_id,
        reply_with=identifier,
        in_reply_to=answered.reply_with if is_reply else None,
        reply_by_s=draft.reply_by_s,
        protocol=draft.protocol or (answered.protocol if is_reply else None),
        routing_strategy=draft.routing_strategy,
        priority=answered.priority if draft.priority is None else draft.priority,
        timestamp_s=wall_s,
        attachments=tuple(draft.attachments),
        fallback_versions=tuple(draft.fallback_versions),
        topic=draft.topic,
        delivery=draft.delivery,
    )


def failure_content(error: CaxtonError) -> dict[str, Any]:
    """The content of a FAILURE: code, reason, cause, what to do, and structured facts."""
    found = {
        "code": error.code,
        "reason": str(error),
        "what": error.what,
        "why": error.why,
        "fix": error.fix,
        "details": error.details,
    }
    return {key: value for key, value in found.items() if value}
