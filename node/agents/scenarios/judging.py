"""Judges what an agent has done by the expectations of a scenario; rules alone, no model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.agents.scenarios.file import NONE, Check, Expect
from node.agents.template import as_text
from node.llm.schema import problem_of

SHOWN: Final = 200
"""Most characters of a value in a problem."""
SEARCHED: Final = 200_000
"""Most characters of a value that a regular expression is tried on."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool; ``result`` is None where it failed."""

    name: str
    result: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Conduct:
    """What an agent has done with one message.

    Args:
        performative: Of its reply; ``none`` where there was none.
        content: Of its reply.
        uses: Its calls of tools, in order.
        turns: Completions it asked for.
        tokens: Tokens these took, as far as its provider counts.
    """

    performative: str
    content: Any
    uses: tuple[ToolUse, ...]
    turns: int
    tokens: int


class Absent(Exception):
    """There is nothing at a place; says up to where there was."""


def judge(conduct: Conduct, expect: Expect) -> list[str]:
    """Everything that is not as expected; empty where all is."""
    problems: list[str] = []
    if conduct.performative != expect.performative:
        said = f"the reply is {conduct.performative}, not {expect.performative}"
        reason = _reason(conduct.content)
        problems.append(f"{said}: {reason}" if reason else said)
    problems += _judge_tools(conduct.uses, expect)
    for check in expect.results:
        answers = [use.result for use in conduct.uses if use.name == check.tool and not use.error]
        found = [_problem(answer, check) for answer in answers]
        if not found:
            problems.append(f"results: {check.tool} has given none")
        elif all(found):
            problems.append(f"results of {check.tool}{check.at}: {found[-1]}")
    if expect.performative != NONE:
        for content_check in expect.content:
            problem = _problem(conduct.content, content_check)
            problems += [f"content{content_check.at}: {problem}"] if problem else []
    if expect.max_turns is not None and conduct.turns > expect.max_turns:
        problems.append(f"it took {conduct.turns} turns; at most {expect.max_turns} were expected")
    if expect.max_tokens is not None and conduct.tokens > expect.max_tokens:
        problems.append(f"it took {conduct.tokens} tokens; at most {expect.max_tokens} were expected")
    return problems


def at(value: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901).

    Raises:
        Absent: there is none.
    """
    for raw in pointer.split("/")[1:]:
        part = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9]\d{0,8}", part) and int(part) < len(value):
            value = value[int(part)]
        else:
            there = ", ".join(list(value)[:10]) if isinstance(value, dict) else _kind(value)
            raise Absent(f"there is no {part!r}; there is {there or 'nothing'}")
    return value


def _judge_tools(uses: Sequence[ToolUse], expect: Expect) -> list[str]:
    used = [use.name for use in uses]
    shown = ", ".join(used) or "none"
    problems = []
    left = iter(used)
    missing = next((tool for tool in expect.tools if tool not in left), None)
    if missing is not None:
        problems.append(f"the tool {missing} was not used (in this order); used were: {shown}")
    problems += [f"the tool {tool} was used" for tool in expect.not_tools if tool in used]
    wanted = {*expect.tools, *(check.tool for check in expect.results)}
    problems += [
        f"{use.name} failed: {use.error[:SHOWN]}" for use in uses if use.error and use.name in wanted
    ]
    return problems


def _problem(value: Any, check: Check) -> str:
    """Why a value is not as a check has it; empty if it is."""
    try:
        found = at(value, check.at)
    except Absent as error:
        return str(error)
    if check.contains is not None:
        return (
            ""
            if check.contains in _searched(found)
            else f"{_shown(found)} does not contain {check.contains!r}"
        )
    if check.matches is not None:
        matches = re.search(check.matches, _searched(found)) is not None
        return "" if matches else f"{_shown(found)} does not match {check.matches!r}"
    if check.follows is not None:
        return problem_of(found, check.follows)
    same = found == check.equals and isinstance(found, bool) == isinstance(check.equals, bool)
    return "" if same else f"is {_shown(found)}, not {_shown(check.equals)}"


def _searched(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:SEARCHED]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else _shown(value)


def _reason(content: Any) -> str:
    if isinstance(content, dict) and "reason" in content:
        return as_text(content["reason"])[:SHOWN]
    return ""
