"""Schemas that others have written: what they ask for is followed within a bound, and nothing is fetched."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from node.json_schema import SchemaInvalid, Unfollowable, check_definition, check_patterns, errors_of
from node.llm.bare_calls import bare_call
from node.llm.provider import ToolSpec
from node.llm.schema import problem_of
from node.llm.schema import schema_problem as own_schema_problem
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


def test_a_careless_pattern_and_a_hostile_text_do_not_stop_a_node():
    """Python's engine takes longer for each of them than a node lives."""
    text = "a" * 200 + "!"
    assert "does not match" in problem_of(text, {"pattern": "^(a+)+$"})
    assert "does not match" in problem_of({"a": text}, {"properties": {"a": {"pattern": "^(a|aa)+$"}}})
    names = {"patternProperties": {"^(a+)+$": {"type": "null"}}, "additionalProperties": {"type": "null"}}
    assert problem_of({text: None}, names) == ""
    assert "does not match" in problem_of({text: 1}, {"propertyNames": {"pattern": "^(a+)+$"}})


def test_a_pattern_that_would_be_everywhere_at_once_costs_too_much():
    schema = {"pattern": "((a{1,50}){1,50}){1,50}x"}
    assert "does not match" in problem_of("a" * 100, schema)
    with pytest.raises(Unfollowable, match="steps"):
        errors_of("a" * 1_000, schema)
    with pytest.raises(Unfollowable, match="steps"):
        errors_of(["a" * 100] * 100, {"items": schema})
    with pytest.raises(Unfollowable, match="steps"):
        errors_of("a", {"allOf": [{"pattern": rf"^(\w{{200}})?{n}?"} for n in range(50)]})


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"^(?!foo)", "look-around"),
        (r"(a)\1", "backreferences"),
        ("(", "unclosed group"),
        (r"\w{500}", "too large when compiled"),
        ("(?x) a", "flag x"),
    ],
)
def test_a_pattern_that_cannot_be_tried_is_refused_with_its_agent_and_never_tried(pattern, why):
    schema = OBJECT | {"properties": {"a": {"items": {"pattern": pattern}}}}
    assert why in own_schema_problem(schema)
    assert why in own_schema_problem(OBJECT | {"patternProperties": {pattern: {}}})
    assert why in problem_of({"a": ["x"]}, schema)
    assert own_schema_problem({"properties": {"pattern": {"const": {"pattern": pattern}}}}) == ""


def test_patterns_that_cost_too_much_together_are_refused():
    with pytest.raises(SchemaInvalid, match="steps"):
        check_patterns({"allOf": [{"pattern": rf"\w{{200}}{n}"} for n in range(50)]})


def test_properties_are_found_by_patterns_as_the_library_finds_them():
    schema = {
        "properties": {"plain": {"type": "string"}},
        "patternProperties": {"^n_": {"type": "integer"}, "_s$": {"type": "string"}},
        "additionalProperties": False,
    }
    for value in (
        {"plain": "x", "n_a": 1, "b_s": ""},
        {"n_a": "x"},
        {"n_s": 1},
        {"n_a": 1, "other": 2, "more": 3},
        {"plain": 1},
        ["n_a"],
    ):
        for closing in (False, True, {"type": "null"}, {"type": "integer"}):
            rules = schema | {"additionalProperties": closing}
            theirs = Draft202012Validator(rules).is_valid(value)
            assert (errors_of(value, rules) == []) is theirs, (value, closing)


def test_what_is_not_evaluated_is_followed_except_beside_patterns():
    schema = {"properties": {"a": {}}, "unevaluatedProperties": False}
    assert messages({"a": 1}, schema) == []
    assert messages({"b": 1}, schema)
    beside = {"allOf": [{"patternProperties": {"^b": {}}}], **schema}
    assert "beside" in own_schema_problem(beside)
    assert "beside" in problem_of({"b": 1}, beside)


def test_a_call_that_a_model_has_written_is_held_against_no_regular_expression_of_others():
    found = bare_call('{"name": "t", "arguments": {"a": "%s!"}}' % ("a" * 60), [spec(pattern="^(a+)+$")])
    assert found is not None
    assert bare_call('{"name": "t", "arguments": {"b": "x"}}', [spec()]) is None
    assert bare_call('{"name": "t", "arguments": {"a": 1}}', [spec()]) is None


def spec(**rules: Any) -> ToolSpec:
    return ToolSpec("t", "does it", OBJECT | {"properties": {"a": {"type": "string", **rules}}})
