"""Language models that fail: each failure as an agent meets it, and none without a fault."""

import random
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from node.errors import ProviderFailed
from node.llm.provider import Completion, CompletionRequest, Provider, Subject
from node.llm.registry import ProviderRegistry
from node.llm.scripted import ScriptedProvider
from simulations import faults
from simulations.nodes.models import KINDS, NO_TOOL, TIMEOUT_S, UnreliableProvider, Weather
from tests.node.agents.inline import TestClock

REQUEST = CompletionRequest(messages=(), subject=Subject("request", content="hello"))


@pytest.fixture
def provider() -> Callable[..., UnreliableProvider]:
    def make(**chances: float) -> UnreliableProvider:
        weather = Weather(faults.Provider(at_s=0, members=("n1",), **chances) if chances else None)
        inner = ScriptedProvider("rules: [{times: 0, text: hello}]", TestClock())
        return UnreliableProvider(inner, weather, TestClock(), random.Random(1))

    return make


async def test_without_a_fault_the_model_answers(provider: Callable[..., UnreliableProvider]) -> None:
    assert (await provider().complete(REQUEST)).text == "hello"
    assert (await provider(cut=0.0).complete(REQUEST)).text == "hello"


@pytest.mark.parametrize("kind", ["rate_limited", "timeout", "cut"])
async def test_a_failure_is_the_error_of_a_provider(
    kind: str, provider: Callable[..., UnreliableProvider], autojump_clock: MockClock
) -> None:
    struck = provider(**{kind: 1.0})
    before = trio.current_time()
    with pytest.raises(ProviderFailed) as raised:
        await struck.complete(REQUEST)
    assert raised.value.details["kind"] == kind
    assert trio.current_time() - before == (TIMEOUT_S if kind == "timeout" else 0)
    assert struck._weather.counts == {kind: 1}


async def test_a_malformed_answer_asks_for_a_tool_that_there_is_not(
    provider: Callable[..., UnreliableProvider],
) -> None:
    completion: Completion = await provider(malformed=1.0).complete(REQUEST)
    assert [call.name for call in completion.tool_calls] == [NO_TOOL]


async def test_an_answer_takes_its_time(
    provider: Callable[..., UnreliableProvider], autojump_clock: MockClock
) -> None:
    before = trio.current_time()
    await provider(takes_s=2.0).complete(REQUEST)
    assert trio.current_time() > before


def test_the_chances_of_a_request_are_at_most_certain() -> None:
    with pytest.raises(ValueError, match="more than 1"):
        faults.Provider(at_s=0, members=("n1",), cut=0.6, timeout=0.6)
    assert {*KINDS} < {*faults.Provider.model_fields}


def test_whatever_a_node_asks_is_seen_through_the_weather() -> None:
    registry = ProviderRegistry()

    def wrap(inner: Provider) -> Provider:
        return UnreliableProvider(inner, Weather(), TestClock(), random.Random(1))

    registry.around(wrap)
    assert isinstance(registry.choose(None), UnreliableProvider)
    assert registry.choose(None).name == "builtin"
