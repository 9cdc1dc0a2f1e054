"""Keeps budgets: reserves before a provider is asked, puts right afterwards, remembers across restarts.

A reservation is on disk before the request leaves. A node that dies in between has spent what it had
reserved, which may be more than it did spend, and is never less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar, cast

import apsw
import trio

from node.config import LlmConfig
from node.environment import Clock
from node.errors import ProviderFailed, ResourceLimitExceeded
from node.llm.budget import Later, Ledger, Refusal, Scope, Spent
from node.llm.builtin import NAME as BUILTIN
from node.llm.failures import RequestFailed
from node.llm.prices import PriceTable
from node.llm.provider import Completion, CompletionRequest, OnDelta, Provider, Usage
from node.llm.recording import asked
from node.llm.wire import estimate
from node.message import iso8601
from node.storage.spending import SpendingRow, forget_spending, load_spending, save_spending

T = TypeVar("T")
OUTPUT_RESERVED: Final = 4096
"""Tokens of an answer that are reserved, and asked for at most, where nobody has set ``max_tokens``."""
PUBLISH_S: Final = 1.0
"""How often the cluster is told what this node has spent, at most, in seconds."""


class Store(Protocol):
    """What keeping budgets needs of the storage."""

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` in a transaction and wait for its commit."""
        ...

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query."""
        ...


class Shared(Protocol):
    """What the nodes tell each other of their spending."""

    def publish(self, period: int, spent: Spent) -> None:
        """Tell what this node has spent in a period."""
        ...

    def others(self, period: int) -> Spent:
        """What the others have, as far as is known."""
        ...

    def members(self) -> int:
        """Nodes of the cluster, this one included, those out of sight, too."""
        ...


class Alone:
    """A cluster of one."""

    def publish(self, period: int, spent: Spent) -> None:
        """Nobody to tell."""

    def others(self, period: int) -> Spent:
        """Nobody else has spent anything."""
        del period
        return Spent()

    def members(self) -> int:
        """One."""
        return 1


class Budgets:
    """The budgets of a node.

    Args:
        config: The section ``llm``.
        models: By provider, the models that may answer in its name; none for those that cost nothing.
        clock: Tells the period.
        storage: Remembers.
        shared: What the nodes tell each other.
    """

    def __init__(
        self,
        config: LlmConfig,
        *,
        models: Mapping[str, tuple[str, ...]],
        clock: Clock,
        storage: Store,
        shared: Shared | None = None,
    ) -> None:
        self._ledger = Ledger(config.budgets)
        self._prices = PriceTable(config.prices)
        self._money_counts = any(
            budget.money is not None
            for budget in (config.budgets.agent, config.budgets.conversation, config.budgets.cluster)
        )
        self._models = dict(models)
        self._clock = clock
        self._storage = storage
        self._shared = shared or Alone()
        self._turn = trio.Lock()
        self._dirty = False
        self._refused = self._waited = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remember what was spent before, then tell the cluster what is spent, until cancelled."""
        async with self._turn:
            await self._begin()
        task_status.started()
        while True:
            if self._dirty:
                self._dirty = False
                self._shared.publish(self._ledger.period, self._ledger.spent("cluster"))
            await self._clock.sleep(PUBLISH_S)

    def around(self, provider: Provider) -> Provider:
        """``provider``, asked only within the budgets."""
        return BudgetedProvider(provider, self)

    def statistics(self) -> dict[str, Any]:
        """What is spent of what."""
        if self._ledger.period < 0:
            return {}
        counted = self._ledger.statistics(self._shared.others(self._ledger.period))
        return counted | {"refused": self._refused, "waited": self._waited}

    def most(self, provider: str, request: CompletionRequest) -> Spent:
        """The most a request can cost; its prompt is counted as a token for every four bytes.

        The builtin provider has no model, and costs nothing.

        Raises:
            ProviderFailed: money is bounded, and a model that may answer has no price.
        """
        if provider == BUILTIN:
            return Spent()
        prompt = estimate(len(str(asked(request)).encode(errors="replace")))
        usage = Usage(prompt, request.max_tokens or OUTPUT_RESERVED)
        cost = 0
        for number, default in enumerate(self._models.get(provider, ())):
            model = (request.model or default) if number == 0 else default or request.model or ""
            price = self._prices.cost_micros(usage, model)
            if price is None and self._money_counts:
                raise ProviderFailed(
                    f"the model {model[:80]!r} has no price",
                    why="a budget bounds money, and what has no price cannot be held against it",
                    fix=f"Set llm.prices for {model[:80]!r}, or remove money from llm.budgets.",
                    details={"provider": provider, "model": model[:80]},
                )
            cost = max(cost, price or 0)
        return Spent(usage.total_tokens, cost)

    async def reserve(self, agent: str, conversation: str, wish: Spent) -> int:
        """Count a wish before it is granted; waits where the cluster must hear of others first.

        Returns:
            The period it is counted in.

        Raises:
            ResourceLimitExceeded: it does not fit.
            StorageFailed: it cannot be remembered.
        """
        while True:
            async with self._turn:
                await self._begin()
                now = self._clock.now()
                found = self._ledger.admit(
                    agent,
                    conversation,
                    wish,
                    others=self._shared.others(self._ledger.period),
                    members=self._shared.members(),
                    now=now,
                )
                if found is None:
                    await self._count(agent, conversation, wish)
                    return self._ledger.period
                if isinstance(found, Refusal):
                    self._refused += 1
                    raise self._refusal(found)
            self._waited += 1
            await self._wait(found)

    async def settle(self, agent: str, conversation: str, change: Spent, period: int) -> None:
        """Put a reservation right: it was so much more, or less. Once its period has ended it counts no more.

        Raises:
            StorageFailed: it cannot be remembered; the reservation stays.
        """
        async with self._turn:
            await self._begin()
            if period == self._ledger.period:
                await self._count(agent, conversation, change)

    async def _wait(self, later: Later) -> None:
        await self._clock.sleep(max(0.05, later.wait_s))

    async def _begin(self) -> None:
        """Enter the period that it is; the first time, with what was spent in it before."""
        first = self._ledger.period < 0
        if not self._ledger.begin(self._clock.wall()):
            return
        period = self._ledger.period
        self._dirty = True
        if not first:
            await self._storage.write(lambda connection: forget_spending(connection, period))
            return
        for row in await self._storage.read(lambda connection: load_spending(connection, period)):
            spent = Spent(row.tokens, row.micros, row.tool_calls)
            self._ledger.restore(cast("Scope", row.scope), row.name, spent)

    async def _count(self, agent: str, conversation: str, amount: Spent) -> None:
        """Count in memory and on disk; in memory only what is on disk."""
        ledger = self._ledger
        before = {key: ledger.spent(*key) for key in ledger.names(agent, conversation)}
        ledger.count(agent, conversation, amount, now=self._clock.now())
        rows = [
            SpendingRow(scope, name, ledger.period, spent.tokens, spent.micros, spent.tool_calls)
            for scope, name in ledger.names(agent, conversation)
            for spent in [ledger.spent(scope, name)]
        ]
        gone, ledger.forgotten = list(ledger.forgotten), []
        try:
            await self._storage.write(lambda connection: _store(connection, rows, ledger.period, gone))
        except BaseException:
            for (scope, name), spent in before.items():
                ledger.restore(scope, name, spent)
            raise
        self._dirty = True

    def _refusal(self, refusal: Refusal) -> ResourceLimitExceeded:
        return ResourceLimitExceeded(
            f"the budget of the {refusal.scope} does not allow it",
            why=f"{refusal.kind}: {refusal.spent} of {refusal.allowed} are spent or reserved, and this may "
            f"cost {refusal.wanted}" + (" (in millionths)" if refusal.kind == "money" else ""),
            fix=f"Wait until {iso8601(self._ledger.ends_s())}, or raise llm.budgets.{refusal.scope}.",
            details={
                "limit": "budget",
                "scope": refusal.scope,
                "kind": refusal.kind,
                "spent": refusal.spent,
                "wanted": refusal.wanted,
                "allowed": refusal.allowed,
            },
        )


