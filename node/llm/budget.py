"""Budgets: what may be spent, what has been, and whether a wish still fits; no I/O, time is passed in.

Everything is counted three times: for the agent, for the conversation, and for this node's part of the
cluster's budget. A wish is checked and counted (*reserved*) before it is granted, at the most it can cost,
and put right afterwards.

The other nodes' counters arrive by gossip, so they are a little old. A node therefore spends, within the
time a counter takes to get around, at most its share of what is left: the rest divided by the members. One
single wish is granted beyond the share, as long as the counters known leave room for it. If ``r`` is the most
that one wish costs, ``n`` nodes that hear of each other within :data:`WINDOW_S` overshoot by at most
``(n - 1) * r``; nodes that do not hear of each other, by what was left when they parted, once for each side
but one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Final, Literal

from node.config import LlmBudget, LlmBudgets

Scope = Literal["agent", "conversation", "cluster"]

MICROS: Final = 1_000_000
"""Micros in one unit of the currency."""
WINDOW_S: Final = 5.0
"""The time in which a counter is taken to have reached every node, in seconds."""
NAMES_LIMIT: Final = 10_000
"""Most agents, and most conversations, that are counted; beyond it the one longest idle is forgotten."""
_STEP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Spent:
    """An amount of each kind.

    Args:
        tokens: Tokens of prompts and answers.
        micros: Millionths of the currency.
        tool_calls: Tool calls.
    """

    tokens: int = 0
    micros: int = 0
    tool_calls: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.tokens + other.tokens, self.micros + other.micros, self.tool_calls + other.tool_calls
        )

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            self.tokens - other.tokens, self.micros - other.micros, self.tool_calls - other.tool_calls
        )

    def at_least_nothing(self) -> Spent:
        """The same, without anything below 0."""
        return Spent(max(0, self.tokens), max(0, self.micros), max(0, self.tool_calls))

    def as_json(self) -> dict[str, int]:
        """For statistics."""
        return {"tokens": self.tokens, "money_micros": self.micros, "tool_calls": self.tool_calls}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A wish that does not fit.

    Args:
        scope: Whose budget it breaks.
        kind: ``tokens``, ``money`` or ``tool_calls``.
        spent: How much is spent or reserved.
        wanted: How much the wish may cost.
        allowed: The budget.
    """

    scope: Scope
    kind: str
    spent: int
    wanted: int
    allowed: int


@dataclass(frozen=True, slots=True)
class Later:
    """A wish that will fit once other nodes have heard of what was spent; try again after ``wait_s``."""

    wait_s: float


