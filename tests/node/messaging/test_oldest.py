"""Tables of what was of late keep the newest, and never more than they may."""

from __future__ import annotations

import pytest

from node.messaging.oldest import drop_oldest


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 100])
def test_the_oldest_go_and_the_newest_stay(limit: int) -> None:
    entries: dict[int, str] = {}
    for key in range(3 * limit + 5):
        entries[key] = ""
        if len(entries) > limit:
            drop_oldest(entries, limit)
        assert len(entries) <= limit
        assert list(entries) == list(range(key + 1 - len(entries), key + 1))
        assert len(entries) >= min(key + 1, limit - limit // 8)


def test_what_is_used_again_is_the_newest() -> None:
    entries = dict.fromkeys(range(4))
    entries.pop(0)
    entries[0] = None
    entries[4] = None
    drop_oldest(entries, 4)
    assert list(entries) == [2, 3, 0, 4]
