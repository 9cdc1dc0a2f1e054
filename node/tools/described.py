"""The tools of other programs' servers: the names that the model sees, and what is made of their schemas.

Names: a built-in tool has its plain name; one of another program is always ``server__tool``, so that what it
is called never depends on what others offer, and no server can take the place of another's tool. Providers
take letters, digits, ``_`` and ``-``, at most 64: other letters become ``_``, and where that is not one to
one any more, the name ends in a hash of what it stands for.

Schemas come from outside. Regular expressions in them are not tried here, because one can take for ever; the
server that wrote them checks them itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.errors import ToolFailed

TOOLS_LIMIT: Final = 128
"""Most tools of one server; those beyond it are left out."""
NAME_LIMIT: Final = 64
"""Longest name that providers take."""
DESCRIPTION_LIMIT: Final = 4_000
"""Longest description that a model is shown, in characters; the rest is cut off."""
SCHEMA_BYTES_LIMIT: Final = 64 * 1024
"""Largest input schema."""
ARGUMENTS_BYTES_LIMIT: Final = 256 * 1024
"""Largest arguments of one call, as JSON."""
_HASH_LENGTH: Final = 8
_PATTERNS: Final = ("pattern", "patternProperties", "propertyNames")
_CLOSING: Final = ("additionalProperties", "unevaluatedProperties")


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool as the model is told of it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


def model_prefix(server: str) -> str:
    """What the names of all tools of a server begin with."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}__")[: NAME_LIMIT - _HASH_LENGTH - 1]


def model_name(server: str, tool: str) -> str:
    """The name under which a model sees a tool of another program's server."""
    exact = f"{server}__{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", exact)
    if name == exact and len(name) <= NAME_LIMIT and "__" not in server and not server.endswith("_"):
        return name
    digest = hashlib.sha256(f"{server}\0{tool}".encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{name[: NAME_LIMIT - _HASH_LENGTH - 1]}_{digest}"


def one_line(description: str | None) -> str:
    """A description without line breaks, and cut where it is too long."""
    return " ".join((description or "").split())[:DESCRIPTION_LIMIT]


def schema_problem(schema: Any) -> str:
    """Why a tool with this input schema cannot be offered; empty if it can."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # noqa: PLC0415 - with the SDK
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped] # noqa: PLC0415

    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "its input schema is not that of an object"
    try:
        if len(json.dumps(schema, ensure_ascii=False).encode("utf-8", "surrogatepass")) > SCHEMA_BYTES_LIMIT:
            return f"its input schema has more than {SCHEMA_BYTES_LIMIT:,} bytes"
        Draft202012Validator.check_schema(without_patterns(schema))
    except (SchemaError, RecursionError) as error:
        return f"its input schema is not valid ({type(error).__name__})"
    return ""


def without_patterns(schema: Any) -> Any:
    """A schema without regular expressions, and without what would close an object that they had opened."""
    if isinstance(schema, list):
        return [without_patterns(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = (*_PATTERNS, *(_CLOSING if "patternProperties" in schema else ()))
    return {
        key: {name: without_patterns(each) for name, each in value.items()}
        if key in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, dict)
        else value
        if key in ("const", "enum", "default", "examples")
        else without_patterns(value)
        for key, value in schema.items()
        if key not in left_out
    }


class Arguments:
    """What the arguments of one tool must be.

    Args:
        name: The tool's, as the model knows it.
        schema: Its input schema, without regular expressions where it comes from outside.
    """

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator  # noqa: PLC0415 - with the SDK
        from referencing import Registry  # noqa: PLC0415

        self._name = name
        self._validator = Draft202012Validator(dict(schema), registry=Registry())  # which fetches nothing

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that do not follow the schema.

        Raises:
            ToolFailed: they do not; ``details["problems"]`` says where.
        """
        from referencing.exceptions import Unresolvable  # noqa: PLC0415 - with the SDK

        name = self._name
        size = len(json.dumps(arguments, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > ARGUMENTS_BYTES_LIMIT:
            why = f"they have {size:,} bytes; at most {ARGUMENTS_BYTES_LIMIT:,} are taken"
            raise _not_valid(name, why, [])
        try:
            found = self._validator.iter_errors(dict(arguments))
            errors = sorted(found, key=lambda error: [str(part) for part in error.path])
        except (Unresolvable, RecursionError) as error:
            raise _not_valid(name, f"its schema cannot be followed ({type(error).__name__})", []) from None
        if errors:
            first = errors[0]
            where = ".".join(str(part) for part in first.path) or "the arguments"
            problems = [e.message[:300] for e in errors[:10]]
            raise _not_valid(name, f"{where}: {first.message[:300]}", problems)


def _not_valid(name: str, why: str, problems: list[str]) -> ToolFailed:
    return ToolFailed(
        f"the arguments of the tool {name!r} are not valid",
        why=why,
        fix="Follow the tool's input schema.",
        details={"problems": problems},
    )
