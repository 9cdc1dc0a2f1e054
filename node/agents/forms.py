"""The forms that values of an agent file can have: how each is checked, and the same as JSON Schema.

Node and editor judge by one table (:mod:`node.agents.fields`), so a form says both. Where JSON Schema
cannot tell a rule (an expression that must parse), the schema is the wider one, and the check decides;
of words that the check takes in several spellings, the schema has the canonical ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.cluster.registry import SUBSCRIPTIONS_LIMIT
from node.config.units import checked_domains
from node.errors import ValidationFailed, nearest
from node.labels import LABELS_LIMIT, NODE, VALUE_LIMIT, Labels, labels_of
from node.llm.schema import schema_problem
from node.memory.model import Scope
from node.predicates import EXPRESSION_LIMIT, check_predicate
from node.topics import check_pattern, is_topic

LIST_LIMIT: Final = 64
"""Most entries of a list field."""
SCHEMA_BYTES_LIMIT: Final = 16_384
"""Largest JSON Schema inside an agent file, as JSON."""


class Invalid(Exception):
    """A value does not have the form its field needs."""


Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Form:
    """What a value must look like.

    Args:
        check: Returns the value to keep, or raises :class:`Invalid`.
        schema: The same for editors, as JSON Schema (draft 2020-12).
    """

    check: Check
    schema: Mapping[str, Any]


def text(limit: int, pattern: str = r"\S") -> Form:
    """Non-empty text of at most ``limit`` characters; ``pattern`` is for editors alone."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise Invalid("must be text")
        if len(value) > limit:
            raise Invalid(f"has {len(value)} characters; at most {limit} are allowed")
        return value.strip()

    return Form(check, {"type": "string", "pattern": pattern, "maxLength": limit})


