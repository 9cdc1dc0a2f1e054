"""What clients ask about conversations, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from node.errors import ValidationFailed
from node.http.models import Label, StrictBody, StrictQuery, duration_s, moment
from node.messaging.conversation_index import ARCHIVE_LIMIT, PAGE_LIMIT, Selection


class ConversationQuery(StrictQuery):
    """Which conversations to show."""

    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT)] = 50
    before: Annotated[Label | None, Field(description="The next of the page before.")] = None
    status: Literal["active", "completed"] | None = None
    closed: Annotated[bool | None, Field(description="Those that take no messages, or those that do.")] = None
    participant: Annotated[Label | None, Field(description="name or name@node")] = None
    since: Annotated[Label | None, Field(description="ISO 8601, or a duration as 90s, 15m, 1h, 2d.")] = None

    def selection(self, now_s: float) -> Selection:
        """The selection that messaging understands.

        Raises:
            ValidationFailed: ``since`` is neither a time nor a duration.
        """
        since_s = None if self.since is None else moment(self.since, now_s)
        return Selection(self.status, self.closed, self.participant, since_s)


class FollowQuery(StrictQuery):
    """How a conversation is shown."""

    follow: Annotated[bool, Field(description="Go on, as server-sent events.")] = False


class ArchiveBody(StrictBody):
    """Which conversations to close: those named, or those that have been silent for so long."""

    conversations: Annotated[list[Label] | None, Field(min_length=1, max_length=ARCHIVE_LIMIT)] = None
    older_than: Annotated[Label | None, Field(description="Silence as 90s, 15m, 24h, 7d.")] = None
    status: Annotated[
        Literal["active", "completed"] | None, Field(description="Of those that were silent.")
    ] = None
    after: Annotated[Label | None, Field(description="The next of the call before.")] = None

    @model_validator(mode="after")
    def _one_choice(self) -> ArchiveBody:
        if (self.conversations is None) == (self.older_than is None):
            raise ValueError("exactly one of conversations and older_than must be given")
        if self.conversations is not None and (self.status or self.after):
            raise ValueError("status and after belong to older_than")
        return self

    def older_than_s(self) -> float:
        """The silence in seconds.

        Raises:
            ValidationFailed: it is no duration.
        """
        found = duration_s(self.older_than or "")
        if found is None:
            raise ValidationFailed(
                f"{(self.older_than or '')[:80]!r} is not a duration",
                fix="Write 90s, 15m, 24h or 7d.",
                details={"field": "older_than"},
            )
        return float(found)
