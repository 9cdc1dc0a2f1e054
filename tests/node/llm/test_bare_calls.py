"""A call that a small model wrote as its answer is made; an answer that looks a little like one is not."""

from __future__ import annotations

import json

import pytest

from node.llm.bare_calls import TEXT_LIMIT, bare_call
from node.llm.provider import TOOL_NONE
from tests.node.llm.requests import CLOCK, WEATHER, asked
from tests.node.llm.server import whole
from tests.node.llm.test_dialects import chat, told
from tests.node.llm.test_remote import ask

CALL = '{"name": "weather", "arguments": {"city": "Bern"}}'


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"\n```json\n{CALL}\n```\n",
        f"```\n{CALL}```",
        f"<tool_call>\n{CALL}\n</tool_call>",
        '{"name": "weather", "parameters": {"city": "Bern"}}',
        '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}',
    ],
)
def test_an_answer_that_is_nothing_but_a_call_is_one(text: str) -> None:
    call = bare_call(text, (CLOCK, WEATHER))
    assert call is not None
    assert (call.name, call.arguments) == ("weather", {"city": "Bern"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"I would call {CALL}",
        f"{CALL} {CALL}",
        "[" + CALL + "]",
        CALL.replace("weather", "delete_everything"),
        CALL.replace("city", "town"),
        CALL.replace('"Bern"', "3"),
        CALL.replace('{"city": "Bern"}', '"Bern"'),
        CALL.replace("}}", '}, "answer": "21 degrees"}'),
        '{"name": "weather"}',
        '{"name": ["weather"], "arguments": {}}',
        '{"name": "weather", "arguments": {"city": "Bern"}, "args": {}}',
        '{"city": "Bern"}',
        "{" * 5000 + "}",
        CALL + " " * TEXT_LIMIT,
    ],
)
def test_anything_else_is_an_answer(text: str) -> None:
    assert bare_call(text, (CLOCK, WEATHER)) is None


async def test_it_is_taken_where_tools_were_offered_and_may_be_called() -> None:
    answer = whole(chat({"content": CALL}))
    completion = await ask(answer, request=asked(tools=(WEATHER,)))
    assert told(completion.tool_calls) == [("bare-1", "weather", {"city": "Bern"}, "")]
    assert (completion.text, completion.finish_reason) == ("", "tool_calls")
    for request in (asked(), asked(tools=(WEATHER,), tool_choice=TOOL_NONE)):
        completion = await ask(answer, request=request)
        assert (completion.text, completion.tool_calls) == (json.dumps(json.loads(CALL)), ())
