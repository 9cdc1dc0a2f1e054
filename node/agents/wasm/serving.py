"""Hands the messages of one WebAssembly agent to its sandbox, several at once; nothing it does ends the node.

A sandbox is closed before that of the next version opens: unlike :mod:`node.agents.serving` this has one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from node.agents.journal import Journal
from node.agents.wasm.agent import WasmAgent
from node.environment import Clock
from node.errors import CaxtonError
from node.messaging.delivery import Answer, BatchHandler, Delivery, Draft, failure_content
from node.vocabulary import Performative

_log = logging.getLogger(__name__)


class WasmServing:
    """What the bus calls for the messages of one agent.

    Args:
        agent: Its id.
        runtime: Handles them.
        journal: Counts them.
        clock: Tells time.
    """

    def __init__(self, agent: str, runtime: WasmAgent, journal: Journal, clock: Clock) -> None:
        self._agent, self._runtime = agent, runtime
        self._journal, self._clock = journal, clock

    @property
    def handler(self) -> BatchHandler:
        """As the bus takes it."""
        return BatchHandler(self.handle_many, self.handle, runs=self._runtime.instances)

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer a message."""
        [answer] = await self.handle_many((delivery,))
        assert not isinstance(answer, Exception)  # they have been answered
        return answer

    async def handle_many(self, deliveries: Sequence[Delivery]) -> list[Answer]:
        """Answer the first so many of several messages; whatever goes wrong is the agent's failure."""
        started = self._clock.now()
        try:
            answers = await self._runtime.handle_many(deliveries)
        except Exception as error:
            answers = [error] * len(deliveries)
        took_s = self._clock.now() - started
        for place, (answer, delivery) in enumerate(zip(answers, deliveries, strict=False)):
            drafts = self._failed(answer, delivery) if isinstance(answer, Exception) else answer
            answers[place] = drafts
            succeeded = all(draft.performative is not Performative.FAILURE for draft in drafts)
            self._journal.count(succeeded=succeeded, took_s=took_s)
        return answers

    def _failed(self, error: Exception, delivery: Delivery) -> Sequence[Draft]:
        if isinstance(error, CaxtonError):
            return [Draft(Performative.FAILURE, failure_content(error))]
        trouble = (type(error), error, error.__traceback__)
        trace = {"trace_id": delivery.traceparent[3:35]}
        _log.error("agent %s failed unexpectedly", self._agent, exc_info=trouble, extra=trace)
        self._journal.log("error", "failed unexpectedly", message_id=delivery.message.id)
        reason = "the agent failed unexpectedly; see the node's log"
        return [Draft(Performative.FAILURE, {"code": CaxtonError.code, "reason": reason})]
