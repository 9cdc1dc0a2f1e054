"""The folders that tools may use, and the only way into them.

A path is ``root/folder/file``: its first part is the name of a folder that the configuration offers. It is
walked part by part, each opened relative to the one before without following a symbolic link, so that
neither ``..`` nor a link, nor a folder that is exchanged for one in between, leads out of the root. Only
regular files are opened. Everything here blocks, and is called in a worker.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from node.config.tools import FileRootsConfig
from node.errors import CaxtonError, Forbidden, ResourceLimitExceeded, ToolFailed, ValidationFailed, nearest
from node.tools.caller import Caller

PATH_LIMIT: Final = 1_024
"""Longest path, in characters."""
DEPTH_LIMIT: Final = 32
"""Most parts of a path, and of what is looked through."""
SCAN_LIMIT: Final = 10_000
"""Most entries of folders that one call looks at."""
WRITE_LIMIT: Final = 1024**2
"""Largest file that is written, in bytes."""
FREE_BYTES: Final = 64 * 1024**2
"""Least that a written file leaves free on the disk, in bytes."""

_UNFINISHED: Final = ".caxton-"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder.

    Args:
        path: Where it is, from the name of its root on.
        kind: ``file``, ``folder`` or ``other``, which is never opened.
        size: Of a file, in bytes.
        modified_s: Unix seconds.
    """

    path: str
    kind: str
    size: int
    modified_s: float


class Roots:
    """The folders that the configuration offers.

    Args:
        config: Which are read, and which are written, too.
    """

    def __init__(self, config: FileRootsConfig) -> None:
        self._written = {path.name: path for path in config.write}
        self._known = {path.name: path for path in config.read} | self._written
        self._count = itertools.count()

    def view(self, caller: Caller) -> View:
        """What a caller may use of them."""
        if caller.file_access == "none":
            return View({}, frozenset(), (), self._count)
        may_write = caller.file_access == "read_write"
        allowed = caller.paths if caller.paths is not None else tuple(self._known)
        open_to = [tuple(path.split("/")) for path in allowed]
        known = {name: path for name, path in self._known.items() if any(p[0] == name for p in open_to)}
        written = frozenset(self._written) if may_write else frozenset()
        return View(known, written, [parts for parts in open_to if parts[0] in known], self._count)


