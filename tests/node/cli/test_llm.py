from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.cli.conftest import TOKEN, FakeNode, Shell
from tests.node.cli.test_members import rows

KEY = "sk-secret-0123456789"
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "small-1",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "pong\x1b[31m"}}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}
PATH = "/v1/chat/completions"


@pytest.fixture
def model() -> Iterator[FakeNode]:
    fake = FakeNode()
    yield fake
    fake.close()


@pytest.fixture
def config(model: FakeNode, tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(f"""
llm:
  provider: main
  providers:
    main: {{type: openai, base_url: "{model.api}/v1", api_key: {KEY}, model: small, stream: false}}
  retry: {{attempts: 2, initial: 1ms}}
  prices: {{small: {{input: 1000, output: 2000}}}}
""")
    return path


def test_a_check_asks_for_one_tiny_answer_and_tells_what_it_took(
    config: Path, model: FakeNode, shell: Shell
) -> None:
    model.answers["POST", PATH] = 200, ANSWER
    assert shell("llm", "check", "--config", str(config)) == 0
    told = dict(line.split(": ", 1) for line in shell.out.splitlines())
    assert told["provider"] == "main"
    assert (told["model"], told["cost"], told["features"]) == ("small-1", "0.011", "usage")
    assert told["answer"] == "pong\ufffd[31m"
    [(_, _, body, authorization)] = model.requests
    assert (body["model"], body["max_tokens"], authorization) == ("small", 16, f"Bearer {KEY}")
    found = shell.json("llm", "check", "--config", str(config), "--model", "other")
    assert (found["answered_by"], found["attempts"], found["cost"]) == ("main", 1, None)
    assert model.requests[-1][2]["model"] == "other"
    assert KEY not in shell.out


def test_a_check_that_fails_says_why_without_the_key(config: Path, model: FakeNode, shell: Shell) -> None:
    model.answers["POST", PATH] = 401, {"error": {"message": f"no such key {KEY}"}}
    assert shell("llm", "check", "--config", str(config)) == 1
    assert "does not accept the key" in shell.err
    assert "[key]" in shell.err
    assert KEY not in shell.err
    model.answers["POST", PATH] = 500, {}
    model.requests.clear()
    assert shell("llm", "check", "--config", str(config)) == 1
    assert len(model.requests) == 2  # as the configuration's retries say


def test_a_check_of_what_there_is_not_or_of_a_wrong_configuration(config: Path, shell: Shell) -> None:
    assert shell("llm", "check", "--config", str(config), "--provider", "mian") == 2
    assert "'main'" in shell.err
    config.write_text("llm: {provider: mian}")
    assert shell("llm", "check", "--config", str(config)) == 2


def test_the_builtin_provider_needs_no_configuration(shell: Shell) -> None:
    found = shell.json("llm", "check")
    assert (found["provider"], found["cost"], found["chosen_by"]) == ("builtin", 0.0, "llm.provider")


def test_variables_are_used_only_where_auto_says_so(
    tmp_path: Path, model: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.answers["POST", PATH] = 200, ANSWER
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{model.api}/v1")
    monkeypatch.setenv("OPENAI_MODEL", "small")
    assert shell.json("llm", "check")["provider"] == "builtin"
    assert model.requests == []
    path = tmp_path / "auto.yaml"
    path.write_text("llm: {provider: auto}")
    found = shell.json("llm", "check", "--config", str(path))
    assert (found["provider"], found["chosen_by"]) == ("openai", "OPENAI_API_KEY")


def test_the_providers_of_a_node_are_shown_with_what_was_spent(node: FakeNode, shell: Shell) -> None:
    spent = {"tokens": 5, "money_micros": 2_500_000, "tool_calls": 1}
    state = {
        "breaker": {"state": "open"},
        "requests": 7,
        "answered": 2,
        "input_tokens": 9,
        "output_tokens": 1,
    }
    found = {
        "node": "alpha",
        "default": "main",
        "automatic": "OPENAI_API_KEY",
        "prices": [],
        "providers": [
            {"name": "builtin", "type": "builtin", "state": {}},
            {"name": "main", "type": "openai", "model": "small", "state": state | {"cost_micros": 1500}},
        ],
        "budgets": {
            "cluster": {"own": spent, "others": spent, "limits": {"money": 9_000_000}},
            "agents": {"analyst": spent},
            "agent_limits": {"tokens": 100},
        },
    }
    node.answers["GET", "/llm"] = 200, found
    assert shell("llm", "show") == 0
    table = rows(shell)
    assert table[0] == ["alpha: agents that name no provider use main, by OPENAI_API_KEY"]
    assert ["main", "openai", "small", "open", "7", "2", "10", "0.0015"] in table
    assert ["the cluster", "10", "5.0000 of 9", "2"] in table
    assert ["analyst", "5 of 100", "2.5000", "1"] in table
    assert node.requests == [("GET", "/llm", None, f"Bearer {TOKEN}")]
    assert shell.json("llm", "show") == json.loads(json.dumps(found))