def number(low: float, high: float, *, whole: bool = False) -> Form:
    """A number from ``low`` to ``high``."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise Invalid("must be a whole number" if whole else "must be a number")
        if not low <= value <= high:
            raise Invalid(f"must be from {low} to {high}")
        return value

    kind = "integer" if whole else "number"
    return Form(check, {"type": kind, "minimum": low, "maximum": high})


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid("must be true or false")
    return value


FLAG: Final = Form(_flag, {"type": "boolean"})
"""True or false."""


def mapping(value: Any) -> dict[str, Any]:
    """A mapping with any keys."""
    if not isinstance(value, dict):
        raise Invalid("must be a mapping")
    return value


MAPPING: Final = Form(mapping, {"type": "object"})
"""A mapping with any keys."""


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Invalid("must be a list of texts")
    if len(value) > LIST_LIMIT:
        raise Invalid(f"has {len(value)} entries; at most {LIST_LIMIT} are allowed")
    return tuple(value)


def _one_or_more(each: Mapping[str, Any], limit: int) -> dict[str, Any]:
    return {"anyOf": [each, {"type": "array", "items": each, "maxItems": limit}]}


STRINGS: Final = Form(_strings, _one_or_more({"type": "string", "minLength": 1}, LIST_LIMIT))
"""A list of texts; one text alone counts as a list of one."""


def _subscriptions(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or len(value) > SUBSCRIPTIONS_LIMIT:
        raise Invalid(f"must be a list of at most {SUBSCRIPTIONS_LIMIT} topics")
    found: dict[tuple[str, str], None] = {}
    for item in value:
        pattern, group = (item, "") if isinstance(item, str) else _shared(item)
        try:
            found[check_pattern(pattern), group] = None
        except ValidationFailed as error:
            raise Invalid(f"{error.what}: {error.why}") from None
    return tuple(found)


def _shared(item: Any) -> tuple[Any, str]:
    if not isinstance(item, dict) or not {"topic"} <= set(item) <= {"topic", "group"}:
        raise Invalid("each must be a topic, or a mapping of topic and group")
    group = item.get("group", "")
    if "group" in item and not (isinstance(group, str) and is_topic(group)):
        raise Invalid(f"{str(group)[:80]!r} is not the name of a group: letters, digits, _ and -")
    return item["topic"], group


_TOPIC: Final = {"type": "string", "minLength": 1, "maxLength": 255}
SUBSCRIPTIONS: Final = Form(
    _subscriptions,
    _one_or_more(
        {
            "anyOf": [
                _TOPIC,
                {
                    "type": "object",
                    "properties": {"topic": _TOPIC, "group": {"type": "string", "pattern": r"^[\w.-]+$"}},
                    "required": ["topic"],
                    "additionalProperties": False,
                },
            ]
        },
        SUBSCRIPTIONS_LIMIT,
    ),
)
"""A list of patterns over topics, each a text or ``{topic, group}``; kept as (pattern, group)."""


def _labels(value: Any) -> Labels:
    if not isinstance(value, dict):
        raise Invalid("must be a mapping of names to a text, or to a list of texts")
    for name, values in value.items():
        if name == NODE:
            raise Invalid("has the label node, which says where an agent runs and is not given")
        if not isinstance(values, str | list):
            raise Invalid(f"must have a text, or a list of texts, as {str(name)[:40]}")
    try:
        return labels_of(value)
    except ValidationFailed as error:
        raise Invalid(f"has a wrong label: {error.why}") from None


_LABEL_VALUE: Final = {"type": "string", "minLength": 1, "maxLength": VALUE_LIMIT}
LABELS: Final = Form(
    _labels,
    {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z][a-z0-9_.-]{0,31}$"},
        "additionalProperties": _one_or_more(_LABEL_VALUE, LABELS_LIMIT),
    },
)
"""A mapping of names to a text, or to a list of them; kept as sorted pairs."""


def _expression(value: Any) -> str:
    try:
        return check_predicate(value)
    except ValidationFailed as error:
        raise Invalid(f"is no expression: {error.why}") from None


EXPRESSION: Final = Form(_expression, {"type": "string", "minLength": 1, "maxLength": EXPRESSION_LIMIT})
"""An expression over the content of messages."""

ANYTHING: Final = Form(lambda value: value, {})
"""Any JSON value."""


def _scope(value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid("must be agent-only, workspace or global")
    try:
        return Scope.parse(value).label
    except ValidationFailed as error:
        raise Invalid(f"{error.why}. {error.fix}") from None


SCOPE: Final = Form(_scope, {"enum": ["agent-only", "agent", "workspace", "global"]})
"""Where something is remembered, in its canonical spelling."""


def one_of(*choices: str) -> Form:
    """One of a few words."""

    def check(value: Any) -> str:
        if value not in choices:
            guess = nearest(str(value), choices)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise Invalid(f"must be one of {', '.join(choices)}{hint}")
        return str(value)

    return Form(check, {"enum": list(choices)})


def words(*choices: str) -> Form:
    """A list of a few words; each at most once."""
    each = one_of(*choices)

    def check(value: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.check(item) for item in _strings(value)))

    return Form(check, _one_or_more(each.schema, LIST_LIMIT))


SCOPES: Final = words("agent-only", "workspace", "global")
"""Where something may be looked for, in its canonical spelling."""


def _domains(value: Any) -> tuple[str, ...]:
    try:
        return checked_domains(_strings(value))
    except ValueError as error:
        raise Invalid(str(error)) from None


DOMAINS: Final = Form(_domains, STRINGS.schema)
"""A list of domains."""


def _folders(value: Any) -> tuple[str, ...]:
    found = tuple(item.strip("/") for item in _strings(value))
    for item in found:
        if any(part in ("", ".", "..") for part in item.split("/")) or not item.isprintable():
            raise Invalid(f"{item[:80]!r} is no folder; write the name of one and perhaps a way below it")
    return found


FOLDERS: Final = Form(_folders, STRINGS.schema)
"""A list of folders: the name of one that the node offers, and perhaps a way below it."""

_FILE_ACCESS: Final = one_of("none", "read_only", "read_write")


def _restrictions(value: Any) -> dict[str, Any]:
    given = mapping(value)
    unknown = sorted(set(given) - {"network_access", "file_system_access"})
    if unknown:
        raise Invalid(f"has no field {str(unknown[0])[:80]!r}; it has network_access and file_system_access")
    found: dict[str, Any] = {}
    if "network_access" in given:
        found["network_access"] = _flag(given["network_access"])
    if "file_system_access" in given:
        access = given["file_system_access"]
        word = "none" if access is False else str(access).replace("-", "_")
        found["file_system_access"] = _FILE_ACCESS.check(word)
    return found


RESTRICTIONS: Final = Form(
    _restrictions,
    {
        "type": "object",
        "properties": {
            "network_access": {"type": "boolean"},
            "file_system_access": {
                "enum": ["none", "read_only", "read_write", "read-only", "read-write", False]
            },
        },
        "additionalProperties": False,
    },
)
"""How far the tools of an agent may reach; what is left out keeps its default."""


def _output_schema(value: Any) -> dict[str, Any]:
    found = mapping(value)
    if len(json.dumps(found, default=str)) > SCHEMA_BYTES_LIMIT:
        raise Invalid(f"is larger than {SCHEMA_BYTES_LIMIT:,} bytes")
    problem = schema_problem(found)
    if problem:
        raise Invalid(f"is no JSON Schema (draft 2020-12): {problem}")
    return found


OUTPUT_SCHEMA: Final = Form(_output_schema, {"$ref": "https://json-schema.org/draft/2020-12/schema"})
"""A JSON Schema that refers to nothing outside of itself."""


_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)$")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DAY_S: Final = 86_400


def _duration_s(value: Any) -> float:
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found.group(1)) * _SECONDS[found.group(2)]
    if not 0 < seconds <= _DAY_S:
        raise Invalid("must be a duration such as 500ms, 30s, 5m or 1h, at most a day")
    return seconds


DURATION: Final = Form(
    _duration_s,
    {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": _DAY_S},
            {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|min|h|d)\s*$"},
        ]
    },
)
"""``60s``, ``500ms``, ``5m``, ``1h`` or plain seconds, kept as seconds; over 0 and at most a day."""

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|KB|MB|KiB|MiB)$")
_BYTES: Final = {"B": 1, "KB": 1024, "MB": 1024**2, "KiB": 1024, "MiB": 1024**2}


def _size_bytes(value: Any) -> int:
    size = -1.0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        size = float(found.group(1)) * _BYTES[found.group(2)]
    if not 65_536 <= size <= 2**32:
        raise Invalid("must be a size such as 512KB or 8MB, from 64KB to 4096MB")
    return int(size)


SIZE: Final = Form(
    _size_bytes,
    {
        "anyOf": [
            {"type": "integer", "minimum": 65_536, "maximum": 2**32},
            {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(B|KB|MB|KiB|MiB)\s*$"},
        ]
    },
)
"""``8MB``, ``512KB`` or plain bytes, kept as bytes; 1 KB is 1024 bytes; at least a page of WebAssembly."""
