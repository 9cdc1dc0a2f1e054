"""What is sent and what is read is what the official clients send and read."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from typing import Any

import anthropic
import anthropic.types
import httpx2
import openai
import pytest
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import BaseModel, TypeAdapter

from node.llm.anthropic import OLDER_VERSION, AnthropicDialect
from node.llm.openai import OpenAiDialect
from node.llm.provider import CompletionRequest, ToolCall, Usage
from node.llm.wire import CALLS_LIMIT, Dialect, Nonsense, Trouble
from node.sse import Event
from tests.node.llm.requests import CLOCK, HELLO, SCHEMA, TOOL_LOOP, WEATHER, asked

KEY = "sk-secret-0123456789"
OPENAI = OpenAiDialect(base_url="https://api.openai.com/v1", api_key=KEY, headers_given={})
ANTHROPIC = AnthropicDialect(base_url="https://api.anthropic.com", api_key=KEY, headers_given={})
REQUESTS = {
    "plain": asked(),
    "tools": asked(tools=(WEATHER, CLOCK), max_tokens=100),
    "loop": asked(TOOL_LOOP, tools=(WEATHER, CLOCK), turn=3),
    "no tools": asked(TOOL_LOOP, tools=(WEATHER,), tool_choice="none"),
    "some tool": asked(tools=(WEATHER, CLOCK), tool_choice="required"),
    "one tool": asked(tools=(WEATHER, CLOCK), tool_choice="clock"),
    "schema": asked(response_schema=SCHEMA),
    "temperature": asked(temperature=0.5),
    "uncached": asked(cache=False),
}


adapter = cache(TypeAdapter)
"""Each is a second of work."""


def walked(value: Any) -> Any:
    """Validated values with their lazy lists read to the end."""
    if isinstance(value, dict):
        return {key: walked(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else [walked(item) for item in value]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("dialect", "plain", "streamed"),
    [
        (OPENAI, CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
        (ANTHROPIC, MessageCreateParamsNonStreaming, MessageCreateParamsStreaming),
    ],
    ids=["openai", "anthropic"],
)
def test_a_request_is_of_the_official_types_and_holds_nothing_else(
    dialect: Dialect, plain: type, streamed: type, name: str, stream: bool
) -> None:
    body = dialect.body(REQUESTS[name], model="model-1", stream=stream)
    assert walked(adapter(streamed if stream else plain).validate_python(body)) == body
    json.dumps(body)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_goes_where_openais_own_client_sends_it(name: str) -> None:
    seen: list[httpx2.Request] = []
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=answer)

    body = OPENAI.body(REQUESTS[name], model="model-1", stream=False)
    with httpx2.Client(transport=httpx2.MockTransport(handle)) as transport:
        openai.OpenAI(api_key=KEY, http_client=transport).chat.completions.create(**body)
        azure = openai.AzureOpenAI(
            api_key=KEY,
            azure_endpoint="https://x.example",
            azure_deployment="mine",
            api_version="2024-10-21",
            http_client=transport,
        )
        azure.chat.completions.create(**body)
    assert json.loads(seen[0].content) == body
    assert str(seen[0].url) == OPENAI.base_url + OPENAI.path("model-1")
    assert seen[0].headers["authorization"] == OPENAI.headers()["authorization"]
    ours = OpenAiDialect(
        base_url="https://x.example",
        api_key=KEY,
        deployment="mine",
        api_version="2024-10-21",
        key_header=True,
        headers_given={},
    )
    assert str(seen[1].url) == ours.base_url + ours.path("model-1")
    assert ours.headers() == {"api-key": seen[1].headers["api-key"]}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_goes_where_anthropics_own_client_sends_it(name: str) -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=MESSAGE)

    body = ANTHROPIC.body(REQUESTS[name], model="model-1", stream=False)
    with httpx2.Client(transport=httpx2.MockTransport(handle)) as transport:
        anthropic.Anthropic(api_key=KEY, http_client=transport).messages.create(**body)
    assert json.loads(seen[0].content) == body
    assert str(seen[0].url) == ANTHROPIC.base_url + ANTHROPIC.path("model-1")
    for header, value in ANTHROPIC.headers().items():
        assert seen[0].headers[header] == value


def test_the_older_interface_of_anthropic_takes_a_temperature_and_another_header() -> None:
    older = AnthropicDialect(
        base_url="https://x", api_key=KEY, api_version=OLDER_VERSION, key_header=True, headers_given={}
    )
    request = asked(temperature=1.5)
    assert older.body(request, model="m", stream=False)["temperature"] == 1.0
    assert "temperature" not in ANTHROPIC.body(request, model="m", stream=False)
    assert older.headers() == {"anthropic-version": "2023-06-01", "x-api-key": KEY}


def test_a_limit_of_tokens_has_the_name_that_the_server_knows() -> None:
    request = asked(max_tokens=7)
    local = OpenAiDialect(base_url="http://127.0.0.1:11434/v1", headers_given={}, max_tokens=9)
    assert OPENAI.body(request, model="m", stream=False)["max_completion_tokens"] == 7
    assert local.body(request, model="m", stream=False)["max_tokens"] == 7
    assert local.body(asked(), model="m", stream=False)["max_tokens"] == 9
    assert ANTHROPIC.body(asked(), model="m", stream=False)["max_tokens"] == 4096
    assert local.headers() == {}


def test_a_server_that_knows_no_schemas_is_not_asked_for_one() -> None:
    for structured, form in (("json_object", {"type": "json_object"}), ("none", None)):
        dialect = OpenAiDialect(base_url="https://x", structured=structured, headers_given={})
        body = dialect.body(asked(response_schema=SCHEMA), model="m", stream=False)
        assert body.get("response_format") == form


def test_the_last_turn_of_a_prompt_is_marked_for_the_cache() -> None:
    body = ANTHROPIC.body(asked(TOOL_LOOP), model="m", stream=False)
    marks = [block for turn in body["messages"] for block in turn["content"] if "cache_control" in block]
    assert marks == [body["messages"][-1]["content"][-1]]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]


# Answers

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 3},
}


def chat(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-x",
        "choices": [choice],
        "usage": USAGE,
    } | more


def function(identifier: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "text", "text": "Let me see.", "citations": None},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}},
        {"type": "tool_use", "id": "t2", "name": "clock", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 5,
        "output_tokens": 7,
        "cache_read_input_tokens": 12,
        "cache_creation_input_tokens": 3,
    },
}
CALLS = [("t1", "weather", {"city": "Bern"}, ""), ("t2", "clock", {}, "")]


def told(calls: tuple[ToolCall, ...]) -> list[tuple[Any, ...]]:
    return [(call.id, call.name, call.arguments, call.malformed) for call in calls]


def test_a_whole_answer_of_each_dialect_is_read_alike() -> None:
    said = {
        "content": "Let me see.",
        "tool_calls": [function("t1", "weather", '{"city": "Bern"}'), function("t2", "clock", "")],
    }
    whole = chat(said, "tool_calls")
    ChatCompletion.model_validate(whole, strict=True)
    anthropic.types.Message.model_validate(MESSAGE, strict=True)
    for dialect, found, model in ((OPENAI, whole, "gpt-x"), (ANTHROPIC, MESSAGE, "claude-x")):
        answer = dialect.read(found)  # type: ignore[attr-defined]
        assert (answer.text, answer.stop, answer.model) == ("Let me see.", "tool_calls", model)
        assert told(answer.tool_calls) == CALLS
        assert answer.usage == Usage(20, 7, cached_tokens=12, cache_write_tokens=3)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-x",
        "choices": [choice],
    } | more


CHUNKS: list[dict[str, Any]] = [
    chunk({"role": "assistant", "content": "Let "}),
    chunk({"content": "me see."}),
    chunk({"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "weather"}}]}),
    chunk({"tool_calls": [{"index": 1, "id": "t2", "function": {"name": "clock", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]}),
    chunk({}, "tool_calls"),
    chunk({}) | {"choices": [], "usage": USAGE},
]
EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": MESSAGE
        | {
            "content": [],
            "stop_reason": None,
            "usage": {
                "input_tokens": 5,
                "output_tokens": 1,
                "cache_read_input_tokens": 12,
                "cache_creation_input_tokens": 3,
            },
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "", "citations": None},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Let "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "me see."}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"city": '},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '"Bern"}'},
    },
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t2", "name": "clock", "input": {}},
    },
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]


class _Event(BaseModel):
    event: anthropic.types.RawMessageStreamEvent


def test_a_streamed_answer_of_each_dialect_is_read_as_the_whole_one() -> None:
    for found in CHUNKS:
        ChatCompletionChunk.model_validate(found, strict=True)
    for found in EVENTS:
        _Event.model_validate({"event": found}, strict=True)
    unknown = [{"type": "ping"}, {"type": "something_new", "index": None}]
    for dialect, events in ((OPENAI, CHUNKS), (ANTHROPIC, [*unknown, *EVENTS])):
        reader = dialect.reader()  # type: ignore[attr-defined]
        pieces = []
        for found in events:
            assert not (reader.complete and "text" in str(found))
            pieces.append(reader.feed(Event("", json.dumps(found))))
        assert "".join(pieces) == "Let me see."
        answer = reader.answer()
        assert reader.complete
        assert (answer.text, answer.stop) == ("Let me see.", "tool_calls")
        assert told(answer.tool_calls) == CALLS
        assert answer.usage == Usage(20, 7, cached_tokens=12, cache_write_tokens=3)


def test_a_small_server_may_leave_out_what_it_likes() -> None:
    reader = OPENAI.reader()
    for delta in (
        {"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "clock", "arguments": ""}}]},
    ):
        reader.feed(Event("", json.dumps({"choices": [{"delta": delta}]})))
    assert not reader.complete
    reader.feed(Event("", "[DONE]"))
    answer = reader.answer()
    assert told(answer.tool_calls) == [
        ("call-1", "weather", {"city": "Bern"}, ""),
        ("b", "clock", {}, ""),
    ]
    assert (answer.usage, answer.model, answer.stop) == (None, "", "tool_calls")


@pytest.mark.parametrize("arguments", ['{"city": "Ber', "[1]", "NaN", '{"n": NaN}', "[" * 5000])
def test_arguments_that_cannot_be_read_are_reported_with_their_call(arguments: str) -> None:
    answer = OPENAI.read(chat({"tool_calls": [function("a", "weather", arguments)]}, "tool_calls"))
    [call] = answer.tool_calls
    assert (call.name, call.arguments) == ("weather", {})
    assert "arguments" in call.malformed
    reader = ANTHROPIC.reader()
    for found in (EVENTS[0], EVENTS[5]):
        reader.feed(Event("", json.dumps(found)))
    delta = {"type": "input_json_delta", "partial_json": arguments}
    reader.feed(Event("", json.dumps({"type": "content_block_delta", "index": 1, "delta": delta})))
    assert reader.answer().tool_calls[0].malformed == call.malformed


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "filtered"), ("?", "stop")],
)
def test_why_an_answer_ended_is_told_in_one_vocabulary(finish: str, stop: str) -> None:
    assert OPENAI.read(chat({"content": "x"}, finish)).stop == stop


def test_a_refusal_is_told_as_one() -> None:
    answer = OPENAI.read(chat({"content": None, "refusal": "I must not."}))
    assert (answer.text, answer.stop) == ("I must not.", "refusal")
    refused = MESSAGE | {"content": [], "stop_reason": "refusal"}
    assert ANTHROPIC.read(refused).stop == "refusal"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 1, "completion_tokens": 10**12},
        {"prompt_tokens": 1.5, "completion_tokens": True},
    ],
)
def test_counts_that_cannot_be_are_no_counts(usage: object) -> None:
    assert OPENAI.read(chat({"content": "x"}, usage=usage)).usage is None


def test_more_cached_than_read_is_cut() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 50}}
    assert OPENAI.read(chat({"content": "x"}, usage=usage)).usage == Usage(5, 1, cached_tokens=5)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"choices": []},
        {"choices": "x"},
        {"choices": [None]},
        chat({"content": 3}),
        chat({"content": "x", "tool_calls": [{}]}),
        chat({"tool_calls": [function("a", "", "{}")]}),
        chat({"tool_calls": [function(str(n), "t", "{}") for n in range(CALLS_LIMIT + 1)]}),
    ],
)
def test_nonsense_is_said_to_be(found: object) -> None:
    with pytest.raises(Nonsense):
        OPENAI.read(found)


@pytest.mark.parametrize(
    "found",
    [None, {}, MESSAGE | {"content": 3}, MESSAGE | {"content": [3]}, MESSAGE | {"stop_reason": None}],
)
def test_nonsense_of_the_other_dialect_is_said_to_be(found: object) -> None:
    with pytest.raises(Nonsense):
        ANTHROPIC.read(found)


WORDS = [
    "choices",
    "message",
    "delta",
    "content",
    "tool_calls",
    "function",
    "usage",
    "error",
    "type",
    "index",
]
WORDS += ["text", "content_block", "name", "id", "arguments", "stop_reason", "model"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(WORDS), v, max_size=5),
)
types = st.sampled_from([event["type"] for event in EVENTS] + ["error"])


@given(json_values, types)
def test_whatever_is_answered_is_read_or_refused(found: Any, kind: str) -> None:
    events = [found, found | {"type": kind} if isinstance(found, dict) else found]
    for dialect in (OPENAI, ANTHROPIC):
        for event in events:
            reader = dialect.reader()
            with contextlib.suppress(Nonsense, Trouble):
                dialect.read(event)
            try:
                reader.feed(Event("", json.dumps(event)))
                reader.answer()
            except (Nonsense, Trouble):
                pass


@pytest.mark.parametrize(
    ("dialect", "error", "kind"),
    [
        (OPENAI, {"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limited"),
        (OPENAI, {"message": "broke", "code": 503}, "overloaded"),
        (OPENAI, {"message": "too long", "code": "context_length_exceeded"}, "rejected"),
        (OPENAI, "broke", "overloaded"),
        (ANTHROPIC, {"type": "overloaded_error", "message": "broke"}, "overloaded"),
        (ANTHROPIC, {"type": "rate_limit_error", "message": "slow down"}, "rate_limited"),
        (ANTHROPIC, {"type": "invalid_request_error", "message": "no"}, "rejected"),
        (ANTHROPIC, "broke", "overloaded"),
    ],
)
def test_an_error_in_the_middle_of_an_answer_is_told_as_one(dialect: Dialect, error: Any, kind: str) -> None:
    with pytest.raises(Trouble) as raised:
        dialect.reader().feed(Event("error", json.dumps({"type": "error", "error": error})))
    assert raised.value.kind == kind


def test_history_that_is_empty_of_words_can_be_sent() -> None:
    request = CompletionRequest(messages=(*HELLO[:1], TOOL_LOOP[5], TOOL_LOOP[6]), subject=asked().subject)
    body = ANTHROPIC.body(request, model="m", stream=False)
    assert [block["type"] for turn in body["messages"] for block in turn["content"]] == [
        "tool_use",
        "tool_result",
    ]
