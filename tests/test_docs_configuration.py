"""The pages say of the configuration what the code says: every key, its default, its other names."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import BaseModel

from node.config import LlmPrice, LlmProvider, McpServer, NodeConfig, ToolServerLimits, load_config
from node.config.model import KEY_ALIASES
from node.config.swim_settings import NOT_PARAMETERS, SwimSettings
from node.http.strategies import LOAD_ALGORITHMS
from node.llm.failures import RULES as FAILURES
from node.vocabulary import STRATEGY_NAMES
from swim.config import SwimConfig
from tests.docs_pages import DOCS, ROOT, blocks, column, plain, rows


# configuration.md and configs/node.yaml
def settings(model: type[BaseModel] = NodeConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default."""
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if info.annotation is SwimSettings:
            yield key, None  # its keys are the parameters of swim, documented with their values per profile
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from settings(info.annotation, f"{key}.")
        elif get_origin(info.annotation) is dict:
            yield key, None  # sections by names of the user's choice, whose keys have a table of their own
        else:
            yield key, info.default


DYNAMIC = {"cluster.node_name": "host name", "storage.data_dir": "state directory"}


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    found = {plain(row["Key"]): row for row in rows("configuration.md", "Key", "Default", "Unit", "Meaning")}
    assert sorted(found) == sorted(key for key, _ in settings())
    overrides: dict[str, object] = {}
    for key, default in settings():
        said = found[key]["Default"]
        if key in DYNAMIC:
            assert said == DYNAMIC[key]
        elif default is None:
            assert said == "none", key
        else:
            overrides[key] = [] if said == "`[]`" else plain(said)
        assert found[key]["Meaning"], key
    environ = {"HOME": "/nowhere", "XDG_STATE_HOME": "/nowhere/state"}
    assert load_config(environ=environ, overrides=overrides) == load_config(environ=environ)


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ("Key of a provider", LlmProvider),
        ("Key of a price", LlmPrice),
        ("Key of a tool server", McpServer),
        ("Key of what a tool server may do", ToolServerLimits),
    ],
)
def test_the_keys_of_sections_by_name_are_documented_with_their_defaults(
    head: str, model: type[BaseModel]
) -> None:
    said = {plain(row[head]): plain(row["Default"]) for row in rows("configuration.md", head, "Default")}
    assert said.pop("base_url", "of the maker") == "of the maker"
    fields_of = {info.alias or name: info for name, info in model.model_fields.items() if name != "base_url"}
    assert set(said) == set(fields_of)
    for name, info in fields_of.items():
        if info.is_required():
            assert said[name] == "needed"
        elif said[name] != "none":
            default = list(info.default) if isinstance(info.default, tuple) else info.default
            assert said[name] == str(default).lower() == json.dumps(default).strip('"')
        else:
            assert info.default is None or get_origin(info.annotation) is dict


def test_the_ways_in_which_a_provider_fails_are_those_of_the_code() -> None:
    found = rows("llm.md", "Kind of failure", "Tried again", "Others stand in", "Opens the breaker")
    said = [
        (plain(r["Kind of failure"]), *(c.startswith("yes") for c in list(r.values())[1:])) for r in found
    ]
    assert said == [(kind, rule.again, rule.elsewhere, rule.harms) for kind, rule in FAILURES.items()]


def test_the_configurations_of_the_page_on_models_load(tmp_path: Path) -> None:
    found = blocks(DOCS / "llm.md", "yaml")
    assert len(found) == 2
    keys = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY")
    for text in found:
        path = tmp_path / "node.yaml"
        path.write_text(text)
        config = load_config(path, environ=dict.fromkeys(keys, "sk-test")).llm
        assert config.provider in config.providers


def test_the_parameters_of_membership_that_can_be_set_are_those_of_the_code() -> None:
    found = column("configuration.md", "Parameter", "When to change it")
    assert set(found) < set(SwimSettings.model_fields)
    assert set(column("configuration.md", "Not a parameter")) == set(NOT_PARAMETERS)
    settable = {f.name for f in fields(SwimConfig)} - set(NOT_PARAMETERS)
    assert set(SwimSettings.model_fields) == settable


def test_the_names_of_strategies_are_those_of_the_code() -> None:
    named = {plain(r["Strategy name"]): r["Means"] for r in rows("api.md", "Strategy name", "Means")}
    assert named == {name: strategy.value for name, strategy in STRATEGY_NAMES.items()}
    algorithms = {plain(r["Load algorithm"]): r["Means"] for r in rows("api.md", "Load algorithm", "Means")}
    assert algorithms == {name: strategy.value for name, strategy in LOAD_ALGORITHMS.items()}


def test_other_names_and_variables_of_the_configuration_are_documented() -> None:
    aliases = {plain(r["Name"]): plain(r["Means"]) for r in rows("configuration.md", "Name", "Means")}
    assert aliases == dict(KEY_ALIASES)
    named = set(column("configuration.md", "Variable"))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "node").rglob("*.py"))
    used = set(re.findall(r"\b(?:CAXTON_[A-Z]+(?!_)|XDG_[A-Z_]+)\b", source)) - {"CAXTON_SECTION__KEY"}
    assert used == named


def test_the_example_configuration_loads_as_it_is_and_has_every_key() -> None:
    path = ROOT / "configs" / "node.yaml"
    environ = {"HOME": "/nowhere"}
    loaded, defaults = load_config(path, environ=environ), load_config(environ=environ)
    assert loaded == defaults
    text = path.read_text(encoding="utf-8")
    keys = [key.rpartition(".")[2] for key, _ in settings()]
    assert [key for key in keys if not re.search(rf"^[ #]*{key}:", text, re.MULTILINE)] == []