class Ledger:
    """What has been spent in the current period.

    Args:
        budgets: What may be.
    """

    def __init__(self, budgets: LlmBudgets) -> None:
        self._period_s = budgets.period_s
        self._limits: dict[Scope, dict[str, int]] = {
            "agent": _limits(budgets.agent),
            "conversation": _limits(budgets.conversation),
            "cluster": _limits(budgets.cluster),
        }
        self.period = -1
        self._spent: dict[Scope, OrderedDict[str, Spent]] = {}
        self._recent: deque[tuple[float, Spent]] = deque()
        self.forgotten: list[tuple[Scope, str]] = []

    def begin(self, wall_s: float) -> bool:
        """Note the time; says whether a new period has begun, in which nothing is spent yet.

        A clock that is set back does not bring an earlier period back.
        """
        period = int(wall_s // self._period_s)
        if period <= self.period:
            return False
        self.period = period
        self._spent = {"agent": OrderedDict(), "conversation": OrderedDict(), "cluster": OrderedDict()}
        self._recent.clear()
        return True

    def ends_s(self) -> float:
        """Unix seconds at which the period ends."""
        return (self.period + 1) * self._period_s

    def restore(self, scope: Scope, name: str, spent: Spent) -> None:
        """Take in what was spent in this period before a restart."""
        self._spent[scope][name] = spent

    def spent(self, scope: Scope, name: str = "") -> Spent:
        """What is spent or reserved under a name."""
        held = self._spent.get(scope)
        return Spent() if held is None else held.get(name, Spent())

    def admit(
        self, agent: str, conversation: str, wish: Spent, *, others: Spent, members: int, now: float
    ) -> Refusal | Later | None:
        """Whether a wish fits; None if it does.

        Args:
            agent: Who wishes.
            conversation: In which conversation.
            wish: The most it can cost.
            others: What the other nodes have spent, as far as is known.
            members: Nodes of the cluster, this one included.
            now: Monotonic seconds.
        """
        own = self.spent("cluster")
        held: dict[Scope, Spent] = {
            "agent": self.spent("agent", agent),
            "conversation": self.spent("conversation", conversation),
            "cluster": own + others,
        }
        for scope, spent in held.items():
            refusal = _check(scope, self._limits[scope], spent, wish)
            if refusal is not None:
                return refusal
        recent = self._recently(now)
        if members <= 1 or recent == Spent():
            return None
        left = own + others - recent
        for kind, limit in self._limits["cluster"].items():
            share = (limit - _of(left, kind)) // members
            if _of(wish, kind) and _of(recent, kind) + _of(wish, kind) > share:
                return Later(max(0.0, self._recent[0][0] + WINDOW_S + _STEP_S - now))
        return None

    def count(self, agent: str, conversation: str, amount: Spent, *, now: float) -> None:
        """Count what is spent, or reserved; or, put right afterwards, less than nothing."""
        for scope, name in self.names(agent, conversation):
            held = self._spent[scope]
            held[name] = (held.get(name, Spent()) + amount).at_least_nothing()
            held.move_to_end(name)
            if len(held) > NAMES_LIMIT:
                gone, _ = held.popitem(last=False)
                self.forgotten.append((scope, gone))
        if self._recent and now - self._recent[-1][0] < _STEP_S:
            at, before = self._recent[-1]
            self._recent[-1] = at, before + amount
        else:
            self._recent.append((now, amount))

    def names(self, agent: str, conversation: str) -> tuple[tuple[Scope, str], ...]:
        """Where something that an agent spends in a conversation is counted."""
        return ("agent", agent), ("conversation", conversation), ("cluster", "")

    def statistics(self, others: Spent) -> dict[str, Any]:
        """What is spent of what, by agents and by the cluster, and when it begins anew."""
        return {
            "ends_at_s": self.ends_s(),
            "cluster": {
                "own": self.spent("cluster").as_json(),
                "others": others.as_json(),
                "limits": dict(self._limits["cluster"]),
            },
            "agents": {name: spent.as_json() for name, spent in sorted(self._spent["agent"].items())[:100]},
            "agent_limits": dict(self._limits["agent"]),
            "agents_counted": len(self._spent["agent"]),
            "conversations_counted": len(self._spent["conversation"]),
            "conversation_limits": dict(self._limits["conversation"]),
            "names_limit": NAMES_LIMIT,
        }

    def _recently(self, now: float) -> Spent:
        while self._recent and now - self._recent[0][0] >= WINDOW_S + _STEP_S:
            self._recent.popleft()
        return sum((spent for _, spent in self._recent), Spent()).at_least_nothing()


def _limits(budget: LlmBudget) -> dict[str, int]:
    """The bounds there are, by kind; money in micros."""
    money = None if budget.money is None else round(budget.money * MICROS)
    found = {"tokens": budget.tokens, "money": money, "tool_calls": budget.tool_calls}
    return {kind: limit for kind, limit in found.items() if limit is not None}


def _of(spent: Spent, kind: str) -> int:
    return {"tokens": spent.tokens, "money": spent.micros, "tool_calls": spent.tool_calls}[kind]


def _check(scope: Scope, limits: dict[str, int], spent: Spent, wish: Spent) -> Refusal | None:
    for kind, limit in limits.items():
        have, wanted = _of(spent, kind), _of(wish, kind)
        if wanted and have + wanted > limit:
            return Refusal(scope, kind, have, wanted, limit)
    return None
