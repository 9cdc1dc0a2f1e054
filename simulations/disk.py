"""The disk under a simulated node: what was not synchronised can be lost, torn, refused or slow.

Files are real, and SQLite's own code reads and writes them; this is a layer between the two, a VFS that
inherits the system's, shared memory and locks too, so that a write-ahead log with readers works as in
production. It keeps, per file, what was overwritten since the last successful `fsync`, and so knows at any
instant what a **power loss** may leave behind:

* what was synchronised is there;
* each write since then is there, or is not, or only its first sectors are, independently of the others: a
  drive writes in whatever order it likes;
* what a failed `fsync` should have made durable is gone for good, even if a later one succeeds: the system
  has marked those pages clean (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

A mere crash of the process loses nothing that SQLite has handed to the system.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw

SECTOR_BYTES: Final = 512
"""What a drive writes whole or not at all."""
BASE: Final = "unix"


@dataclass(slots=True)
class _Change:
    """A write or a truncation that is not durable yet."""

    offset: int
    old: bytes
    new: bytes | None
    """None for a truncation at `offset`, of which `old` was cut off."""
    size_before: int
    doomed: bool = False


@dataclass(slots=True)
class SimulatedDisk:
    """One node's disk; its faults are its attributes, and may be changed while the node runs.

    Attributes:
        directory: What lies below it is on this disk.
        capacity_bytes: Writes that need more room are refused as on a full disk; None for no limit.
        sync_fails: Whether `fsync` fails.
        read_fails: Whether reading fails.
        read_s: How long each read takes, in virtual seconds.
        write_s: How long each write takes.
        sync_s: How long each `fsync` takes.
        took: Told how long the process has waited for the disk, whenever that is not nothing.
        counts: Reads, writes, syncs, and refusals by what was refused.
    """

    directory: Path
    capacity_bytes: int | None = None
    sync_fails: bool = False
    read_fails: bool = False
    read_s: float = 0.0
    write_s: float = 0.0
    sync_s: float = 0.0
    took: Callable[[float], None] = lambda _: None
    counts: Counter[str] = field(default_factory=Counter)
    _changes: dict[str, list[_Change]] = field(default_factory=dict)

    def recover(self) -> None:
        """Be healthy and fast again, with room left; what was lost stays lost."""
        self.capacity_bytes, self.sync_fails, self.read_fails = None, False, False
        self.read_s = self.write_s = self.sync_s = 0.0

    def used_bytes(self) -> int:
        """Bytes that the files on it have."""
        return sum(file.stat().st_size for file in self.directory.rglob("*") if file.is_file())

    def unsynced(self, path: Path) -> int:
        """How many writes to a file a power loss may undo."""
        return len(self._changes.get(str(path), ()))

    def after_power_loss(self, path: Path, chance: random.Random) -> bytes:
        """Return what a file holds once the machine has lost its power and come back.

        Args:
            path: Of a file on this disk.
            chance: Decides what of the writes that were not synchronised is there.
        """
        data = bytearray(path.read_bytes())
        changes = self._changes.get(str(path), [])
        for change in reversed(changes):
            data[change.offset : change.offset + len(change.old)] = change.old
            del data[change.size_before :]
        for change in changes:
            kept = 0 if change.doomed else _kept(change, chance)
            if change.new is None:
                del data[change.offset if kept else len(data) :]
            elif kept:
                data.extend(bytes(max(0, change.offset - len(data))))
                data[change.offset : change.offset + kept] = change.new[:kept]
        return bytes(data)

    # ---- for the layer ---------------------------------------------------------------------------

    def wrote(self, path: str, change: _Change) -> None:
        """Take note of a write or truncation."""
        self._changes.setdefault(path, []).append(change)

    def synced(self, path: str, *, failed: bool) -> None:
        """Take note of an `fsync`."""
        changes = self._changes.get(path, [])
        if failed:
            for change in changes:
                change.doomed = True
        else:
            self._changes[path] = [change for change in changes if change.doomed]

    def forget(self, path: str) -> None:
        """A file is new."""
        self._changes.pop(path, None)

    def takes(self, seconds: float) -> None:
        """Let the process wait."""
        if seconds > 0.0:
            self.took(seconds)


class DiskLayer(apsw.VFS):
    """SQLite's files, on the disks that are plugged in and on the system's own; the default of the process.

    Its chance is seeded: SQLite seeds its generator from the default VFS the first time it is asked after a
    reset (`sqlite3_randomness(0, NULL)`), and draws the salts of write-ahead logs from it.

    Args:
        seed: Everything random follows from it.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed}/sqlite")
        self._disks: dict[str, SimulatedDisk] = {}
        super().__init__(f"caxton-{seed}", base=BASE, makedefault=True)

    def plug_in(self, disk: SimulatedDisk) -> None:
        """Let what lies below a disk's directory be on that disk, from the next file that is opened."""
        self._disks[str(disk.directory)] = disk

    def xRandomness(self, size: int) -> bytes:  # noqa: N802 - SQLite's name for it
        """Bytes that follow from the seed."""
        return self._random.randbytes(size)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file, on the disk where it lies."""
        disk = self._disk(_path(name))
        return super().xOpen(name, flags) if disk is None else _DiskFile(disk, name, flags)

    def _disk(self, path: str) -> SimulatedDisk | None:
        return next((disk for base, disk in self._disks.items() if path.startswith(f"{base}/")), None)


class _DiskFile(apsw.VFSFile):
    """One open file of a simulated disk."""

    def __init__(self, disk: SimulatedDisk, name: Any, flags: list[int]) -> None:
        super().__init__(BASE, name, flags)
        self._disk, self._path = disk, _path(name)
        if not super().xFileSize():
            disk.forget(self._path)  # what had this name before is deleted

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        disk = self._disk
        disk.counts["reads"] += 1
        disk.takes(disk.read_s)
        if disk.read_fails:
            disk.counts["reads_failed"] += 1
            raise apsw.IOError("simulated: the sector cannot be read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        disk, size = self._disk, super().xFileSize()
        disk.counts["writes"] += 1
        disk.takes(disk.write_s)
        grows = offset + len(data) - size
        if grows > 0 and disk.capacity_bytes is not None and disk.used_bytes() + grows > disk.capacity_bytes:
            disk.counts["writes_refused"] += 1
            raise apsw.FullError("simulated: no space left on the device")
        old = super().xRead(min(len(data), size - offset), offset) if offset < size else b""
        disk.wrote(self._path, _Change(offset, old, bytes(data), size))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        before = super().xFileSize()
        old = super().xRead(before - size, size) if size < before else b""
        self._disk.wrote(self._path, _Change(size, old, None, before))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        disk = self._disk
        disk.counts["syncs"] += 1
        disk.takes(disk.sync_s)
        disk.synced(self._path, failed=disk.sync_fails)
        if disk.sync_fails:
            disk.counts["syncs_failed"] += 1
            raise apsw.IOError("simulated: fsync failed")
        # Nothing real loses its power here, so the machine's own disk need not be waited for.


def _path(name: Any) -> str:
    """Of a file as SQLite names it; nothing for a temporary one."""
    return name.filename() if isinstance(name, apsw.URIFilename) else (name or "")


def _kept(change: _Change, chance: random.Random) -> int:
    """How many bytes of a write are there after the power is back; 1 for a truncation that is."""
    fate = chance.random()
    if change.new is None:
        return int(fate < 0.5)
    if fate < 0.4:
        return len(change.new)
    first = SECTOR_BYTES - change.offset % SECTOR_BYTES
    sectors = (len(change.new) - first) // SECTOR_BYTES
    if fate < 0.7 and sectors >= 0:
        return min(len(change.new), first + SECTOR_BYTES * chance.randint(0, sectors))
    return 0
