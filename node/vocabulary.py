"""The words of messages: what one does, how its provider is chosen, how often it may be handled.

Source: FIPA Communicative Act Library Specification SC00037J; the subset and its spelling are Caxton's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from node.errors import ValidationFailed, nearest

TEXT_LIMIT: Final = 512
"""Longest identifier or label in a message, in characters."""


class Performative(StrEnum):
    """What a message does (FIPA Communicative Act Library SC00037J, the part that Caxton speaks)."""

    REQUEST = "request"
    INFORM = "inform"
    QUERY = "query"
    FAILURE = "failure"
    NOT_UNDERSTOOD = "not_understood"
    PROPOSE = "propose"
    ACCEPT_PROPOSAL = "accept_proposal"
    REJECT_PROPOSAL = "reject_proposal"
    AGREE = "agree"
    REFUSE = "refuse"
    CFP = "cfp"
    CONFIRM = "confirm"
    DISCONFIRM = "disconfirm"
    SUBSCRIBE = "subscribe"
    CANCEL = "cancel"

    @classmethod
    def parse(cls, text: str) -> Performative:
        """Read a performative in any case, with ``-`` or ``_``; FIPA's two kinds of query are one here.

        Raises:
            ValidationFailed: there is no such performative.
        """
        word = text.strip().lower().replace("-", "_")
        found = PERFORMATIVE_SPELLINGS.get(word)
        if found is None:
            guess = nearest(word, PERFORMATIVE_SPELLINGS)
            raise ValidationFailed(
                f"unknown performative {text[:TEXT_LIMIT]!r}",
                why="performatives are " + ", ".join(p.value for p in cls),
                fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
                details={"field": "performative", "nearest": guess},
            )
        return found


PERFORMATIVE_SPELLINGS: Final = {
    **{performative.value: performative for performative in Performative},
    "query_if": Performative.QUERY,
    "query_ref": Performative.QUERY,
}
"""What :meth:`Performative.parse` reads. The content tells whether a query asks if, or which."""

EXPECTS_REPLY: Final = frozenset(
    {
        Performative.REQUEST,
        Performative.QUERY,
        Performative.PROPOSE,
        Performative.CFP,
        Performative.SUBSCRIBE,
        Performative.CANCEL,
    }
)
"""Performatives whose sender waits for an answer."""


class RoutingStrategy(StrEnum):
    """How a provider of a capability is chosen."""

    BEST_MATCH = "best_match"
    LOAD_BALANCED = "load_balanced"
    BROADCAST = "broadcast"

    @classmethod
    def parse(cls, text: str) -> RoutingStrategy:
        """Read a strategy or one of its aliases.

        Raises:
            ValidationFailed: it is no strategy.
        """
        word = text.strip().lower().replace("-", "_")
        found = STRATEGY_NAMES.get(word)
        if found is None:
            guess = nearest(word, STRATEGY_NAMES)
            raise ValidationFailed(
                f"unknown routing strategy {text[:TEXT_LIMIT]!r}",
                why="strategies are " + ", ".join(s.value for s in cls),
                fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
                details={"field": "routing_strategy", "nearest": guess},
            )
        return found


STRATEGY_NAMES: Final = {
    "best_match": RoutingStrategy.BEST_MATCH,
    "performance": RoutingStrategy.BEST_MATCH,
    "geographic": RoutingStrategy.BEST_MATCH,
    "single_recipient": RoutingStrategy.BEST_MATCH,
    "priority": RoutingStrategy.BEST_MATCH,
    "fastest_response": RoutingStrategy.BEST_MATCH,
    "failover": RoutingStrategy.BEST_MATCH,
    "context_continuity": RoutingStrategy.BEST_MATCH,
    "specialization_match": RoutingStrategy.BEST_MATCH,
    "context_optimized": RoutingStrategy.BEST_MATCH,
    "load_balanced": RoutingStrategy.LOAD_BALANCED,
    "load_balance": RoutingStrategy.LOAD_BALANCED,
    "least_loaded": RoutingStrategy.LOAD_BALANCED,
    "round_robin": RoutingStrategy.LOAD_BALANCED,
    "broadcast": RoutingStrategy.BROADCAST,
}
"""Every name that a strategy may be given by, with ``_`` where a caller may write ``-``."""


class DeliveryClass(StrEnum):
    """How often a message may be handled when something fails on its way."""

    AT_LEAST_ONCE = "at_least_once"
    """It is sent, and handled, again until its end is known."""
    AT_MOST_ONCE = "at_most_once"
    """Whoever may have begun to handle it is the last to get it; what is uncertain has failed."""
