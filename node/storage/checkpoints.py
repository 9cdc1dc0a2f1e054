"""The write-ahead log of one file: how long it has become, and how it is copied into the file.

Theory of operation. A checkpoint copies the log's pages into the file; from then on the log is written from
its beginning again. SQLite would do that inside a commit, 10 to 20 ms of the processor and two fsyncs for a
log of 32 MB, while everything waits. Where commits are made on the event loop it is done in two steps: a
connection of its own copies what is there on a thread, beside the commits, which go on behind; then what they
have added meanwhile, which is little, is copied while the next ones wait. If all that is too slow for what is
written, a commit does it after all, so the log is bounded.

Source: SQLite's "Write-Ahead Logging", sections 2.1, 3.1 and 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw
import trio

CHECKPOINT_PAGES: Final = 8_000
"""Length of the log at which it is copied (32 MB); idle time usually comes first."""
LIMIT_PAGES: Final = 32_000
"""Length at which a commit does that itself (128 MB)."""
CHECKPOINT_BYTES: Final = 262_144
"""A log shorter than this is left alone in idle time."""


class Log:
    """See the module's docstring.

    Args:
        path: The database file.
        writer: The connection of all commits.
        beside: One that copies on a thread meanwhile, or None: commits are on a thread themselves.
    """

    def __init__(self, path: Path, writer: apsw.Connection, beside: apsw.Connection | None) -> None:
        self._wal = path.with_name(path.name + "-wal")
        self._writer, self._beside = writer, beside
        self._pages = self.checkpoints = self.failed = 0
        self._long, self._limit = CHECKPOINT_PAGES, LIMIT_PAGES
        self.is_long = trio.Event()
        if beside is None:
            writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        else:
            beside.execute("PRAGMA wal_autocheckpoint = 0")
            writer.set_wal_hook(self._committed)

    @property
    def size(self) -> int:
        """Bytes of the log's file, which is as large as the log ever was."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def copy_beside(self) -> None:
        """Copy what is there; commits go on meanwhile."""
        if self._beside is not None:
            self._copy(self._beside)

    def copy(self) -> None:
        """Copy all that is there; nobody commits meanwhile."""
        self._copy(self._writer)
        self.is_long = trio.Event()

    def close(self) -> None:
        """Let go of the connection beside."""
        if self._beside is not None:
            self._beside.close(True)

    def _copy(self, connection: apsw.Connection) -> None:
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except apsw.Error:  # what is in the log is as durable as what is in the file
            self.failed += 1
        else:
            self.checkpoints += 1

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """A commit has made the log so long. What this raised would make the commit look like a failure."""
        if pages < self._pages:  # it is written from its beginning again
            self._long, self._limit = CHECKPOINT_PAGES, LIMIT_PAGES
        self._pages = pages
        if pages >= self._long:
            self.is_long.set()
            self._long = pages + CHECKPOINT_PAGES  # not every commit asks, while a reader keeps the log
        if pages >= self._limit:
            self._copy(self._writer)
            self._limit = pages + CHECKPOINT_PAGES
        return apsw.SQLITE_OK
