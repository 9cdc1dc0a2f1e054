"""``output_schema``: an answer is held against it, repaired once, and else a FAILURE with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from node.agents.journal import AgentLogRecord
from node.llm.failures import RequestFailed
from node.llm.provider import Completion, CompletionRequest, Usage
from node.llm.registry import ProviderRegistry
from node.message import Attachment
from node.vocabulary import Performative
from tests.node.agents.rooms import rooms
from tests.node.agents.test_configured import Recorder, failure, recorded, scripted
from tests.node.agents.test_definition import agent
from tests.node.llm.server import serving, whole
from tests.node.llm.test_dialects import chat
from tests.node.llm.test_remote import provider

SCHEMA = (
    "output_schema: {type: object, required: [total], properties: {total: {type: integer}},"
    " additionalProperties: false}"
)
STRUCTURED = agent(SCHEMA)


class Refusing(Recorder):
    """A provider that judges by the schema itself, as those behind HTTP do."""

    async def complete(self, request: CompletionRequest, **_: object) -> Completion:
        self.requests.append(request)
        if len(self.requests) == 1:
            raise RequestFailed(
                "unfollowed", why="total: 'many' is no integer", answer="many", usage=Usage(90, 9)
            )
        return Completion(text='{"total": 3}', content={"total": 3}, provider=self.name)


async def test_an_answer_that_follows_is_the_content_as_it_is() -> None:
    provider = Recorder('```json\n{"total": 3}\n```')
    async with rooms(providers=recorded(provider)) as here:
        await here.supervisor.deploy(STRUCTURED)
        [draft] = await here.send("tester", "x")
    assert (draft.performative, draft.content) == (Performative.INFORM, {"total": 3})
    [request] = provider.requests
    assert request.response_schema == {
        "type": "object",
        "required": ["total"],
        "properties": {"total": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert '"required": ["total"]' in request.messages[0].text


@pytest.mark.parametrize("first", ["text: three", 'text: \'{"total": "three"}\'', "content: {sum: 3}"])
async def test_an_answer_that_does_not_follow_is_repaired_once(first: str) -> None:
    async with rooms(providers=scripted(first, "match: {turn: 2}, content: {total: 3}")) as here:
        await here.supervisor.deploy(STRUCTURED)
        [draft] = await here.send("tester", "x")
        assert (draft.performative, draft.content) == (Performative.INFORM, {"total": 3})
        assert any("to be repaired" in record.text for record in logged(here))


def logged(here: Any) -> list[AgentLogRecord]:
    return list(here.supervisor.logs("tester"))


async def test_a_second_answer_that_does_not_follow_is_a_failure_with_the_reason() -> None:
    async with rooms(providers=scripted("text: one", "content: {total: 1.5}", "content: {total: 3}")) as here:
        await here.supervisor.deploy(STRUCTURED)
        [draft] = await here.send("tester", "x")
    assert failure(draft) == ("ANSWER_INVALID", "")
    assert "total: 1.5 is not of type 'integer'" in draft.content["reason"]


async def test_a_provider_that_judges_itself_gets_the_same_turn_to_repair() -> None:
    provider = Refusing()
    async with rooms(providers=recorded(provider)) as here:
        await here.supervisor.deploy(STRUCTURED)
        [draft] = await here.send("tester", "x")
        assert draft.content == {"total": 3}
    said = provider.requests[1].messages[-2:]
    assert [(m.role, "many" in m.text) for m in said] == [("assistant", True), ("user", True)]


async def test_what_a_repair_costs_counts_against_the_turns() -> None:
    rules = ("text: one", "content: {total: 3}")
    async with rooms(providers=scripted(*rules)) as here:
        await here.supervisor.deploy(agent(SCHEMA, "conversation: {max_turns: 1}"))
        [draft] = await here.send("tester", "x")
    assert failure(draft) == ("RESOURCE_LIMIT_EXCEEDED", "max_turns")


async def test_builtin_answers_with_a_result_that_follows_and_else_says_that_it_cannot() -> None:
    csv = Attachment("s.csv", "text/csv", b"product,revenue\na,1\nb,2.5\n")
    request = {"action": "analyze", "file": "s.csv"}
    async with rooms() as here:
        await here.supervisor.deploy(
            agent("tools: [csv_parser]", "output_schema: {required: [rows], properties: {rows: {const: 2}}}")
        )
        [draft] = await here.send("tester", request, csv)
        assert (draft.performative, draft.content["rows"]) == (Performative.INFORM, 2)
        await here.supervisor.deploy(agent("tools: [csv_parser]", SCHEMA), replace=True)
        [draft] = await here.send("tester", request, csv, conversation="new")
        assert draft.performative is Performative.FAILURE
        assert "follows the schema" in draft.content["reason"]


async def test_a_model_behind_http_is_bound_to_the_schema_and_told_what_was_wrong() -> None:
    async with serving(*(whole(chat({"content": f'{{"total": {n}}}'})) for n in ("1.5", "3"))) as server:
        remote = provider(server, stream=False)
        async with rooms(providers=ProviderRegistry(default="main", providers={"main": remote})) as here:
            await here.supervisor.deploy(STRUCTURED)
            [draft] = await here.send("tester", "x")
        await remote.aclose()
    assert (draft.performative, draft.content) == (Performative.INFORM, {"total": 3})
    first, second = (seen.body for seen in server.seen)
    assert first["response_format"]["json_schema"]["schema"]["required"] == ["total"]
    said = [(message["role"], message["content"]) for message in second["messages"][-2:]]
    assert said[0] == ("assistant", '{"total": 1.5}')
    assert "1.5 is not of type 'integer'" in said[1][1]
