"""Lets others stand in for a provider that fails: those the configuration names, in its order, and no other.

Who stood in is never hidden: the answer carries the name of the provider that gave it, the log and the
statistics tell of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, Delta, OnDelta, Provider

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standby:
    """A provider that may be asked.

    Args:
        provider: The provider.
        quota: Names the limit it shares with others; one that hit it is not replaced by another of it.
        own_model: Whether it has a model of its own, which then answers in place of the agent's choice.
    """

    provider: Provider
    quota: str
    own_model: bool


class FallbackProvider:
    """A provider and those that stand in for it.

    Args:
        first: Is asked first.
        fallbacks: Are asked then, in this order.
    """

    def __init__(self, first: Standby, fallbacks: Sequence[Standby]) -> None:
        self._first = first
        self._fallbacks = tuple(fallbacks)
        self._stood_in: dict[str, int] = {standby.provider.name: 0 for standby in fallbacks}
        self._exhausted = 0

    @property
    def name(self) -> str:
        """That of the first."""
        return self._first.provider.name

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Ask the first, then the others.

        Raises:
            RequestFailed: the failure of the first, with those of the others in its details.
        """
        try:
            return await self._first.provider.complete(request, on_delta=on_delta)
        except RequestFailed as error:
            if not error.rule.elsewhere:
                raise
            return await self._instead(error, request, on_delta)

    def statistics(self) -> dict[str, Any]:
        """How often which one has stood in, and how often none could."""
        return {"stood_in": dict(self._stood_in), "exhausted": self._exhausted}

    async def _instead(
        self, first: RequestFailed, request: CompletionRequest, on_delta: OnDelta | None
    ) -> Completion:
        wasted, wasted_micros = first.usage, first.cost_micros
        limited = {self._first.quota: None} if first.kind == "rate_limited" else {}
        told: list[dict[str, str]] = []
        shown = first.shown
        for standby in self._fallbacks:
            name = standby.provider.name
            if standby.quota in limited:
                told.append({"provider": name, "kind": "same_quota"})
                continue
            _log.warning("provider %s: %s; %s stands in", self.name, first, name)
            asked = replace(request, model=None) if standby.own_model else request
            if shown and on_delta is not None:
                on_delta(Delta("", anew=True))
            try:
                completion = await standby.provider.complete(asked, on_delta=on_delta)
            except RequestFailed as error:
                wasted += error.usage
                wasted_micros += error.cost_micros
                told.append({"provider": name, "kind": error.kind})
                limited |= {standby.quota: None} if error.kind == "rate_limited" else {}
                shown = error.shown
                first.shown |= shown
                continue
            self._stood_in[name] += 1
            cost = completion.cost_micros
            return replace(
                completion,
                wasted=completion.wasted + wasted,
                cost_micros=None if cost is None else cost + wasted_micros,
            )
        self._exhausted += 1
        first.usage, first.cost_micros = wasted, wasted_micros
        first.details["fallbacks"] = told
        raise first
