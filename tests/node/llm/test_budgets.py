"""Budgets are checked before they are spent, hold across a restart, and across nodes up to a stated bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import apsw
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node.config import LlmBudgets, LlmConfig
from node.errors import ProviderFailed, ResourceLimitExceeded, StorageFailed
from node.llm.budget import WINDOW_S, Later, Ledger, Refusal, Spent
from node.llm.budgets import OUTPUT_RESERVED, Budgets, Shared
from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, Provider, Subject, ToolCall, Usage
from node.storage.migrations import migrate
from tests.node.agents.inline import TestClock
from tests.node.llm.requests import asked

T = TypeVar("T")
PRICES = {"small": {"input": 1.0, "output": 2.0}, "large": {"input": 100.0, "output": 200.0}}
MODELS: dict[str, tuple[str, ...]] = {"main": ("small",)}


class Disk:
    """A database in memory that a budget's rows are kept in."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        migrate(self.connection)
        self.fails = False

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise StorageFailed("the disk is full")
        return job(self.connection)

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        return query(self.connection)


class Model:
    """Answers, at a cost, after a second."""

    def __init__(self, *answers: Completion | Exception, name: str = "main") -> None:
        self.name = name
        self._answers = list(answers)
        self.asked: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest, **_: object) -> Completion:
        self.asked.append(request)
        await trio.sleep(1)  # noqa: TID251 - the clock of the tests
        answer = self._answers.pop(0) if self._answers else said()
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(tokens: int = 100, **more: Any) -> Completion:
    return Completion(text="hi", provider="main", usage=Usage(tokens - 10, 10), cost_micros=tokens, **more)


@asynccontextmanager
async def within(
    model: Provider, disk: Disk | None = None, shared: Shared | None = None, **budgets: Any
) -> AsyncIterator[tuple[Provider, Budgets]]:
    config = LlmConfig.model_validate({"prices": PRICES, "budgets": budgets})
    kept = Budgets(config, models=MODELS, clock=TestClock(), storage=disk or Disk(), shared=shared)
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.run)
        yield kept.around(model), kept
        nursery.cancel_scope.cancel()


def of(agent: str = "a", conversation: str = "c-1", **more: Any) -> CompletionRequest:
    return replace(
        asked(conversation=conversation, max_tokens=more.pop("max_tokens", 50), **more), agent=agent
    )


async def refused(provider: Provider, request: CompletionRequest) -> dict[str, Any]:
    with pytest.raises(ResourceLimitExceeded) as raised:
        await provider.complete(request)
    return raised.value.details


@pytest.mark.parametrize(
    ("scope", "same", "other"),
    [
        ("agent", of("a", "c-2"), of("b", "c-1")),
        ("conversation", of("b", "c-1"), of("a", "c-2")),
        ("cluster", of("b", "c-2"), None),
    ],
)
async def test_each_scope_has_a_budget_of_its_own(
    scope: str, same: CompletionRequest, other: CompletionRequest | None, autojump_clock: MockClock
) -> None:
    model = Model(said(990))
    async with within(model, **{scope: {"tokens": 1000}}) as (provider, _):
        await provider.complete(of())
        details = await refused(provider, same)
        assert (details["scope"], details["kind"], details["spent"]) == (scope, "tokens", 990)
        assert len(model.asked) == 1  # what does not fit is not sent
        if other is not None:
            await provider.complete(other)


async def test_what_was_reserved_and_not_spent_can_be_spent(autojump_clock: MockClock) -> None:
    model = Model()
    async with within(model, cluster={"tokens": 1000}) as (provider, budgets):
        for _ in range(7):
            await provider.complete(of())
        assert budgets.statistics()["cluster"]["own"]["tokens"] == 700


async def test_requests_under_way_are_counted_at_the_most_they_can_cost(autojump_clock: MockClock) -> None:
    model = Model()
    async with within(model, cluster={"tokens": 1000}) as (provider, _), trio.open_nursery() as nursery:
        nursery.start_soon(provider.complete, of(max_tokens=800))
        await trio.testing.wait_all_tasks_blocked()
        assert (await refused(provider, of(max_tokens=300)))["spent"] > 800


async def test_money_is_bounded_by_the_table_of_prices(autojump_clock: MockClock) -> None:
    model = Model(said(0, tool_calls=()))
    async with within(model, cluster={"money": 0.01}) as (provider, budgets):
        assert 0 < budgets.most("main", of()).micros < 1000
        details = await refused(provider, of(model="large"))
        assert (details["kind"], details["allowed"]) == ("money", 10_000)
        with pytest.raises(ProviderFailed, match="no price"):
            await provider.complete(of(model="unknown"))
        await provider.complete(of())
        assert len(model.asked) == 1
    async with within(model, cluster={"tokens": 10_000}) as (provider, _):
        await provider.complete(of(model="unknown"))  # tokens need no price


