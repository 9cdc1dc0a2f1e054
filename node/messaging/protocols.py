"""Which message may answer which: FIPA's interaction protocols as one table.

Theory of operation. Everything is about one message and its answers: the *exchange* between the sender of a
message and one of those it was sent to. An answer names what it answers (``in_reply_to``), so an exchange is
known by that label and by who answers. It is *open* until something answers it, *agreed* when the answer is
promised or goes on coming, and *answered* after that. A protocol is the rules for the messages it has; what
answers an answer (an acceptance of a proposal, the result of an acceptance) is an exchange of its own.
Messages that name no protocol, or one that is not in the table, follow the looser rules of the performatives.

The table is interpreted by :func:`step`. :func:`judge` says whether an agent may be handed a message, given
what is known of what it answers: it knows no clock, no disk and no peer; :mod:`node.messaging.referee` does.

Source: FIPA SC00026H (request), SC00027H (query), SC00036H (propose), SC00029H (contract net) and SC00035H
(subscribe).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from node.message import Message
from node.vocabulary import Performative

LOOSE: Final = ""
"""The rules of messages that name no protocol of the table."""
SYSTEM: Final = "system"
"""The name under which a node speaks: it tells the ends of messages, whatever their protocol."""


class Stage(StrEnum):
    """How far the exchange about one message with one of its receivers has come."""

    OPEN = "open"
    AGREED = "agreed"
    """An answer is promised, or more will come."""
    ANSWERED = "answered"


class Rule(NamedTuple):
    """In ``protocol``, a message ``to`` may be answered so while its exchange is in ``stage``."""

    protocol: str
    to: Performative
    stage: Stage
    answers: tuple[Performative, ...]
    then: Stage


_P = Performative
_S = Stage
_CANCELLED: Final = (_P.INFORM, _P.CONFIRM, _P.REFUSE, _P.FAILURE)


def _asked(protocol: str, to: Performative, *results: Performative) -> list[Rule]:
    """Rules of a message that may be promised, refused, or answered at once with one of ``results``."""
    return [
        Rule(protocol, to, _S.OPEN, (_P.AGREE,), _S.AGREED),
        Rule(protocol, to, _S.OPEN, (*results, _P.FAILURE, _P.REFUSE), _S.ANSWERED),
        Rule(protocol, to, _S.AGREED, (*results, _P.FAILURE), _S.ANSWERED),
    ]


def _subscribed(protocol: str) -> list[Rule]:
    return [
        Rule(protocol, _P.SUBSCRIBE, _S.OPEN, (_P.AGREE, _P.INFORM), _S.AGREED),
        Rule(protocol, _P.SUBSCRIBE, _S.OPEN, (_P.REFUSE, _P.FAILURE), _S.ANSWERED),
        Rule(protocol, _P.SUBSCRIBE, _S.AGREED, (_P.INFORM,), _S.AGREED),
        Rule(protocol, _P.SUBSCRIBE, _S.AGREED, (_P.FAILURE,), _S.ANSWERED),
    ]


def _cancelled(protocol: str) -> Rule:
    return Rule(protocol, _P.CANCEL, _S.OPEN, _CANCELLED, _S.ANSWERED)


_MORE: Final = (_P.INFORM, _P.FAILURE)

RULES: Final[tuple[Rule, ...]] = (
    *_asked("fipa-request", _P.REQUEST, _P.INFORM),
    _cancelled("fipa-request"),
    *_asked("fipa-query", _P.QUERY, _P.INFORM, _P.CONFIRM, _P.DISCONFIRM),
    _cancelled("fipa-query"),
    Rule("fipa-propose", _P.PROPOSE, _S.OPEN, (_P.ACCEPT_PROPOSAL, _P.REJECT_PROPOSAL), _S.ANSWERED),
    Rule("fipa-propose", _P.ACCEPT_PROPOSAL, _S.OPEN, _MORE, _S.ANSWERED),
    _cancelled("fipa-propose"),
    Rule("fipa-contract-net", _P.CFP, _S.OPEN, (_P.PROPOSE, _P.REFUSE, _P.FAILURE), _S.ANSWERED),
    Rule("fipa-contract-net", _P.PROPOSE, _S.OPEN, (_P.ACCEPT_PROPOSAL, _P.REJECT_PROPOSAL), _S.ANSWERED),
    Rule("fipa-contract-net", _P.ACCEPT_PROPOSAL, _S.OPEN, _MORE, _S.ANSWERED),
    _cancelled("fipa-contract-net"),
    *_subscribed("fipa-subscribe"),
    _cancelled("fipa-subscribe"),
    *_asked(LOOSE, _P.REQUEST, _P.INFORM, _P.PROPOSE),
    Rule(LOOSE, _P.REQUEST, _S.ANSWERED, _MORE, _S.ANSWERED),
    *_asked(LOOSE, _P.QUERY, _P.INFORM, _P.CONFIRM, _P.DISCONFIRM),
    Rule(LOOSE, _P.QUERY, _S.ANSWERED, _MORE, _S.ANSWERED),
    *_asked(LOOSE, _P.PROPOSE, _P.ACCEPT_PROPOSAL, _P.REJECT_PROPOSAL, _P.PROPOSE, _P.INFORM),
    Rule(LOOSE, _P.CFP, _S.OPEN, (_P.PROPOSE, _P.REFUSE, _P.FAILURE), _S.ANSWERED),
    *_asked(LOOSE, _P.ACCEPT_PROPOSAL, _P.INFORM),
    Rule(LOOSE, _P.ACCEPT_PROPOSAL, _S.ANSWERED, _MORE, _S.ANSWERED),
    Rule(LOOSE, _P.REJECT_PROPOSAL, _S.OPEN, (_P.PROPOSE, _P.INFORM), _S.ANSWERED),
    *_subscribed(LOOSE),
    _cancelled(LOOSE),
    *(
        Rule(LOOSE, to, _S.OPEN, (_P.INFORM, _P.CONFIRM, _P.DISCONFIRM), _S.OPEN)
        for to in (
            _P.INFORM,
            _P.CONFIRM,
            _P.DISCONFIRM,
            _P.AGREE,
            _P.REFUSE,
            _P.FAILURE,
            _P.NOT_UNDERSTOOD,
        )
    ),
)
"""Every answer there is; beside them ``not_understood`` may answer anything at any stage, but for ``failure``
and ``not_understood`` itself."""

OPENERS: Final = {
    "fipa-request": _P.REQUEST,
    "fipa-query": _P.QUERY,
    "fipa-propose": _P.PROPOSE,
    "fipa-contract-net": _P.CFP,
    "fipa-subscribe": _P.SUBSCRIBE,
}
"""The protocols of the table, and what each begins with."""
STARTS: Final = frozenset({_P.REQUEST, _P.QUERY, _P.CFP, _P.SUBSCRIBE})
"""They begin an exchange wherever they come; what they quote, they only refer to."""
CANCELLABLE: Final = STARTS
"""What a cancel takes back: one of these must have come before it, from its sender, in its conversation."""
ALWAYS_ANSWERS: Final = frozenset({_P.ACCEPT_PROPOSAL, _P.REJECT_PROPOSAL, _P.AGREE, _P.REFUSE})
"""They say nothing unless they name what they answer."""
DECIDES: Final = frozenset({_P.ACCEPT_PROPOSAL, _P.REJECT_PROPOSAL})
"""They bind the one who proposed, so the proposal must be known, its own, undecided, and still stand."""
SILENT: Final = frozenset({_P.FAILURE, _P.NOT_UNDERSTOOD})
"""Never answered when they are out of protocol, or two agents would not understand each other for ever."""

_TABLE: Final = {
    (rule.protocol, rule.to, rule.stage, answer): rule.then for rule in RULES for answer in rule.answers
}
_ENDING: Final = frozenset((rule.protocol, rule.to) for rule in RULES if rule.then is Stage.ANSWERED)
"""The messages whose exchanges end; of the others anybody may say more at any time."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """What an agent knows of the message that another one answers.

    Args:
        message: It, as this agent has sent it.
        is_own: Whether this agent has sent it, and to the one who answers.
        stage: How far the exchange with that one had come before.
        is_late: Whether the answer came after its ``reply_by``.
    """

    message: Message
    is_own: bool
    stage: Stage = Stage.OPEN
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an agent is not handed a message.

    Args:
        reason: What is wrong, without its article.
        answer: What its sender is answered with, or None for silence.
        expected: What would have been right.
    """

    reason: str
    answer: Performative | None
    expected: tuple[Performative, ...] = ()


