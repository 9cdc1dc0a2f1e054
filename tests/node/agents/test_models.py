"""A configured agent and its model: what it asks for, what it makes of bad answers, and what it may spend."""

from __future__ import annotations

import pytest

from node.config import LlmConfig
from node.llm.budgets import Budgets
from node.llm.provider import Completion, StopReason
from node.vocabulary import Performative
from tests.node.agents.inline import TestClock
from tests.node.agents.rooms import rooms
from tests.node.agents.test_configured import ANALYZE, CSV, CSV_AGENT, Recorder, failure, recorded, scripted
from tests.node.agents.test_definition import agent
from tests.node.llm.test_budgets import Disk

MALFORMED = "tool_calls: [{name: csv_analyze, arguments: '{\"file\": '}]"


async def test_a_model_that_writes_no_arguments_is_told_and_can_correct_itself() -> None:
    told = 'match: {tool_result: "the arguments are not JSON.*call it again"}'
    providers = scripted(f"match: {{turn: 1}}, {MALFORMED}", f"{told}, {ANALYZE}", 'text: "It is 3.5."')
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "analyze", CSV)
        assert draft.performative is Performative.INFORM
        assert draft.content["answer"] == "It is 3.5."
        assert here.supervisor.logs("tester", level="warning")[0].text.startswith(
            "tool csv_analyze not called"
        )


async def test_a_model_that_never_learns_to_write_arguments_is_ended() -> None:
    async with rooms(providers=scripted(f"times: 0, {MALFORMED}")) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "analyze", CSV)
        assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", "duplicate_calls")


@pytest.mark.parametrize("text", ["", " \n"])
async def test_a_model_that_says_nothing_has_failed(text: str) -> None:
    async with rooms(providers=recorded(Recorder(text))) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "hello")
        assert failure(draft)[0] == "PROVIDER_ERROR"
        assert "answered nothing" in draft.content["reason"]


@pytest.mark.parametrize(("finish", "warned"), [("length", 1), ("stop", 0)])
async def test_an_answer_that_was_cut_off_is_given_with_a_word_in_the_log(
    finish: StopReason, warned: int
) -> None:
    class Cut(Recorder):
        async def complete(self, *_: object, **__: object) -> Completion:
            return Completion(text="It is", provider="recorder", finish_reason=finish)

    async with rooms(providers=recorded(Cut())) as here:
        await here.supervisor.deploy(agent())
        [draft] = await here.send("tester", "hello")
        assert draft.content["answer"] == "It is"
        said = [r.text for r in here.supervisor.logs("tester", level="warning")]
        assert sum("cut off" in message for message in said) == warned


async def test_an_agents_settings_of_its_model_reach_the_provider() -> None:
    provider = Recorder()
    async with rooms(providers=recorded(provider)) as here:
        await here.supervisor.deploy(agent("llm: {model: small, max_tokens: 77, temperature: 0.5}"))
        await here.send("tester", "hello")
    [request] = provider.requests
    assert (request.model, request.max_tokens, request.temperature) == ("small", 77, 0.5)
    assert (request.agent, request.subject.conversation_id) == ("tester", "conversation-1")


async def test_an_agent_without_budget_left_says_so_and_calls_no_tool() -> None:
    config = LlmConfig.model_validate({"budgets": {"agent": {"tool_calls": 1}}})
    budgets = Budgets(config, models={}, clock=TestClock(), storage=Disk())
    providers = scripted(f"times: 0, {ANALYZE}")
    providers.within(budgets)
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(CSV_AGENT)
        [draft] = await here.send("tester", "analyze", CSV)
        assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", "budget")
        assert draft.content["details"]["kind"] == "tool_calls"
    assert providers.describe()["budgets"]["agents"]["tester"]["tool_calls"] == 1
