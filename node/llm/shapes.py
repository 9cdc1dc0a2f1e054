"""Values that have a shape of their own, and are found in a text by it: URLs, moments, zones, files, numbers.

A tool says by ``format`` in its schema what shape an argument has (``uri`` and ``date-time`` are JSON
Schema's own words). Where the argument has ``x-after`` words, its value follows one of them; elsewhere the
first value counts that no argument before it has taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

LABELS_LIMIT: Final = 50
"""Most labelled numbers that are read from one text."""

_PLACE: Final = r"[A-Za-z_]+(?:/[A-Za-z_]+){1,2}|[A-Z][a-z]+(?: [A-Z][a-z]+){1,2}|[A-Za-z_]{3,}"
_SHAPES: Final[Mapping[str, str]] = {
    "uri": r"https?://[^\s<>\"'`]{1,2000}",
    "date-time": r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:?\d{2})?)?|\bnow\b",
    "time-zone": rf"(?:UTC|GMT)?[+-]\d{{1,2}}(?::?\d{{2}})?|{_PLACE}",
    "file-path": r"(?:[\w-][\w.-]*/)+[\w-][\w.-]*|[\w-][\w.-]*\.[A-Za-z]\w{0,7}\b(?!/)",
}
_ONLY_AFTER: Final = frozenset({"time-zone"})
"""Shapes that any word has."""
_CLOSING: Final = ".,;:!?)]}"
_NO_PLACE: Final = frozenset(
    {"the", "this", "that", "a", "an", "my", "our", "your", "words", "short", "detail"}
)
_LABELLED: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9 _-]{0,39}?)\s{0,8}[:=]?\s{0,8}(-?\d+(?:\.\d+)?)%?\s{0,8}(?:[,;\n]|\band\b|$)",
    re.IGNORECASE,
)
"""Its gaps are bounded: where three of them could share many blanks, a kilobyte of these took seconds."""
_LEADING: Final = re.compile(r"^.*\b(?:of|with|for|and|showing)\s+(?=\S)", re.IGNORECASE)


def shaped(rule: Mapping[str, Any], text: str, taken: Collection[Any]) -> Any:
    """The value in a text that has the shape of an argument, or None.

    Args:
        rule: The argument's schema.
        text: What is searched.
        taken: Values of arguments before it, which are not given twice.
    """
    name = rule.get("format")
    if name == "labelled-numbers":
        return _labelled(text)
    shape = _SHAPES.get(str(name))
    cues = [re.escape(str(word)) for word in rule.get("x-after", ())]
    if shape is None or (name in _ONLY_AFTER and not cues):
        return None
    pattern = rf"\b(?:{'|'.join(cues)})[ \t]+({shape})" if cues else rf"(?<!\w)({shape})"
    flags = re.NOFLAG if name == "time-zone" else re.IGNORECASE
    for found in re.finditer(pattern, text, flags):
        value = found[1].rstrip(_CLOSING)
        if value not in taken and value.lower() not in _NO_PLACE:
            return value
    return None


def _labelled(text: str) -> dict[str, float] | None:
    """Numbers with the words before them: ``of North 100, South 245``; at least two make sense."""
    found: dict[str, float] = {}
    for label, number in _LABELLED.findall(text):
        plain = _LEADING.sub("", label.strip()).strip()
        if plain and len(found) < LABELS_LIMIT:
            found[plain] = float(number) if "." in number else int(number)
    return found if len(found) > 1 else None


def only(values: Sequence[str]) -> str | None:
    """The one value there is, or None where there is none, or a choice."""
    return values[0] if len(values) == 1 else None
