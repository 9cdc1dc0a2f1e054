"""The offline provider says only what it found; the scripted one follows its script to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from node.config import LlmConfig
from node.errors import ConfigInvalid, ProviderFailed, ProviderNotFound, ValidationFailed
from node.llm.builtin import BuiltinProvider
from node.llm.provider import ChatMessage, CompletionRequest, FileInfo, Subject, ToolCall, ToolSpec
from node.llm.registry import ProviderRegistry
from node.llm.scripted import ScriptedProvider
from tests.node.agents.inline import TestClock, inline_environment

CSV_FILE = {"type": "string", "x-file": {"media_types": ["text/csv"], "suffixes": [".csv"]}}
ANALYZE = ToolSpec(
    "csv_analyze",
    "Analyze a CSV file: a full report.",
    {"properties": {"file": CSV_FILE, "top": {"type": "integer"}}, "required": ["file"]},
)
GROUP = ToolSpec(
    "csv_group",
    "Aggregate by group.",
    {
        "properties": {
            "file": CSV_FILE,
            "group_by": {"type": "string", "x-aliases": ["by"], "x-after": ["by", "per"]},
            "operation": {"enum": ["sum", "average"]},
        },
        "required": ["file", "group_by"],
    },
)
WEATHER = ToolSpec(
    "weather",
    "Forecast the weather of a city.",
    {"properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TOOLS = (ANALYZE, GROUP, WEATHER)


def asked(content: Any, *files: str, tools: tuple[ToolSpec, ...] = TOOLS, **more: Any) -> CompletionRequest:
    infos = tuple(FileInfo(name, "application/octet-stream", 10) for name in files)
    subject = Subject("request", more.pop("capability", "data-analysis"), content, files=infos)
    return CompletionRequest(messages=(), tools=tools, subject=subject, **more)


@pytest.mark.parametrize(
    ("content", "files", "calls"),
    [
        ({"action": "analyze", "file": "a.csv", "top": "3"}, ["a.csv"], [("csv_analyze", "a.csv", 3)]),
        ({"action": "analyze"}, ["a.csv"], [("csv_analyze", "a.csv", None)]),
        ("please analyse it", ["a.csv", "b.csv"], [("csv_analyze", f, None) for f in ("a.csv", "b.csv")]),
        ("analysis of b.csv", ["a.csv", "b.csv"], [("csv_analyze", "b.csv", None)]),
        ({"action": "analyze", "file": "/data/a.csv"}, ["a.csv", "b.csv"], [("csv_analyze", "a.csv", None)]),
    ],
)
async def test_a_tool_is_picked_and_filled_from_the_message(
    content: object, files: list[str], calls: list[tuple[str, str, int | None]]
) -> None:
    completion = await BuiltinProvider().complete(asked(content, *files))
    found = [(c.name, c.arguments["file"], c.arguments.get("top")) for c in completion.tool_calls]
    assert found == calls


async def test_words_become_arguments_where_the_schema_allows_them() -> None:
    completion = await BuiltinProvider().complete(asked("average revenue by region", "a.csv"))
    [call] = completion.tool_calls
    assert (call.name, call.arguments) == (
        "csv_group",
        {"file": "a.csv", "group_by": "region", "operation": "average"},
    )


@pytest.mark.parametrize(
    ("content", "files", "outcome", "reason"),
    [
        ({"action": "analyze", "file": "a.csv"}, [], "failed", "'a.csv', which is not attached"),
        ({"action": "analyze", "file": "x.csv"}, ["a.csv"], "failed", "'x.csv', which is not attached"),
        ({"action": "analyze"}, ["a.bin"], "failed", "an attached file"),
        ({"action": "forecast"}, [], "failed", "a value for 'city'"),
        ({"action": "sing"}, [], "not_understood", "No tool"),
    ],
)
async def test_it_says_what_it_cannot_do(
    content: object, files: list[str], outcome: str, reason: str
) -> None:
    completion = await BuiltinProvider().complete(asked(content, *files, capability="music"))
    assert (completion.outcome, completion.tool_calls) == (outcome, ())
    assert reason in completion.text


async def test_without_tools_it_does_not_pretend() -> None:
    completion = await BuiltinProvider().complete(asked("hello", tools=()))
    assert completion.outcome == "not_understood"


json_scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
json_values = st.recursive(
    json_scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3)
)


@given(json_values, st.lists(st.sampled_from(["a.csv", "b.csv", "c.bin"]), unique=True))
async def test_whatever_is_asked_its_calls_fit_the_schema_and_name_attached_files(
    content: object, files: list[str]
) -> None:
    request = asked(content, *files)
    completion = await BuiltinProvider().complete(request)
    assert completion == await BuiltinProvider().complete(request)
    for call in completion.tool_calls:
        tool = next(t for t in TOOLS if t.name == call.name)
        assert (
            set(tool.input_schema["required"]) <= set(call.arguments) <= set(tool.input_schema["properties"])
        )
        assert call.arguments.get("file", files[0] if files else None) in [*files, None]


async def test_an_answer_holds_what_the_tools_said_and_what_failed() -> None:
    good, bad = ToolCall("1", "csv_analyze", {}), ToolCall("2", "csv_analyze", {})
    messages = (
        ChatMessage("tool", "{}", call=good, result={"file": "a.csv", "facts": ["3 rows"]}),
        ChatMessage("tool", "b.csv is empty", call=bad, is_error=True),
    )
    request = asked("x")
    completion = await BuiltinProvider().complete(
        CompletionRequest(messages=messages, subject=request.subject, turn=2)
    )
    assert completion.content == {
        "provider": "builtin",
        "answer": ["a.csv: 3 rows"],
        "results": [{"tool": "csv_analyze", "result": {"file": "a.csv", "facts": ["3 rows"]}}],
        "not_done": ["csv_analyze: b.csv is empty"],
    }
    failed = await BuiltinProvider().complete(
        CompletionRequest(messages=messages[1:], subject=request.subject, turn=2)
    )
    assert failed.outcome == "failed"


async def test_a_result_without_a_summary_is_quoted_value_by_value() -> None:
    call = ToolCall("1", "weather", {})
    message = ChatMessage("tool", "", call=call, result={"city": "Bern", "days": [{"high": 21}]})
    completion = await BuiltinProvider().complete(
        CompletionRequest(messages=(message,), subject=asked("x").subject, turn=2)
    )
    assert completion.text == "city: Bern\ndays[0].high: 21"


def script(text: str) -> ScriptedProvider:
    return ScriptedProvider(text, TestClock())


async def test_rules_answer_in_order_each_as_often_as_it_says() -> None:
    provider = script("""
