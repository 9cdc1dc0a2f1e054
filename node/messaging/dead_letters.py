"""Messages that end without having been handled: why, told to the sender and kept for the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from node.errors import CapabilityNotFound, CaxtonError, MessageDeliveryFailed, MinorityRefused, ReplyTimeout
from node.labels import labels_shown
from node.message import Message, iso8601
from node.messaging.delivery import failure_content
from node.messaging.letters import Letter
from node.messaging.settings import CLIENTS
from node.storage.dead_letters import DeadLetterRow
from node.vocabulary import EXPECTS_REPLY, Performative

HISTORY_LIMIT_BYTES: Final = 65_536
"""A dead letter above this is kept without its content."""
NAMED_LIMIT: Final = 64
"""Most of those who have not answered that are named."""

AWAITED: Final = (EXPECTS_REPLY - {Performative.SUBSCRIBE}) | {Performative.ACCEPT_PROPOSAL}
"""Performatives whose ``reply_by`` is watched. A subscription stands until it is cancelled; whoever accepts a
proposal waits for its result."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that could not be delivered.

    Args:
        message_id: The message.
        at_s: Unix seconds at which it was given up.
        reason: Why.
        history: The message and its whole history, JSON values.
        capability: What it asked for, or None when it was for an agent.
        hops: Messages that led to it.
        sealed: The message as its sender sealed it; None of a letter that an older version gave up.
        retried_as: The id of the message that repeats it, or None.
        retried_s: Unix seconds at which that was accepted.
        bytes: What the letter weighs.
        seq: Its place among the letters; a page goes on below the last one's.
    """

    message_id: str
    at_s: float
    reason: str
    history: dict[str, Any]
    capability: str | None = None
    hops: int = 0
    sealed: bytes | None = None
    retried_as: str | None = None
    retried_s: float | None = None
    bytes: int = 0
    seq: int = 0

    @classmethod
    def of_letter(cls, letter: Letter, at_s: float, history: dict[str, Any]) -> DeadLetter:
        """That of a message which was given up just now."""
        message = letter.message
        return cls(message.id, at_s, letter.reason, history, message.capability, letter.hops, letter.sealed)

    def as_json(self) -> dict[str, Any]:
        """The dead letter as the public API shows it."""
        return {
            "message_id": self.message_id,
            "seq": self.seq,
            "at": iso8601(self.at_s),
            "reason": self.reason,
            "capability": self.capability,
            "bytes": self.bytes,
            "retried_as": self.retried_as,
            "retried_at": None if self.retried_s is None else iso8601(self.retried_s),
            "history": self.history,
        }

    def as_row(self) -> DeadLetterRow:
        """The dead letter as it is stored; the content of a big message stays out of it."""
        encoded = cbor2.dumps(self.history)
        if len(encoded) > HISTORY_LIMIT_BYTES:
            message = self.history["message"] | {
                "content": f"left out: more than {HISTORY_LIMIT_BYTES} bytes"
            }
            encoded = cbor2.dumps(self.history | {"message": message})
        return DeadLetterRow(
            self.message_id, self.at_s, self.reason, encoded, self.capability, self.hops, self.sealed
        )

    @classmethod
    def of_row(cls, row: DeadLetterRow) -> DeadLetter:
        """The dead letter that was stored."""
        return cls(
            row.message_id,
            row.at_s,
            row.reason,
            cbor2.loads(row.history),
            row.capability,
            row.hops,
            row.sealed,
            row.retried_as,
            row.retried_s,
            row.bytes,
            row.seq,
        )


def sender_is_told(message: Message) -> bool:
    """Whether the end of ``message`` is answered with FAILURE: never of a reply, or failures would breed."""
    silent = (Performative.FAILURE, Performative.NOT_UNDERSTOOD)
    return message.in_reply_to is None and message.performative not in silent


def awaits_reply(message: Message) -> bool:
    """Whether the sender of ``message`` is to be told when no reply came by its ``reply_by``."""
    return (
        message.reply_by_s is not None
        and message.performative in AWAITED
        and message.sender.partition("@")[0] not in CLIENTS
    )


def is_by_its_reply_by(letter: Letter) -> bool:
    """Whether it is the ``reply_by`` of a message that has ended its life."""
    reply_by_s = letter.message.reply_by_s
    if reply_by_s is None or not awaits_reply(letter.message):
        return False
    return letter.expires_s > reply_by_s - 0.001  # it was computed by way of a duration


def no_provider(message: Message, related: Sequence[tuple[str, int]]) -> CaxtonError:
    """Nobody offers what ``message`` wants, as it requires it; or nobody is called as its receiver."""
    wanted, required = message.wanted, labels_shown(message.require)
    suggestions = [name for name, _ in related]
    if message.receiver is None:
        what, likeness = f"nobody in the cluster offers {wanted!r}", "with it"
        fix = "Deploy an agent that offers it, or look at what is offered: `caxton status --cluster`."
        fix = f"Did you mean {suggestions[0]!r}? {fix}" if suggestions else fix
    else:
        what, likeness = f"no agent of the cluster is called {wanted!r}", "of that name"
        fix = "Deploy it, or look who is there: `caxton status --cluster`."
        fix = f"{wanted!r} is a capability: send to it as one. {fix}" if wanted in suggestions else fix
    return CapabilityNotFound(
        what + (f" with {', '.join(f'{n}={v}' for n, v in message.require)}" if required else ""),
        why=f"no agent {likeness} appeared within the time the message could wait",
        fix=fix,
        details={
            "wanted": wanted,
            **({"require": required} if required else {}),
            "related": [{"capability": name, "agents": number} for name, number in related],
            "suggestions": suggestions,
        },
    )


def refused_in_minority(message: Message) -> CaxtonError:
    """The capability is not served on this side of a partition."""
    return MinorityRefused(
        f"{message.wanted} is not served on this side of a partition",
        why="this node sees less than half of the cluster, and the capability's policy is minority: refuse",
        fix="Send it to a node of the larger side, or again when the partition has healed.",
        details={"message_id": message.id, "wanted": message.wanted},
    )


def undelivered(message: Message, reason: str) -> CaxtonError:
    """The message was given up for another reason."""
    return MessageDeliveryFailed(
        f"the message to {message.wanted} was not handled",
        why=reason,
        fix=f"Look at its history (`caxton trace {message.id}`), then send it again.",
        details={"message_id": message.id},
    )


def no_reply_in_time(
    message: Message, *, missing: Sequence[str], promised: Sequence[str] = ()
) -> CaxtonError:
    """The time is up by which ``message`` wanted its replies.

    Args:
        message: It.
        missing: Who was asked and has not answered.
        promised: Those of them who had agreed to.
    """
    who = missing[0] if len(missing) == 1 else f"{len(missing)} of those asked" if missing else "nobody"
    return ReplyTimeout(
        f"no reply to the {message.performative.value} by its reply_by",
        why=f"{who} {'was there to answer' if not missing else 'did not answer in time'}",
        fix="Ask again with more time; what comes after this is recorded as late and not handed over.",
        details={
            "message_id": message.id,
            "missing": list(missing[:NAMED_LIMIT]),
            "missing_count": len(missing),
            "promised": list(promised[:NAMED_LIMIT]),
        },
    )


def failure(message: Message, error: CaxtonError, *, node: str, identifier: str, wall_s: float) -> Message:
    """The FAILURE that tells the sender of ``message`` about ``error``."""
    return Message(
        id=identifier,
        performative=Performative.FAILURE,
        sender=f"system@{node}",
        receiver=message.sender,
        content=failure_content(error),
        conversation_id=message.conversation_id,
        reply_with=identifier,
        in_reply_to=message.reply_with,
        protocol=message.protocol,
        priority=message.priority,
        timestamp_s=wall_s,
    )
