"""Answers by JSON Schema: what a model has written is held against the schema it was asked to follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from node.json_schema import SchemaInvalid, Unfollowable, check_definition, check_patterns, errors_of
from node.llm.failures import RequestFailed
from node.llm.wire import Nonsense, parse_json

ERROR_SHOWN: Final = 300
"""Most characters of a problem that are shown."""
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def structured_content(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in ``text`` (a code fence around it is taken off), if it follows ``schema``.

    Raises:
        RequestFailed: it is not JSON, or does not follow; holds the answer, which may be repaired.
    """
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```"):
        plain = plain.removeprefix("```json").strip("`").strip()
    try:
        value = parse_json(plain)
    except Nonsense as error:
        raise RequestFailed(
            "unfollowed", why=f"it should follow a schema, but {error}", answer=text
        ) from None
    problem = problem_of(value, schema)
    if problem:
        raise RequestFailed("unfollowed", why=problem, answer=text)
    return value


def problem_of(value: Any, schema: Mapping[str, Any]) -> str:
    """Why ``value`` does not follow ``schema``; empty if it does."""
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped] # noqa: PLC0415 - 100 ms

    try:
        check_definition(schema)
        error = best_match(errors_of(value, schema))
    except SchemaInvalid as failure:
        return f"the schema itself is not valid: {str(failure)[:ERROR_SHOWN]}"
    except Unfollowable as failure:
        return f"the schema cannot be followed: {failure}"
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path) or "the value"
    return f"{where}: {error.message[:ERROR_SHOWN]}"


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Why ``schema`` cannot be followed, or must not be; empty if it can.

    It may refer to parts of itself alone: whoever checks an answer must not be made to fetch anything.
    """
    outside = next((ref for ref in _references(schema) if not ref.startswith("#")), None)
    if outside is not None:
        return f"it refers to {outside[:ERROR_SHOWN]!r}, outside of itself"
    try:
        check_definition(schema)
        check_patterns(schema)
    except SchemaInvalid as failure:
        return str(failure)[:ERROR_SHOWN]
    return ""


def _references(value: Any) -> Iterator[str]:
    """What it refers to, at any depth; names of properties that look the same are taken for references."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in {"$ref", "$dynamicRef", "$schema"} and isinstance(item, str) and item != _DRAFT:
                yield item
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
