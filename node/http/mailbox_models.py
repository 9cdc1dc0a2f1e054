"""What clients send about their mailboxes, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from node.http.models import Label, StrictBody, StrictQuery
from node.messaging.client_mailboxes import IDLE_LIMIT_S
from node.messaging.consumer import WINDOW, WINDOW_LIMIT

MAILBOX_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a mailbox may be called."""


class MailboxBody(StrictBody):
    """How a mailbox is to be."""

    idle_s: Annotated[
        float | None,
        Field(ge=1, le=IDLE_LIMIT_S, allow_inf_nan=False, description="Seconds without use until it goes."),
    ] = None


class AcknowledgeBody(StrictBody):
    """Which messages of a mailbox its client has."""

    up_to: Annotated[Label | None, Field(description="Id of an event: this one and all before it.")] = None
    ids: Annotated[
        list[Label],
        Field(default_factory=list, max_length=WINDOW_LIMIT, description="Ids of events, each itself."),
    ]


class MailboxEventsQuery(StrictQuery):
    """How a mailbox is read."""

    ack: Annotated[str | None, Field(max_length=4096, description="As Last-Event-ID.")] = None
    window: Annotated[
        int, Field(ge=1, le=WINDOW_LIMIT, description="Most messages that are not acknowledged.")
    ] = WINDOW
