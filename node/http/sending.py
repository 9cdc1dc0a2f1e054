"""What all ways of sending do: from a JSON value to an accepted message, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from node.errors import AgentNotFound, CaxtonError, DuplicateMessage, Forbidden
from node.http.errors import facts, validation_failed
from node.http.models import ItemBody
from node.http.services import NodeServices, SentMessage
from node.message import Message, iso8601


@dataclass(frozen=True, slots=True)
class Item:
    """A message on its way to the bus.

    Args:
        message: The message.
        ttl_s: Its life in seconds, or None for the configured one.
    """

    message: Message
    ttl_s: float | None


def read_item(services: NodeServices, value: object) -> Item:
    """Read a message from a JSON value, by the rules of ``POST /messages``.

    Raises:
        ValidationFailed: a field breaks its rule.
        Forbidden: its sender is somebody else's name.
    """
    try:
        body = ItemBody.model_validate(value)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise validation_failed(problems, None) from None
    message = body.build(services.environment, services.node)
    refuse_impostor(services, message)
    return Item(message, body.ttl_s)


def read_items(services: NodeServices, values: Sequence[object]) -> list[Item | CaxtonError]:
    """Read each value by itself: a message, or what is wrong with it."""
    found: list[Item | CaxtonError] = []
    for value in values:
        try:
            found.append(read_item(services, value))
        except CaxtonError as error:
            found.append(error)
    return found


async def accept_items(
    services: NodeServices, read: Sequence[Item | CaxtonError], traceparent: str
) -> list[SentMessage | CaxtonError]:
    """Accept what could be read, each by itself, in one durable write.

    Args:
        services: The rooms of the node.
        read: Messages, and what is wrong with those that are none.
        traceparent: W3C Trace Context of what caused them.

    Returns:
        A receipt for each, or why it was not accepted.

    Raises:
        StorageFailed: the disk refused; none was accepted.
    """
    items = [item for item in read if isinstance(item, Item)]
    accepted = iter(
        await services.bus.accept_many(
            [item.message for item in items],
            traceparent=traceparent,
            ttl_s=[item.ttl_s for item in items],
        )
    )
    return [next(accepted) if isinstance(item, Item) else item for item in read]


def refuse_impostor(services: NodeServices, message: Message) -> None:
    """Refuse a client that signs with the name of an agent of this node.

    Raises:
        Forbidden: it does; agents decide by this name whom they listen to.
    """
    name = message.sender.partition("@")[0]
    try:
        services.supervisor.get(name)
    except AgentNotFound:
        return
    raise Forbidden(
        f"{name!r} is an agent of this node",
        why="only an agent itself may send under its name",
        fix="Leave the sender out.",
        details={"field": "sender"},
    )


def receipt_json(receipt: SentMessage) -> dict[str, Any]:
    """A receipt as the public API shows it."""
    return {
        "message_id": receipt.message_id,
        "conversation_id": receipt.conversation_id,
        "routed_to": list(receipt.routed_to),
        "routing_strategy": str(receipt.routing_strategy),
        "status": str(receipt.status),
        "timestamp": iso8601(receipt.timestamp_s),
    }


def result_json(message: Message | None, result: SentMessage | CaxtonError) -> Mapping[str, Any]:
    """What became of one of many messages: a receipt, or an error with as much as is known."""
    if not isinstance(result, CaxtonError):
        return receipt_json(result)
    known = {} if message is None else {"message_id": message.id, "conversation_id": message.conversation_id}
    status = "duplicate" if isinstance(result, DuplicateMessage) else "refused"
    return {"status": status, **known, "error": facts(result)}
