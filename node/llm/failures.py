"""How a request to a provider can fail, as a table: what is said, and whether trying again may help.

``again`` is the rule of retries: too many requests, conflicts, failures of the server and of the way to it
pass; a request that is wrong, or forbidden, stays so. ``elsewhere`` says whether another provider may be
asked in its place, when the configuration names one: not for a request that is itself wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from node.errors import ProviderFailed
from node.llm.provider import Usage

Kind = Literal[
    "rate_limited",
    "overloaded",
    "conflict",
    "timeout",
    "unreachable",
    "cut",
    "malformed",
    "unfollowed",
    "too_large",
    "unauthorized",
    "not_found",
    "rejected",
    "open",
    "crowded",
    "not_recorded",
]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    Args:
        what: What happened.
        again: Whether the same request may succeed a little later.
        elsewhere: Whether another provider may be asked.
        harms: Whether it counts against the provider's breaker.
    """

    what: str
    again: bool
    elsewhere: bool
    harms: bool


RULES: Final[dict[Kind, Rule]] = {
    "rate_limited": Rule("the provider refuses more requests for now", True, True, True),
    "overloaded": Rule("the provider is failing or overloaded", True, True, True),
    "conflict": Rule("the provider had a conflict", True, True, False),
    "timeout": Rule("the provider did not answer in time", True, True, True),
    "unreachable": Rule("the provider cannot be reached", True, True, True),
    "cut": Rule("the provider's answer broke off", True, True, True),
    "malformed": Rule("the provider's answer cannot be read", False, True, True),
    "unfollowed": Rule("the answer does not follow its schema", False, False, False),
    "too_large": Rule("the request or its answer is too large", False, False, False),
    "unauthorized": Rule("the provider does not accept the key", False, True, False),
    "not_found": Rule("the provider has no such model or address", False, True, False),
    "rejected": Rule("the provider refuses the request", False, False, False),
    "open": Rule("the provider has failed too often and is left alone for a while", False, True, False),
    "crowded": Rule("too many requests wait for the provider", False, True, False),
    "not_recorded": Rule("the recording has no answer to this request", False, False, False),
}
"""Kind -> what it means."""


class RequestFailed(ProviderFailed):
    """A request to a provider that failed in one of the ways of :data:`RULES`.

    Args:
        kind: Which.
        why: The cause, free of secrets.
        fix: What can be done.
        retry_after_s: How long the provider asked to wait, in seconds; None if it did not.
        usage: What the attempt has cost although it failed, as far as it is known.
        cost_micros: What that costs, in millionths of the currency of the price table.
        answer: What was answered, where that is the trouble.
        shown: Whether part of the answer has been shown, so that whoever saw it is told when it begins anew.
        details: More facts.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        why: str = "",
        fix: str = "",
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        cost_micros: int = 0,
        answer: str | None = None,
        shown: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(RULES[kind].what, why=why, fix=fix, details={"kind": kind} | (details or {}))
        self.kind: Kind = kind
        self.retry_after_s = retry_after_s
        self.usage = usage or Usage()
        self.cost_micros = cost_micros
        self.answer = answer
        self.shown = shown

    @property
    def rule(self) -> Rule:
        """The row of the table."""
        return RULES[self.kind]


def kind_of_status(status: int) -> Kind:
    """What an HTTP status that is no success means; 529 is how one provider says that it is overloaded."""
    if status >= 500:
        return "overloaded"
    return _BY_STATUS.get(status, "rejected")


_BY_STATUS: Final[dict[int, Kind]] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    429: "rate_limited",
}
