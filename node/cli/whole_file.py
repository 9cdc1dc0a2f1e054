"""Files that verbs write for their user: whole or not at all, and never over another one unasked.

What comes is written under another name beside the file, made durable, and given the file's name at the end,
so that neither a full disk nor Ctrl-C leaves a part that looks like all of it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import click

from node.errors import ValidationFailed
from node.security.files import sync_directory

PREFIX: Final = ".caxton-"
"""How a file begins that is not whole yet; short, because the file's own name may be as long as names get."""
SUFFIX: Final = ".part"

force_option = click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")


def check_free(file: Path, *, force: bool) -> None:
    """Refuse a name that is taken; asked before anything is fetched for the file.

    Raises:
        ValidationFailed: it is, and nothing may be overwritten, or it is a directory.
    """
    if file.is_dir():
        raise ValidationFailed(f"{file} is a directory", fix="Name a file in it.")
    if not force and os.path.lexists(file) and not _is_stream(file):
        raise _taken(file)


@contextmanager
def whole_file(file: Path, *, force: bool, private: bool = False) -> Iterator[BinaryIO]:
    """Write a file that appears under its name when the block has ended without an error.

    Args:
        file: Its name; of a link, what it leads to is written. A pipe or a device is written as it is.
        force: Whether a file of that name may be overwritten.
        private: Whether it is for its owner only; else the umask decides.

    Yields:
        Where to write; its ``name`` is the path that the file has until then.

    Raises:
        ValidationFailed: the name is taken, or was taken meanwhile.
        OSError: it cannot be written.
    """
    check_free(file, force=force)
    if _is_stream(file):
        with file.open("wb") as target:
            yield target
        return
    place = file.resolve()
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=PREFIX, suffix=SUFFIX)
    part = Path(name)
    try:
        os.close(descriptor)
        with part.open("wb") as target:
            if not private:
                os.fchmod(target.fileno(), 0o666 & ~_umask())
            yield target
            target.flush()
            os.fsync(target.fileno())
        _take_name(part, place, force=force)
    except FileExistsError:
        raise _taken(file) from None
    finally:
        part.unlink(missing_ok=True)
    sync_directory(place.parent)


def _take_name(part: Path, place: Path, *, force: bool) -> None:
    """Give a file its name; unless it may take one from another file, it fails where there is one by now."""
    if not force:
        try:
            os.link(part, place)
        except FileExistsError:
            raise
        except OSError:  # a file system without links, as FAT: between the question and the answer is a gap
            if os.path.lexists(place):
                raise FileExistsError(place) from None
        else:
            return
    part.replace(place)


def _is_stream(file: Path) -> bool:
    """Whether it is a pipe or a device, in which nothing can be overwritten."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _umask() -> int:
    """What the process takes from the permissions of new files; asking sets it, so it is set back."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _taken(file: Path) -> ValidationFailed:
    return ValidationFailed(
        f"{file} exists already",
        why="nothing is overwritten without --force",
        fix="Choose another file, or give --force.",
    )