class BudgetedProvider:
    """Another provider, asked only within the budgets.

    Args:
        inner: Is asked.
        budgets: What may be spent.
    """

    def __init__(self, inner: Provider, budgets: Budgets) -> None:
        self._inner = inner
        self._budgets = budgets

    @property
    def name(self) -> str:
        """That of the other one."""
        return self._inner.name

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Reserve, ask, and put right; the tools an answer wants are reserved before any is called.

        Who gives up waiting has spent what was reserved: what the provider did is not known.

        Raises:
            ResourceLimitExceeded: it does not fit into a budget.
            ProviderFailed: as the other one says, or a model has no price.
        """
        if request.max_tokens is None:
            request = replace(request, max_tokens=OUTPUT_RESERVED)
        who = request.agent, request.subject.conversation_id
        reserved = self._budgets.most(self.name, request)
        period = await self._budgets.reserve(*who, reserved)
        try:
            completion = await self._inner.complete(request, on_delta=on_delta)
        except ProviderFailed as error:
            failed = error if isinstance(error, RequestFailed) else RequestFailed("rejected")
            spent = Spent(failed.usage.total_tokens, failed.cost_micros)
            await self._budgets.settle(*who, spent - reserved, period)
            raise
        usage = completion.usage + completion.wasted
        spent = Spent(usage.total_tokens, completion.cost_micros or 0)
        await self._budgets.settle(*who, spent - reserved, period)
        if completion.tool_calls:
            await self._budgets.reserve(*who, Spent(tool_calls=len(completion.tool_calls)))
        return completion


def _store(
    connection: apsw.Connection, rows: list[SpendingRow], period: int, gone: list[tuple[Scope, str]]
) -> None:
    save_spending(connection, rows)
    if gone:
        forget_spending(connection, period, gone)
