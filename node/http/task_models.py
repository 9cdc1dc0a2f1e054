"""What callers of ``POST /tasks`` send, checked at the edge."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from node.environment import Environment
from node.errors import ValidationFailed
from node.http.attachments import attachment_from_json
from node.http.models import AttachmentBody, Label, StrictBody, sender_of
from node.message import ATTACHMENT_LIMIT, Message, check
from node.messaging.tender import (
    DEADLINE_LIMIT_S,
    RESERVES_LIMIT,
    RESULT_LIMIT_S,
    WINNERS_LIMIT,
    Award,
    Prefer,
)
from node.vocabulary import Performative, RoutingStrategy


class AwardBody(StrictBody):
    """By which rule a task is awarded."""

    by: Annotated[
        Label | None, Field(examples=["content.cost"], description="The field of a bid; none with first.")
    ] = None
    prefer: Annotated[Prefer, Field(strict=False, description="Equal bids: the one that came first.")] = (
        Prefer.FIRST
    )
    winners: Annotated[int, Field(ge=1, le=WINNERS_LIMIT)] = 1
    reserves: Annotated[
        int,
        Field(ge=0, le=RESERVES_LIMIT, description="Next best bids that stand until the result is here."),
    ] = 2

    def rule(self) -> Award:
        """The rule.

        Raises:
            ValidationFailed: ``by`` and ``prefer`` do not go together, or ``by`` is no path.
        """
        return Award(self.by, self.prefer, self.winners, self.reserves)


class TaskBody(StrictBody):
    """A task for whoever makes the best bid."""

    capability: Annotated[Label, Field(examples=["data-analysis"], description="All its providers may bid.")]
    content: Annotated[Any, Field(description="Any JSON value: the task.")] = None
    deadline_s: Annotated[
        float, Field(gt=0, le=DEADLINE_LIMIT_S, allow_inf_nan=False, description="Time for bids.")
    ] = 5.0
    result_s: Annotated[
        float,
        Field(gt=0, le=RESULT_LIMIT_S, allow_inf_nan=False, description="Time for the result of each award."),
    ] = 30.0
    award: AwardBody = AwardBody()
    sender: Annotated[Label | None, Field(description="Defaults to client@NODE.")] = None
    conversation_id: Label | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    attachments: Annotated[list[AttachmentBody], Field(max_length=ATTACHMENT_LIMIT, default_factory=list)]

    def build(self, environment: Environment, node: str) -> Message:
        """The call as it enters the cluster.

        Raises:
            ValidationFailed: a field breaks one of the rules every message keeps.
        """
        if any(attachment.blob is not None for attachment in self.attachments):
            raise ValidationFailed(
                "the files of a task travel inside its call",
                why="every provider is sent them, whether or not it gets the task",
                fix="Send small files as text or base64; let the winner be sent a large one in a message.",
                details={"field": "attachments"},
            )
        identifier = environment.new_id()
        message = Message(
            id=identifier,
            performative=Performative.CFP,
            sender=sender_of(self.sender, node),
            capability=self.capability,
            content=self.content,
            conversation_id=self.conversation_id or identifier,
            reply_with=identifier,
            routing_strategy=RoutingStrategy.BROADCAST,
            priority=self.priority,
            timestamp_s=environment.clock.wall(),
            attachments=tuple(
                attachment_from_json(a.model_dump(exclude_none=True)) for a in self.attachments
            ),
        )
        check(message)
        return message
