"""A recording replays what was said, to the byte, says what it does not know, and holds no key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import LlmConfig
from node.errors import ConfigInvalid, ValidationFailed
from node.llm.failures import RequestFailed
from node.llm.provider import ChatMessage, Completion, CompletionRequest, Delta, Provider, ToolCall, Usage
from node.llm.recorder import RecordProvider, ReplayProvider
from node.llm.recording import Recorded, header_line, key_of, line_of, read_recording
from node.llm.recording import asked as said
from node.llm.registry import ProviderRegistry
from node.llm.scripted import ScriptedProvider
from tests.node.agents.inline import InlineWorkers, TestClock, inline_environment
from tests.node.llm.requests import SCHEMA, TOOL_LOOP, WEATHER, asked

SCRIPT = """
rules:
  - {match: {turn: 1}, tool_calls: [{name: weather, arguments: {city: Bern}}, {name: clock, arguments: "{"}]}
  - {match: {turn: 2}, deltas: ["21 ", "degrees"], input_tokens: 9, output_tokens: 2, cost_micros: 4}
  - {match: {turn: 2}, content: {high: 21}}
  - {match: {turn: 3}, deltas: [half], error: cut}
  - {match: {turn: 4}, error: rate_limited, retry_after_s: 3}
"""
REQUESTS = (
    asked(tools=(WEATHER,)),
    asked(TOOL_LOOP, turn=2),
    asked(TOOL_LOOP, turn=2),
    asked(turn=3),
    asked(turn=4, temperature=0.5, response_schema=SCHEMA),
)


async def told(provider: Provider, request: CompletionRequest) -> tuple[object, list[str]]:
    """What a provider says, and in which pieces."""
    pieces: list[str] = []

    def note(delta: Delta) -> None:
        pieces.append(delta.text)

    try:
        return await provider.complete(request, on_delta=note), pieces
    except RequestFailed as error:
        return (error.kind, error.why, error.retry_after_s, error.shown), pieces


def recorder(path: Path, inner: Provider, *secrets: str) -> RecordProvider:
    return RecordProvider("record", inner, path, InlineWorkers(), secrets)


async def test_a_recording_replays_byte_for_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    recording = recorder(first, ScriptedProvider(SCRIPT, TestClock()))
    heard = [await told(recording, request) for request in REQUESTS]
    replaying = recorder(second, ReplayProvider("replay", first.read_bytes()))
    assert [await told(replaying, request) for request in REQUESTS] == heard
    assert second.read_bytes() == first.read_bytes()
    assert heard[1][1] == ["21 ", "degrees"]
    assert heard[3] == (("cut", "the script says so", None, True), ["half"])
    assert recording.statistics()["written"] == 5
    assert first.stat().st_mode & 0o777 == 0o600


async def test_a_recording_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for _ in range(2):
        await recorder(path, ScriptedProvider(SCRIPT, TestClock())).complete(REQUESTS[0])
    replay = ReplayProvider("replay", path.read_bytes())
    assert replay.statistics()["recorded"] == 2


async def test_the_same_question_in_another_conversation_has_the_same_answer() -> None:
    subject = replace(asked().subject, conversation_id="c-2", sender="other@n9")
    assert key_of(replace(asked(), subject=subject, agent="x")) == key_of(asked())


@pytest.mark.parametrize(
    "other",
    [
        asked(TOOL_LOOP),
        asked(tools=(WEATHER,)),
        asked(turn=2),
        asked(model="m"),
        asked(temperature=0.1),
        asked(max_tokens=3),
        asked(tool_choice="none"),
        asked(response_schema=SCHEMA),
        asked((ChatMessage("user", "Bern, please"),)),
    ],
)
async def test_a_request_that_is_not_recorded_fails_and_says_so(other: CompletionRequest) -> None:
    line = line_of(asked(), Recorded(key_of(asked()), Completion(text="hi", provider="x")))
    replay = ReplayProvider("replay", header_line() + line)
    with pytest.raises(RequestFailed, match="is not in it") as raised:
        await replay.complete(other)
    assert raised.value.details["recorded"] == 0
    assert (await replay.complete(asked())).text == "hi"
    with pytest.raises(RequestFailed, match="recorded 1 times"):
        await replay.complete(asked())
    assert replay.statistics() == {"recorded": 1, "replayed": 1, "left": 0, "missed": 2}


async def test_no_key_is_written(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    key = 'sk-"quoted"-secret'
    inner = ScriptedProvider("rules: [{text: 'the key is sk-\"quoted\"-secret'}]", TestClock())
    messages = (ChatMessage("user", f"my key is {key}"),)
    await recorder(path, inner, key).complete(asked(messages))
    text = path.read_text()
    assert "secret" not in text
    assert text.count("[key]") == 2
    replay = ReplayProvider("replay", path.read_bytes())
    assert (await replay.complete(asked(messages))).text == "the key is [key]"


async def test_a_recording_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner = ScriptedProvider("rules: [{times: 0, text: hi}]", TestClock())
    recording = recorder(tmp_path / "none" / "r.jsonl", inner)
    assert (await recording.complete(asked())).text == "hi"
    assert recording.statistics()["dropped"] == 1
    assert "cannot be written" in caplog.text
    monkeypatch.setattr("node.llm.recorder.RECORDING_LIMIT_BYTES", 2000)
    path = tmp_path / "r.jsonl"
    full = recorder(path, inner)
    for _ in range(9):
        await full.complete(asked())
    assert path.stat().st_size <= 2000
    counted = full.statistics()
    assert counted["written"] + counted["dropped"] == 9
    assert len(read_recording(path.read_bytes())) == counted["written"] > 0


GOOD = line_of(asked(), Recorded("k", Completion(text="hi", provider="x")))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"{}\n", 1),
        (b"\xff\n", 1),
        (b'{"caxton_llm_recording": 2}\n', 1),
        (header_line() + GOOD + b"{", 3),
        (header_line() + b"3", 2),
        (header_line() + b"{}", 2),
        (header_line() + b'{"key": 3, "answer": {}}', 2),
        (header_line() + GOOD.replace(b'"text":"hi"', b'"txet":"hi"'), 2),
        (header_line() + GOOD.replace(b'"input_tokens":0', b'"inputs":0'), 2),
        (header_line() + b'{"key": "k", "failure": {"kind": "boredom", "why": ""}}', 2),
        (header_line() + b"[" * 50_000, 2),
    ],
)
def test_a_damaged_recording_is_refused_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(ValidationFailed) as raised:
        read_recording(data)
    assert raised.value.details["line"] == line


texts = st.text(max_size=12)
calls = st.builds(ToolCall, texts, texts, st.dictionaries(texts, st.integers() | texts, max_size=2), texts)
counts = st.integers(0, 10**9)
completions = st.builds(
    Completion,
    text=texts,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    content=st.none() | st.dictionaries(texts, st.integers() | texts, max_size=2),
    usage=st.builds(Usage, counts, counts, st.booleans(), counts, counts),
    provider=texts,
    model=texts,
    cost_micros=st.none() | counts,
)


@given(completions)
def test_every_completion_survives_a_recording(completion: Completion) -> None:
    data = header_line() + line_of(asked(), Recorded(key_of(asked()), completion, deltas=("a", "b")))
    [recorded] = read_recording(data)
    assert recorded == Recorded(key_of(asked()), completion, deltas=("a", "b"))
    assert json.loads(data.splitlines()[1])["asked"] == said(asked())


async def test_the_configuration_names_recordings(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    recording = {"type": "record", "path": str(path), "source": "builtin"}
    config = LlmConfig.model_validate({"provider": "tape", "providers": {"tape": recording}})
    registry = ProviderRegistry.from_config(config, inline_environment())
    heard = await registry.choose(None).complete(asked())
    replaying = LlmConfig.model_validate(
        {"provider": "tape", "providers": {"tape": {"type": "replay", "path": str(path)}}}
    )
    registry = ProviderRegistry.from_config(replaying, inline_environment())
    assert await registry.choose(None).complete(asked()) == heard
    assert registry.statistics()["providers"]["tape"]["replayed"] == 1
    path.write_text("nonsense")
    with pytest.raises(ConfigInvalid, match="not valid"):
        ProviderRegistry.from_config(replaying, inline_environment())
    path.unlink()
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        ProviderRegistry.from_config(replaying, inline_environment())
