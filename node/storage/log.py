"""The write-ahead log of one database file, and how it is kept short without holding up the event loop.

SQLite copies a long log into the database by itself, inside the commit that finds it long: 32 MB take 30 to
45 ms, twice a second under load, in which a node whose commits are on the loop does nothing else. Here a
connection of its own does so on a worker thread, beside the writers (a *passive* checkpoint). What they have
added meanwhile is copied once more while they wait, which is little, and lets the next of them begin the log
anew (https://sqlite.org/wal.html, section 3.1: a log that is never copied whole grows without bound).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw

from node.storage.query import rows

LONG_PAGES: Final = 2_000
"""Length from which on a log is copied at once (8 MB); idle time usually comes first. Copying a longer one
takes a processor for longer than a message may wait; a shorter one is copied so often that pages which change
again and again, as most of a queue's do, are copied each time."""
LIMIT_PAGES: Final = 16 * LONG_PAGES
"""Length at which the commit that finds it copies it after all: nobody else does."""
SHORT_BYTES: Final = 262_144
"""A log shorter than this is left alone in idle time."""


class WriteAheadLog:
    """The log of one file.

    Args:
        path: The database file, which is open for writing.
        vfs: Name of a registered SQLite VFS, or None for the system's.
        writer: The connection of all writes.
        durability: Of the writer.
    """

    def __init__(self, path: Path, *, vfs: str | None, writer: apsw.Connection, durability: str) -> None:
        self._file = path.with_name(path.name + "-wal")
        self._copier = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        self._copier.execute(f"PRAGMA synchronous = {durability.upper()}")
        self._copier.execute("PRAGMA wal_autocheckpoint = 0")
        self.pages = 0
        self._long_at = LONG_PAGES
        writer.set_wal_hook(self._committed)

    @property
    def is_long(self) -> bool:
        """Whether it is time to copy it."""
        return self.pages >= self._long_at

    @property
    def is_short(self) -> bool:
        """Whether not even idle time is worth spending on it."""
        return self.bytes < SHORT_BYTES

    @property
    def bytes(self) -> int:
        """Of its file, which keeps the size that it once had."""
        try:
            return self._file.stat().st_size
        except OSError:
            return 0

    def copy(self) -> None:
        """Copy into the database what no reader needs any more; may run beside readers and writers.

        Raises:
            apsw.Error: the disk refused; what is in the log is as durable as what is in the file.
        """
        [(_, length, copied)] = rows(self._copier, "PRAGMA wal_checkpoint(PASSIVE)")
        if length == copied:
            self._long_at = LONG_PAGES
        else:  # a reader needs the rest, so that the log cannot begin anew yet
            self._long_at = length + LONG_PAGES // 4

    def copied_whole(self) -> None:
        """Nobody has written since :meth:`copy` began: the next commit tells the length."""
        self.pages = 0

    def close(self, force: bool = True) -> None:
        """Let the file go."""
        self._copier.close(force)

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self.pages = pages
        if pages >= LIMIT_PAGES:
            with suppress(apsw.Error):  # the log keeps what was committed
                rows(connection, f"PRAGMA {name}.wal_checkpoint(PASSIVE)")
        return apsw.SQLITE_OK
