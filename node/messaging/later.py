"""An answer that is sent after the message has been settled: what an agent had agreed to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import apsw

from node.errors import CaxtonError, DuplicateMessage, MessageTooLarge, ValidationFailed
from node.message import Message
from node.messaging.delivery import Draft, compose, failure_content
from node.messaging.settings import HOP_LIMIT
from node.vocabulary import Performative


class Outsourcing(Protocol):
    """What answering needs of ``node.messaging.blobs.Blobs``."""

    async def outsourced(self, draft: Draft) -> Draft:
        """An answer whose large attachments are blobs."""
        ...


class LaterBus(Protocol):
    """What answering needs of the bus."""

    @property
    def blobs(self) -> Outsourcing:
        """Takes large attachments."""
        ...

    async def accept(
        self,
        message: Message,
        *,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
        together_with: Callable[[apsw.Connection, Any], None] | None = None,
    ) -> Any:
        """Take a message, and write something else in the same transaction."""
        ...


class LateAnswers:
    """Answers of the agents of one node.

    Args:
        bus: Takes them.
        node: This node's name.
    """

    def __init__(self, bus: LaterBus, node: str) -> None:
        self._bus, self._node = bus, node

    async def send(
        self,
        draft: Draft,
        answered: Message,
        *,
        agent: str,
        identifier: str,
        wall_s: float,
        hops: int,
        traceparent: str,
        together_with: Callable[[apsw.Connection, Any], None],
    ) -> bool:
        """Answer a message; what cannot be sent becomes a FAILURE that says why.

        Args:
            draft: The answer.
            answered: The message.
            agent: Who answers.
            identifier: Of the answer; under the same one nothing is sent again.
            wall_s: Unix seconds now.
            hops: Messages that led to ``answered``.
            traceparent: W3C Trace Context of what made the answer.
            together_with: Written in the transaction that accepts it; what it raises undoes that.

        Returns:
            Whether it was sent now; if not, it was before, and nothing is written.

        Raises:
            CaxtonError: the bus takes nothing at the moment, or nothing of this conversation any more.
        """

        async def accept(found: Draft) -> None:
            message = compose(
                found, answered, sender=f"{agent}@{self._node}", identifier=identifier, wall_s=wall_s
            )
            await self._bus.accept(
                message,
                traceparent=traceparent,
                hops=min(hops + 1, HOP_LIMIT),
                cause=answered.id,
                together_with=together_with,
            )

        try:
            await accept(await self._bus.blobs.outsourced(draft) if draft.attachments else draft)
        except DuplicateMessage:
            return False
        except (ValidationFailed, MessageTooLarge) as error:
            await accept(Draft(Performative.FAILURE, failure_content(_brief(error))))
        return True


def _brief(error: CaxtonError) -> CaxtonError:
    """The same without details, which may be as large as what was refused."""
    return type(error)(error.what[:1_000], why=error.why[:1_000], fix=error.fix)
