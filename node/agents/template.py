"""Prompt templates: ``{{variable}}`` in text, checked when the agent is loaded, filled per message.

There is no logic in a template. A value that is filled in is never read as a template again, so a message
cannot smuggle a variable into a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

MESSAGE_VARIABLES: Final = (
    "request",
    "message_content",
    "data",
    "capability",
    "sender_agent",
    "conversation_id",
    "performative",
    "timestamp",
    "attachments",
    "tools",
    "agent_name",
    "memory_context",
    "context",
    "conversation_summary",
)
"""Variables every template may use; the rest are keys of the agent's ``parameters``."""
LATER_VARIABLES: Final = ("user_id", "user_info")
"""Documented variables without a source yet (sessions): filled with nothing, warned about."""
HISTORY_VARIABLES: Final = ("context", "conversation_summary")
"""Those that are empty for an agent without ``conversation.memory_strategy``."""
VALUE_LIMIT: Final = 20_000
"""Longest value filled in for one variable, in characters."""

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")
_BRACES = re.compile(r"\{\{|\}\}")
_JSON: Final = json.JSONEncoder(ensure_ascii=False, default=str)
TEMPLATES_LIMIT: Final = 4_096
"""Most templates whose variables are remembered."""


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """What is wrong at ``offset`` of a template; ``variable`` is empty when a brace is the trouble."""

    offset: int
    message: str
    variable: str = ""


def variables(template: str) -> list[tuple[int, str]]:
    """Offset and name of every variable in ``template``, in order."""
    return [(found.start(), found.group(1)) for found in _VARIABLE.finditer(template)]


@lru_cache(maxsize=TEMPLATES_LIMIT)
def names_in(template: str) -> frozenset[str]:
    """Names of the variables in ``template``, which is read once and not for each message."""
    return frozenset(name for _, name in variables(template))


def check_template(template: str, parameters: Iterable[str]) -> list[TemplateProblem]:
    """Everything that is wrong with ``template``: braces that do not pair, variables nobody fills."""
    known = {*MESSAGE_VARIABLES, *LATER_VARIABLES, *parameters}
    found = [
        TemplateProblem(offset, f"nothing fills the variable {name!r}", name)
        for offset, name in variables(template)
        if name not in known
    ]
    rest = _VARIABLE.sub(lambda match: " " * len(match.group()), template)
    stray = _BRACES.search(rest)
    if stray:
        found.append(TemplateProblem(stray.start(), f"{stray.group()!r} is not part of a {{{{variable}}}}"))
    return sorted(found, key=lambda problem: problem.offset)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill ``template`` once; text stays text, anything else is written as JSON."""

    def fill(match: re.Match[str]) -> str:
        return as_text(values.get(match.group(1), ""))

    return _VARIABLE.sub(fill, template)


def as_text(value: Any) -> str:
    """A value as it stands in a prompt, cut at :data:`VALUE_LIMIT` characters with a note."""
    text = value if isinstance(value, str) else _JSON.encode(value)
    if len(text) > VALUE_LIMIT:
        return f"{text[:VALUE_LIMIT]} [cut: {len(text) - VALUE_LIMIT} more characters]"
    return text
