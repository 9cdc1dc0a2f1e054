"""Names and schemas of other programs' tools, as models and the host's own checks take them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ToolFailed
from node.json_schema import without_patterns
from node.tools.described import (
    ARGUMENTS_BYTES_LIMIT,
    NAME_LIMIT,
    SCHEMA_BYTES_LIMIT,
    Arguments,
    model_name,
    model_prefix,
    schema_problem,
)

OBJECT: dict[str, Any] = {"type": "object"}
names = st.text(min_size=1, max_size=80)


def test_plain_names_are_joined() -> None:
    assert model_name("weather", "forecast") == "weather__forecast"


@given(names, names, names, names)
def test_names_are_valid_for_providers_and_one_to_one(a: str, b: str, c: str, d: str) -> None:
    first, second = model_name(a, b), model_name(c, d)
    assert re.fullmatch(rf"[A-Za-z0-9_-]{{1,{NAME_LIMIT}}}", first)
    assert first.startswith(model_prefix(a))
    assert (first == second) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a", "b.c"), ("a", "b_c")),
        (("a__b", "c"), ("a", "b__c")),
        (("a_", "b"), ("a", "_b")),
        (("a", "x" * 70), ("a", "x" * 71)),
    ],
)
def test_names_that_look_alike_do_not_meet(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert model_name(*first) != model_name(*second)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (OBJECT, ""),
        (OBJECT | {"properties": {"a": {"type": "string", "pattern": "(["}}}, ""),
        ({"type": "string"}, "is not that of an object"),
        (OBJECT | {"properties": {"a": {"type": 3}}}, "is not valid"),
        (OBJECT | {"title": "x" * SCHEMA_BYTES_LIMIT}, "more than 65,536 bytes"),
        (3, "is not that of an object"),
    ],
)
def test_schemas_that_cannot_be_used_are_refused(schema: Any, problem: str) -> None:
    found = schema_problem(schema)
    assert problem in found
    assert bool(problem) == bool(found)


def test_no_regular_expression_of_a_stranger_is_tried() -> None:
    evil = {"type": "string", "pattern": "(a+)+$"}
    schema = OBJECT | {
        "properties": {"pattern": evil, "b": {"anyOf": [evil], "const": {"pattern": "kept"}}},
        "patternProperties": {"(a+)+$": {}},
        "additionalProperties": False,
    }
    plain = {"type": "string"}
    assert without_patterns(schema) == OBJECT | {
        "properties": {"pattern": plain, "b": {"anyOf": [plain], "const": {"pattern": "kept"}}}
    }
    Arguments("t", without_patterns(schema)).check({"pattern": "a" * 40 + "!", "a" * 40: 1})


@pytest.mark.parametrize(
    ("schema", "arguments", "why"),
    [
        (OBJECT | {"required": ["a"]}, {}, "'a' is a required property"),
        (OBJECT | {"properties": {"a": {"type": "integer"}}}, {"a": "1"}, "a: '1' is not of type"),
        (
            OBJECT | {"$ref": "https://example.org/schema"},
            {},
            "refers to what is not there",
        ),
        (OBJECT | {"$ref": "#"}, {}, "it leads into itself"),
        (OBJECT, {"a": "x" * ARGUMENTS_BYTES_LIMIT}, "at most 262,144 are taken"),
        (OBJECT | {"properties": {"a": {"items": OBJECT}}}, {"a": [1], "b": 2}, "a.0: 1 is not"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_place(
    schema: Any, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(ToolFailed) as caught:
        Arguments("t", schema).check(arguments)
    assert why in caught.value.why
