"""Write secrets so that a crash leaves either the old file or the new one, never half of either."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.errors import SecurityMaterialInvalid

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700
MAX_MATERIAL_BYTES: Final = 64 * 1024
"""No file of security material comes near this; a longer one is not what it says it is."""


def write_atomically(path: Path, data: bytes, *, mode: int) -> None:
    """Write ``data`` under a temporary name, sync it, and rename it onto ``path``.

    Args:
        path: The file; its directory must exist.
        data: The whole content.
        mode: Permission bits, set before the first byte is written.

    Raises:
        SecurityMaterialInvalid: the system refuses.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have taken bits away that readers need
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise SecurityMaterialInvalid(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Choose a directory that you may write to.",
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # half of a key is nobody's business


def sync_directory(directory: Path) -> None:
    """Make the names inside ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create ``directory`` for its owner only, parents included.

    One that is there and in use keeps its permissions: it may be a home, or shared on purpose.

    Raises:
        SecurityMaterialInvalid: the system refuses.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if not any(directory.iterdir()):
            directory.chmod(DIRECTORY_MODE)
    except OSError as error:
        raise SecurityMaterialInvalid(
            f"cannot create the directory {directory}",
            why=error.strerror or str(error),
            fix="Choose a path that you may write to.",
        ) from None


def check_unshared(directory: Path) -> None:
    """Refuse a directory in which everybody may put files in the place of ours.

    Raises:
        SecurityMaterialInvalid: it is one.
    """
    if directory.stat().st_mode & stat.S_IWOTH:
        raise SecurityMaterialInvalid(
            f"everybody may write to {directory}",
            why="whoever can replace the keys in it can take the cluster over",
            fix="Choose a directory of your own, or take the permission away with chmod o-w.",
        )


def read_bounded(path: Path, what: str) -> bytes:
    """The content of a file of security material.

    Args:
        path: The file.
        what: What it should hold, for the error.

    Raises:
        SecurityMaterialInvalid: it cannot be read or is too long to be what it should be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MATERIAL_BYTES + 1)
    except OSError as error:
        raise SecurityMaterialInvalid(
            f"cannot read the {what} {path}",
            why=error.strerror or str(error),
            fix="Point the configuration at a node bundle written by `caxton init DIR --node NAME`.",
        ) from None
    if len(data) > MAX_MATERIAL_BYTES:
        raise SecurityMaterialInvalid(
            f"{path} is no {what}", why=f"it is longer than {MAX_MATERIAL_BYTES} bytes"
        )
    return data
