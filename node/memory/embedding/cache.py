"""Vectors of texts that were embedded lately."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any


class VectorCache:
    """The last vectors by the hash of their text; the one used longest ago leaves first.

    Args:
        entries: Most vectors kept; 0 keeps none.
    """

    def __init__(self, entries: int) -> None:
        self._limit = entries
        self._rows: OrderedDict[bytes, Any] = OrderedDict()
        self._hits = 0

    @staticmethod
    def key(text: str) -> bytes:
        """What a text is found by; texts are not kept."""
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def get(self, key: bytes) -> Any | None:
        """The vector of a text, or None."""
        row = self._rows.get(key)
        if row is None:
            return None
        self._hits += 1
        self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Any) -> None:
        """Keep a copy of ``row``: a view would keep the whole array it is part of."""
        self._rows[key] = row.copy()
        self._rows.move_to_end(key)
        while len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "cached": len(self._rows),
            "cached_limit": self._limit,
            "cache_hits": self._hits,
        }
