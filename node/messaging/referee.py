"""Looks at each message before its agent does: what is out of protocol is answered, and not handled.

The verdict follows from what is on disk: what the agent has sent (the outbox), and what has come in before
the message, in order of receipt (the inbox). So it is the same after a crash, and which of two acceptances
counts does not depend on which is handled first. The answer is written together with the settled mark, like
that of a handler.

Most messages are judged by their performative alone (:func:`node.messaging.protocols.is_plain`). An answer
costs one look into the outbox, and one into the inbox for what came after the last answer that was judged:
how far an exchange has come is remembered, for a bounded number of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import apsw

from node.errors import CaxtonError
from node.message import Message
from node.messaging.delivery import Draft, failure_content
from node.messaging.mailboxes import Entry
from node.messaging.protocols import (
    CANCELLABLE,
    Objection,
    Quoted,
    Stage,
    is_plain,
    is_void_when_late,
    judge,
    needs_quoted,
    stage_after,
)
from node.messaging.receiver import Handling, ItemState
from node.messaging.settlement import Handled
from node.storage import inbox, outbox
from node.storage.storage import Storage
from node.vocabulary import Performative

EXCHANGE_LIMIT: Final = 10_000
"""Most exchanges of which is remembered how far they have come."""
ANSWER_LIMIT: Final = 1_000
"""Most earlier answers to one message that one look goes through."""
BEGUN_LIMIT: Final = 64
"""Most messages of a conversation that are looked through for what a cancel could mean."""
PREFIX: Final = "out of protocol: "
"""How the reason of a message begins that was not handed to its agent."""


class OutOfProtocol(CaxtonError):
    """A message answers nothing that it could answer, or not in the way that its protocol has."""

    code = "OUT_OF_PROTOCOL"
    status = 409


class _Known(NamedTuple):
    """How far an exchange has come, as of an answer's place in the inbox."""

    stage: Stage
    seq: int


class Referee:
    """See the module's docstring.

    Args:
        node: This node's name.
        storage: The node's database.
    """

    def __init__(self, *, node: str, storage: Storage) -> None:
        self._node, self._storage = node, storage
        self._known: OrderedDict[tuple[str, str, str], _Known] = OrderedDict()
        self._counts = dict.fromkeys(("looked_up", "not_understood", "rejected", "dropped"), 0)

    async def look_at(self, agent: str, entry: Entry) -> Handled | None:
        """What becomes of a message that its agent must not see; None when it may.

        Raises:
            StorageFailed: the disk cannot be read.
        """
        message = entry.message
        if is_plain(message):
            return None
        quoted, has_begun = None, False
        if needs_quoted(message):
            self._counts["looked_up"] += 1
            quoted = await self._storage.read(lambda connection: self._quoted(connection, agent, entry))
        elif message.performative is Performative.CANCEL:
            has_begun = await self._storage.read(lambda connection: _has_begun(connection, agent, entry))
        objection = judge(message, quoted, has_begun=has_begun)
        if objection is None:
            if quoted is not None and quoted.is_own:
                after = stage_after(quoted.message, quoted.stage, [message.performative])
                self._remember((agent, message.in_reply_to or "", message.sender), _Known(after, entry.seq))
            return None
        return self._ruled_out(agent, entry, objection)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {"exchanges": len(self._known), "exchanges_limit": EXCHANGE_LIMIT, **self._counts}

    def _ruled_out(self, agent: str, entry: Entry, objection: Objection) -> Handled:
        counted = {None: "dropped", Performative.NOT_UNDERSTOOD: "not_understood"}
        self._counts[counted.get(objection.answer, "rejected")] += 1
        drafts: list[Draft] = []
        if objection.answer is not None:
            message = entry.message
            error = OutOfProtocol(
                f"the {message.performative.value} is out of protocol",
                why=objection.reason,
                fix="Answer what was sent to you, once, and quote its reply_with in in_reply_to.",
                details={
                    "performative": message.performative.value,
                    "in_reply_to": message.in_reply_to,
                    "protocol": message.protocol,
                    "expected": [performative.value for performative in objection.expected],
                },
            )
            drafts = [Draft(objection.answer, failure_content(error))]
        reason = PREFIX + objection.reason
        return Handled(agent, entry, Handling.OUT_OF_PROTOCOL, reason, drafts, entry.traceparent)

    def _quoted(self, connection: apsw.Connection, agent: str, entry: Entry) -> Quoted | None:
        message = entry.message
        row = outbox.find_quoted(connection, message.in_reply_to or "")
        if row is None:
            return None
        question = Message.unseal(row.sealed)
        asked = (f"{route.agent}@{route.node}" for route in outbox.routes(connection, row.seq))
        is_own = question.sender == f"{agent}@{self._node}" and message.sender in asked
        if not is_own:
            return Quoted(question, is_own=False)
        until = question.reply_by_s
        received_s = inbox.received_s(connection, entry.seq)
        return Quoted(
            question,
            is_own=True,
            stage=self._stage(connection, agent, entry, question),
            is_late=until is not None and received_s is not None and received_s > until,
        )

    def _stage(self, connection: apsw.Connection, agent: str, entry: Entry, question: Message) -> Stage:
        """How far the exchange had come when this answer arrived."""
        message = entry.message
        label = message.in_reply_to or ""
        known = self._known.get((agent, label, message.sender))
        if known is None or known.seq >= entry.seq:
            known = _Known(Stage.OPEN, 0)
        answers = []
        for row in inbox.answers(connection, label, agent, (known.seq, entry.seq), ANSWER_LIMIT):
            if row.state in (ItemState.REFUSED, ItemState.LATE):
                continue
            earlier = Message.unseal(row.sealed)
            is_late = question.reply_by_s is not None and row.received_s > question.reply_by_s
            is_void = is_late and is_void_when_late(question, earlier.performative)
            if earlier.sender == message.sender and not is_void:
                answers.append(earlier.performative)
        return stage_after(question, known.stage, answers)

    def _remember(self, exchange: tuple[str, str, str], known: _Known) -> None:
        self._known[exchange] = known
        self._known.move_to_end(exchange)
        if len(self._known) > EXCHANGE_LIMIT:
            self._known.popitem(last=False)


def _has_begun(connection: apsw.Connection, agent: str, entry: Entry) -> bool:
    message = entry.message
    for sealed in inbox.earlier(connection, message.conversation_id, agent, entry.seq, BEGUN_LIMIT):
        before = Message.unseal(sealed)
        if before.sender == message.sender and before.performative in CANCELLABLE:
            return True
    return False
