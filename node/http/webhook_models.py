"""What clients send about webhooks, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from node.http.models import Label, StrictBody
from node.security.outbound import URL_LIMIT

EventName = Literal["message.response", "conversation.complete", "message.dead"]


class FilterBody(StrictBody):
    """Fields of the message that a webhook is told of; all that are given must be as given."""

    conversation_id: Label | None = None
    sender: Annotated[Label | None, Field(description="name, on any node, or name@node")] = None
    receiver: Annotated[Label | None, Field(description="name, on any node, or name@node")] = None
    performative: Label | None = None
    capability: Label | None = None


class WebhookBody(StrictBody):
    """Where to be told of what."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=URL_LIMIT)]
    events: Annotated[list[EventName], Field(min_length=1, max_length=3)]
    filter: FilterBody = FilterBody()
    secret: Annotated[
        str | None,
        Field(
            min_length=16, max_length=256, description="What deliveries are signed with; else one is made."
        ),
    ] = None
