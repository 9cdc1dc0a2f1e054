"""Compiled modules on disk, so that a restart compiles nothing.

A compiled module is machine code: whoever can make this node load one owns the node. So a file is used
only if this node wrote it. Its last bytes are a MAC over its name and content under a key that never
leaves the node's database; its name is a hash of everything the code depends on: the module, the version of
wasmtime and the engine's configuration. The directory is private, bounded, and may be deleted at any time.

What has been verified is mapped, not copied: the 40 MB of a component in Python are read once instead of four
times, and belong to the file. Who could change it afterwards runs as the node's own user, and needs no file.

Reading them all takes longer than the rest of a start, so a file that has been verified gets a seal beside
it: a MAC over its name, place, size and times. The kernel changes the time of a file's last change whatever
changes it, and lets nobody set it; as long as the seal fits, the file is not read again. A file that was
copied, restored or touched is. What a seal cannot see is a disk that forgets, or somebody who writes past
the file system: neither is kept out by a MAC whose key lies on the same disk.

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
_SEAL_SUFFIX: Final = ".seal"
_RACY_NS: Final = 2_000_000_000
"""A file changed so shortly before it is sealed is not: a further change might have the same time."""


def artifact_name(sha256: str, *facts: str) -> str:
    """The name of what is compiled under ``facts`` from a binary with this SHA-256, in hexadecimal."""
    return hashlib.sha256("\0".join((sha256, *facts)).encode()).hexdigest()


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
        self._hits = self._sealed = self._misses = self._refused = self._evicted = 0
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
        if self._has_seal(name, found):
            self._sealed += 1
            return True
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            with data[:-_MAC_BYTES] as artifact:
                mac = self._mac(name, artifact)
            if not hmac.compare_digest(mac, bytes(data[-_MAC_BYTES:])):
                return False
        if _identity(os.fstat(descriptor)) == _identity(found):
            self._seal(name, found)
        return True

    def _has_seal(self, name: str, found: os.stat_result) -> bool:
        path = self._path(name, _SEAL_SUFFIX)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            seal = os.read(descriptor, _MAC_BYTES)
            os.utime(descriptor)  # it was used last
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return hmac.compare_digest(seal, self._seal_of(name, found))

    def _seal(self, name: str, found: os.stat_result) -> None:
        """Note which file has been verified; without that it is read again next time."""
        path = self._path(name, _SEAL_SUFFIX)
        with contextlib.suppress(OSError):
            made = self._write(path, self._seal_of(name, found))
            if made.st_mtime_ns - found.st_ctime_ns < _RACY_NS:
                path.unlink()

    def _seal_of(self, name: str, found: os.stat_result) -> bytes:
        facts = f"seal\0{name}\0{_identity(found)}"
        return hmac.digest(self._key, facts.encode(), "sha256")

    def _write(self, path: Path, *parts: bytes) -> os.stat_result:
        """Make or replace a file that only this user reads."""
        fresh = path.with_name(path.name + ".new")
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
        fresh.replace(path)
        return path.stat(follow_symlinks=False)

    def save(self, name: str, artifact: bytes) -> None:
        """Keep a compiled module; what cannot be written is compiled again next time."""
        if len(artifact) > min(ARTIFACT_LIMIT_BYTES, self._limit_bytes):
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._write(self._path(name), artifact, self._mac(name, artifact))
            self._evict()
        except OSError as error:
            _log.warning("a compiled module cannot be kept in %s: %s", self._directory, error)

    def statistics(self) -> dict[str, int]:
        """How often it helped, and how full it is."""
        return {
            "hits": self._hits,
            "sealed": self._sealed,
            "misses": self._misses,
            "refused": self._refused,
            "evicted": self._evicted,
            "bytes": self._bytes,
            "bytes_limit": self._limit_bytes,
        }

    def _path(self, name: str, suffix: str = _SUFFIX) -> Path:
        return self._directory / f"{name}{suffix}"

    def _mac(self, name: str, artifact: bytes | memoryview) -> bytes:
        found = hmac.new(self._key, name.encode() + b"\0", hashlib.sha256)
        found.update(artifact)
        return found.digest()

    def _evict(self) -> None:
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        for entry in os.scandir(self._directory):
            name, dot, suffix = entry.name.rpartition(".")
            if dot + suffix in (_SUFFIX, _SEAL_SUFFIX) and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                used[name] = max(used.get(name, 0), found.st_mtime_ns)
                sizes[name] = sizes.get(name, 0) + (found.st_size if dot + suffix == _SUFFIX else 0)
        self._bytes = sum(sizes.values())
        for name in sorted(used, key=lambda name: (sizes[name] > 0, used[name])):
            if sizes[name] and self._bytes <= self._limit_bytes:
                return
            self._evicted += sizes[name] > 0
            self._remove(self._path(name))  # or a seal without its file
            self._bytes -= sizes[name]

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            path.with_suffix(_SEAL_SUFFIX).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", path, error)


def _identity(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """Which file it is, and what the kernel changes with its content."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
