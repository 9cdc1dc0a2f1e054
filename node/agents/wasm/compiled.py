"""Compiled modules on disk, so that a restart compiles nothing.

A compiled module is machine code: whoever can make this node load one owns the node. So a file is used
only if this node wrote it. Its last bytes are a MAC over its name and content under a key that never
leaves the node's database; its name is a hash of everything the code depends on: the module, the version of
wasmtime and the engine's configuration. The directory is private, bounded, and may be deleted at any time.

What has been verified is mapped, not copied: the 40 MB of a component in Python are read once instead of four
times, and belong to the file. Who could change it afterwards runs as the node's own user, and needs no file.

Blocking; it runs on a worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_log = logging.getLogger(__name__)

CACHE_LIMIT_BYTES: Final = 512 * 1024 * 1024
"""Most bytes of the directory; those used longest ago leave first."""
ARTIFACT_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""Largest compiled module that is kept."""
T = TypeVar("T")

_MAC_BYTES: Final = 32
_SUFFIX: Final = ".compiled"


def artifact_name(binary: bytes, *facts: str) -> str:
    """The name of what is compiled from ``binary`` under ``facts``."""
    found = hashlib.sha256(binary)  # processors have instructions for it
    for fact in facts:
        found.update(b"\0" + fact.encode())
    return found.hexdigest()


class CompiledModules:
    """See the module's docstring.

    Args:
        directory: Where they are kept; made when missing.
        key: The node's own key for them.
        limit_bytes: Most bytes of all of them.
    """

    def __init__(self, directory: Path, key: bytes, limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
        self._directory = directory
        self._key = key
        self._limit_bytes = limit_bytes
        self._hits = self._misses = self._refused = self._evicted = 0
        self._bytes = 0

    def load(self, name: str, use: Callable[[Path], T]) -> T | None:
        """Give ``use`` what this node stored under a name; None if there is none that can be trusted.

        Args:
            name: From :func:`artifact_name`.
            use: Takes a path under which, while it runs, the very file is found that has been verified. The
                compiled module is all of it but its last 32 bytes.
        """
        path = self._path(name)
        try:
            # no symbolic link is followed, and a pipe does not block: neither was written by this node
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._misses += 1
            return None
        try:
            if not self._is_ours(name, descriptor):
                self._refused += 1
                _log.warning("a compiled module was not written by this node and is removed: %s", path.name)
                self._remove(path)
                return None
            self._hits += 1
            with contextlib.suppress(OSError):  # it is used all the same
                os.utime(path)  # it was used last
            opened = Path(f"/dev/fd/{descriptor}")
            return use(opened if opened.exists() else path)
        finally:
            os.close(descriptor)

    def _is_ours(self, name: str, descriptor: int) -> bool:
        found = os.fstat(descriptor)
        if (
            not stat.S_ISREG(found.st_mode)
            or not _MAC_BYTES <= found.st_size <= ARTIFACT_LIMIT_BYTES + _MAC_BYTES
        ):
            return False
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            with data[:-_MAC_BYTES] as artifact:
                mac = self._mac(name, artifact)
            return hmac.compare_digest(mac, bytes(data[-_MAC_BYTES:]))

    def save(self, name: str, artifact: bytes) -> None:
        """Keep a compiled module; what cannot be written is compiled again next time."""
        if len(artifact) > min(ARTIFACT_LIMIT_BYTES, self._limit_bytes):
            return
        path = self._path(name)
        fresh = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            descriptor = os.open(
                fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(artifact)
                file.write(self._mac(name, artifact))
            fresh.replace(path)
            self._evict()
        except OSError as error:
            _log.warning("a compiled module cannot be kept in %s: %s", self._directory, error)

    def statistics(self) -> dict[str, int]:
        """How often it helped, and how full it is."""
        return {
            "hits": self._hits,
            "misses": self._misses,
            "refused": self._refused,
            "evicted": self._evicted,
            "bytes": self._bytes,
            "bytes_limit": self._limit_bytes,
        }

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"

    def _mac(self, name: str, artifact: bytes | memoryview) -> bytes:
        found = hmac.new(self._key, name.encode() + b"\0", hashlib.sha256)
        found.update(artifact)
        return found.digest()

    def _evict(self) -> None:
        kept: list[tuple[int, str, int]] = []
        for entry in os.scandir(self._directory):
            if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                kept.append((found.st_mtime_ns, entry.name, found.st_size))
        self._bytes = sum(size for _, _, size in kept)
        for _, name, size in sorted(kept):
            if self._bytes <= self._limit_bytes:
                return
            self._remove(self._directory / name)
            self._evicted += 1
            self._bytes -= size

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", path, error)
