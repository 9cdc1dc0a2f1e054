"""Schemas that others have written: what they ask for is followed within a bound, and nothing is fetched."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from node.json_schema import SchemaInvalid, Unfollowable, check_definition, errors_of
from node.llm.bare_calls import bare_call
from node.llm.provider import ToolSpec
from node.llm.schema import problem_of
from node.tools.described import Arguments, schema_problem

OBJECT = {"type": "object"}


def doubling(times: int) -> dict[str, Any]:
    """A schema that asks for 2 ** ``times`` steps: each part refers twice to the next."""
    parts = {f"p{n}": {"allOf": [{"$ref": f"#/$defs/p{n + 1}"}] * 2} for n in range(times)}
    return OBJECT | {"$defs": {**parts, f"p{times}": {}}, "$ref": "#/$defs/p0"}


def messages(value: Any, schema: dict[str, Any]) -> list[str]:
    return [error.message for error in errors_of(value, schema)]


def test_a_value_is_held_against_a_schema():
    schema = OBJECT | {"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]}
    assert messages({"a": 3}, schema) == []
    assert messages({"a": 2}, schema) == ["2 is less than the minimum of 3"]
    assert messages({}, schema) == ["'a' is a required property"]


@pytest.mark.parametrize(
    ("items", "same"),
    [
        ([1, 2, {"a": 1}], False),
        ([1, 1.0], True),
        ([1, True], False),
        (["1", 1], False),
        ([{"a": 1, "b": [2.0]}, {"b": [2], "a": 1}], True),
        ([[], {}, None, False, 0, ""], False),
        ([{"a": 1}, {"a": True}], False),
    ],
)
def test_items_are_the_same_where_json_schema_says_so(items, same):
    assert bool(messages(items, {"uniqueItems": True})) is same
    assert messages(items, {"uniqueItems": False}) == []


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({}, doubling(30)),
        ({"a": [[k] for k in range(2_000)]}, {"properties": {"a": {"items": {"enum": list(range(1_000))}}}}),
        ({"a": ["x" * 100_000]}, {"properties": {"a": {"items": {"anyOf": [{"not": {}}] * 1_000}}}}),
        ({"a": list(range(600))}, {"properties": {"a": {"items": {"required": ["b"], "anyOf": [{}] * 500}}}}),
    ],
)
def test_what_costs_too_much_is_not_followed(value, schema):
    with pytest.raises(Unfollowable, match="steps"):
        errors_of(value, schema)


def test_large_arguments_cost_less_than_too_much():
    rows = {"rows": [{"a": n, "b": "text", "c": n / 2} for n in range(5_000)]}
    row = OBJECT | {
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "number"}}
    }
    schema = OBJECT | {"properties": {"rows": {"type": "array", "items": row, "uniqueItems": True}}}
    assert messages(rows, schema) == []


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT | {"$ref": "#"},
        OBJECT | {"$ref": "#/nowhere"},
        OBJECT | {"$ref": "http://["},
        OBJECT | {"$id": "http://[", "$ref": "x"},
        OBJECT | {"$ref": "file:///etc/hostname"},
        OBJECT | {"properties": {"a": {"multipleOf": 1e-300}}},
    ],
)
def test_a_schema_that_leads_nowhere_is_not_followed(schema):
    with pytest.raises(Unfollowable):
        errors_of({"a": 10**400}, schema)


@pytest.mark.parametrize("frames", range(12))
def test_a_schema_that_leads_into_itself_ends_before_the_stack_does(frames):
    """At some depths the end of the stack is met where the library cannot raise, but panics."""
    if frames:
        return test_a_schema_that_leads_into_itself_ends_before_the_stack_does(frames - 1)
    with pytest.raises(Unfollowable, match="into itself"):
        errors_of({}, OBJECT | {"$ref": "#"})
    return None


def test_parts_of_parts_of_a_schema_are_followed_as_deep_as_anybody_writes_them():
    schema: dict[str, Any] = {"type": "integer"}
    value: Any = "x"
    for _ in range(16):
        schema, value = OBJECT | {"properties": {"a": schema}}, {"a": value}
    check_definition(schema)
    assert messages(value, schema) == ["'x' is not of type 'integer'"]


def test_nothing_is_fetched_whatever_a_schema_says():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = OBJECT | {"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema"}
        assert "refers to what is not there" in problem_of({}, schema)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_reference_to_the_draft_itself_is_followed():
    schema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert messages({"type": "object"}, schema) == []
    assert messages({"type": "no such type"}, schema)


def test_a_definition_that_costs_too_much_to_judge_is_none():
    check_definition(doubling(30))
    with pytest.raises(SchemaInvalid, match="not of type"):
        check_definition(OBJECT | {"properties": 3})
    with pytest.raises(SchemaInvalid, match="steps"):
        check_definition({"allOf": [{"type": [{"a": 1}] * 40}] * 4_000})


def test_arguments_and_answers_are_refused_where_the_schema_cannot_be_followed():
    assert schema_problem(doubling(30)) == ""
    with pytest.raises(Exception, match="steps"):
        Arguments("t", doubling(30)).check({})
    assert "cannot be followed" in problem_of({}, doubling(30))


def test_a_call_that_a_model_has_written_is_held_against_no_regular_expression_of_others():
    found = bare_call('{"name": "t", "arguments": {"a": "%s!"}}' % ("a" * 60), [spec(pattern="^(a+)+$")])
    assert found is not None
    assert bare_call('{"name": "t", "arguments": {"b": "x"}}', [spec()]) is None
    assert bare_call('{"name": "t", "arguments": {"a": 1}}', [spec()]) is None


def spec(**rules: Any) -> ToolSpec:
    return ToolSpec("t", "does it", OBJECT | {"properties": {"a": {"type": "string", **rules}}})
