"""What the built-in server ``text`` computes from a log: levels, bursts, and which problems repeat.

Lines of plain text and of JSON are read. Numbers, addresses and quoted parts of messages are taken out before
they are counted, so that "timeout after 31 ms" and "timeout after 57 ms" are one problem.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from node.tools.text_questions import SENTENCE_LIMIT, counted, lines

PROBLEMS: Final = 10
"""Most problems of an answer."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?")
_LEVEL: Final = re.compile(
    r"\b(FATAL|CRITICAL|ERROR|ERR|WARNING|WARN|INFO|NOTICE|DEBUG|TRACE)\b", re.IGNORECASE
)
_LEVELS: Final = {"CRITICAL": "FATAL", "ERR": "ERROR", "WARN": "WARNING", "NOTICE": "INFO", "TRACE": "DEBUG"}
_BAD: Final = ("FATAL", "ERROR", "WARNING")
_VARIABLE: Final = re.compile(
    r"\"[^\"]{0,200}\"|'[^']{0,200}'|\b0x[0-9a-fA-F]+\b|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b[0-9a-fA-F]{12,}\b|\d+(?:[.:,/]\d+)*"
)
_MESSAGE_KEYS: Final = ("message", "msg", "event", "error")
_LEVEL_KEYS: Final = ("level", "severity", "lvl", "levelname")
_TIME_KEYS: Final = ("time", "timestamp", "ts", "@timestamp", "at")


@dataclass(slots=True)
class _Problem:
    level: str
    example: str
    count: int = 0
    first: str = ""
    last: str = ""
    line: int = 0


@dataclass(slots=True)
class _Log:
    levels: Counter[str] = field(default_factory=Counter)
    minutes: Counter[str] = field(default_factory=Counter)
    problems: dict[tuple[str, str], _Problem] = field(default_factory=dict)
    total: int = 0
    first: str = ""
    last: str = ""


def log_report(text: str) -> dict[str, Any]:
    """Counts by level, the time covered, the worst minute, and the problems, the most frequent first."""
    log = _Log()
    for line in lines(text):
        log.total += 1
        time, level, message = _parts(line.text)
        log.first, log.last = log.first or time, time or log.last
        if level:
            log.levels[level] += 1
        if level not in _BAD:
            continue
        problem = log.problems.setdefault(
            (level, _VARIABLE.sub("#", message)), _Problem(level, message[:SENTENCE_LIMIT], line=line.number)
        )
        problem.count += 1
        problem.first, problem.last = problem.first or time, time or problem.last
        if time and level != "WARNING":
            log.minutes[time[:16].replace("T", " ")] += 1
    return _report(log)


def _report(log: _Log) -> dict[str, Any]:
    ranked = sorted(log.problems.values(), key=lambda p: (_BAD.index(p.level), -p.count, p.line))
    errors = log.levels["FATAL"] + log.levels["ERROR"]
    covered = f" from {log.first} to {log.last}" if log.first else ""
    bad = f"{counted(errors, 'error')}, {counted(log.levels['WARNING'], 'warning')}"
    facts = [f"{log.total:,} lines{covered}: {bad}"]
    if log.minutes:
        minute, count = log.minutes.most_common(1)[0]
        facts.append(f"Worst minute: {minute}, with {counted(count, 'error')}")
    facts += [_fact(problem) for problem in ranked[:PROBLEMS]]
    return {
        "lines": log.total,
        "first": log.first or None,
        "last": log.last or None,
        "levels": dict(sorted(log.levels.items())),
        "errors": errors,
        "worst_minute": log.minutes.most_common(1)[0][0] if log.minutes else None,
        "problems": [
            {
                "level": problem.level.lower(),
                "message": problem.example,
                "count": problem.count,
                "first": problem.first or None,
                "last": problem.last or None,
                "line": problem.line,
            }
            for problem in ranked[:PROBLEMS]
        ],
        "facts": facts,
    }


def _fact(problem: _Problem) -> str:
    times = f"{problem.count} times" if problem.count > 1 else "once"
    since = f", first at {problem.first}" if problem.first else ""
    return f"{problem.level.capitalize()} {times}{since} (line {problem.line}): {problem.example}"


def _parts(text: str) -> tuple[str, str, str]:
    """Time, level and message of a line; empty where it has none."""
    if text.startswith("{"):
        found = _of_json(text)
        if found is not None:
            return found
    time, level = _TIME.search(text), _LEVEL.search(text)
    end = max((found.end() for found in (time, level) if found is not None), default=0)
    message = text[end:].lstrip(" \t:-]|") or text
    return time.group() if time else "", _named(level.group()) if level else "", message


def _of_json(text: str) -> tuple[str, str, str] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None

    def of(keys: tuple[str, ...]) -> str:
        return next((str(record[key]) for key in keys if record.get(key) is not None), "")

    return of(_TIME_KEYS), _named(of(_LEVEL_KEYS)), of(_MESSAGE_KEYS) or text


def _named(level: str) -> str:
    word = level.upper()
    return _LEVELS.get(word, word)
