"""A copy of the memory's file while it is written to, page by page, of one state of it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from node.environment import Workers
from node.errors import StorageFailed
from node.memory.checking import Checked, checked, snapshot

STEP_PAGES: Final = 1_000
"""Pages that one turn on the worker thread copies: 4 MB."""
SUFFIX: Final = ".backup"
"""What the copy beside the file is called; a copy that was left behind is overwritten."""


async def copy(path: Path, target: Path, workers: Workers) -> int:
    """Copy a memory's file as it is now; who writes meanwhile waits for nothing.

    Args:
        path: The file.
        target: Where to; what is there is overwritten. Its mode is 0600.
        workers: Where it runs (lane ``files``).

    Returns:
        Bytes of the copy.

    Raises:
        StorageFailed: the disk refused; there is no copy.
    """
    done, copying = False, _copied(path, target)
    try:
        while await workers.run("files", next, copying, None) is not None:
            pass
        size = await workers.run("files", os.path.getsize, target)
        done = True
    except (apsw.Error, OSError) as error:
        raise StorageFailed(
            f"the memory {path.name} could not be copied",
            why=f"{type(error).__name__}: {error}",
            fix="Check free space, permissions and the health of the disk.",
        ) from error
    finally:
        copying.close()
        if not done:
            remove(target)
    return size


def remove(target: Path) -> None:
    """Take a copy away, with what SQLite may have left beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)


def check_copy(target: Path, name: str | None = None) -> Checked:
    """Look whether a copy is whole; blocks.

    Args:
        target: The copy.
        name: What the one who reads of it calls it; as its file without it.

    Raises:
        StorageFailed: it is no database at all.
    """
    try:
        with snapshot(target) as connection:
            return checked(connection)
    except apsw.Error as error:
        raise StorageFailed(
            f"the copy {name or target.name} is no memory",
            why=f"{type(error).__name__}: {error}",
            fix="Make another; check the disk.",
        ) from error


def _copied(path: Path, target: Path) -> Generator[int, None, None]:
    """Copies a step at each turn; yields the pages that are left."""
    remove(target)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with snapshot(path) as source, _opened(target) as copy_, copy_.backup("main", source, "main") as steps:
        while not steps.done:
            steps.step(STEP_PAGES)
            yield steps.remaining
    with _opened(target) as copy_:
        copy_.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it


@contextmanager
def _opened(target: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(target))
    try:
        yield connection
    finally:
        connection.close(True)
