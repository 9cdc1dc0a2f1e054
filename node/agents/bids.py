"""How a configured agent bids for a task: by the rules of its file, and never more than it can keep.

The agent keeps nothing between messages. So a bid is computed from its file and from how busy its node is,
without a model, and the task that it has bid for is read again, from what its node has received, when the bid
is accepted: it runs what it was asked for, whatever the acceptance says.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec.structs import replace as with_fields

from node.agents.definition import AgentDefinition
from node.environment import Clock
from node.errors import MessageNotFound
from node.message import Message
from node.messaging.delivery import Delivery, Draft
from node.vocabulary import Performative

VALID_S: Final = 60.0
"""How long a bid stands when the file does not say."""


class Contracts(Protocol):
    """What bidding needs of the bus."""

    def load(self) -> float:
        """How busy this node's agents are, 0.0 to 1.0."""
        ...

    async def task_of(self, accept: Message) -> Message | None:
        """The call whose bid is accepted, or None when it is not known (any more)."""
        ...


class Bidder:
    """Makes the bids of one agent, and finds what they were for.

    Args:
        definition: What the agent file says.
        bus: Knows the load, and what was called for.
        clock: Dates the bids.
    """

    def __init__(self, definition: AgentDefinition, *, bus: Contracts, clock: Clock) -> None:
        self._definition, self._bus, self._clock = definition, bus, clock

    def bid(self, call: Message) -> Draft:
        """The answer to a call for proposals: a proposal, or a refusal without rules, or when too busy."""
        rules = self._definition.groups.get("bids")
        if not rules:
            return self._refuse(call, "the agent makes no bids: its file has no rules for them")
        load = self._bus.load()
        if load > rules.get("max_load", 1.0):
            return self._refuse(call, f"the node is too busy: its load is {load:.2f}")
        valid_s = rules.get("valid", VALID_S)
        content: dict[str, Any] = {"load": round(load, 3)}
        if "cost" in rules or "load_cost" in rules:
            content["cost"] = rules.get("cost", 0.0) + rules.get("load_cost", 0.0) * load
        return Draft(
            Performative.PROPOSE,
            content,
            protocol=call.protocol,
            reply_by_s=self._clock.wall() + valid_s,
        )

    async def task(self, delivery: Delivery) -> Delivery:
        """The delivery of an acceptance as the request that it is for.

        Raises:
            MessageNotFound: the call is not known any more, and the acceptance does not repeat the task.
        """
        accept = delivery.message
        call = await self._bus.task_of(accept)
        if call is not None:
            content, attachments = call.content, call.attachments
        elif accept.content is not None:
            content, attachments = accept.content, accept.attachments
        else:
            raise MessageNotFound(
                "the task is not known any more",
                why="the call for proposals has aged out, and the acceptance does not repeat it",
                fix="Put the task into the content of accept_proposal, or call again.",
                details={"in_reply_to": accept.in_reply_to},
            )
        capability = accept.capability if call is None else call.capability
        request = with_fields(
            accept,
            performative=Performative.REQUEST,
            content=content,
            attachments=attachments,
            receiver=None if capability else accept.receiver,
            capability=capability,
        )
        return with_fields(delivery, message=request)

    @staticmethod
    def _refuse(call: Message, reason: str) -> Draft:
        return Draft(Performative.REFUSE, {"reason": reason}, protocol=call.protocol)
