"""Tables of what was of late: bounded, and cheap where nearly every entry is new.

A plain dict keeps the order in which its keys came. Dropping the oldest key one at a time makes it look
through all that was dropped before, each time anew; an ``OrderedDict`` does not, and costs four times as much
for each entry. So the oldest are dropped many at a time.
"""

from __future__ import annotations

from itertools import islice
from typing import Any


def drop_oldest(entries: dict[Any, Any], limit: int) -> None:
    """Drop the oldest entries of a dict that has more than ``limit``, and an eighth of the limit besides.

    Args:
        entries: Oldest first; who uses an entry again takes it out and puts it in anew.
        limit: Most entries; at least one stays.
    """
    surplus = len(entries) - limit
    for key in list(islice(entries, surplus + limit // 8)):
        del entries[key]
