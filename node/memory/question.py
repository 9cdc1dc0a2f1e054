"""What is asked of the memory: the text, what narrows it, and what counts beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.errors import ValidationFailed
from node.memory.model import NAME_LIMIT, NOW, Period, checked_share
from node.memory.reading import TYPES_LIMIT, Use
from node.memory.scopes import EVERYWHERE, Aim

QUERY_BYTES_LIMIT: Final = 1024**2
"""Longest query that is taken, in bytes; only its head is searched for."""
LIMIT: Final = 100
"""Most results of one page."""
OFFSET_LIMIT: Final = 400
"""Deepest page."""
METADATA_FILTERS_LIMIT: Final = 8
"""Most metadata values that one search asks for."""
TOKENS_LIMIT: Final = 1_000_000
"""Largest budget of tokens."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """What counts beside the question; nothing, by default, but outcomes.

    Attributes:
        recency: How much of the score depends on age, 0 to 1.
        half_life_s: Age at which half of that is gone, in seconds.
        use: How much of the score depends on how often it was used, 0 to 1.
        outcomes: How much of the score depends on what came of its use, 0 to 1.
    """

    recency: float = 0.0
    half_life_s: float = 30 * 86_400.0
    use: float = 0.0
    outcomes: float = 0.5

    def __post_init__(self) -> None:
        for name in ("recency", "use", "outcomes"):
            checked_share(getattr(self, name), f"weights.{name}")
        if not 1.0 <= self.half_life_s <= 1e10:
            raise ValidationFailed("half_life_s must be from one second to some centuries")

    def factor(self, use: Use, now_s: float) -> float:
        """What the score of an entity is multiplied with for its best observation."""
        age_s = max(0.0, now_s - use.created_s)
        told = use.accepted + use.corrected + use.rejected
        # From -1 (always rejected) to 1 (always accepted); the 2 keeps a single outcome from deciding alone.
        record = (use.accepted - 0.5 * use.corrected - use.rejected) / (told + 2)
        used = math.log1p(use.used) / math.log1p(100)
        found = 1 - self.recency + self.recency * math.exp2(-age_s / self.half_life_s)
        return found * (1 + self.use * min(1.0, used)) * (1 + self.outcomes * record)


PLAIN: Final = Weighing()
"""Nothing counts beside the question but outcomes."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to search for.

    Attributes:
        text: In any words; nothing in it is syntax.
        aim: In which scopes.
        types: Only entities of these types, or all.
        period: Only what holds at this time.
        metadata: Only what has these values, in its own metadata or its entity's.
        limit: Results of this page.
        offset: Results before it.
        min_similarity: Only results at least so like the question, 0 to 1, or None; see the store's
            threshold.
        relations: Whether results come with their relations.
        max_tokens: Budget of all texts of the page, or None.
        weighing: What counts beside the question.
    """

    text: str
    aim: Aim = EVERYWHERE
    types: tuple[str, ...] = ()
    period: Period = NOW
    metadata: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 10
    offset: int = 0
    min_similarity: float | None = None
    relations: bool = False
    max_tokens: int | None = None
    weighing: Weighing = PLAIN

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValidationFailed(
                "the query is empty", fix="Say what to search for.", details={"field": "query"}
            )
        for name, value, low, high in (
            ("query", len(self.text.encode("utf-8", "replace")), 1, QUERY_BYTES_LIMIT),
            ("limit", self.limit, 1, LIMIT),
            ("offset", self.offset, 0, OFFSET_LIMIT),
            ("max_tokens", self.max_tokens or 1, 1, TOKENS_LIMIT),
            ("entity_types", len(self.types), 0, TYPES_LIMIT),
            ("metadata", len(self.metadata), 0, METADATA_FILTERS_LIMIT),
        ):
            if not low <= value <= high:
                raise ValidationFailed(
                    f"{name} is {value}", why=f"it may be from {low} to {high}", details={"field": name}
                )
        if self.min_similarity is not None:
            checked_share(self.min_similarity, "min_similarity")
        for key in self.metadata:
            if len(key) > NAME_LIMIT or set(key) & set('"\\'):
                raise ValidationFailed(
                    "a metadata key cannot be searched for", why="it has quotes, or is too long"
                )

    @property
    def filtered(self) -> bool:
        """Whether anything but scope and current time narrows it."""
        return bool(self.types or self.metadata)
