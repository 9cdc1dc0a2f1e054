"""Topics: names in levels (``orders.eu.created``), and patterns that subscribe to many of them.

``*`` stands for exactly one level, at any place; ``#`` for the rest, however many levels that is and none
too, only at the end: ``orders.#`` subscribes to ``orders``, ``orders.eu`` and ``orders.eu.created``. Levels
are separated by dots as in AMQP 0-9-1; a wildcard is a whole level, and ``#`` is last as in MQTT.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from node.errors import ValidationFailed

TOPIC_LIMIT: Final = 255
"""Longest topic or pattern, in characters."""
LEVELS_LIMIT: Final = 16
"""Most levels of a topic or pattern."""

ONE: Final = "*"
REST: Final = "#"

_LEVEL: Final = r"[A-Za-z0-9_-]+"
_TOPIC: Final = re.compile(rf"{_LEVEL}(\.{_LEVEL}){{0,{LEVELS_LIMIT - 1}}}")
_PATTERN: Final = re.compile(rf"(({_LEVEL}|\*)(\.({_LEVEL}|\*)){{0,{LEVELS_LIMIT - 1}}}(\.#)?|#)")


@functools.lru_cache(maxsize=4096)
def is_topic(text: str) -> bool:
    """Whether a text is a topic, without wildcards."""
    return len(text) <= TOPIC_LIMIT and _TOPIC.fullmatch(text) is not None


def check_pattern(text: object) -> str:
    """A topic, or a pattern over topics.

    Raises:
        ValidationFailed: it is neither.
    """
    if isinstance(text, str) and len(text) <= TOPIC_LIMIT and _PATTERN.fullmatch(text):
        return text
    raise ValidationFailed(
        f"{str(text)[:80]!r} is not a topic or a pattern over topics",
        why=f"at most {LEVELS_LIMIT} levels of letters, digits, _ and -, separated by dots;"
        " * stands for one level, # at the end for the rest",
        fix="Write orders.eu.created, orders.*.created or orders.#.",
        details={"field": "topics"},
    )


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern subscribes to a topic."""
    wanted, levels = pattern.split("."), topic.split(".")
    if wanted[-1] == REST:
        wanted.pop()
        levels = levels[: len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(
        w in (ONE, level) for w, level in zip(wanted, levels, strict=True)
    )
