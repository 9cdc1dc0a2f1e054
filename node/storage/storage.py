"""One SQLite file: every write goes through one connection, in groups; reads have their own.

Theory of operation. A caller of :meth:`Storage.write` queues its job. The first in the queue becomes the
committer: it lets the tasks that are ready now queue theirs, then opens one transaction, runs each job in a
savepoint of its own, commits, and wakes everybody. So a thousand waiting jobs cost one commit, a lonely job
waits for nobody, and no task of our own is needed. Under ``durability: normal`` (survives ``kill -9``) the
group is committed inline on the loop, which is cheaper than handing it to a thread; under ``full``
(survives power loss) the fsync is waited for on the worker lane ``storage``. What differs between the files
that a node has stands in a :class:`Design`; one whose reads or writes take long has lanes of its own.

Once a job is queued its caller cannot be cancelled any more: it waits for one commit, then knows.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import apsw
import outcome
import trio

from node.environment import Environment
from node.errors import DataDirectoryInUse, StorageFailed
from node.storage.log import WriteAheadLog
from node.storage.migrations import STEPS, migrate
from node.storage.query import rows

T = TypeVar("T")
Durability = Literal["normal", "full"]
Job = Callable[[apsw.Connection], T]

QUEUE_LIMIT: Final = 20_000
"""Most jobs that wait for a commit; more callers wait before they are queued."""
GROUP_LIMIT: Final = 2_000
"""Most jobs in one transaction."""
MANY_JOBS: Final = 3
"""Jobs in one transaction from which on writers are so many that they do best to share."""
LONELY_COMMITS: Final = 16
"""Transactions of fewer jobs in a row after which they are no longer thought to be so many."""
BUSY_TIMEOUT_MS: Final = 5_000
"""How long SQLite itself retries a locked file, in milliseconds."""
CACHE_KIB: Final = 8_192
"""Page cache of each connection, in KiB, where a design does not say otherwise."""
CHECKPOINT_EVERY_S: Final = 2.0
"""How often idle time is looked for."""
CHECKPOINT_LANE: Final = "checkpoint"
"""Worker lane of checkpoints, which run beside the commits."""

_DISK_ERRORS: Final = (
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.InterruptError,
    apsw.ConnectionClosedError,
)


def _as_it_is(_connection: apsw.Connection) -> None:
    """Nothing is loaded into the connections of the node's own database."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is particular to one database file; the defaults are those of the node's own.

    Its first step makes the table ``meta``.

    Args:
        steps: The schema, as :func:`node.storage.migrations.migrate` takes it.
        on_connect: Called with every new connection before anything else; loads extensions.
        lock: Name of the file beside the database whose lock keeps other processes out.
        write_lane: Worker lane of all commits, or None to commit on the loop under ``durability: normal``.
        read_lane: Worker lane of reads, of one thread, or None to read on the loop.
        cache_kib: Page cache of each connection, in KiB.
    """

    steps: Sequence[str] = STEPS
    on_connect: Callable[[apsw.Connection], None] = _as_it_is
    lock: str = "lock"
    write_lane: str | None = None
    read_lane: str | None = None
    cache_kib: int = CACHE_KIB


NODE: Final = Design()
"""The node's own database."""


@dataclass(slots=True, eq=False)
class _Pending:
    job: Callable[[apsw.Connection], Any]
    task: trio.lowlevel.Task | None = None
    result: outcome.Outcome[Any] | None = None


