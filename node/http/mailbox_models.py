"""What clients send about their mailboxes, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from node.cluster.registry import SUBSCRIPTIONS_LIMIT
from node.errors import ValidationFailed
from node.http.models import Label, StrictBody, StrictQuery
from node.messaging.client_mailboxes import IDLE_LIMIT_S
from node.messaging.consumer import WINDOW, WINDOW_LIMIT
from node.topics import check_pattern, is_topic

MAILBOX_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What a mailbox may be called."""


class SubscriptionBody(StrictBody):
    """A pattern over topics, and the group that shares what it brings."""

    topic: Label
    group: Label | None = None


class MailboxBody(StrictBody):
    """How a mailbox is to be."""

    topics: Annotated[
        list[Label | SubscriptionBody] | None,
        Field(
            max_length=SUBSCRIPTIONS_LIMIT,
            description="Topics, or patterns over them, instead of those it has; each alone or in a group.",
        ),
    ] = None
    idle_s: Annotated[
        float | None,
        Field(ge=1, le=IDLE_LIMIT_S, allow_inf_nan=False, description="Seconds without use until it goes."),
    ] = None

    def subscriptions(self) -> tuple[tuple[str, str], ...] | None:
        """(pattern, group) of each topic, each once; None where nothing was said.

        Raises:
            ValidationFailed: one is no pattern, or a group has no name.
        """
        if self.topics is None:
            return None
        found: dict[tuple[str, str], None] = {}
        for item in self.topics:
            pattern, group = (item, None) if isinstance(item, str) else (item.topic, item.group)
            if group is not None and not is_topic(group):
                raise ValidationFailed(
                    f"{group[:80]!r} is not the name of a group",
                    why="it has letters, digits, _ and -",
                    fix="Leave the group out, or give it another name.",
                    details={"field": "topics"},
                )
            found[check_pattern(pattern), group or ""] = None
        return tuple(found)


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
