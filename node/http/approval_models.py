"""What operators ask and say about calls that wait for approval, checked at the edge; and the answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from node.http.answer import Answer
from node.http.models import StrictBody, StrictQuery

REASON_LIMIT: Final = 500
"""Longest reason of a decision, in characters; of a denial the model is told it."""
PAGE_LIMIT: Final = 200
"""Most approvals of one answer."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
State = Literal["waiting", "decided", "calling", "resuming", "ended"]


class ApprovalsQuery(StrictQuery):
    """Which approvals to show."""

    all: Annotated[bool, Field(description="Those that have ended, too.")] = False
    agent: Annotated[Name | None, Field(description="Only of the agent of this id.")] = None
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT)] = 50
    before: Annotated[Name | None, Field(description="The next of the page before.")] = None


class DecisionBody(StrictBody):
    """Why it is decided so."""

    reason: Annotated[
        str,
        Field(max_length=REASON_LIMIT, description="For the agent's log; of a denial the model is told it."),
    ] = ""


class ApprovalView(Answer):
    """A call that needs an operator's approval."""

    approval_id: str
    agent: str
    tool: Annotated[str, Field(description="Server and tool.")]
    arguments_preview: Annotated[str, Field(description="The beginning of its arguments, as JSON.")]
    state: State
    verdict: Literal["approved", "denied"] | None
    reason: str
    decided_by: Annotated[str | None, Field(description="The name of the operator's token.")]
    decided_at: str | None
    caller: Annotated[str, Field(description="Who sent the message that the agent works on.")]
    conversation_id: str
    message_id: str
    created_at: str
    age_s: float
    expires_at: str
    ended_at: str | None
    outcome: Annotated[str | None, Field(description="What became of it, in words.")]


class ApprovalsBody(Answer):
    """Approvals of the node, the newest first."""

    node: str
    approvals: list[ApprovalView]
    next: Annotated[str | None, Field(description="The `before` of the page that follows.")]


class TurnCallView(Answer):
    """A call that the model asked for together with the one that waits."""

    tool: str
    status: Literal["done", "this one", "waits for an approval of its own"]


class WholeApprovalBody(ApprovalView):
    """One approval with exactly what is approved."""

    arguments: dict[str, Any]
    arguments_sha256: str
    tool_sha256: Annotated[str, Field(description="Of name, description and input schema of the tool.")]
    calls: list[TurnCallView]