class Storage:
    """The node's durable memory; see the module's docstring. Made by :meth:`open`."""

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        environment: Environment,
        vfs: str | None,
        lock: int,
        design: Design = NODE,
    ) -> None:
        self._path = path
        self._environment = environment
        self._inline = durability == "normal" and design.write_lane is None
        self._write_lane = design.write_lane or "storage"
        self._read_lane = design.read_lane
        self._lock: int | None = lock
        self._queue: deque[_Pending] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._committing = False
        self._lonely = LONELY_COMMITS
        self._commits = 0
        self._jobs = 0
        self._jobs_failed = 0
        self._groups_failed = 0
        self._checkpoints = 0
        self._commits_seen_idle = -1
        self._long = trio.Event()
        self._in_turn: trio.lowlevel.Task | None = None  # the checkpoint that writers wait for next
        self._writer = _connect(path, vfs, design, writable=True, durability=durability)
        migrate(self._writer, design.steps)
        self._reader = _connect(path, vfs, design, writable=False, durability=durability)
        self._log = WriteAheadLog(path, vfs=vfs, writer=self._writer, durability=durability)
        self.storage_id, self.boot_counter = _boot(self._writer, environment)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        durability: Durability,
        environment: Environment,
        vfs: str | None = None,
        design: Design = NODE,
    ) -> Storage:
        """Open or make the database file ``path`` and lock its directory for this process.

        Args:
            path: The database file; its directory is made when missing (mode 0700).
            durability: ``normal`` survives ``kill -9``, ``full`` survives power loss too.
            environment: Workers for ``full``, randomness for the storage id.
            vfs: Name of a registered SQLite VFS (a simulated disk), or None for the system's.
            design: What is particular to this file.

        Raises:
            DataDirectoryInUse: another process holds the directory.
            StorageFailed: the file cannot be opened, is damaged or was written by a newer Caxton.
        """
        lock = _lock_directory(path.parent, design.lock)
        try:
            # SQLite gives its WAL the file's permissions, so both are private even in a shared directory.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return cls(
                path, durability=durability, environment=environment, vfs=vfs, lock=lock, design=design
            )
        except apsw.Error as error:
            os.close(lock)
            raise _disk_failed(path, error) from error
        except OSError as error:
            os.close(lock)
            raise StorageFailed(
                f"the database {path} cannot be opened",
                why=error.strerror or str(error),
                fix="Choose another storage.data_dir, or correct its owner and permissions.",
            ) from error
        except BaseException:
            os.close(lock)
            raise

    async def write(self, job: Job[T]) -> T:
        """Run ``job`` inside the next group's transaction and return its result after the commit.

        The job touches nothing but its connection (under ``full`` it runs on a thread) and does not wait.
        What it raises undoes its own writes only, and is raised here.

        Raises:
            StorageFailed: the disk refused; nothing of the group was written.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._queue) >= QUEUE_LIMIT:
            await self._room.park()
        pending = _Pending(job)
        self._queue.append(pending)
        if self._committing:
            pending.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_not_abortable)
        if pending.result is None:  # the first in the queue, or told to be
            self._committing = True
            await trio.lowlevel.cancel_shielded_checkpoint()
            await self._commit_group()
        result: outcome.Outcome[T] | None = pending.result
        if result is None:
            raise StorageFailed("the storage was closed before the write", why="the node is stopping")
        return result.unwrap()

    @property
    def is_busy(self) -> bool:
        """Whether a write has to wait for others, or many have shared a transaction a moment ago."""
        return self._committing or self._lonely < LONELY_COMMITS

    async def read(self, query: Job[T]) -> T:
        """Run ``query`` on the read-only connection, inline or in the lane of the design; it must be bounded.

        It sees one state of the file, however many statements it has.

        Raises:
            StorageFailed: the disk refused.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            if self._read_lane is not None:
                return await self._environment.workers.run(self._read_lane, self._at_once, query)
            if self._inline:
                return query(self._reader)  # nobody commits meanwhile
            return self._at_once(query)
        except _DISK_ERRORS as error:
            raise _disk_failed(self._path, error) from error

    def _at_once(self, query: Job[T]) -> T:
        """Run a query in one transaction, since another thread may commit between two of its statements."""
        with self._reader:
            found = query(self._reader)
        return found  # noqa: RET504 - the type of apsw lets its exit swallow what is raised

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Checkpoint the log when it is long, or nothing was written for a while; runs until cancelled."""
        task_status.started()
        clock = self._environment.clock
        while True:
            with clock.move_on_after(CHECKPOINT_EVERY_S):
                await self._long.wait()
            self._long = trio.Event()
            idle = self._commits == self._commits_seen_idle
            self._commits_seen_idle = self._commits
            try:
                if self._log.is_long:
                    await self._checkpoint()
                elif idle and not self._committing and not self._log.is_short:
                    await self._copy_rest(beside=not self._inline)
            except apsw.Error:
                self._groups_failed += 1
                await clock.sleep(CHECKPOINT_EVERY_S)  # a disk that refuses is not asked at every commit

    def statistics(self) -> dict[str, float]:
        """Sizes in bytes, and counters since the start."""
        return {
            "bytes": _size(self._path),
            "wal_bytes": self._log.bytes,
            "commits": self._commits,
            "jobs": self._jobs,
            "jobs_per_commit": self._jobs / self._commits if self._commits else 0.0,
            "jobs_failed": self._jobs_failed,
            "groups_failed": self._groups_failed,
            "checkpoints": self._checkpoints,
            "queue": len(self._queue),
            "queue_limit": QUEUE_LIMIT,
        }

    def close(self) -> None:
        """Checkpoint, close both connections and let the directory go; doing it twice is harmless."""
        if self._lock is None:
            return
        try:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except apsw.Error:  # what is in the WAL is as durable as what is in the file
            self._groups_failed += 1
        self.abandon()

    def abandon(self) -> None:
        """Let go as a crash does: no checkpoint, what was not committed is lost."""
        if self._lock is None:
            return
        for connection in (self._log, self._reader, self._writer):
            try:
                connection.close(True)
            except apsw.Error:  # a sick disk keeps nobody from letting go; what is in the WAL stays there
                self._groups_failed += 1
        os.close(self._lock)
        self._lock = None

    # The committer

    async def _commit_group(self) -> None:
        group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_LIMIT))]
        self._lonely = 0 if len(group) >= MANY_JOBS else self._lonely + 1
        try:
            if self._inline:
                self._commit(group)
            else:
                with trio.CancelScope(shield=True):
                    await self._environment.workers.run(self._write_lane, self._commit, group)
        finally:
            if self._log.is_long:
                self._long.set()
            self._hand_over()
            for pending in group:
                if pending.task is not None:
                    trio.lowlevel.reschedule(pending.task)

    def _hand_over(self) -> None:
        """Tell the checkpoint or the next in the queue that it is their turn, or stop committing."""
        self._room.unpark(count=GROUP_LIMIT)
        checkpoint, self._in_turn = self._in_turn, None
        if checkpoint is not None:
            trio.lowlevel.reschedule(checkpoint)
            return
        if not self._queue:
            self._committing = False
            return
        leader = self._queue[0]
        if leader.task is not None:
            task, leader.task = leader.task, None
            trio.lowlevel.reschedule(task)

    def _commit(self, group: list[_Pending]) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            alone = len(group) == 1
            for pending in group:
                self._run_job(pending, alone=alone)
            if alone and isinstance(group[0].result, outcome.Error):
                self._writer.execute("ROLLBACK")
            else:
                self._writer.execute("COMMIT")
        except _DISK_ERRORS as error:
            self._groups_failed += 1
            self._roll_back()
            for pending in group:
                pending.result = outcome.Error(_disk_failed(self._path, error))
        except BaseException as error:
            self._roll_back()
            failure = StorageFailed("the transaction was interrupted", why=type(error).__name__)
            for pending in group:
                pending.result = outcome.Error(failure)
            raise
        else:
            self._commits += 1
            self._jobs += len(group)

    def _run_job(self, pending: _Pending, *, alone: bool) -> None:
        """Run a job in a savepoint; one that is alone in its transaction needs none to be undone."""
        execute = self._writer.execute
        if not alone:
            execute("SAVEPOINT job")
        try:
            value = pending.job(self._writer)
        except _DISK_ERRORS:
            raise
        except Exception as error:
            if not self._writer.in_transaction:
                # SQLite has undone it all, as it does where there is no room; an extension may say so in its
                # own words (sqlite-vec does), which are no disk error.
                raise apsw.IOError(f"SQLite undid the transaction: {error}") from error
            self._jobs_failed += 1
            pending.result = outcome.Error(error)
            if not alone:
                execute("ROLLBACK TO job")
        else:
            pending.result = outcome.Value(value)
        if not alone:
            execute("RELEASE job")

    def _roll_back(self) -> None:
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except apsw.Error:  # SQLite rolls back by itself on the errors that lead here
            self._groups_failed += 1

    async def _checkpoint(self) -> None:
        """Copy the log beside the writers, and while they wait what they have added meanwhile."""
        run = self._environment.workers.run
        for _ in range(2):  # the second copies what was added while the first was at work
            await run(CHECKPOINT_LANE, self._log.copy)
        if self._committing:
            self._in_turn = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_not_abortable)
        await self._copy_rest(beside=not self._inline)

    async def _copy_rest(self, *, beside: bool) -> None:
        """Copy the log while writers wait behind it as behind a commit; on the loop, or beside it."""
        self._committing = True
        try:
            if beside:
                with trio.CancelScope(shield=True):
                    await self._environment.workers.run(CHECKPOINT_LANE, self._log.copy)
            else:
                self._log.copy()
            self._log.copied_whole()
            self._checkpoints += 1
        finally:
            self._hand_over()


def _not_abortable(_raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _connect(
    path: Path, vfs: str | None, design: Design, *, writable: bool, durability: Durability
) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY
    if writable:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=256)
    design.on_connect(connection)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.execute(f"PRAGMA cache_size = -{design.cache_kib}")
    if not writable:
        connection.execute("PRAGMA query_only = 1")
        return connection
    mode = rows(connection, "PRAGMA journal_mode = WAL")[0][0]
    if mode != "wal":
        raise StorageFailed(
            f"the data file {path.name} cannot use a write-ahead log",
            why=f"SQLite answered journal mode {mode!r}; network file systems cannot share its memory",
            fix="Put the data directory on a local disk.",
        )
    connection.execute(f"PRAGMA synchronous = {durability.upper()}")
    connection.execute("PRAGMA foreign_keys = 1")
    return connection


def _boot(connection: apsw.Connection, environment: Environment) -> tuple[str, int]:
    """The id made with the file, and how often it has been opened, this time included."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "INSERT OR IGNORE INTO meta VALUES ('storage_id', ?), ('boot_counter', 0)",
            (environment.randomness.token(16).hex(),),
        )
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'boot_counter'")
        found = dict(rows(connection, "SELECT key, value FROM meta"))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return str(found["storage_id"]), int(found["boot_counter"])


def _lock_directory(directory: Path, name: str) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(
            f"the data directory {directory} cannot be used",
            why=error.strerror or str(error),
            fix="Choose another with storage.data_dir, or correct its owner and permissions.",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DataDirectoryInUse(
            f"the data directory {directory} is in use",
            why="another node process holds its lock",
            fix="Stop that node, or give this one a directory of its own.",
            details={"directory": str(directory)},
        ) from error
    return lock


def _disk_failed(path: Path, error: apsw.Error) -> StorageFailed:
    return StorageFailed(
        f"the data file {path.name} could not be used",
        why=f"{type(error).__name__}: {error}",
        fix="Check free space, permissions and the health of the disk; what was acknowledged is kept.",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
