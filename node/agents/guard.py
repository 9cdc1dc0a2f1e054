"""Ends the tool loop of one message: turns, tool calls, tokens and repeated calls are all bounded.

Every check is made before the thing is spent. A model that asks for the same tool with the same arguments a
third time is going in circles and will not stop by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.errors import ResourceLimitExceeded
from node.llm.provider import ToolCall, Usage

SAME_CALL_LIMIT: Final = 3
"""The request of the same tool with the same arguments that ends the loop."""


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """Bounds for one message."""

    max_turns: int
    max_tool_calls: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class LoopState:
    """What one message has spent so far: turns, tool calls, tokens, and how often each call was asked for."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    asked: Mapping[str, int] = field(default_factory=dict)


class LoopGuard:
    """Counts what one message has spent.

    Args:
        limits: What it may spend.
        spent: What it has, if it was parked.
    """

    def __init__(self, limits: LoopLimits, spent: LoopState | None = None) -> None:
        spent = spent or LoopState()
        self._limits = limits
        self._turns, self._calls, self._tokens = spent.turns, spent.calls, spent.tokens
        self._asked = dict(spent.asked)

    def next_turn(self) -> int:
        """The number of the turn about to be taken, from 1.

        Raises:
            ResourceLimitExceeded: there is no turn or no token left.
        """
        if self._turns >= self._limits.max_turns:
            raise _ended("max_turns", f"no answer after {self._turns} turns")
        if self._tokens >= self._limits.max_tokens:
            raise _ended(
                "max_tokens", f"{self._tokens} tokens are spent; {self._limits.max_tokens} are allowed"
            )
        self._turns += 1
        return self._turns

    def spend(self, usage: Usage) -> None:
        """Note what a completion cost."""
        self._tokens += usage.input_tokens + usage.output_tokens

    def allow(self, calls: Sequence[ToolCall]) -> None:
        """Check the tool calls of a turn before any of them is made.

        Raises:
            ResourceLimitExceeded: they are too many, or one is asked for the third time.
        """
        self._calls += len(calls)
        if self._calls > self._limits.max_tool_calls:
            raise _ended("max_tool_calls", f"more than {self._limits.max_tool_calls} tool calls")
        for call in calls:
            key = json.dumps([call.name, dict(call.arguments)], sort_keys=True, default=str)
            self._asked[key] = self._asked.get(key, 0) + 1
            if self._asked[key] >= SAME_CALL_LIMIT:
                raise _ended(
                    "duplicate_calls",
                    f"{call.name!r} was asked {SAME_CALL_LIMIT} times with the same arguments",
                )

    @property
    def state(self) -> LoopState:
        """All that it counts, for a turn that is parked."""
        return LoopState(self._turns, self._calls, self._tokens, dict(self._asked))

    @property
    def spent(self) -> dict[str, int]:
        """Turns, tool calls and tokens so far."""
        return {"turns": self._turns, "tool_calls": self._calls, "tokens": self._tokens}


def _ended(limit: str, why: str) -> ResourceLimitExceeded:
    return ResourceLimitExceeded(
        "the agent's tool loop was ended", why=why, fix="Ask for less at once.", details={"limit": limit}
    )
