"""The JSON Schema for editors says what a node says of an agent file."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from node.agents.definition import examine_definition
from node.agents.fields import GROUPS, TOP, Effect
from node.agents.frontmatter import read_front_matter
from node.agents.schema import SCHEMA_ID, front_matter_schema
from node.samples import sample_agents

SCHEMA = front_matter_schema()
MINIMAL = "name: abc\ncapabilities: [a]\nsystem_prompt: x\n"
WASM = "name: abc\ncapabilities: [a]\nruntime: wasm\nmodule: a.wat\n"


def judged(yaml: str) -> tuple[bool, bool]:
    """Whether an editor, and whether a node, takes a front matter."""
    content = f"---\n{yaml}---\n".encode()
    values = read_front_matter(content).values
    errors = [p for p in examine_definition(content).problems if p.severity == "error"]
    return Draft202012Validator(SCHEMA).is_valid(values), not errors


def test_it_is_a_schema_with_an_identity_and_a_line_about_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == SCHEMA_ID
    assert set(SCHEMA["properties"]) == {*TOP, *GROUPS}
    for name, table in GROUPS.items():
        group: dict[str, Any] = SCHEMA["properties"][name]
        assert group["description"]
        assert set(group["properties"]) == set(table)
        assert all(entry["description"] for entry in group["properties"].values())
    assert all(entry["description"] for entry in SCHEMA["properties"].values())


@pytest.mark.parametrize("path", sample_agents(), ids=lambda path: path.stem)
def test_every_sample_agent_follows_it(path: Any) -> None:
    Draft202012Validator(SCHEMA).validate(read_front_matter(path.read_bytes()).values)


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_a_key_that_is_not_known_is_an_error_in_both(group: str) -> None:
    line = f"{group}: {{typo: 1}}" if group else "typo: 1"
    assert judged((WASM if group == "wasm" else MINIMAL) + line + "\n") == (False, False)


@pytest.mark.parametrize(
    "line",
    [
        "runtime: python",
        "priority: 1001",
        "priority: high",
        "topics: [{group: g}]",
        "description: 7",
        "tags: [1]",
        "capability_metadata: []",
        "memory_enabled: maybe",
        "memory_scope: here",
        "minority: hide",
        "conversation: {timeout: soon}",
        "conversation: {temperature: 3}",
        "llm: {max_tokens: 1.5}",
        "bids: {cost: -1}",
        "output_schema: [1]",
        "output_schema: {type: nothing}",
        "wasm: {fresh: true}",
        "version: one",
    ],
)
def test_a_wrong_value_is_an_error_in_both(line: str) -> None:
    assert judged(f"{MINIMAL}{line}\n") == (False, False)


@pytest.mark.parametrize(
    "yaml",
    [
        MINIMAL,
        WASM,
        WASM + "wasm: {memory: 8MB, timeout: 200ms, grants: [clock]}\n",
        "name: abc\ntopics: [a.*, {topic: b, group: g}]\nsystem_prompt: x\n",
        MINIMAL + "tools: csv_parser\nconversation: {timeout: 5m}\nresource_limits: {tool_call_timeout: 3}\n",
        MINIMAL + "output_schema: {type: object, required: [a]}\ncreated: 2026-01-31\n",
        MINIMAL + "memory: {enabled: true}\ndeployment: {replicas: 3}\n",
    ],
)
def test_what_is_right_is_right_in_both(yaml: str) -> None:
    assert judged(yaml) == (True, True)


@pytest.mark.parametrize(
    "yaml",
    [
        "name: abc\ncapabilities: [a]\n",
        "name: abc\nsystem_prompt: x\n",
        "name: abc\ncapabilities: [a]\nruntime: wasm\n",
    ],
)
def test_what_is_missing_is_missing_in_both(yaml: str) -> None:
    assert judged(yaml) == (False, False)


@pytest.mark.parametrize("reference", ["https://example.org/schema", "file:///etc/passwd", "other.json"])
def test_a_schema_of_answers_refers_to_nothing_outside(reference: str) -> None:
    content = f"---\n{MINIMAL}output_schema: {{$ref: '{reference}'}}\n---\n".encode()
    [problem] = [p for p in examine_definition(content).problems if p.field == "output_schema"]
    assert "outside of itself" in problem.message


def test_fields_without_effect_say_so() -> None:
    for name, field in TOP.items():
        assert ("without effect" in SCHEMA["properties"][name]["description"]) == (
            field.effect is Effect.LATER
        )