rules:
  - {match: {turn: 2}, text: second}
  - {match: {content: "h[ea]llo", capability: data-analysis}, times: 2, text: hi}
  - {match: {performative: query}, text: never}
""")
    answers = [(await provider.complete(asked("hallo", turn=turn))).text for turn in (1, 2, 1)]
    assert answers == ["hi", "second", "hi"]
    assert list(provider.unused()) == [3]
    with pytest.raises(ProviderFailed, match="no unused rule"):
        await provider.complete(asked("hallo"))


async def test_pieces_come_one_after_the_other(autojump_clock: MockClock) -> None:
    told: list[tuple[float, str]] = []
    clock = TestClock()
    provider = script("rules: [{deltas: [a, b, c], delta_s: 2}]")
    began = clock.now()
    completion = await provider.complete(
        asked("x"), on_delta=lambda delta: told.append((clock.now() - began, delta.text))
    )
    assert (told, completion.text) == ([(0.0, "a"), (2.0, "b"), (4.0, "c")], "abc")


async def test_a_lenient_script_does_not_understand_what_it_does_not_know() -> None:
    provider = script("{strict: false, rules: [{match: {turn: 7}, text: x}]}")
    assert (await provider.complete(asked("x"))).outcome == "not_understood"


@pytest.mark.parametrize(
    "text",
    [
        "rules: []",
        "rules: [{}]",
        "rules: [{text: a, error: timeout}]",
        "rules: [{error: boredom}]",
        "rules: [{match: {content: '('}, text: a}]",
        "rules: [{text: a, extra: 1}]",
        "rules: [{text: a, delta_s: 1}]",
        "rules: [",
        "3",
        "[" * 5000,
    ],
)
def test_a_wrong_script_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed):
        script(text)


def test_a_named_provider_is_never_replaced() -> None:
    registry = ProviderRegistry()
    assert registry.choose(None).name == "builtin"
    with pytest.raises(ProviderNotFound, match="Did you mean 'builtin'"):
        registry.choose("bultin")
    with pytest.raises(ProviderNotFound):
        ProviderRegistry(default="openai")


def test_the_configuration_names_the_provider_and_its_script(tmp_path: Path) -> None:
    path = tmp_path / "script.yaml"
    config = LlmConfig.model_validate({"provider": "scripted", "scripted": {"path": str(path)}})
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        ProviderRegistry.from_config(config, inline_environment())
    path.write_text("rules: [{text: a}]")
    assert ProviderRegistry.from_config(config, inline_environment()).choose(None).name == "scripted"
    path.write_text("rules: 3")
    with pytest.raises(ConfigInvalid, match="not valid"):
        ProviderRegistry.from_config(config, inline_environment())
    assert ProviderRegistry.from_config(LlmConfig(), inline_environment()).choose(None).name == "builtin"
