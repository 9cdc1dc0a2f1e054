"""Tool calls that a small model has written as its answer, in place of calling the tool.

Only an answer that is nothing but one call counts: an object (in a code fence, or in ``<tool_call>`` tags)
that names a tool which was offered, with arguments that follow the tool's schema. Anything else stays an
answer; nothing is searched for inside prose, where an example would be taken for a wish.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from node.json_schema import without_patterns
from node.llm.provider import ToolCall, ToolSpec
from node.llm.schema import problem_of
from node.llm.wire import Nonsense, parse_json

TEXT_LIMIT: Final = 65_536
"""Longest answer that is looked at, in characters."""
_WRAPPED: Final = re.compile(
    r"\s*+(?:```(?:json)?|<tool_call>)?\s*+(\{.*\})\s*+(?:```|</tool_call>)?\s*+", re.DOTALL
)
_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")


def bare_call(text: str, tools: Sequence[ToolSpec]) -> ToolCall | None:
    """The tool call that ``text`` is, or None where it is an answer."""
    wrapped = _WRAPPED.fullmatch(text) if len(text) <= TEXT_LIMIT else None
    if wrapped is None:
        return None
    try:
        found = parse_json(wrapped.group(1))
    except Nonsense:
        return None
    if isinstance(found, dict) and isinstance(found.get("function"), dict):
        found = found["function"]
    arguments = _arguments(found)
    if arguments is None:
        return None
    tool = next((tool for tool in tools if tool.name == found["name"]), None)
    if tool is None:
        return None
    schema = without_patterns(dict(tool.input_schema))  # it may be another program's
    closed = {} if "patternProperties" in tool.input_schema else {"additionalProperties": False}
    if problem_of(arguments, {**closed, **schema}):
        return None
    return ToolCall("bare-1", tool.name, arguments)


def _arguments(found: Any) -> dict[str, Any] | None:
    """The arguments of an object that has a name, arguments, and nothing else of weight."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    given = [key for key in _ARGUMENTS if key in found]
    if len(given) != 1 or set(found) - {"name", "type", "id", given[0]}:
        return None
    arguments = found[given[0]]
    return arguments if isinstance(arguments, dict) else None
