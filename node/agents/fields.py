"""The table of front-matter fields: what each must look like, and whether it does anything yet.

Every documented field is listed. ``USED`` fields change what the agent does. ``DATA`` fields are carried
and shown, which is all they promise. ``LATER`` fields are documented but have no effect yet: they load,
with a warning that says so, because a field that is silently ignored is a lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from node.agents.frontmatter import FrontMatter, Path
from node.agents.grants import Grant
from node.cluster.provider import MINORITY_POLICIES
from node.cluster.registry import SUBSCRIPTIONS_LIMIT
from node.config.units import checked_domains
from node.errors import ValidationFailed, nearest
from node.memory.model import Scope
from node.predicates import check_predicate
from node.topics import check_pattern, is_topic

TEXT_LIMIT: Final = 32_768
"""Longest prompt, in characters."""
COST_LIMIT: Final = 1e12
"""Largest cost in the rules of bids."""
LIST_LIMIT: Final = 64
"""Most entries of a list field."""


class Effect(Enum):
    """What a field does in this version."""

    USED = "used"
    DATA = "data"
    LATER = "later"


class Invalid(Exception):
    """A value does not have the form its field needs."""


Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table: a check that returns the value to keep (or raises Invalid), and the effect."""

    check: Check
    effect: Effect


def text(limit: int) -> Check:
    """Non-empty text of at most ``limit`` characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise Invalid("must be text")
        if len(value) > limit:
            raise Invalid(f"has {len(value)} characters; at most {limit} are allowed")
        return value.strip()

    return check


def number(low: float, high: float, *, whole: bool = False) -> Check:
    """A number from ``low`` to ``high``."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise Invalid("must be a whole number" if whole else "must be a number")
        if not low <= value <= high:
            raise Invalid(f"must be from {low} to {high}")
        return value

    return check


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Invalid("must be true or false")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """A mapping with any keys."""
    if not isinstance(value, dict):
        raise Invalid("must be a mapping")
    return value


def strings(value: Any) -> tuple[str, ...]:
    """A list of texts; one text alone counts as a list of one."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Invalid("must be a list of texts")
    if len(value) > LIST_LIMIT:
        raise Invalid(f"has {len(value)} entries; at most {LIST_LIMIT} are allowed")
    return tuple(value)


def subscriptions(value: Any) -> tuple[tuple[str, str], ...]:
    """A list of patterns over topics, each a text or ``{topic, group}``; as (pattern, group)."""
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


def expression(value: Any) -> str:
    """An expression over the content of messages."""
    try:
        return check_predicate(value)
    except ValidationFailed as error:
        raise Invalid(f"is no expression: {error.why}") from None


def anything(value: Any) -> Any:
    """Any JSON value."""
    return value


def scope(value: Any) -> str:
    """Where something is remembered, in its canonical spelling."""
    if not isinstance(value, str):
        raise Invalid("must be agent-only, workspace or global")
    try:
        return Scope.parse(value).label
    except ValidationFailed as error:
        raise Invalid(f"{error.why}. {error.fix}") from None


def one_of(*choices: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> str:
        if value not in choices:
            guess = nearest(str(value), choices)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise Invalid(f"must be one of {', '.join(choices)}{hint}")
        return str(value)

    return check


def domains(value: Any) -> tuple[str, ...]:
    """A list of domains."""
    try:
        return checked_domains(strings(value))
    except ValueError as error:
        raise Invalid(str(error)) from None


def folders(value: Any) -> tuple[str, ...]:
    """A list of folders: the name of one that the node offers, and perhaps a way below it."""
    found = tuple(item.strip("/") for item in strings(value))
    for item in found:
        if any(part in ("", ".", "..") for part in item.split("/")) or not item.isprintable():
            raise Invalid(f"{item[:80]!r} is no folder; write the name of one and perhaps a way below it")
    return found


def restrictions(value: Any) -> dict[str, Any]:
    """How far the tools of an agent may reach; what is left out keeps its default."""
    given = mapping(value)
    unknown = sorted(set(given) - {"network_access", "file_system_access"})
    if unknown:
        raise Invalid(f"has no field {str(unknown[0])[:80]!r}; it has network_access and file_system_access")
    found: dict[str, Any] = {}
    if "network_access" in given:
        found["network_access"] = flag(given["network_access"])
    if "file_system_access" in given:
        access = given["file_system_access"]
        word = "none" if access is False else str(access).replace("-", "_")
        found["file_system_access"] = one_of("none", "read_only", "read_write")(word)
    return found


_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)$")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def duration_s(value: Any) -> float:
    """``60s``, ``500ms``, ``5m``, ``1h`` or plain seconds, as seconds; over 0 and at most a day."""
    seconds = -1.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found.group(1)) * _SECONDS[found.group(2)]
    if not 0 < seconds <= 86_400:
        raise Invalid("must be a duration such as 500ms, 30s, 5m or 1h, at most a day")
    return seconds


_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|KB|MB|KiB|MiB)$")
_BYTES: Final = {"B": 1, "KB": 1024, "MB": 1024**2, "KiB": 1024, "MiB": 1024**2}


def size_bytes(value: Any) -> int:
    """``8MB``, ``512KB`` or plain bytes, as bytes; 1 KB is 1024 bytes; at least a page of WebAssembly."""
    size = -1.0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        size = float(found.group(1)) * _BYTES[found.group(2)]
    if not 65_536 <= size <= 2**32:
        raise Invalid("must be a size such as 512KB or 8MB, from 64KB to 4096MB")
    return int(size)


def words(*choices: str) -> Check:
    """A list of a few words; each at most once."""
    each = one_of(*choices)

    def check(value: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each(item) for item in strings(value)))

    return check


def group(value: Any) -> Any:
    """A mapping whose keys are checked by the group's own table."""
    return mapping(value)


