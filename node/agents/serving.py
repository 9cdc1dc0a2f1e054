"""Hands the messages of one agent to its runtime; after an update, running conversations stay on the old one.

Theory of operation. An update of a configured agent is a swap of what the next message is handed to: the
mailbox stays attached, nothing is drained, and what is being handled goes on in the runtime that it began
in. A conversation keeps the version that handled its last message, so that a dialogue does not change its
mind in the middle; it moves to the newest when it has been silent for :data:`KEPT_S`, when it is pushed out
by :data:`CONVERSATIONS_LIMIT` others, or when :data:`VERSIONS_LIMIT` newer versions have come. A restart of
the node forgets which conversation had which version: there is only the newest then.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from node.agents.deployed import Runtime
from node.agents.journal import Journal
from node.environment import Clock
from node.errors import CaxtonError
from node.messaging.delivery import Delivery, Draft, failure_content
from node.vocabulary import Performative

_log = logging.getLogger(__name__)
KEPT_S: Final = 600.0
"""How long a silent conversation keeps its version, in seconds."""
CONVERSATIONS_LIMIT: Final = 256
"""Most conversations of one agent whose version is remembered."""
VERSIONS_LIMIT: Final = 4
"""Most versions of one agent that serve at once, the newest included."""


class Serving:
    """What the bus calls for the messages of one agent.

    Args:
        agent: Its id.
        runtime: Handles them.
        journal: Counts them.
        clock: Tells time.
    """

    def __init__(self, agent: str, runtime: Runtime, journal: Journal, clock: Clock) -> None:
        self._agent = agent
        self._versions = [runtime]
        self._journal = journal
        self._clock = clock
        self._conversations: OrderedDict[str, tuple[Runtime, float]] = OrderedDict()

    def renew(self, runtime: Runtime) -> int:
        """Hand new conversations to ``runtime`` from now on; returns how many stay with an older version."""
        self._versions.append(runtime)
        gone, self._versions = self._versions[:-VERSIONS_LIMIT], self._versions[-VERSIONS_LIMIT:]
        since = self._clock.now() - KEPT_S
        for conversation, (handled_by, at) in list(self._conversations.items()):
            if at < since or any(handled_by is version for version in gone):
                del self._conversations[conversation]
        return len(self._conversations)

    def statistics(self) -> dict[str, int]:
        """How many versions serve, and how many conversations keep one; each with its bound."""
        return {
            "versions": len(self._versions),
            "versions_limit": VERSIONS_LIMIT,
            "conversations": len(self._conversations),
            "conversations_limit": CONVERSATIONS_LIMIT,
        }

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer a message; whatever goes wrong is the agent's failure, never the node's end."""
        started = self._clock.now()
        drafts: Sequence[Draft] = ()
        succeeded = False
        try:
            drafts = await self._runtime(delivery.message.conversation_id, started).handle(delivery)
            succeeded = all(draft.performative is not Performative.FAILURE for draft in drafts)
        except CaxtonError as error:
            drafts = [Draft(Performative.FAILURE, failure_content(error))]
        except Exception:  # a bug in one agent's runtime
            trace = {"trace_id": delivery.traceparent[3:35]}
            _log.exception("agent %s failed unexpectedly", self._agent, extra=trace)
            self._journal.log("error", "failed unexpectedly", message_id=delivery.message.id)
            reason = "the agent failed unexpectedly; see the node's log"
            drafts = [Draft(Performative.FAILURE, {"code": CaxtonError.code, "reason": reason})]
        self._journal.count(succeeded=succeeded, took_s=self._clock.now() - started)
        return drafts

    def _runtime(self, conversation: str, now: float) -> Runtime:
        """The version for a conversation, which is noted for its next message."""
        newest = self._versions[-1]
        kept = self._conversations.get(conversation)
        runtime = kept[0] if kept is not None and now - kept[1] <= KEPT_S else newest
        self._conversations[conversation] = runtime, now
        self._conversations.move_to_end(conversation)
        if len(self._conversations) > CONVERSATIONS_LIMIT:
            self._conversations.popitem(last=False)
        return runtime
