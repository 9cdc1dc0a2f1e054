import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest
import trio

from node.environment import system_environment
from node.errors import DataDirectoryInUse, StorageFailed
from node.storage import Design, Storage, snapshots
from node.storage.migrations import STEPS
from node.storage.storage import LONELY_COMMITS, MANY_JOBS

DURABILITIES = pytest.mark.parametrize("durability", ["normal", "full"])


def put(key, value=b"v"):
    return lambda connection: snapshots.put(connection, key, value)


def keys(connection):
    return sorted(row[0] for row in connection.execute("SELECT key FROM snapshots"))


@DURABILITIES
async def test_a_write_is_readable_when_it_returns(open_storage, durability):
    storage = open_storage(durability=durability)
    await storage.write(put("a"))
    assert await storage.read(lambda c: snapshots.get(c, "a")) == b"v"
    await storage.write(lambda c: snapshots.delete(c, "a"))
    assert await storage.read(lambda c: snapshots.get(c, "a")) is None


@DURABILITIES
async def test_jobs_that_wait_together_share_commits_and_keep_their_results(open_storage, durability):
    storage = open_storage(durability=durability)
    results = {}

    async def caller(number):
        def job(connection):
            snapshots.put(connection, f"{number:03}", b"")
            return number * 2

        results[number] = await storage.write(job)

    async with trio.open_nursery() as nursery:
        for number in range(500):
            nursery.start_soon(caller, number)
    assert results == {number: number * 2 for number in range(500)}
    assert len(await storage.read(keys)) == 500
    assert storage.statistics()["commits"] < 20
    assert storage.statistics()["jobs_per_commit"] > 25


@DURABILITIES
async def test_it_is_busy_while_it_commits_and_for_some_commits_after_many_have_shared_one(
    open_storage, durability
):
    storage = open_storage(durability=durability)
    seen = []

    def job(connection):
        seen.append(storage.is_busy)

    await storage.write(job)
    assert seen == [True]
    assert not storage.is_busy
    async with trio.open_nursery() as nursery:
        for _ in range(MANY_JOBS):
            nursery.start_soon(storage.write, job)
    for _ in range(LONELY_COMMITS):
        assert storage.is_busy
        await storage.write(job)
    assert not storage.is_busy


@DURABILITIES
async def test_a_failing_job_fails_its_caller_only(open_storage, durability):
    storage = open_storage(durability=durability)
    raised = []

    def bad(connection):
        snapshots.put(connection, "half", b"")
        raise KeyError("mine")

    async def bad_caller():
        try:
            await storage.write(bad)
        except KeyError as error:
            raised.append(error.args[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage.write, put("a"))
        nursery.start_soon(bad_caller)
        nursery.start_soon(storage.write, put("b"))
    assert raised == ["mine"]
    assert await storage.read(keys) == ["a", "b"]


@DURABILITIES
async def test_a_cancelled_caller_leaves_its_job_done_or_not_done_and_others_unharmed(
    open_storage, durability
):
    storage = open_storage(durability=durability)
    returned = []

    async def caller(key):
        await storage.write(put(key))
        returned.append(key)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as doomed:
                for number in range(50):
                    doomed.start_soon(caller, f"doomed{number:02}")
                    nursery.start_soon(caller, f"safe{number:02}")
                await trio.lowlevel.checkpoint()
                scope.cancel()
    assert await storage.read(keys) == sorted(returned)
    assert sum(key.startswith("safe") for key in returned) == 50

    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.write(put("never"))
    assert scope.cancelled_caught
    assert await storage.read(lambda c: snapshots.get(c, "never")) is None


@DURABILITIES
async def test_a_full_disk_fails_the_whole_group_and_storage_goes_on(open_storage, durability):
    storage = open_storage(durability=durability)
    await storage.write(put("before"))
    pages = await storage.read(lambda c: c.execute("PRAGMA page_count").fetchall()[0][0])
    await storage.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 4}").fetchall())
    failures = []

    async def caller(key, size):
        try:
            await storage.write(put(key, b"x" * size))
        except StorageFailed as error:
            failures.append((key, error.code))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, "small", 10)
        nursery.start_soon(caller, "large", 1_000_000)
    assert sorted(failures) == [("large", "STORAGE_ERROR"), ("small", "STORAGE_ERROR")]
    assert await storage.read(keys) == ["before"]
    await storage.write(put("after"))
    assert await storage.read(keys) == ["after", "before"]
    assert storage.statistics()["groups_failed"] == 1