def protocol_of(message: Message) -> str:
    """The protocol whose rules hold for the answers of a message."""
    name = (message.protocol or "").strip().lower().replace("_", "-")
    return name if name in OPENERS else LOOSE


def step(protocol: str, to: Performative, stage: Stage, answer: Performative) -> Stage | None:
    """The stage after an answer; None when it is not one that the rules have."""
    if answer is Performative.NOT_UNDERSTOOD and to not in SILENT:
        return Stage.ANSWERED if (protocol, to) in _ENDING else stage
    return _TABLE.get((protocol, to, stage, answer))


def stage_after(question: Message, stage: Stage, answers: Iterable[Performative]) -> Stage:
    """The stage of an exchange after further answers; those that are out of protocol change nothing."""
    protocol = protocol_of(question)
    for answer in answers:
        stage = step(protocol, question.performative, stage, answer) or stage
    return stage


def is_void_when_late(question: Message, answer: Performative) -> bool:
    """Whether an answer that comes after the question's ``reply_by`` binds nobody."""
    if question.performative is Performative.PROPOSE:
        return answer in DECIDES
    return question.performative is Performative.CFP and answer is Performative.PROPOSE


def needs_quoted(message: Message) -> bool:
    """Whether a message can only be judged by what it answers."""
    return (
        message.in_reply_to is not None
        and message.performative not in STARTS
        and message.performative is not Performative.CANCEL
    )


