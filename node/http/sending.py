"""What all ways of sending do: from a JSON value to an accepted message, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from node.errors import AgentNotFound, CaxtonError, DuplicateMessage, Forbidden
from node.http.errors import facts, validation_failed
from node.http.models import ItemBody
from node.http.services import Caller, NodeServices, SentMessage
from node.message import Message, iso8601
from node.security.permissions import Permission


@dataclass(frozen=True, slots=True)
class Item:
    """A message on its way to the bus.

    Args:
        message: The message.
        ttl_s: Its life in seconds, or None for the configured one.
    """

    message: Message
    ttl_s: float | None


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends.

    Args:
        services: The rooms of the node.
        caller: Whose token it is.
        traceparent: W3C Trace Context of what the messages come with, or the empty string.
    """

    services: NodeServices
    caller: Caller
    traceparent: str

    @classmethod
    def of(cls, services: NodeServices, request: Request) -> Sender:
        """Whoever makes a request."""
        return cls(services, caller_of(request), request.scope.get("state", {}).get("traceparent", ""))


def caller_of(request: Request) -> Caller:
    """Who makes a request: the gate has found that out."""
    found: Caller = request.state.caller
    return found


def read_item(sender: Sender, value: object) -> Item:
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
    message = body.build(sender.services.environment, sender.services.node)
    refuse_impostor(sender, message)
    return Item(message, body.ttl_s)


def read_items(sender: Sender, values: Sequence[object]) -> list[Item | CaxtonError]:
    """Read each value by itself: a message, or what is wrong with it."""
    found: list[Item | CaxtonError] = []
    for value in values:
        try:
            found.append(read_item(sender, value))
        except CaxtonError as error:
            found.append(error)
    return found


async def accept_items(sender: Sender, read: Sequence[Item | CaxtonError]) -> list[SentMessage | CaxtonError]:
    """Accept what could be read, each by itself, in one durable write.

    Args:
        sender: Who sends them.
        read: Messages, and what is wrong with those that are none.

    Returns:
        A receipt for each, or why it was not accepted.

    Raises:
        StorageFailed: the disk refused; none was accepted.
    """
    items = [item for item in read if isinstance(item, Item)]
    accepted = iter(
        await sender.services.bus.accept_many(
            [item.message for item in items],
            traceparent=sender.traceparent,
            ttl_s=[item.ttl_s for item in items],
        )
    )
    return [next(accepted) if isinstance(item, Item) else item for item in read]


def refuse_impostor(sender: Sender, message: Message) -> None:
    """Refuse a client that signs with the name of an agent of this node, or of another client's mailbox.

    Raises:
        Forbidden: it does; agents decide by this name whom they listen to.
    """
    services, name = sender.services, message.sender.partition("@")[0]
    if services.bus.mailboxes.knows(name) and Permission.MANAGE_CLUSTER not in sender.caller.permissions:
        services.bus.mailboxes.check_owner(name, sender.caller.name)
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
