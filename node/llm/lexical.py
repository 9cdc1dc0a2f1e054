"""Words: how the offline provider compares a request with the tools it could use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

TEXT_LIMIT: Final = 8_000
"""Most characters of a request that are read for words."""

_WORD = re.compile(r"[a-z]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STOP: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do for from give has have how i in is it its me my of on or our please "
        "show that the their this to us was we what which who will with you your tell file csv data",
    )
)
_ENDINGS: Final = ("ations", "ation", "ings", "ing", "ies", "yses", "ysis", "yze", "yse", "ers", "er")
_SHORT_ENDINGS: Final = ("ed", "es", "s", "e", "y")


def words(text: str) -> list[str]:
    """The stems of the words of ``text`` in order, without the commonest."""
    split = _CAMEL.sub(" ", text[:TEXT_LIMIT]).lower()
    return [stem(word) for word in _WORD.findall(split) if word not in _STOP]


def stem(word: str) -> str:
    """A word without its ending, so that ``analyze``, ``analysis`` and ``analyzing`` meet."""
    for endings in (_ENDINGS, _SHORT_ENDINGS):
        for ending in endings:
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word.removesuffix(ending)
                break
    return word


def texts(value: Any) -> Iterator[str]:
    """All texts inside JSON values, keys left out, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts(item)


def rarity(documents: Iterable[Iterable[str]]) -> dict[str, float]:
    """Inverse document frequency: a word that every tool has says little about any."""
    counted: dict[str, int] = {}
    total = 0
    for document in documents:
        total += 1
        for word in dict.fromkeys(document):
            counted[word] = counted.get(word, 0) + 1
    return {word: 1.0 + math.log((1 + total) / (1 + count)) for word, count in counted.items()}