def is_plain(message: Message) -> bool:
    """Whether a message may be handed over without another look: most messages may."""
    performative = message.performative
    if performative in STARTS:
        protocol = message.protocol
        return protocol is None or message.in_reply_to is not None or OPENERS.get(protocol) is performative
    return performative is Performative.INFORM and message.in_reply_to is None and message.protocol is None


def judge(message: Message, quoted: Quoted | None = None, *, has_begun: bool = False) -> Objection | None:
    """Whether an agent may be handed a message.

    Args:
        message: It.
        quoted: What is known of what it answers; None when nothing is (any more).
        has_begun: Of a cancel, whether there is anything that it could take back.

    Returns:
        Why not, or None when it may.
    """
    performative = message.performative
    if message.sender.partition("@")[0] == SYSTEM and performative is Performative.FAILURE:
        return None
    if performative is Performative.CANCEL:
        if has_begun:
            return None
        return _objection(message, "nothing of its sender in this conversation can be cancelled")
    if not needs_quoted(message):
        return _judge_beginning(message)
    if quoted is None:
        if performative in DECIDES:
            return _objection(message, "no such proposal is known here")
        return None  # it may have been forgotten
    return _judge_answer(message, quoted)


def _judge_beginning(message: Message) -> Objection | None:
    performative, protocol = message.performative, protocol_of(message)
    if performative in ALWAYS_ANSWERS:
        return _objection(message, "it does not say what it answers")
    if protocol is LOOSE or message.in_reply_to is not None or OPENERS[protocol] is performative:
        return None
    if performative is Performative.NOT_UNDERSTOOD:
        return None
    return _objection(message, f"{protocol} does not begin with it", OPENERS[protocol])


def _judge_answer(message: Message, quoted: Quoted) -> Objection | None:
    question, performative = quoted.message, message.performative
    protocol, stage = protocol_of(question), quoted.stage
    if not quoted.is_own:
        if performative in DECIDES or protocol is not LOOSE:
            return _objection(message, "what it answers was not sent to its sender from here")
        return None
    if quoted.is_late and is_void_when_late(question, performative):
        if performative is Performative.PROPOSE:
            return Objection("the call for proposals has ended", Performative.REJECT_PROPOSAL)
        return _objection(message, "the proposal stood until its reply_by, which has passed")
    if step(protocol, question.performative, stage, performative) is not None:
        return None
    expected = [a for p, to, s, a in _TABLE if (p, to, s) == (protocol, question.performative, stage)]
    if stage is Stage.ANSWERED:
        return _objection(message, f"the {question.performative.value} was answered before", *expected)
    reason = f"it does not answer a {question.performative.value} that is {stage.value}"
    return _objection(message, reason, *expected)


def _objection(message: Message, reason: str, *expected: Performative) -> Objection:
    silent = message.performative in SILENT
    return Objection(reason, None if silent else Performative.NOT_UNDERSTOOD, expected)


def rules_of(protocol: str) -> Sequence[Rule]:
    """The rules of one protocol, in their order."""
    return [rule for rule in RULES if rule.protocol == protocol]
