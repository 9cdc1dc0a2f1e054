"""What was taken out leaves the file: in short steps that others may write between."""

from __future__ import annotations

from functools import partial
from typing import Final

import apsw

from node.memory import indexes
from node.storage.query import number
from node.storage.storage import Storage

VACUUM_PAGES: Final = 500
"""Pages that one write gives back to the file system after rows were taken out."""
TIDY_STEPS: Final = 1_000
"""Most steps of tidying after one request: what is left then is taken up by the next."""


async def reclaim(storage: Storage) -> None:
    """Give what was taken out back to the file system.

    Raises:
        StorageFailed: the disk refused.
    """
    for step in range(TIDY_STEPS):
        if not await storage.write(partial(indexes.tidy_text, first=step == 0)):
            break
    for _ in range(TIDY_STEPS):
        if not await storage.write(vacuum):
            break


def vacuum(connection: apsw.Connection) -> bool:
    """Give some free pages back; says whether there are more."""
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return number(connection, "PRAGMA freelist_count") > 0
