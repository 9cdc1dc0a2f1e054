"""Asks another provider with patience and measure: in turn, behind a breaker, and again where that may help.

A completion has no effect but its cost and what of it has been shown: tools are called after it, by whoever
asked for it. So it may be asked for again, and whoever was shown a part is told that it begins anew; no tool
ever runs twice because of a retry in here.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from node.breaker import Breaker
from node.environment import Clock
from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, Delta, OnDelta, Provider, Usage
from node.llm.retry import RetryPolicy
from node.message import iso8601

GIVEN_UP_S: Final = 20.0
"""A request given up by who asked counts as the provider's failure after so many seconds.

Agents usually wait for less than a provider may be silent, so one that never answers would otherwise never be
found out."""


@dataclass(slots=True)
class _Counts:
    """What has become of the requests to one provider."""

    requests: int = 0
    answered: int = 0
    retried: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micros: int = 0
    unpriced: int = 0


class PatientProvider:
    """Another provider, asked in turn, behind a breaker, and again where that may help.

    Args:
        inner: Is asked.
        policy: When it is asked again.
        breaker: Leaves it alone when it fails.
        concurrency: Most requests at once.
        waiting: Most requests that wait for their turn.
        clock: Waits.
        chance: Draws pauses.
        has_fallback: Whether another stands in, so that a long wait the provider asks for is not waited out.
    """

    def __init__(
        self,
        inner: Provider,
        *,
        policy: RetryPolicy,
        breaker: Breaker,
        concurrency: int,
        waiting: int,
        clock: Clock,
        chance: random.Random,
        has_fallback: bool = False,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._breaker = breaker
        self._turns = trio.CapacityLimiter(concurrency)
        self._concurrency = concurrency
        self._waiting = 0
        self._waiting_limit = waiting
        self._clock = clock
        self._chance = chance
        self._has_fallback = has_fallback
        self._counts = _Counts()
        self._failures: dict[str, int] = {}
        self._last: dict[str, Any] = {}
        self._latency_s: float | None = None

    @property
    def name(self) -> str:
        """That of the other one."""
        return self._inner.name

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Ask until there is an answer, or no hope for one.

        Raises:
            RequestFailed: the last failure; its cost is that of all attempts.
        """
        wasted, wasted_micros = Usage(), 0
        attempt = 0
        while True:
            attempt += 1
            try:
                completion = await self._attempt(request, on_delta)
            except RequestFailed as error:
                self._note(error)
                wasted += error.usage
                wasted_micros += error.cost_micros
                error.usage, error.cost_micros = wasted, wasted_micros
                if not self._hopes(error, attempt):
                    raise
                if error.shown and on_delta is not None:
                    on_delta(Delta("", anew=True))
                self._counts.retried += 1
                pause_s = self._policy.pause_s(attempt, error.retry_after_s, self._chance)
            else:
                return self._answered(completion, attempt, wasted, wasted_micros)
            await self._clock.sleep(pause_s)

    def statistics(self) -> dict[str, Any]:
        """Its breaker, its turns, and what has become of requests so far."""
        counts = self._counts
        return {
            "breaker": self._breaker.statistics(self._clock.now()),
            "requests": counts.requests,
            "answered": counts.answered,
            "retried": counts.retried,
            "failures": dict(sorted(self._failures.items())),
            "last_failure": dict(self._last),
            "latency_s": None if self._latency_s is None else round(self._latency_s, 3),
            "in_flight": self._turns.borrowed_tokens,
            "in_flight_limit": self._concurrency,
            "waiting": self._waiting,
            "waiting_limit": self._waiting_limit,
            "input_tokens": counts.input_tokens,
            "output_tokens": counts.output_tokens,
            "cached_tokens": counts.cached_tokens,
            "cost_micros": counts.cost_micros,
            "unpriced": counts.unpriced,
        }

    async def _attempt(self, request: CompletionRequest, on_delta: OnDelta | None) -> Completion:
        async with self._turn():
            now = self._clock.now()
            admission = self._breaker.admit(now)
            if admission is None:
                wait_s = self._breaker.open_s(now)
                why = f"it is tried again in {wait_s:.0f} s" if wait_s else "a probe is under way"
                raise RequestFailed("open", why=why, details={"provider": self.name})
            self._counts.requests += 1
            try:
                completion = await self._inner.complete(request, on_delta=on_delta)
            except RequestFailed as error:
                if error.rule.harms:
                    self._breaker.failed(admission, self._clock.now())
                else:
                    self._breaker.succeeded(admission)  # it lives and says no
                raise
            except BaseException:
                waited_s = self._clock.now() - now
                if waited_s >= GIVEN_UP_S:
                    self._breaker.failed(admission, self._clock.now())
                else:
                    self._breaker.abandoned(admission)
                raise
            self._breaker.succeeded(admission)
            self._latency_s = self._clock.now() - now
            return completion

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for one's turn; a queue that is full is said at once."""
        holder = object()  # a task may ask through several providers at once
        try:
            self._turns.acquire_on_behalf_of_nowait(holder)
        except trio.WouldBlock:
            await self._wait(holder)
        try:
            yield
        finally:
            self._turns.release_on_behalf_of(holder)

    async def _wait(self, holder: object) -> None:
        if self._waiting >= self._waiting_limit:
            raise RequestFailed(
                "crowded",
                why=f"{self._waiting} wait already",
                fix=f"Raise llm.providers.{self.name}.concurrency or waiting, or ask for less at once.",
                details={"provider": self.name},
            )
        self._waiting += 1
        try:
            await self._turns.acquire_on_behalf_of(holder)
        finally:
            self._waiting -= 1

    def _hopes(self, error: RequestFailed, attempt: int) -> bool:
        if not error.rule.again or attempt >= self._policy.attempts:
            return False
        asked_s = error.retry_after_s or 0.0
        return not (self._has_fallback and asked_s > self._policy.max_s)

    def _note(self, error: RequestFailed) -> None:
        self._failures[error.kind] = self._failures.get(error.kind, 0) + 1
        self._last = {"kind": error.kind, "why": error.why, "at": iso8601(self._clock.wall())}

    def _answered(
        self, completion: Completion, attempt: int, wasted: Usage, wasted_micros: int
    ) -> Completion:
        cost = completion.cost_micros
        if cost is not None:
            cost += wasted_micros
        spent, counts = completion.usage + wasted, self._counts
        counts.answered += 1
        counts.input_tokens += spent.input_tokens
        counts.output_tokens += spent.output_tokens
        counts.cached_tokens += spent.cached_tokens
        counts.cost_micros += cost or 0
        counts.unpriced += cost is None
        return replace(completion, attempts=attempt, wasted=wasted, cost_micros=cost)
