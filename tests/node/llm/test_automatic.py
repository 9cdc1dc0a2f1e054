"""``auto`` goes by variables, in one order, and only where it is asked for; nothing tells of keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.config import LlmConfig
from node.errors import ConfigInvalid, ProviderNotFound
from node.llm.automatic import choose
from node.llm.registry import ProviderRegistry
from tests.node.agents.inline import inline_environment

KEY = "sk-very-secret-1"
OTHERS = {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "small"}


def auto(**more: Any) -> LlmConfig:
    return LlmConfig.model_validate({"provider": "auto"} | more)


@pytest.mark.parametrize(
    ("environ", "name", "variable", "expected"),
    [
        ({}, "builtin", "", None),
        ({"PATH": "/bin", "OPENAI_API_KEY": ""}, "builtin", "", None),
        (
            {"OPENAI_API_KEY": KEY, "OPENAI_MODEL": "m", "OPENAI_ORG_ID": "o", "ANTHROPIC_API_KEY": "x"},
            "openai",
            "OPENAI_API_KEY",
            ("openai", "https://api.openai.com/v1", KEY, "m", None, {"OpenAI-Organization"}),
        ),
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1/", "OPENAI_MODEL_NAME": "m"},
            "openai",
            "OPENAI_BASE_URL",
            ("openai", "http://127.0.0.1:8000/v1", "", "m", None, set()),
        ),
        (
            {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_MODEL": "m"},
            "anthropic",
            "ANTHROPIC_API_KEY",
            ("anthropic", "https://api.anthropic.com", KEY, "m", None, set()),
        ),
        (
            {"ANTHROPIC_AUTH_TOKEN": KEY, "ANTHROPIC_BASE_URL": "http://localhost:11434"},
            "anthropic",
            "ANTHROPIC_AUTH_TOKEN",
            ("anthropic", "http://localhost:11434", KEY, None, "bearer", set()),
        ),
        (
            {"CAXTON_LLM_API_KEY": KEY, "CAXTON_LLM_MODEL": "m", "OPENAI_API_KEY": "other"},
            "openai",
            "CAXTON_LLM_MODEL",
            ("openai", "https://api.openai.com/v1", KEY, "m", None, set()),
        ),
        (
            {"CAXTON_LLM_PROVIDER": "anthropic", "CAXTON_LLM_API_KEY": KEY, "ANTHROPIC_API_KEY": "other"},
            "anthropic",
            "CAXTON_LLM_PROVIDER",
            ("anthropic", "https://api.anthropic.com", KEY, None, None, set()),
        ),
        ({"CAXTON_LLM_PROVIDER": "builtin", "OPENAI_API_KEY": KEY}, "builtin", "CAXTON_LLM_PROVIDER", None),
    ],
)
def test_the_first_variable_that_is_set_decides(
    environ: dict[str, str], name: str, variable: str, expected: tuple[Any, ...] | None
) -> None:
    found = choose(auto(), environ)
    assert (found.name, found.variable) == (name, variable)
    p = found.provider
    assert (p and (p.type, p.url, p.key, p.model, p.auth, set(p.headers))) == expected


def test_the_own_variable_may_name_a_provider_of_the_configuration() -> None:
    config = auto(providers={"local": OTHERS, "openai": OTHERS})
    assert choose(config, {"CAXTON_LLM_PROVIDER": "local"}).name == "local"
    assert choose(config, {"OPENAI_API_KEY": KEY}).name == "auto"  # the name openai is given away


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CAXTON_LLM_PROVIDER": "opnai"}, "'openai'"),
        ({"CAXTON_LLM_PROVIDER": "scripted"}, "CAXTON_LLM_PROVIDER"),
        ({"OPENAI_BASE_URL": "http://8.8.8.8/v1"}, "not encrypted"),
        ({"OPENAI_BASE_URL": "nonsense", "OPENAI_API_KEY": KEY}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": f"{KEY} and more"}, "printable"),
        ({"ANTHROPIC_BASE_URL": "https://u:p@x.example"}, "password"),
    ],
)
def test_a_variable_with_a_wrong_value_is_said_to_have_it(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        choose(auto(), environ)
    assert said in str(raised.value)
    assert KEY not in str(raised.value)


async def test_variables_are_read_only_where_the_configuration_says_auto() -> None:
    environ = {"OPENAI_API_KEY": KEY, "CAXTON_LLM_PROVIDER": "openai"}
    registry = ProviderRegistry.from_config(LlmConfig(), inline_environment(), environ)
    assert registry.choose(None).name == "builtin"
    with pytest.raises(ProviderNotFound):
        registry.choose("openai")
    assert registry.statistics()["automatic"] == ""
    taken = ProviderRegistry.from_config(auto(), inline_environment(), environ)
    assert taken.choose(None).name == "openai"
    assert taken.statistics()["automatic"] == "CAXTON_LLM_PROVIDER"


async def test_what_is_told_of_providers_holds_no_key() -> None:
    provider = OTHERS | {"api_key": KEY, "headers": {"X-Gate": KEY}, "fallbacks": ["builtin"]}
    config = LlmConfig.model_validate({"provider": "local", "providers": {"local": provider}})
    registry = ProviderRegistry.from_config(config, inline_environment())
    told = registry.describe()
    [_, local] = told["providers"]
    assert (local["name"], local["has_key"], local["model"]) == ("local", True, "small")
    assert local["state"]["breaker"]["state"] == "closed"
    assert local["state"]["stood_in"] == {"builtin": 0}
    for text in (json.dumps(told), json.dumps(registry.statistics()), repr(config), str(config)):
        assert KEY not in text


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"provider": "main"}, "there is no provider 'main'"),
        ({"provider": "scripted"}, "scripted.path"),
        ({"providers": {"Main": OTHERS}}, "cannot name a provider"),
        ({"providers": {"builtin": OTHERS}}, "cannot name a provider"),
        ({"providers": {"a": OTHERS | {"fallbacks": ["b"]}}}, "there is no provider 'b'"),
        ({"providers": {"a": OTHERS | {"fallbacks": ["a"]}}}, "stand in for itself"),
        ({"providers": {"a": {"type": "record", "path": "x"}}}, "source"),
        ({"providers": {"a": {"type": "replay"}}}, "needs a path"),
        ({"providers": {"a": {"type": "replay", "path": "x", "source": "builtin"}}}, "source"),
        ({"providers": {"a": {"type": "record", "path": "x", "source": "a"}}}, "itself of type 'record'"),
        ({"providers": {"a": {"type": "replay", "path": "x", "fallbacks": ["builtin"]}}}, "no fallbacks"),
        ({"providers": {"a": OTHERS | {"path": "x"}}}, "belong to the types"),
        ({"providers": {"a": {"type": "openai", "deployment": "d"}}}, "Azure"),
        ({"providers": {"a": OTHERS | {"base_url": "http://10.0.0.5/v1"}}}, ""),
        ({"providers": {"a": OTHERS | {"base_url": "http://[::1]/v1"}}}, ""),
        ({"providers": {"a": OTHERS | {"base_url": "http://ollama:11434/v1"}}}, "allow_plain_http"),
        ({"providers": {"a": OTHERS | {"base_url": "http://o/v1", "allow_plain_http": True}}}, ""),
        ({"providers": {"a": OTHERS | {"base_url": "http://0.0.0.0/v1"}}}, "allow_plain_http"),
        ({"providers": {"a": OTHERS | {"base_url": "ftp://x/v1"}}}, "must be a URL"),
        ({"providers": {"a": OTHERS | {"base_url": "https://[x/v1"}}}, "is no URL"),
        ({"providers": {"a": OTHERS | {"base_url": "https://x/v1?key=1"}}}, "must not hold"),
        ({"providers": {"a": OTHERS | {"headers": {"Authorization": "x"}}}}, "set by the provider itself"),
        ({"providers": {"a": OTHERS | {"headers": {"X": "a\nb"}}}}, "can be sent"),
        ({"providers": {f"p{n}": OTHERS for n in range(33)}}, "at most 32"),
        ({"prices": {"m": {"input": -1, "output": 0}}}, "greater than or equal to 0"),
        ({"budgets": {"cluster": {"tokens": 0}}}, "greater than or equal to 1"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: dict[str, Any], said: str) -> None:
    if not said:
        LlmConfig.model_validate(section)
        return
    with pytest.raises(ValueError, match=said):
        LlmConfig.model_validate(section)
