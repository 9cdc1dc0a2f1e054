"""Labels: short facts about an agent (region, model, specialization) that a message may ask for.

A label is a name and a value; an agent may have several values of one name. A requirement is a label that the
provider must have, so all requirements of a message are met by whoever has all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from node.errors import ValidationFailed

Label = tuple[str, str]
"""A name and a value."""
Labels = tuple[Label, ...]
"""Sorted, each once."""

LABELS_LIMIT: Final = 16
"""Most labels of one agent."""
REQUIRED_LIMIT: Final = 8
"""Most labels that one message requires."""
VALUE_LIMIT: Final = 64
"""Most characters of a value."""
SPECIALIZATION: Final = "specialization"
"""The label that ``required_specializations`` asks for."""
NODE: Final = "node"
"""The label that every agent has by where it runs, and none gives itself."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,31}")


def check_labels(found: object, limit: int = LABELS_LIMIT) -> Labels:
    """The labels in pairs that came from outside, sorted.

    Args:
        found: Pairs of name and value.
        limit: Most of them.

    Raises:
        ValidationFailed: they are no labels, or too many.
    """
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise _invalid("they are pairs of a name and a value")
    labels: dict[Label, None] = {}
    for pair in found:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _invalid("they are pairs of a name and a value")
        name, value = pair
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _invalid(f"{str(name)[:40]!r} is no name of a label: a-z, digits, _ . and -, at most 32")
        if not isinstance(value, str) or not 1 <= len(value) <= VALUE_LIMIT or not value.isprintable():
            raise _invalid(f"the value of {name} is no text of 1 to {VALUE_LIMIT} printable characters")
        labels[name, value] = None
    if len(labels) > limit:
        raise _invalid(f"there are {len(labels)}; at most {limit} are allowed")
    return tuple(sorted(labels))


def labels_of(given: Mapping[str, str | Sequence[str]], limit: int = LABELS_LIMIT) -> Labels:
    """The labels in a mapping of names to a value, or to several.

    Raises:
        ValidationFailed: they are no labels, or too many.
    """
    return check_labels(
        [(name, value) for name, values in given.items() for value in _several(values)], limit
    )


def labels_shown(labels: Iterable[Label]) -> dict[str, list[str]]:
    """Labels as JSON: each name with its values."""
    found: dict[str, list[str]] = {}
    for name, value in labels:
        found.setdefault(name, []).append(value)
    return found


def lacking(required: Labels, labels: Labels, node: str) -> Labels:
    """What of the required labels an agent with these labels on that node has not."""
    return tuple(label for label in required if label not in labels and label != (NODE, node))


def _several(values: str | Sequence[str]) -> Sequence[str]:
    return (values,) if isinstance(values, str) else values


def _invalid(why: str) -> ValidationFailed:
    return ValidationFailed("these are no labels", why=why, fix="Write names and values: region: eu.")
