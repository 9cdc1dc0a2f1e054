"""A turn of an agent as it is parked: all that it takes to go on with it, and nothing of the process.

A turn is what an agent does for one message. It is parked between two steps: the model has asked for tools,
some have answered, and one of the others waits for an operator. It goes on from exactly there, so nothing is
asked of the model twice, and nothing that was decided is decided by another prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from node.agents.guard import LoopState
from node.agents.history import Earlier
from node.agents.remembering import Recalled
from node.errors import ValidationFailed
from node.llm.provider import ChatMessage, ToolCall
from node.message import Attachment, Message
from node.messaging.delivery import Delivery
from node.tools.approval import ApprovalNeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedTurn:
    """See the module's docstring.

    Args:
        message: What is answered, its attachments filled.
        sender_node: The node it came from.
        traceparent: W3C Trace Context of the handling, or the empty string.
        hops: Messages that led to it.
        said: The conversation with the model, up to the tools that it has asked for.
        results: What came of these tools, in their order; None for those that have not been called.
        asked: Which of them waits for an operator.
        is_repaired: Whether the model was already told that its answer is not what was asked for.
        recalled: What the agent remembered.
        earlier: What was said before in the conversation.
        spent: Turns, calls and tokens so far.
        produced: Files that tools have made.
    """

    message: Message
    sender_node: str
    traceparent: str
    hops: int
    said: tuple[ChatMessage, ...]
    results: tuple[ChatMessage | None, ...]
    asked: int
    is_repaired: bool
    recalled: Recalled
    earlier: Earlier
    spent: LoopState
    produced: tuple[Attachment, ...]

    @property
    def call(self) -> ToolCall:
        """The call that waits."""
        return self.said[-1].tool_calls[self.asked]

    def with_result(self, result: ChatMessage) -> Self:
        """The same, with what came of the call that waited."""
        results = [result if place == self.asked else each for place, each in enumerate(self.results)]
        return replace(self, results=tuple(results))

    def delivery(self, deadline: float | None) -> Delivery:
        """The message as it is handled on.

        Args:
            deadline: Moment on the node's clock after which nobody wants an answer, or None.
        """
        return Delivery(self.message, self.sender_node, self.traceparent, 1, self.hops, deadline)

    def encode(self) -> bytes:
        """As it is stored: JSON, since models write numbers that no binary form takes."""
        return json.dumps(msgspec.to_builtins(self)).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        """What :meth:`encode` has written.

        Raises:
            ValidationFailed: it is no turn that this version can take on.
        """
        try:
            return msgspec.convert(json.loads(stored), cls)
        except (msgspec.ValidationError, ValueError) as error:
            raise ValidationFailed("the parked turn cannot be read", why=str(error)) from None


class TurnParked(Exception):
    """A turn cannot go on before an operator has decided about one of its calls.

    Args:
        turn: The turn.
        needed: What has to be approved.
    """

    def __init__(self, turn: ParkedTurn, needed: ApprovalNeeded) -> None:
        super().__init__(needed.what)
        self.turn, self.needed = turn, needed
