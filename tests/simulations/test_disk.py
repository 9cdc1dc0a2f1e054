"""What a simulated disk may do to SQLite, and what SQLite and its callers may rely on nevertheless."""

import random

import apsw
import pytest

from simulations.disk import SECTOR_BYTES, DiskLayer, SimulatedDisk


@pytest.fixture
def layer():
    made = DiskLayer(1)
    apsw.randomness(0)
    yield made
    made.unregister()
    apsw.randomness(0)


@pytest.fixture
def disk(layer, tmp_path):
    (tmp_path / "disk").mkdir()
    made = SimulatedDisk(tmp_path / "disk")
    layer.plug_in(made)
    return made


def opened(disk, synchronous="NORMAL"):
    connection = apsw.Connection(str(disk.directory / "a.db"))
    assert list(connection.execute("PRAGMA journal_mode = WAL")) == [("wal",)]
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return connection


def add(connection, *numbers):
    with connection:
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"text {n} " * 60) for n in numbers])


def numbers(connection):
    return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


def lose_power(disk, to, chance):
    """Copy what a power loss leaves to another directory."""
    to.mkdir()
    for file in sorted(disk.directory.iterdir()):
        if file.suffix in {".db", ".db-wal"}:
            (to / file.name).write_bytes(disk.after_power_loss(file, chance))
    return SimulatedDisk(to)


def test_a_write_ahead_log_works_as_on_the_systems_disk_with_a_reader_beside_the_writer(disk):
    writer = opened(disk)
    reader = apsw.Connection(str(disk.directory / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
    add(writer, 1)
    with writer:
        writer.execute("INSERT INTO t VALUES (2, '')")
        assert numbers(reader) == [1]
    assert numbers(reader) == [1, 2]
    reader.close()
    assert disk.counts["writes"] > 0


def test_other_directories_are_not_on_the_disk(disk, tmp_path):
    connection = apsw.Connection(str(tmp_path / "b.db"))
    connection.execute("CREATE TABLE t (n)")
    assert disk.counts == {}


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_after_a_power_loss_the_database_is_whole_and_what_was_made_durable_is_there(
    layer, disk, tmp_path, synchronous
):
    connection = opened(disk, synchronous)
    lost = 0
    for number in range(1, 41):
        add(connection, number)
        if number % 15 == 0:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        after = lose_power(disk, tmp_path / f"after {number}", random.Random(number))
        layer.plug_in(after)
        found = apsw.Connection(str(after.directory / "a.db"))
        assert list(found.execute("PRAGMA integrity_check")) == [("ok",)]
        held = numbers(found)
        assert held == list(range(1, len(held) + 1)), "a later commit survived an earlier one"
        assert len(held) >= (number if synchronous == "FULL" else number // 15 * 15)
        lost += number - len(held)
    assert (lost > 0) == (synchronous == "NORMAL"), "otherwise the disk has nothing to lose"


def test_a_mere_crash_of_the_process_loses_nothing_that_was_committed(disk):
    connection = opened(disk)
    add(connection, 1, 2, 3)
    assert disk.unsynced(disk.directory / "a.db-wal") > 0
    assert numbers(apsw.Connection(str(disk.directory / "a.db"))) == [1, 2, 3]


def test_a_full_disk_refuses_what_needs_room_and_takes_it_again_when_there_is_some(disk):
    connection = opened(disk)
    add(connection, 1)
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(apsw.FullError):
        add(connection, 2)
    assert numbers(connection) == [1]
    assert disk.counts["writes_refused"] > 0
    disk.capacity_bytes = None
    add(connection, 2)
    assert numbers(connection) == [1, 2]


def test_an_fsync_that_fails_is_told_and_what_it_should_have_saved_is_lost_for_good(layer, disk, tmp_path):
    connection = opened(disk, "FULL")
    add(connection, 1)
    disk.sync_fails = True
    with pytest.raises(apsw.IOError):
        add(connection, 2)
    disk.sync_fails = False
    path = disk.directory / "a.db-wal"
    assert disk.unsynced(path) > 0
    doomed = path.read_bytes()
    assert all(disk.after_power_loss(path, random.Random(n)) != doomed for n in range(20))
    after = lose_power(disk, tmp_path / "after", random.Random(1))
    layer.plug_in(after)
    assert numbers(apsw.Connection(str(after.directory / "a.db"))) == [1]


def test_a_sector_that_cannot_be_read_is_an_error_and_not_another_value(disk):
    add(opened(disk), *range(200))
    disk.read_fails = True
    with pytest.raises(apsw.IOError):
        numbers(apsw.Connection(str(disk.directory / "a.db")))
    assert disk.counts["reads_failed"] > 0


def test_a_slow_disk_tells_how_long_it_keeps_the_process_waiting(disk):
    waited = []
    disk.took, disk.sync_s, disk.write_s = waited.append, 0.2, 0.001
    add(opened(disk, "FULL"), 1)
    assert waited.count(0.2) == disk.counts["syncs"] > 0
    assert waited.count(0.001) == disk.counts["writes"]


def test_a_write_is_torn_at_the_boundaries_of_sectors_only(layer, disk):
    name = str(disk.directory / "raw.db")
    file = layer.xOpen(
        name, [apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_MAIN_DB, 0]
    )
    file.xWrite(b"a" * 3_000, 0)
    file.xSync(0)
    file.xWrite(b"b" * 2_000, 700)
    path = disk.directory / "raw.db"
    left = {disk.after_power_loss(path, random.Random(n)).count(b"b") for n in range(200)}
    ends = {0, 2_000} | {edge - 700 for edge in range(2 * SECTOR_BYTES, 2_700, SECTOR_BYTES)}
    assert left == ends
    file.xTruncate(1_000)
    assert {len(disk.after_power_loss(path, random.Random(n))) for n in range(20)} == {1_000, 3_000}


def test_the_same_chance_leaves_the_same(disk):
    connection = opened(disk)
    add(connection, 1, 2, 3)
    path = disk.directory / "a.db-wal"
    left = [disk.after_power_loss(path, random.Random(7)) for _ in range(2)]
    assert left[0] == left[1]
    assert any(disk.after_power_loss(path, random.Random(n)) != left[0] for n in range(5))