def _rows(effect: Effect, **checks: Check) -> dict[str, Field]:
    return {name: Field(check, effect) for name, check in checks.items()}


def _later(*names: str) -> dict[str, Field]:
    return {name: Field(anything, Effect.LATER) for name in names}


TOP: Final[Mapping[str, Field]] = {
    **_rows(
        Effect.USED,
        name=text(64),
        version=text(64),
        capabilities=strings,
        tools=strings,
        system_prompt=text(TEXT_LIMIT),
        user_prompt_template=text(TEXT_LIMIT),
        parameters=mapping,
        requires=strings,
        runtime=one_of("config", "wasm"),
        module=text(128),
        priority=number(0, 1000, whole=True),
        topics=subscriptions,
        accepts=expression,
        minority=one_of(*MINORITY_POLICIES),
    ),
    **_rows(
        Effect.DATA,
        description=text(200),
        author=anything,
        license=text(100),
        tags=strings,
        created=text(40),
        updated=text(40),
        capability_metadata=mapping,
    ),
    **_rows(Effect.USED, memory_enabled=flag, memory_scope=scope),
    **_later("tool_config", "memory", "context_configuration"),
    **_later("context_requirements", "deployment", "monitoring"),
}
"""Fields at the top of the front matter; the groups are in :data:`GROUPS`."""

GROUPS: Final[Mapping[str, Mapping[str, Field]]] = {
    "conversation": {
        **_rows(
            Effect.USED,
            max_turns=number(1, 50, whole=True),
            timeout=duration_s,
            temperature=number(0, 2),
        ),
        **_later("context_window", "memory_strategy", "memory_integration"),
    },
    "performance": {
        **_rows(Effect.USED, max_execution_time=duration_s, concurrent_tools=number(1, 16, whole=True)),
        **_later("max_memory_usage"),
    },
    "messaging": {
        **_rows(Effect.USED, auto_respond=flag, response_format=one_of("structured", "natural", "hybrid")),
        **_later("conversation_timeout", "max_conversation_length", "context_window"),
    },
    "prompt_templates": _rows(
        Effect.USED,
        request_handler=text(TEXT_LIMIT),
        query_handler=text(TEXT_LIMIT),
        inform_handler=text(TEXT_LIMIT),
    ),
    "llm": {
        **_rows(
            Effect.USED,
            provider=text(64),
            model=text(128),
            temperature=number(0, 2),
            max_tokens=number(1, 1_000_000, whole=True),
        ),
        **_later("base_url"),
    },
    "proposals": _rows(Effect.USED, accept=strings, reject=strings),
    "bids": _rows(
        Effect.USED,
        cost=number(0, COST_LIMIT),
        load_cost=number(0, COST_LIMIT),
        max_load=number(0, 1),
        valid=duration_s,
    ),
    "resource_limits": {
        **_rows(Effect.USED, response_timeout=duration_s, tool_call_timeout=duration_s),
        **_later("max_conversations", "max_memory_entities", "conversation_limit"),
    },
    "security": {
        **_rows(
            Effect.USED,
            restricted_tools=strings,
            max_processing_time=duration_s,
            allowed_domains=domains,
            allowed_paths=folders,
            sandbox_restrictions=restrictions,
        ),
        **_later("max_memory_usage"),
    },
    "wasm": _rows(
        Effect.USED,
        grants=words(*Grant),
        fuel=number(1, 10**12, whole=True),
        timeout=duration_s,
        memory=size_bytes,
        host_calls=number(1, 1000, whole=True),
        messages_per_second=number(1, 10_000, whole=True),
        instances=number(1, 4, whole=True),
        fresh=flag,
        deterministic=flag,
        quarantine_after=number(1, 1000, whole=True),
    ),
}
"""Groups of fields and the table of each."""


def check_fields(front: FrontMatter) -> dict[str, Any]:
    """Check every field against the tables; the result holds what passed, groups as mappings."""
    return _check(front, front.values, (), {**TOP, **dict.fromkeys(GROUPS, Field(group, Effect.USED))})


def _check(
    front: FrontMatter, values: Mapping[str, Any], path: Path, table: Mapping[str, Field]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        here = (*path, name)
        row = table.get(name)
        if row is None:
            _unknown(front, here, name, table)
            continue
        if row.effect is Effect.LATER:
            if value not in (False, None):
                front.add(
                    "not_supported_yet", here, "is documented but has no effect yet", severity="warning"
                )
            kept[name] = value
            continue
        if value is None:
            front.add("invalid_value", here, "has no value")
            continue
        try:
            kept[name] = row.check(value)
        except Invalid as error:
            front.add("invalid_value", here, str(error))
            continue
        if not path and name in GROUPS:
            kept[name] = _check(front, kept[name], here, GROUPS[name])
    return kept


def _unknown(front: FrontMatter, here: Path, name: str, table: Mapping[str, Field]) -> None:
    guess = nearest(name, table)
    message = "is not a field of an agent file" + (f"; did you mean {guess!r}?" if guess else "")
    others = [guess] if guess else sorted(table)
    front.add("unknown_field", here, message, alternatives=tuple(others))