async def test_the_dearest_of_those_that_may_answer_is_reserved(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "main", ("small", "large"))
    async with within(Model(), cluster={"money": 0.01}) as (_, budgets):
        assert budgets.most("main", of(model="small")).micros >= 200 * 50


async def test_tools_are_counted_before_any_is_called(autojump_clock: MockClock) -> None:
    calls = tuple(ToolCall(str(n), "weather", {}) for n in range(3))
    model = Model(said(tool_calls=calls), said(tool_calls=calls))
    async with within(model, conversation={"tool_calls": 5}) as (provider, _):
        assert (await provider.complete(of())).tool_calls == calls
        details = await refused(provider, of())
        assert (details["kind"], details["spent"], details["wanted"]) == ("tool_calls", 3, 3)


async def test_a_failure_costs_what_it_cost(autojump_clock: MockClock) -> None:
    model = Model(RequestFailed("cut", usage=Usage(30, 5), cost_micros=7), ProviderFailed("odd"))
    async with within(model, cluster={"tokens": 10_000}) as (provider, budgets):
        with pytest.raises(RequestFailed):
            await provider.complete(of())
        own = budgets.statistics()["cluster"]["own"]
        assert own == {"tokens": 35, "money_micros": 7, "tool_calls": 0}
        with pytest.raises(ProviderFailed, match="odd"):
            await provider.complete(of())
        assert budgets.statistics()["cluster"]["own"] == own


async def test_who_gives_up_has_spent_what_was_reserved(autojump_clock: MockClock) -> None:
    async with within(Model(), cluster={"tokens": 10_000}) as (provider, budgets):
        most = budgets.most("main", of())
        with trio.move_on_after(0.5):  # noqa: TID251 - the clock of the tests
            await provider.complete(of())
        assert budgets.statistics()["cluster"]["own"]["tokens"] == most.tokens


async def test_an_answer_without_a_limit_gets_one(autojump_clock: MockClock) -> None:
    model = Model()
    async with within(model, cluster={"tokens": 10_000}) as (provider, _):
        await provider.complete(of(max_tokens=None))
        await provider.complete(of(max_tokens=9))
    assert [request.max_tokens for request in model.asked] == [OUTPUT_RESERVED, 9]


async def test_budgets_hold_across_a_restart_and_begin_anew_with_the_period(
    autojump_clock: MockClock,
) -> None:
    disk, bounds = Disk(), {"agent": {"tokens": 1000}, "period": "1h"}
    async with within(Model(said(990)), disk, **bounds) as (provider, _):
        await provider.complete(of())
    async with within(Model(), disk, **bounds) as (provider, budgets):
        assert (await refused(provider, of()))["spent"] == 990
        await trio.sleep(3600)  # noqa: TID251 - the clock of the tests
        await provider.complete(of())
        assert budgets.statistics()["agents"]["a"]["tokens"] == 100
    rows = disk.connection.execute("SELECT scope, name, tokens FROM llm_spending ORDER BY scope").fetchall()
    assert rows == [("agent", "a", 100), ("cluster", "", 100), ("conversation", "c-1", 100)]


async def test_a_reservation_is_on_disk_before_the_request_leaves(autojump_clock: MockClock) -> None:
    disk = Disk()

    class Looking(Model):
        async def complete(self, request: CompletionRequest, **_: object) -> Completion:
            [(tokens,)] = disk.connection.execute("SELECT tokens FROM llm_spending WHERE scope = 'agent'")
            assert tokens > 50
            return await super().complete(request)

    model = Looking()
    async with within(model, disk, agent={"tokens": 1000}) as (provider, budgets):
        await provider.complete(of())
        disk.fails = True
        with pytest.raises(StorageFailed):
            await provider.complete(of())
        assert budgets.statistics()["agents"]["a"]["tokens"] == 100
    assert len(model.asked) == 1


async def test_a_request_that_outlives_its_period_gives_nothing_back_to_the_next(
    autojump_clock: MockClock,
) -> None:
    async with within(Model(), cluster={"tokens": 10_000}, period="1s") as (provider, budgets):
        await trio.sleep(0.5)  # noqa: TID251 - the clock of the tests
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.complete, of())
            await trio.sleep(0.7)  # noqa: TID251 - the clock of the tests
            await budgets.reserve("b", "c", Spent(tokens=7))
        assert budgets.statistics()["cluster"]["own"]["tokens"] == 7


