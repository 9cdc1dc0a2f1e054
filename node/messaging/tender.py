"""A call for proposals, decided: who has bid, who gets the task, and who is next when that one fails.

FIPA's Contract Net (SC00029H) with one addition: a few of the next best bids are left standing until the
result is here, so that a winner who fails or dies is followed by another. Each bid is decided, and once.
Nothing here waits, writes or sends; :mod:`node.messaging.contract_net` does.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from node.errors import ValidationFailed
from node.message import Message, iso8601
from node.vocabulary import Performative

BID_LIMIT: Final = 1_000
"""Most bids of one call that are compared; further ones are rejected."""
WINNERS_LIMIT: Final = 16
"""Most bids that may be awarded at once."""
RESERVES_LIMIT: Final = 16
"""Most bids that may be left standing for when a winner fails."""
DEADLINE_LIMIT_S: Final = 60.0
"""Longest time for bids, in seconds."""
RESULT_LIMIT_S: Final = 300.0
"""Longest time for the result of one award, in seconds."""
PATH_LIMIT: Final = 8
"""Most names in the path to a field of a bid."""

Rank = Callable[[Sequence[Message]], Sequence[Message]]
"""Puts bids in order, best first; those it leaves out cannot win."""

_NAME: Final = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


class Prefer(StrEnum):
    """Which bid is the best."""

    LOWEST = "lowest"
    HIGHEST = "highest"
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class Award:
    """By which rule a task is awarded.

    Args:
        by: The field of a bid that counts, ``content.cost``; None with ``first``.
        prefer: Which value of it is the best. Equal bids: the one that came first.
        winners: How many bids are awarded.
        reserves: How many of the next best are left standing until the result is here.
        rank: Puts the bids in order instead of ``by`` and ``prefer``.
    """

    by: str | None = None
    prefer: Prefer = Prefer.FIRST
    winners: int = 1
    reserves: int = 2
    rank: Rank | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.winners <= WINNERS_LIMIT:
            raise _invalid("winners", f"must be from 1 to {WINNERS_LIMIT}")
        if not 0 <= self.reserves <= RESERVES_LIMIT:
            raise _invalid("reserves", f"must be from 0 to {RESERVES_LIMIT}")
        if self.rank is not None:
            return
        if (self.by is None) != (self.prefer is Prefer.FIRST):
            raise _invalid("by", "lowest and highest need the field that they compare, and first has none")
        if self.by is not None:
            names = self.by.split(".")
            if names[0] != "content" or len(names) > PATH_LIMIT or not all(map(_NAME.match, names)):
                raise _invalid(
                    "by",
                    f"{self.by[:80]!r} is not a path into a bid: content.cost, at most {PATH_LIMIT} names",
                )

    @property
    def hurries(self) -> bool:
        """Whether later bids could not win, so that nobody has to wait for them."""
        return self.rank is None and self.prefer is Prefer.FIRST

    def value(self, bid: Message) -> float | None:
        """The number that a bid is compared by; None when it has none."""
        found: Any = bid.content
        for name in (self.by or "content").split(".")[1:]:
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            return None
        return found

    def order(self, bids: Sequence[Message]) -> list[Message]:
        """The bids that may win, best first."""
        if self.rank is not None:
            known = {bid.id: bid for bid in bids}
            chosen = dict.fromkeys(bid.id for bid in self.rank(bids))
            return [known[name] for name in chosen if name in known]
        if self.by is None:
            return list(bids)
        sign = -1.0 if self.prefer is Prefer.HIGHEST else 1.0
        valued = [(value, bid) for bid in bids if (value := self.value(bid)) is not None]
        return [bid for _, bid in sorted(valued, key=lambda pair: sign * pair[0])]


class BidState(StrEnum):
    """What has become of a bid."""

    STANDING = "standing"
    """Not decided yet."""
    REJECTED = "rejected"
    LAPSED = "lapsed"
    """It stood until its ``reply_by``, and was not decided by then."""
    AWARDED = "awarded"
    """Accepted; the result is awaited."""
    DONE = "done"
    FAILED = "failed"
    """Accepted, and no result came of it."""


@dataclass(slots=True, eq=False)
class Bid:
    """One proposal, and what has become of it.

    Args:
        message: The ``propose``.
        value: The number that it is compared by, or None.
        state: See :class:`BidState`.
        reason: Why it was rejected, or has failed.
        result: What answered its acceptance.
    """

    message: Message
    value: float | None = None
    state: BidState = BidState.STANDING
    reason: str = ""
    result: Message | None = None

    def reject(self, reason: str) -> Bid:
        """Decide against it."""
        self.state, self.reason = BidState.REJECTED, reason
        return self

    def as_json(self) -> dict[str, Any]:
        """The bid as the public API shows it."""
        until = self.message.reply_by_s
        return {
            "message_id": self.message.id,
            "from": self.message.sender,
            "content": self.message.content,
            "value": self.value,
            "state": self.state.value,
            "reason": self.reason,
            "stands_until": None if until is None else iso8601(until),
        }


def decision_id(bid: Message) -> str:
    """The id of the message that decides a bid: there is one of each id, so a bid is decided once."""
    told = f"{bid.sender}\0{bid.id}".encode()
    return f"decision-{hashlib.blake2b(told, digest_size=16).hexdigest()}"


@dataclass(slots=True)
class Tender:
    """The bids of one call; see the module's docstring.

    Args:
        award: By which rule.
        bids: Best first, once they are compared; then those that cannot win.
        declined: Who has answered otherwise: address and performative.
        silent: Who was asked and has not answered.
    """

    award: Award
    bids: list[Bid] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    _tries: int = 0

    def compare(self, replies: Iterable[Message], asked: Sequence[str]) -> list[Bid]:
        """Take what has come by the deadline.

        Args:
            replies: In order of arrival.
            asked: Whom the call went to, ``agent@node``.

        Returns:
            The bids that are rejected at once: they cannot win.
        """
        bids: dict[str, Message] = {}
        surplus: list[Bid] = []
        members = dict.fromkeys(asked)
        for reply in replies:
            if reply.performative is not Performative.PROPOSE:
                if reply.sender in members:
                    self.declined.setdefault(reply.sender, reply.performative.value)
            elif reply.sender not in members:
                surplus.append(Bid(reply).reject("it was not called to bid"))
            elif reply.sender in bids:
                surplus.append(Bid(reply).reject("it has bid before"))
            elif len(bids) >= BID_LIMIT:
                surplus.append(Bid(reply).reject(f"more than {BID_LIMIT} have bid"))
            else:
                bids[reply.sender] = reply
        self.silent = [each for each in asked if each not in bids and each not in self.declined]
        ordered = self.award.order(list(bids.values()))
        may_win = dict.fromkeys(bid.id for bid in ordered)
        kept = self.award.winners + self.award.reserves
        self.bids = [Bid(message, self.award.value(message)) for message in ordered]
        rejected = [bid.reject("others are better") for bid in self.bids[kept:]]
        unfit = [m for m in bids.values() if m.id not in may_win]
        rejected += [Bid(message).reject("it cannot be compared with others") for message in unfit]
        self.bids += [bid for bid in rejected if bid.message.id not in may_win]
        return rejected + surplus

    def next(self, wall_s: float) -> Bid | None:
        """The best bid that stands, awarded by this; None when none is left, or enough were tried."""
        for bid in self.bids:
            if bid.state is not BidState.STANDING:
                continue
            if bid.message.reply_by_s is not None and bid.message.reply_by_s <= wall_s:
                bid.state, bid.reason = BidState.LAPSED, "its reply_by has passed"
                continue
            if self._tries >= self.award.winners + self.award.reserves:
                return None
            self._tries += 1
            bid.state = BidState.AWARDED
            return bid
        return None

    def answer(self, bid: Bid, result: Message | None, reason: str = "") -> bool:
        """Take what has become of an award; returns whether the task is done.

        Args:
            bid: The one that was awarded.
            result: What answered its acceptance, or None when nothing did.
            reason: Why nothing did.
        """
        bid.result = result
        done = result is not None and result.performative in (Performative.INFORM, Performative.CONFIRM)
        bid.state = BidState.DONE if done else BidState.FAILED
        if not done:
            bid.reason = reason if result is None else f"it answered {result.performative.value}"
        return done

    def close(self, reason: str) -> list[Bid]:
        """Reject whatever still stands."""
        return [bid.reject(reason) for bid in self.bids if bid.state is BidState.STANDING]

    @property
    def status(self) -> str:
        """How the task ended: ``done``, ``partial`` with too few results, ``failed``, or ``no_bids``."""
        done = sum(bid.state is BidState.DONE for bid in self.bids)
        if done:
            return "done" if done >= self.award.winners else "partial"
        return "failed" if any(bid.state is BidState.FAILED for bid in self.bids) else "no_bids"


def _invalid(name: str, why: str) -> ValidationFailed:
    return ValidationFailed(
        f"the field 'award.{name}' is not valid",
        why=why,
        fix="Correct it and send again.",
        details={"field": f"award.{name}"},
    )
