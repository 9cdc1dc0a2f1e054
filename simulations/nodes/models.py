"""Language models that fail as real ones do: refused, timed out, cut off, or talking nonsense."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from node.environment import Clock
from node.llm.failures import Kind, RequestFailed
from node.llm.provider import Completion, CompletionRequest, OnDelta, Provider, ToolCall
from simulations import faults

TIMEOUT_S: Final = 30.0
"""How long a request that times out is waited for."""
NO_TOOL: Final = "no_such_tool"
KINDS: Final[tuple[Kind, ...]] = ("rate_limited", "timeout", "cut", "malformed")


@dataclass(slots=True)
class Weather:
    """What a node's models suffer from; a fault sets it.

    Attributes:
        fault: What goes wrong now; None when nothing does.
        counts: How often which failure has struck.
    """

    fault: faults.Provider | None = None
    counts: Counter[str] = field(default_factory=Counter)


class UnreliableProvider:
    """Another provider, seen through the weather.

    Args:
        inner: Answers when nothing goes wrong.
        weather: What goes wrong.
        clock: Of the node.
        chance: Decides which request is struck.
    """

    def __init__(self, inner: Provider, weather: Weather, clock: Clock, chance: random.Random) -> None:
        self._inner, self._weather, self._clock, self._chance = inner, weather, clock, chance

    @property
    def name(self) -> str:
        """That of the other one."""
        return self._inner.name

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer one turn, or fail.

        Raises:
            ProviderFailed: the fault, or the other provider, says so.
        """
        fault = self._weather.fault
        if fault is None:
            return await self._inner.complete(request, on_delta=on_delta)
        if fault.takes_s:
            await self._clock.sleep(self._chance.expovariate(1 / fault.takes_s))
        struck = self._draw(fault)
        if struck is None:
            return await self._inner.complete(request, on_delta=on_delta)
        self._weather.counts[struck] += 1
        if struck == "malformed":
            completion = await self._inner.complete(request)
            call = ToolCall(f"malformed-{request.turn}", NO_TOOL, {"": [None, {"n": -1}]})
            return replace(completion, text="", content=None, tool_calls=(call,), finish_reason="tool_calls")
        if struck == "timeout":
            await self._clock.sleep(TIMEOUT_S)
        raise RequestFailed(struck)

    def _draw(self, fault: faults.Provider) -> Kind | None:
        drawn = self._chance.random()
        for kind in KINDS:
            drawn -= getattr(fault, kind)
            if drawn < 0:
                return kind
        return None