class View:
    """The folders as one caller may use them.

    Args:
        roots: By name.
        written: Names of those that may be written.
        allowed: The paths below which everything may be used.
        count: Numbers unfinished files.
    """

    def __init__(
        self, roots: dict[str, Path], written: frozenset[str], allowed: Sequence[Parts], count: Iterator[int]
    ) -> None:
        self._roots, self._written, self._allowed, self._count = roots, written, allowed, count

    def folders(self) -> list[str]:
        """The paths that the caller may begin with."""
        return sorted("/".join(parts) for parts in self._allowed)

    def reaches(self, path: str) -> bool:
        """Whether the path is below one that the caller may use; there may be nothing."""
        parts = tuple(path.strip("/").split("/"))
        return any(parts[: len(start)] == start for start in self._allowed)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """A file, to be read.

        Raises:
            ValidationFailed: there is none of that name.
            Forbidden: it is out of reach.
            ToolFailed: the disk refused.
        """
        parts = self._checked(path)
        if len(parts) < 2:
            raise ValidationFailed(f"{path[:80]!r} is no file", why="it is a folder")
        with self._told(path):
            with self._folder(parts[:-1]) as folder:
                file = os.fdopen(os.open(parts[-1], _FILE, dir_fd=folder), "rb")
            with file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ValidationFailed(f"{path[:80]!r} is no file", why="only regular files are read")
                yield file

    def entries(self, path: str = "", *, deep: bool = False) -> Iterator[Entry]:
        """What is in a folder, sorted by name; without a path, each folder to begin with and what is in it.

        Args:
            path: The folder.
            deep: Also what is in the folders inside, each behind its own entry.

        Raises:
            ValidationFailed: there is none of that name.
            Forbidden: it is out of reach.
            ToolFailed: the disk refused.
            ResourceLimitExceeded: more than :data:`SCAN_LIMIT` entries.
        """
        left = itertools.count(SCAN_LIMIT, -1)
        if path.strip("/"):
            parts = self._checked(path)
            with self._told(path), self._folder(parts) as folder:
                yield from _scan(folder, "/".join(parts), left, deep=deep)
            return
        for start in self.folders():
            with self._told(start), self._folder(tuple(start.split("/"))) as folder:
                found = os.fstat(folder)
                yield Entry(start, "folder", 0, found.st_mtime)
                yield from _scan(folder, start, left, deep=deep)

    def write(self, path: str, data: bytes, *, overwrite: bool) -> bool:
        """Write a whole file, or nothing of it; folders on its way are made.

        Returns:
            Whether there was one before.

        Raises:
            ValidationFailed: the path is none, or a file is there and is not to be overwritten.
            Forbidden: it is out of reach, or read only.
            ToolFailed: the disk refused.
            ResourceLimitExceeded: it is too large, or the disk would be full.
        """
        parts = self._checked(path)
        if parts[0] not in self._written or len(parts) < 2:
            writable = sorted(self._written & set(self._roots))
            raise Forbidden(
                f"{path!r} must not be written",
                why="folders that may be written: " + (", ".join(writable) or "none"),
                fix="Name it in tools.files.write, and allow read_write in the agent's file.",
            )
        if len(data) > WRITE_LIMIT:
            raise ResourceLimitExceeded("the file is too large", why=f"at most {WRITE_LIMIT:,} bytes")
        with self._told(path), self._folder(parts[:-1], make=True) as folder:
            space = os.fstatvfs(folder)
            if space.f_bavail * space.f_frsize - len(data) < FREE_BYTES:
                raise ResourceLimitExceeded("the disk is almost full", why=f"{FREE_BYTES:,} bytes stay free")
            return self._replace(folder, parts[-1], data, overwrite=overwrite)

    def _replace(self, folder: int, name: str, data: bytes, *, overwrite: bool) -> bool:
        unfinished = f"{_UNFINISHED}{os.getpid()}-{next(self._count)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o640, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            existed = _kind(folder, name)
            if existed not in (None, "file"):
                raise ValidationFailed(f"{name!r} is no file", why=f"it is a {existed}")
            if overwrite:
                os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.link(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            raise ValidationFailed(
                f"{name!r} is there already", fix="Choose another name, or set overwrite."
            ) from None
        finally:
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=folder)
        return existed is not None

    def _checked(self, path: str) -> Parts:
        """The parts of a path that the caller may use."""
        parts = tuple(path.strip("/").split("/"))
        if len(path) > PATH_LIMIT or len(parts) > DEPTH_LIMIT or not path.isprintable():
            raise ValidationFailed(
                f"{path[:80]!r} is no path", why="it is too long, too deep, or not printable"
            )
        if any(part in ("", ".", "..") or part.startswith(_UNFINISHED) for part in parts):
            raise ValidationFailed(f"{path[:80]!r} is no path", why="its parts are plain names")
        if not self.reaches(path):
            known = self.folders()
            guess = nearest(path, known)
            raise Forbidden(
                f"{path[:80]!r} is out of reach",
                why="folders that may be used: " + (", ".join(known[:20]) or "none"),
                fix=f"Did you mean {guess!r}?" if guess else "",
            )
        return parts

    @contextmanager
    def _folder(self, parts: Parts, *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder, which was walked to part by part."""
        # The root itself may be a link: whoever configures the node has chosen it.
        descriptor = os.open(self._roots[parts[0]], _FOLDER)
        try:
            for part in parts[1:]:
                try:
                    following = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(part, 0o750, dir_fd=descriptor)
                    following = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = following
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Say what the system says in words that name the path as the caller does, never the disk's."""
        try:
            yield
        except FileNotFoundError:
            raise ValidationFailed(
                f"there is no {path[:80]!r}", fix="List the files to see what there is."
            ) from None
        except OSError as error:
            raise _refusal(path, error) from None


def _refusal(path: str, error: OSError) -> CaxtonError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return ValidationFailed(
            f"{path[:80]!r} is no file", why="folders are listed, and links are not followed"
        )
    return ToolFailed(f"{path[:80]!r} cannot be used", why=error.strerror or "the system refused")


def _kind(folder: int, name: str) -> str | None:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return _kind_of(mode)


def _kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def _scan(folder: int, path: str, left: Iterator[int], *, deep: bool) -> Iterator[Entry]:
    found: list[tuple[str, os.stat_result]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if next(left) <= 0:
                raise ResourceLimitExceeded(
                    "there is too much to look at",
                    why=f"more than {SCAN_LIMIT:,} files",
                    fix="Name a folder.",
                )
            if entry.name.isprintable() and not entry.name.startswith(_UNFINISHED):
                with suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
    for name, status in sorted(found, key=lambda pair: pair[0]):
        kind = _kind_of(status.st_mode)
        below = f"{path}/{name}"
        yield Entry(below, kind, status.st_size if kind == "file" else 0, status.st_mtime)
        if deep and kind == "folder" and below.count("/") < DEPTH_LIMIT - 1:
            try:
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:
                continue  # it is gone, or closed to this node
            try:
                yield from _scan(inner, below, left, deep=True)
            finally:
                os.close(inner)
