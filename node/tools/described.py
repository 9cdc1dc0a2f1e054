"""The tools of other programs' servers: the names that the model sees, and what is made of their schemas.

Names: a built-in tool has its plain name; one of another program is always ``server__tool``, so that what it
is called never depends on what others offer, and no server can take the place of another's tool. Providers
take letters, digits, ``_`` and ``-``, at most 64: other letters become ``_``, and where that is not one to
one any more, the name ends in a hash of what it stands for.

Schemas come from outside. Regular expressions in them are not tried here, because one can take for ever; the
server that wrote them checks them itself. What else they ask for is followed within a bound
(:mod:`node.json_schema`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.errors import ToolFailed
from node.json_schema import SchemaInvalid, Unfollowable, check_definition, errors_of, without_patterns

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
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "its input schema is not that of an object"
    try:
        if len(json.dumps(schema, ensure_ascii=False).encode("utf-8", "surrogatepass")) > SCHEMA_BYTES_LIMIT:
            return f"its input schema has more than {SCHEMA_BYTES_LIMIT:,} bytes"
        check_definition(without_patterns(schema))
    except (SchemaInvalid, RecursionError) as error:
        return f"its input schema is not valid ({type(error).__name__})"
    return ""


class Arguments:
    """What the arguments of one tool must be.

    Args:
        name: The tool's, as the model knows it.
        schema: Its input schema, without regular expressions where it comes from outside.
    """

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self._name, self._schema = name, schema

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that do not follow the schema.

        Raises:
            ToolFailed: they do not; ``details["problems"]`` says where.
        """
        name = self._name
        size = len(json.dumps(arguments, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > ARGUMENTS_BYTES_LIMIT:
            why = f"they have {size:,} bytes; at most {ARGUMENTS_BYTES_LIMIT:,} are taken"
            raise _not_valid(name, why, [])
        try:
            found = errors_of(dict(arguments), self._schema)
        except Unfollowable as error:
            raise _not_valid(name, f"its schema cannot be followed: {error}", []) from None
        errors = sorted(found, key=lambda error: [str(part) for part in error.path])
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
