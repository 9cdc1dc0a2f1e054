"""A long log is copied beside the commits, what they add meanwhile behind them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
import trio.testing

from node.environment import Environment, ThreadWorkers, system_environment
from node.storage import Storage, checkpoints


class Copying(ThreadWorkers):
    """Workers whose jobs in the lane of checkpoints wait until they are let go, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs, self.threads = list[str](), list[int]()
        self.begun, self.go = trio.Semaphore(0), trio.Semaphore(0)

    async def run(self, lane: str, job: Callable[..., Any], *args: Any) -> Any:
        assert lane == "storage"
        self.jobs.append(job.__name__)
        self.begun.release()
        await self.go.acquire()

        def noted() -> Any:
            self.threads.append(threading.get_ident())
            return job(*args)

        return await super().run(lane, noted)


@pytest.fixture
def workers() -> Copying:
    return Copying()


@pytest.fixture
def storage(tmp_path: Path, workers: Copying, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_PAGES", 50)
    around = system_environment()
    environment = Environment(around.clock, around.randomness, around.network, workers)
    opened = Storage.open(tmp_path / "caxton.db", durability="normal", environment=environment)
    yield opened
    opened.close()


async def put(storage: Storage, key: str, pages: int = 1) -> None:
    value = key.encode() * (pages * 4096 // len(key))
    await storage.write(lambda c: c.execute("INSERT INTO meta VALUES (?, ?)", (key, value)))


async def kept(storage: Storage) -> list[str]:
    query = "SELECT key FROM meta WHERE key LIKE 'k%' ORDER BY key"
    return await storage.read(lambda c: [key for (key,) in c.execute(query)])


async def test_commits_go_on_while_a_long_log_is_copied_and_wait_for_what_they_added(
    storage: Storage, workers: Copying
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        await put(storage, "k1", 60)
        await workers.begun.acquire()
        assert workers.jobs == ["copy_beside"]
        await put(storage, "k2")  # nobody waits for that
        workers.go.release()
        await workers.begun.acquire()
        assert workers.jobs == ["copy_beside", "copy"]
        nursery.start_soon(put, storage, "k3")
        await trio.testing.wait_all_tasks_blocked()
        assert await kept(storage) == ["k1", "k2"]  # the third waits behind the copy
        workers.go.release()
        while len(await kept(storage)) < 3:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await kept(storage) == ["k1", "k2", "k3"]
    assert storage.statistics()["checkpoints"] == 2
    assert threading.get_ident() not in workers.threads


async def test_the_log_is_written_from_its_beginning_after_that(storage: Storage, workers: Copying) -> None:
    for _ in range(100):
        workers.go.release()
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        for number in range(40):  # 40 times 30 pages, of which the log holds two rounds or so
            await put(storage, f"k{number:02}", 30)
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert storage.statistics()["checkpoints"] >= 20
    assert storage.statistics()["wal_bytes"] < 200 * 4096
    assert len(await kept(storage)) == 40


async def test_a_commit_copies_the_log_itself_when_nobody_else_has(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LIMIT_PAGES", 100)
    storage._log._limit = 100
    for number in range(40):  # the task that copies beside does not run
        await put(storage, f"k{number:02}", 30)
    assert storage.statistics()["wal_bytes"] < 300 * 4096
    assert storage.statistics()["checkpoints"] > 0
    assert len(await kept(storage)) == 40


async def test_a_reader_that_keeps_the_log_is_not_asked_about_by_every_commit(
    storage: Storage, workers: Copying
) -> None:
    for _ in range(100):
        workers.go.release()
    reader = apsw.Connection(str(storage._path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM meta").fetchall()  # it sees this state until it ends
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        for number in range(100):
            await put(storage, f"k{number:03}")
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    reader.close()
    assert 2 <= len(workers.jobs) <= 20
    assert len(await kept(storage)) == 100


async def test_who_stops_while_it_waits_for_its_turn_holds_up_no_commit(
    storage: Storage, workers: Copying
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        await put(storage, "k1", 60)
        await workers.begun.acquire()
        storage._committing = True  # another commit is under way when the copy beside has ended
        workers.go.release()
        while storage._turn is None:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    storage._hand_over()  # that commit ends
    await put(storage, "k2")
    assert await kept(storage) == ["k1", "k2"]
    assert workers.jobs == ["copy_beside"]


async def test_a_log_that_cannot_be_copied_is_counted_and_fails_no_commit(
    storage: Storage,
) -> None:
    storage._log._limit = 50
    blocked = apsw.Connection(str(storage._path))
    storage._log._writer = blocked
    blocked.close()
    await put(storage, "k1", 60)
    assert await kept(storage) == ["k1"]
    assert storage.statistics()["groups_failed"] == 1
