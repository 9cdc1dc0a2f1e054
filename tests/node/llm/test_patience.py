"""Turns, breaker, retries and stand-ins, in virtual time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from node.breaker import Breaker, BreakerLimits
from node.llm.failures import RULES, Kind, RequestFailed
from node.llm.fallback import FallbackProvider, Standby
from node.llm.patient import GIVEN_UP_S, PatientProvider
from node.llm.provider import Completion, CompletionRequest, Delta, OnDelta, Provider, Usage
from node.llm.retry import RetryPolicy
from tests.node.agents.inline import TestClock
from tests.node.llm.requests import asked

FAILURE_COST = Usage(10, 2)


class Model:
    """Fails as it is told, then answers; every request takes a second."""

    def __init__(self, *failures: Kind | None, name: str = "main", **more: Any) -> None:
        self.name = name
        self._failures = list(failures)
        self._more = more
        self.asked: list[tuple[float, CompletionRequest]] = []
        self.running = self.most = 0

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        self.asked.append((trio.current_time(), request))  # noqa: TID251 - the clock of the tests
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(1)  # noqa: TID251 - the clock of the tests
        finally:
            self.running -= 1
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise RequestFailed(failure, usage=FAILURE_COST, cost_micros=5, **self._more)
        if on_delta is not None:
            on_delta(Delta("hi"))
        return Completion(text="hi", provider=self.name, usage=Usage(100, 20), cost_micros=50)


def patient(model: Provider, **more: Any) -> PatientProvider:
    more = {
        "policy": RetryPolicy(),
        "breaker": Breaker(BreakerLimits()),
        "concurrency": 2,
        "waiting": 3,
    } | more
    return PatientProvider(model, clock=TestClock(), chance=random.Random(1), **more)


async def kind_of(provider: Provider, **more: Any) -> str:
    with pytest.raises(RequestFailed) as raised:
        await provider.complete(asked(), **more)
    return raised.value.kind


async def test_what_passes_is_tried_again_and_its_cost_is_counted(autojump_clock: MockClock) -> None:
    model = Model("overloaded", "timeout")
    provider = patient(model)
    completion = await provider.complete(asked())
    assert (completion.text, completion.attempts) == ("hi", 3)
    assert completion.usage == Usage(100, 20)
    assert completion.wasted == Usage(20, 4)
    assert completion.cost_micros == 60
    counted = provider.statistics()
    assert (counted["requests"], counted["answered"], counted["retried"]) == (3, 1, 2)
    assert counted["failures"] == {"overloaded": 1, "timeout": 1}
    assert (counted["input_tokens"], counted["output_tokens"], counted["cost_micros"]) == (120, 24, 60)
    assert counted["last_failure"]["kind"] == "timeout"
    assert counted["breaker"]["failures"] == 0


@pytest.mark.parametrize("kind", RULES)
async def test_only_what_may_pass_is_tried_again(kind: Kind, autojump_clock: MockClock) -> None:
    model = Model(*[kind] * 9)
    with pytest.raises(RequestFailed) as raised:
        await patient(model).complete(asked())
    assert len(model.asked) == (3 if RULES[kind].again else 1)
    assert raised.value.usage == Usage(10 * len(model.asked), 2 * len(model.asked))
    assert raised.value.cost_micros == 5 * len(model.asked)
    assert {k for k, rule in RULES.items() if rule.again} == {
        "rate_limited",
        "overloaded",
        "conflict",
        "timeout",
        "unreachable",
        "cut",
    }


async def test_whoever_was_shown_a_part_is_told_when_the_answer_begins_anew(
    autojump_clock: MockClock,
) -> None:
    told: list[Delta] = []
    await patient(Model("cut", shown=True)).complete(asked(), on_delta=told.append)
    assert told == [Delta("", anew=True), Delta("hi")]
    told.clear()
    await patient(Model("cut", shown=False)).complete(asked(), on_delta=told.append)
    assert told == [Delta("hi")]


@given(st.integers(1, 20), st.integers(0, 2**32))
def test_pauses_are_drawn_from_nothing_to_a_bound_that_doubles(failed: int, seed: int) -> None:
    pause_s = RetryPolicy().pause_s(failed, None, random.Random(seed))
    assert 0 <= pause_s <= min(30, 2 ** (failed - 1))


def test_pauses_spread_over_all_of_their_range() -> None:
    chance = random.Random(1)
    drawn = [RetryPolicy().pause_s(4, None, chance) for _ in range(400)]
    assert min(drawn) < 0.5
    assert max(drawn) > 7.5


@pytest.mark.parametrize(("wish_s", "least_s"), [(0.0, 0.0), (7.0, 7.0), (3600.0, 30.0)])
def test_a_wish_to_wait_is_heeded_up_to_a_limit(wish_s: float, least_s: float) -> None:
    for seed in range(50):
        assert least_s <= RetryPolicy().pause_s(1, wish_s, random.Random(seed)) <= least_s + 1


async def test_the_wish_is_waited_for_between_two_requests(autojump_clock: MockClock) -> None:
    model = Model("rate_limited", retry_after_s=7.0)
    await patient(model).complete(asked())
    (first, _), (second, _) = model.asked
    assert 8 <= second - first <= 9


async def test_requests_take_turns_and_a_full_queue_is_said_at_once(autojump_clock: MockClock) -> None:
    model = Model()
    provider = patient(model)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(provider.complete, asked())
        await trio.testing.wait_all_tasks_blocked()
        counted = provider.statistics()
        assert (counted["in_flight"], counted["in_flight_limit"]) == (2, 2)
        assert (counted["waiting"], counted["waiting_limit"]) == (3, 3)
        assert await kind_of(provider) == "crowded"
    assert (len(model.asked), model.most) == (5, 2)
    assert provider.statistics()["waiting"] == 0


async def test_no_turn_is_held_while_waiting_to_try_again(autojump_clock: MockClock) -> None:
    model = Model("rate_limited", retry_after_s=20.0)
    provider = patient(model, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.complete, asked())
        await trio.sleep(1.5)  # noqa: TID251 - the clock of the tests
        await provider.complete(asked())
        assert trio.current_time() < 20  # noqa: TID251 - the clock of the tests


def test_a_breaker_opens_after_failures_in_a_row_and_closes_after_probes() -> None:
    breaker = Breaker(BreakerLimits(failures=5, open_s=60, probes=3))

    def fail(now: float) -> None:
        admission = breaker.admit(now)
        assert admission is not None
        breaker.failed(admission, now)

    for _ in range(4):
        fail(0)
    admission = breaker.admit(0)
    assert admission is not None
    breaker.succeeded(admission)
    for _ in range(4):
        fail(0)
    assert breaker.state(0) == "closed"  # the answer in between began the count anew
    fail(0)
    assert (breaker.state(0), breaker.admit(59.9)) == ("open", None)
    assert breaker.open_s(20) == 40
    fail(60)  # the first probe
    assert (breaker.state(119.9), breaker.statistics(60)["opened"]) == ("open", 2)
    for number in range(3):
        assert breaker.state(120) == "half_open"
        probe = breaker.admit(120)
        assert probe is not None
        assert breaker.admit(120) is None  # one at a time
        if number == 1:
            breaker.abandoned(probe)
            probe = breaker.admit(120)
            assert probe is not None
        breaker.succeeded(probe)
    assert breaker.state(120) == "closed"


def test_what_was_asked_before_a_breaker_opened_does_not_close_it() -> None:
    breaker = Breaker(BreakerLimits(failures=1, open_s=60, probes=1))
    early, bad = breaker.admit(0), breaker.admit(0)
    assert early is not None
    assert bad is not None
    breaker.failed(bad, 0)
    breaker.succeeded(early)
    assert breaker.state(1) == "open"
    breaker.failed(early, 30)
    assert breaker.open_s(30) == 30


@given(st.lists(st.tuples(st.sampled_from(["admit", "ok", "bad", "gone"]), st.floats(0, 40)), max_size=40))
def test_an_open_breaker_lets_nothing_through_and_a_half_open_one_one(steps: list[tuple[str, float]]) -> None:
    breaker = Breaker(BreakerLimits(failures=2, open_s=30, probes=2))
    now, out = 0.0, []
    for verb, passed in steps:
        now += passed
        state, probing = breaker.state(now), any(a.probe for a in out)
        if verb == "admit":
            admission = breaker.admit(now)
            assert (admission is None) == (state == "open" or (state == "half_open" and probing))
            out += [] if admission is None else [admission]
        elif out:
            admission = out.pop(0)
            if verb == "ok":
                breaker.succeeded(admission)
            elif verb == "bad":
                breaker.failed(admission, now)
            else:
                breaker.abandoned(admission)


async def test_a_provider_that_fails_is_left_alone_and_comes_back(autojump_clock: MockClock) -> None:
    model = Model(*["overloaded"] * 5)
    provider = patient(model, policy=RetryPolicy(attempts=1))
    for _ in range(5):
        assert await kind_of(provider) == "overloaded"
    assert await kind_of(provider) == "open"
    assert len(model.asked) == 5
    assert provider.statistics()["breaker"]["state"] == "open"
    await trio.sleep(60)  # noqa: TID251 - the clock of the tests
    for _ in range(3):
        assert provider.statistics()["breaker"]["state"] == "half_open"
        await provider.complete(asked())
    assert provider.statistics()["breaker"]["state"] == "closed"


async def test_a_request_that_is_wrong_is_not_the_providers_fault(autojump_clock: MockClock) -> None:
    provider = patient(Model(*["rejected"] * 9))
    for _ in range(9):
        assert await kind_of(provider) == "rejected"
    assert provider.statistics()["breaker"]["state"] == "closed"


async def test_who_gives_up_waiting_frees_the_probe(autojump_clock: MockClock) -> None:
    model = Model("overloaded")
    provider = patient(model, policy=RetryPolicy(attempts=1), breaker=Breaker(BreakerLimits(1, 60, 1)))
    assert await kind_of(provider) == "overloaded"
    await trio.sleep(60)  # noqa: TID251 - the clock of the tests
    with trio.move_on_after(0.5):  # noqa: TID251 - the clock of the tests
        await provider.complete(asked())
    assert provider.statistics()["in_flight"] == 0
    assert (await provider.complete(asked())).text == "hi"


async def test_who_waits_long_in_vain_has_met_a_failure(autojump_clock: MockClock) -> None:
    class Silent(Model):
        async def complete(
            self, request: CompletionRequest, *, on_delta: OnDelta | None = None
        ) -> Completion:
            await trio.sleep_forever()
            raise AssertionError

    provider = patient(Silent())
    for patience_s, counted in ((GIVEN_UP_S - 1, 0), (GIVEN_UP_S, 1), (GIVEN_UP_S, 2)):
        with trio.move_on_after(patience_s):  # noqa: TID251 - the clock of the tests
            await provider.complete(asked())
        assert provider.statistics()["breaker"]["failures"] == counted
        assert provider.statistics()["in_flight"] == 0


# Stand-ins


def chain(first: Model, *others: Model, quotas: str = "abcd", own_model: bool = True) -> FallbackProvider:
    standbys = [
        Standby(model, quota, own_model) for model, quota in zip((first, *others), quotas, strict=False)
    ]
    return FallbackProvider(standbys[0], standbys[1:])


async def test_stand_ins_are_asked_in_their_order_and_named(autojump_clock: MockClock) -> None:
    first, second, third = Model("cut"), Model("unauthorized", name="second"), Model(name="third")
    provider = chain(first, second, third)
    completion = await provider.complete(asked(model="mine"))
    assert (provider.name, completion.provider) == ("main", "third")
    assert completion.wasted == Usage(20, 4)
    assert completion.cost_micros == 60
    assert [model.asked[0][1].model for model in (first, second, third)] == ["mine", None, None]
    assert provider.statistics() == {"stood_in": {"second": 0, "third": 1}, "exhausted": 0}


@pytest.mark.parametrize("kind", RULES)
async def test_nobody_stands_in_for_a_request_that_is_itself_wrong(
    kind: Kind, autojump_clock: MockClock
) -> None:
    other = Model(name="other")
    provider = chain(Model(kind), other)
    if RULES[kind].elsewhere:
        assert (await provider.complete(asked())).provider == "other"
    else:
        assert await kind_of(provider) == kind
    assert len(other.asked) == RULES[kind].elsewhere


async def test_nobody_of_the_same_quota_stands_in_for_one_that_hit_it(autojump_clock: MockClock) -> None:
    same, other = Model(name="same"), Model(name="other")
    completion = await chain(Model("rate_limited"), same, other, quotas="aab").complete(asked())
    assert (completion.provider, same.asked) == ("other", [])
    assert (await chain(Model("overloaded"), same, quotas="aa").complete(asked())).provider == "same"


async def test_when_all_fail_the_first_failure_tells_of_the_others(autojump_clock: MockClock) -> None:
    provider = chain(Model("cut"), Model("timeout", name="second"), Model("rejected", name="third"))
    with pytest.raises(RequestFailed) as raised:
        await provider.complete(asked())
    assert raised.value.kind == "cut"
    assert raised.value.details["fallbacks"] == [
        {"provider": "second", "kind": "timeout"},
        {"provider": "third", "kind": "rejected"},
    ]
    assert raised.value.usage == Usage(30, 6)
    assert provider.statistics()["exhausted"] == 1


async def test_a_stand_in_begins_anew_what_another_has_shown_in_part(autojump_clock: MockClock) -> None:
    told: list[Delta] = []
    await chain(Model("cut", shown=True), Model(name="other")).complete(asked(), on_delta=told.append)
    assert told == [Delta("", anew=True), Delta("hi")]
    told.clear()
    broken = Model("cut", name="second", shown=True)
    await chain(Model("timeout"), broken, Model(name="third")).complete(asked(), on_delta=told.append)
    assert told == [Delta("", anew=True), Delta("hi")]
    told.clear()
    await chain(Model("timeout"), Model(name="other")).complete(asked(), on_delta=told.append)
    assert told == [Delta("hi")]


async def test_a_long_wait_is_not_waited_out_where_another_can_stand_in(autojump_clock: MockClock) -> None:
    other = Model(name="other")
    first = Model("rate_limited", retry_after_s=600.0)
    waiting = FallbackProvider(
        Standby(patient(first, has_fallback=True), "a", True), [Standby(other, "b", True)]
    )
    assert (await waiting.complete(asked())).provider == "other"
    assert len(first.asked) == 1
    alone = Model("rate_limited", retry_after_s=600.0)
    assert (await patient(alone).complete(asked())).attempts == 2