def test_a_second_process_is_told_that_the_directory_is_in_use(open_storage, tmp_path):
    open_storage()
    with pytest.raises(DataDirectoryInUse) as caught:
        open_storage("other.db")
    assert caught.value.fix
    code = (
        "import sys; from pathlib import Path; from node.environment import system_environment\n"
        "from node.errors import DataDirectoryInUse; from node.storage import Storage\n"
        "try: Storage.open(Path(sys.argv[1]), durability='normal', environment=system_environment())\n"
        "except DataDirectoryInUse: sys.exit(42)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "caxton.db")], check=False)
    assert done.returncode == 42


def test_the_storage_id_stays_and_the_boot_counter_grows(open_storage):
    first = open_storage()
    identity, boots = first.storage_id, first.boot_counter
    first.close()
    first.close()
    second = open_storage()
    assert (second.storage_id, second.boot_counter) == (identity, boots + 1)
    second.close()
    other = open_storage("other.db")
    assert other.storage_id != identity


async def test_what_was_committed_survives_abandonment(open_storage):
    storage = open_storage()
    await storage.write(put("kept"))
    storage.abandon()
    assert await open_storage().read(keys) == ["kept"]


async def test_after_closing_a_write_fails_clearly(open_storage):
    storage = open_storage()
    storage.close()
    with pytest.raises(StorageFailed):
        await storage.write(put("a"))
    with pytest.raises(StorageFailed):
        await storage.read(keys)


async def test_the_reader_cannot_write(open_storage):
    storage = open_storage()
    with pytest.raises(StorageFailed):
        await storage.read(put("a"))


def test_a_newer_schema_is_refused_with_the_versions(open_storage, tmp_path):
    open_storage().close()
    connection = apsw.Connection(str(tmp_path / "caxton.db"))
    connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    connection.close()
    with pytest.raises(StorageFailed) as caught:
        open_storage()
    assert caught.value.details == {"found": len(STEPS) + 1, "known": len(STEPS)}


def test_a_file_that_is_no_database_is_refused_and_the_lock_let_go(tmp_path, open_storage):
    (tmp_path / "caxton.db").write_bytes(b"this is not a database " * 100)
    with pytest.raises(StorageFailed):
        open_storage()
    open_storage("fresh.db")


def test_an_unusable_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be used"):
        Storage.open(
            Path(tmp_path / "file" / "caxton.db"), durability="normal", environment=system_environment()
        )


async def test_idle_time_checkpoints_the_log(open_storage, environment, autojump_clock):
    storage = open_storage()
    await storage.write(put("a", b"x" * 1_000_000))
    assert storage.statistics()["wal_bytes"] > 1_000_000
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        await environment.clock.sleep(10)
        await storage.write(put("b"))
        nursery.cancel_scope.cancel()
    assert storage.statistics()["checkpoints"] >= 1
    assert await storage.read(keys) == ["a", "b"]


@DURABILITIES
async def test_a_long_log_is_copied_beside_the_writers_and_begins_anew(open_storage, durability, monkeypatch):
    monkeypatch.setattr("node.storage.log.LONG_PAGES", 100)
    storage = open_storage(durability=durability)
    storage._log._long_at = 100  # it was made before
    written, begun_anew, before = 0, 0, 0
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        while begun_anew < 3:
            assert written < 20_000, "the log only grows"
            await storage.write(put(f"{written:05}", b"x" * 2_000))
            begun_anew += storage._log.pages < before
            before = storage._log.pages
            written += 1
        nursery.cancel_scope.cancel()
    assert storage.statistics()["checkpoints"] >= 1  # a log that was copied whole by chance needs none
    assert storage.statistics()["groups_failed"] == 0
    assert await storage.read(keys) == [f"{number:05}" for number in range(written)]


async def test_writers_wait_for_the_last_part_of_a_checkpoint_and_no_longer(open_storage, environment):
    storage = open_storage()
    copying, go_on, copies = threading.Event(), threading.Event(), []
    copy = storage._log.copy

    def slow():
        copies.append(storage._committing)
        copying.set()
        assert go_on.wait(30)
        copy()

    storage._log.copy = slow
    await storage.write(put("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storage._checkpoint)
        await environment.workers.run("files", copying.wait)
        await storage.write(put("b"))  # while the first part is being copied
        go_on.set()
    assert copies == [False, False, True]
    await storage.write(put("c"))
    assert await storage.read(keys) == ["a", "b", "c"]


async def test_a_log_that_nobody_copies_has_a_limit(open_storage, monkeypatch):
    monkeypatch.setattr("node.storage.log.LIMIT_PAGES", 200)
    storage = open_storage()
    for number in range(200):
        await storage.write(put(f"{number:04}", b"x" * 20_000))
    assert storage.statistics()["wal_bytes"] < 2 * 200 * 4_200
    assert len(await storage.read(keys)) == 200


async def test_a_checkpoint_that_the_disk_refuses_is_counted_and_tried_again_later(
    open_storage, environment, autojump_clock, monkeypatch
):
    monkeypatch.setattr("node.storage.storage.CHECKPOINT_LANE", "storage")
    storage = open_storage(environment=dataclasses.replace(environment, workers=Inline()))
    refusals = []

    def refuse():
        refusals.append(environment.clock.now())
        if len(refusals) < 3:
            raise apsw.FullError("disk full")

    storage._log.copy = refuse
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        storage._log.pages = storage._log._long_at
        storage._long.set()
        while storage.statistics()["checkpoints"] == 0:
            await environment.clock.sleep(0.5)
            await storage.write(put("a"))  # what is written goes on
            storage._log.pages = storage._log._long_at
            storage._long.set()
        nursery.cancel_scope.cancel()
    assert storage.statistics()["groups_failed"] == 2
    assert refusals[1] - refusals[0] >= 2  # not at every commit


class Inline:
    async def run(self, lane, job, *args):
        await trio.lowlevel.checkpoint()
        return job(*args)


async def test_the_files_are_private_even_in_a_directory_that_others_read(tmp_path):
    tmp_path.chmod(0o755)
    storage = Storage.open(tmp_path / "caxton.db", durability="normal", environment=system_environment())
    await storage.write(put("a"))
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    storage.close()
    assert {"caxton.db", "caxton.db-wal"} <= set(found)
    assert set(found.values()) == {0o600}


async def test_a_path_that_cannot_be_a_database_is_refused_with_its_reason(tmp_path):
    (tmp_path / "caxton.db").mkdir()
    with pytest.raises(StorageFailed, match="cannot be opened"):
        Storage.open(tmp_path / "caxton.db", durability="normal", environment=system_environment())


META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID; CREATE TABLE things (a)"


async def test_a_file_of_another_design_has_its_own_schema_lock_hook_and_lanes(open_storage, environment):
    node_own = open_storage()
    connected, threads = [], []
    design = Design((META,), connected.append, "things.lock", "memory_write", "memory_read")
    storage = open_storage("things.db", design=design)
    assert len(connected) == 2

    def insert(connection):
        threads.append(threading.get_ident())
        connection.execute("INSERT INTO things VALUES (7)")

    def select(connection):
        threads.append(threading.get_ident())
        return connection.execute("SELECT a FROM things").fetchall()

    await storage.write(insert)
    assert await storage.read(select) == [(7,)]
    assert threading.get_ident() not in threads
    assert node_own.storage_id != storage.storage_id
    with pytest.raises(DataDirectoryInUse):
        open_storage("things.db", design=design)


async def test_a_read_on_a_lane_that_meets_a_damaged_file_is_an_operating_error(open_storage):
    storage = open_storage("things.db", design=Design((META,), read_lane="memory_read"))

    def damaged(_connection):
        raise apsw.CorruptError("malformed")

    with pytest.raises(StorageFailed, match=r"things\.db"):
        await storage.read(damaged)


async def test_a_job_that_hides_a_full_disk_fails_its_group_and_no_more(open_storage):
    """SQLite undoes a transaction that finds no room; an extension may say so in words of its own."""
    storage = open_storage()
    await storage.write(lambda c: c.execute("PRAGMA max_page_count = 100").fetchall())

    def job(connection):
        try:
            connection.execute("INSERT INTO meta VALUES ('much', zeroblob(1000000))")
        except apsw.FullError:
            raise apsw.SQLError("the extension could not insert") from None

    with pytest.raises(StorageFailed, match="could not be used"):
        await storage.write(job)
    await storage.write(lambda c: c.execute("INSERT INTO meta VALUES ('little', 1)"))
    found = await storage.read(lambda c: c.execute("SELECT value FROM meta WHERE key = 'little'").fetchall())
    assert found == [(1,)]


async def test_a_query_sees_one_state_however_many_statements_it_has(open_storage, environment):
    storage = open_storage("things.db", design=Design((META,), read_lane="memory_read"))
    await storage.write(lambda c: c.execute("INSERT INTO meta VALUES ('a', '')"))
    looked, written = threading.Event(), threading.Event()

    def twice(connection):
        found = [connection.execute("SELECT count(*) FROM meta").fetchall()]
        looked.set()
        assert written.wait(10)
        return [*found, connection.execute("SELECT count(*) FROM meta").fetchall()]

    async def write():
        await environment.workers.run("files", looked.wait, 10)
        await storage.write(lambda c: c.execute("INSERT INTO meta VALUES ('b', '')"))
        written.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        first, second = await storage.read(twice)
    assert first == second
    assert await storage.read(lambda c: c.execute("SELECT count(*) FROM meta").fetchall()) != first