async def test_the_builtin_provider_is_free(autojump_clock: MockClock) -> None:
    model = Model(said(0), name="builtin")
    async with within(model, cluster={"tokens": 1, "money": 0.000001}) as (provider, _):
        assert (await provider.complete(of())).text == "hi"


# Several nodes


class Gossip:
    """Counters that reach the others after a delay, when somebody moves them on."""

    def __init__(self, nodes: int) -> None:
        self.told: list[Spent] = [Spent()] * nodes

    def node(self, number: int) -> Shared:
        return _View(self, number)


class _View:
    def __init__(self, gossip: Gossip, number: int) -> None:
        self._gossip, self._number = gossip, number

    def publish(self, period: int, spent: Spent) -> None:
        self._gossip.told[self._number] = spent

    def others(self, period: int) -> Spent:
        told = self._gossip.told
        return sum((s for n, s in enumerate(told) if n != self._number), Spent())

    def members(self) -> int:
        return len(self._gossip.told)


async def test_what_other_nodes_have_spent_counts(autojump_clock: MockClock) -> None:
    gossip = Gossip(2)
    async with (
        within(Model(said(900)), shared=gossip.node(0), cluster={"tokens": 1000}) as (first, _),
        within(Model(), shared=gossip.node(1), cluster={"tokens": 1000}) as (second, _),
    ):
        await first.complete(of())
        await trio.sleep(2)  # noqa: TID251 - the clock of the tests
        details = await refused(second, of(max_tokens=200))
        assert (details["scope"], details["spent"]) == ("cluster", 900)


async def test_beyond_its_share_a_node_waits_until_the_others_have_heard(autojump_clock: MockClock) -> None:
    gossip = Gossip(10)
    model = Model()
    async with within(model, shared=gossip.node(0), cluster={"tokens": 3000}) as (provider, budgets):
        for _ in range(4):
            await provider.complete(of(max_tokens=250))
        assert trio.current_time() > WINDOW_S  # noqa: TID251 - the clock of the tests
        assert budgets.statistics()["waited"] > 0
    assert len(model.asked) == 4


LIMIT = 1000
wishes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 200), st.floats(0.0, 0.6)), min_size=1, max_size=120
)


@settings(max_examples=200)
@given(wishes)
def test_nodes_that_hear_of_each_other_overshoot_by_no_more_than_is_stated(
    found: list[tuple[int, int, float]],
) -> None:
    """Four nodes wish at will; each hears of what another spent only ``WINDOW_S`` later."""
    ledgers = [Ledger(LlmBudgets.model_validate({"cluster": {"tokens": LIMIT}})) for _ in range(4)]
    for ledger in ledgers:
        ledger.begin(0.0)
    spent: list[tuple[float, int, int]] = []
    now, most = 0.0, 0
    for node, wish, passed in found:
        now += passed
        heard = sum(amount for at, who, amount in spent if who != node and now - at >= WINDOW_S)
        amount = Spent(tokens=wish)
        admitted = ledgers[node].admit("a", "c", amount, others=Spent(tokens=heard), members=4, now=now)
        if admitted is None:
            ledgers[node].count("a", "c", amount, now=now)
            spent.append((now, node, wish))
            most = max(most, wish)
    assert sum(amount for _, _, amount in spent) <= LIMIT + 3 * most


def test_a_wish_that_does_not_fit_is_refused_and_one_that_will_is_told_when() -> None:
    ledger = Ledger(LlmBudgets.model_validate({"cluster": {"tokens": LIMIT}}))
    assert ledger.begin(0.0)
    assert not ledger.begin(10.0)
    ledger.count("a", "c", Spent(tokens=100), now=0.0)
    more: dict[str, Any] = {"others": Spent(), "members": 10}
    assert isinstance(ledger.admit("a", "c", Spent(tokens=901), now=1.0, **more), Refusal)
    later = ledger.admit("a", "c", Spent(tokens=500), now=1.0, **more)
    assert isinstance(later, Later)
    assert ledger.admit("a", "c", Spent(tokens=500), now=1.0 + later.wait_s, **more) is None
    assert ledger.admit("a", "c", Spent(tokens=500), others=Spent(), members=1, now=1.0) is None


def test_no_more_names_are_counted_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.llm.budget.NAMES_LIMIT", 3)
    ledger = Ledger(LlmBudgets())
    ledger.begin(0.0)
    for number in range(5):
        ledger.count("a", f"c-{number}", Spent(tokens=1), now=0.0)
    assert ledger.statistics(Spent())["conversations_counted"] == 3
    assert ledger.forgotten == [("conversation", "c-0"), ("conversation", "c-1")]


def test_a_budget_is_by_the_conversation_of_the_message() -> None:
    assert of("a", "c-7").subject == Subject("request", "forecast", {"city": "Bern"}, "client@n1", "c-7")
