"""Answers by JSON Schema: what a model has written is held against the schema it was asked to follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.llm.failures import RequestFailed
from node.llm.wire import Nonsense, parse_json

ERROR_SHOWN: Final = 300
"""Most characters of a problem that are shown."""


def structured_content(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in ``text`` (a code fence around it is taken off), if it follows ``schema``.

    Raises:
        RequestFailed: it is not JSON, or does not follow; the same request might be answered better.
    """
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```"):
        plain = plain.removeprefix("```json").strip("`").strip()
    try:
        value = parse_json(plain)
    except Nonsense as error:
        raise RequestFailed("malformed", why=f"the answer should follow a schema, but {error}") from None
    problem = problem_of(value, schema)
    if problem:
        raise RequestFailed("malformed", why=f"the answer does not follow the schema: {problem}")
    return value


def problem_of(value: Any, schema: Mapping[str, Any]) -> str:
    """Why ``value`` does not follow ``schema``; empty if it does."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # noqa: PLC0415 - 100 ms
    from jsonschema.exceptions import SchemaError, best_match  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        Draft202012Validator.check_schema(schema)
        error = best_match(Draft202012Validator(schema).iter_errors(value))
    except (SchemaError, RecursionError) as failure:
        return f"the schema itself is not valid: {str(failure)[:ERROR_SHOWN]}"
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path) or "the value"
    return f"{where}: {error.message[:ERROR_SHOWN]}"
