"""Around a configured agent: parks its turns, and answers for those that are parked.

The caller of a turn that waits for an operator is told AGREE: the work was taken on, and its result comes
later. Where the rules of the conversation have no agree (the acceptance of a bid, an inform), it is told
nothing before the result. Later messages of the conversation are handled as always; they are shown nothing of
a turn that is parked.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.agents.approvals import Approvals
from node.agents.configured import ConfiguredAgent
from node.agents.deployed import fingerprint
from node.agents.turn import TurnParked
from node.message import Message, iso8601
from node.messaging.delivery import Delivery, Draft
from node.messaging.protocols import Stage, protocol_of, step
from node.storage.approvals import ENDED, ApprovalRow
from node.vocabulary import Performative


class ParkingAgent:
    """See the module's docstring.

    Args:
        agent: Its id.
        content: Its file.
        node: Name of this node, which the caller is told: operators decide there.
        inner: The agent.
        approvals: Where its turns are parked.
    """

    def __init__(
        self, agent: str, content: bytes, node: str, inner: ConfiguredAgent, approvals: Approvals
    ) -> None:
        self._agent, self._fingerprint, self._node = agent, fingerprint(content), node
        self._approvals = approvals
        self.inner = inner

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message, perhaps by the promise of an answer."""
        message = delivery.message
        if message.performative is Performative.CANCEL:
            cancelled = await self._approvals.cancel(self._agent, message)
            if cancelled is not None:
                return [_cancelled(message, *cancelled)]
        row = await self._approvals.of(self._agent, delivery)
        if row is None:
            try:
                return await self.inner.handle(delivery)
            except TurnParked as parked:
                row = await self._approvals.park(self._agent, self._fingerprint, parked)
        return self._promise(message, row)

    def _promise(self, message: Message, row: ApprovalRow) -> list[Draft]:
        allowed = step(protocol_of(message), message.performative, Stage.OPEN, Performative.AGREE)
        if row.state == ENDED or allowed is None:
            return []  # it is answered, or will be
        content = {
            "reason": "an operator must approve a call first; the result comes later",
            "approval": row.id,
            "node": self._node,
            "expires_at": iso8601(row.expires_s),
        }
        return [Draft(Performative.AGREE, content, protocol=message.protocol)]


def _cancelled(message: Message, ended: list[str], begun: list[str]) -> Draft:
    """The answer to a cancel of turns that wait."""
    if not ended:
        why = {"reason": "the call was approved and has begun", "approvals": begun}
        return Draft(Performative.FAILURE, why, protocol=message.protocol)
    content: dict[str, list[str]] = {"cancelled": ended} | ({"begun": begun} if begun else {})
    return Draft(Performative.INFORM, content, protocol=message.protocol)
