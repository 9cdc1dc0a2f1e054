"""The frames that a client sends over a WebSocket, checked at the edge like the bodies of requests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from node.http.mailbox_models import MAILBOX_NAME
from node.http.models import Label, StrictBody
from node.messaging.consumer import WINDOW_LIMIT

CREDIT: Final = 64
"""Messages of a mailbox that a client is sent before it has acknowledged some, unless it says otherwise."""

MailboxName = Annotated[str, StringConstraints(pattern=MAILBOX_NAME)]
Number = Annotated[int, Field(ge=1, lt=1 << 53)]


class Frame(StrictBody):
    """What all frames have."""

    type: str
    id: Annotated[Label | int | None, Field(description="The client's own; the answer has it, too.")] = None


class HelloFrame(Frame):
    """Who the client is; the first frame where no token came with the request."""

    type: Literal["hello"]
    token: Annotated[str, Field(max_length=256)]


class SendFrame(Frame):
    """A message to send, as in ``POST /messages/batch``."""

    type: Literal["send"]
    message: Any
    stream: Annotated[bool, Field(description="Tell the reply while it is made.")] = False


class SubscribeFrame(Frame):
    """Read a mailbox from now on."""

    type: Literal["subscribe"]
    mailbox: MailboxName
    credit: Annotated[int, Field(ge=0, le=WINDOW_LIMIT)] = CREDIT


class UnsubscribeFrame(Frame):
    """Read a mailbox no more; what is not acknowledged stays held."""

    type: Literal["unsubscribe"]
    mailbox: MailboxName


class AckFrame(Frame):
    """The client has these deliveries: they are held no more."""

    type: Literal["ack"]
    delivery: Number | Annotated[list[Number], Field(min_length=1, max_length=WINDOW_LIMIT)]


class CreditFrame(Frame):
    """How many messages the client takes before it has acknowledged some: of one mailbox, or of each."""

    type: Literal["credit"]
    messages: Annotated[int, Field(ge=0, le=WINDOW_LIMIT)]
    mailbox: MailboxName | None = None


class PingFrame(Frame):
    """Answered with ``pong``, for clients that cannot send the protocol's own ping."""

    type: Literal["ping"]


FRAMES: Final[Mapping[str, type[Frame]]] = MappingProxyType(
    {
        "hello": HelloFrame,
        "send": SendFrame,
        "subscribe": SubscribeFrame,
        "unsubscribe": UnsubscribeFrame,
        "ack": AckFrame,
        "credit": CreditFrame,
        "ping": PingFrame,
    }
)
"""Type -> the model of its frames."""
