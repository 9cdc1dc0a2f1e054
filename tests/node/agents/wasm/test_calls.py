"""Calls are made in order, together where they wait together, and none is lost when its caller goes away."""

from __future__ import annotations

import trio
import trio.testing

from node.agents.wasm.calls import BATCH_LIMIT, Call, Calls, Outcome
from node.agents.wasm.host import Moment, Phase

NOW = Moment(0, b"seed")


class Worker:
    """Makes calls when it is told to, and remembers which came together."""

    def __init__(self, *, only: int = BATCH_LIMIT) -> None:
        self.batches: list[list[int]] = []
        self.go = trio.Event()
        self.only = only
        self.calls = Calls([self], self.make)

    async def make(self, sandbox: object, batch: list[Call]) -> None:
        self.batches.append([call.timer for call in batch])
        await self.go.wait()
        for call in batch[: self.only]:
            call.outcome = Outcome()

    async def submit(self, number: int, done: list[int]) -> None:
        await self.calls.submit(Call(Phase.TIMER, NOW, timer=number))
        done.append(number)


async def test_a_lonely_call_is_made_at_once_and_what_comes_meanwhile_goes_together() -> None:
    worker, done = Worker(), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.submit, 0, done)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 6):
            nursery.start_soon(worker.submit, number, done)
            await trio.testing.wait_all_tasks_blocked()
        worker.go.set()
    assert worker.batches == [[0], [1, 2, 3, 4, 5]]
    assert sorted(done) == list(range(6))
    assert len(worker.calls) == 0


async def test_a_batch_is_bounded() -> None:
    worker, done = Worker(), list[int]()
    worker.go.set()
    async with trio.open_nursery() as nursery:
        for number in range(BATCH_LIMIT * 2 + 1):
            nursery.start_soon(worker.submit, number, done)
    assert [len(batch) for batch in worker.batches][:1] == [BATCH_LIMIT]
    assert sum(len(batch) for batch in worker.batches) == BATCH_LIMIT * 2 + 1
    assert max(len(batch) for batch in worker.batches) == BATCH_LIMIT


async def test_what_a_batch_left_is_made_next_in_its_old_order() -> None:
    worker, done = Worker(only=2), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.submit, 0, done)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 6):
            nursery.start_soon(worker.submit, number, done)
            await trio.testing.wait_all_tasks_blocked()
        worker.go.set()
    assert worker.batches == [[0], [1, 2, 3, 4, 5], [3, 4, 5], [5]]


async def test_a_caller_that_goes_away_takes_its_place_and_nothing_else() -> None:
    worker, done = Worker(), list[int]()
    gone = [trio.CancelScope(), trio.CancelScope()]

    async def leaving(index: int, number: int) -> None:
        with gone[index]:
            await worker.submit(number, done)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaving, 0, 0)  # leads
        await trio.testing.wait_all_tasks_blocked()
        for number in (1, 2):
            nursery.start_soon(worker.submit, number, done)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(leaving, 1, 3)  # waits
        await trio.testing.wait_all_tasks_blocked()
        gone[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        gone[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        worker.go.set()
    assert worker.batches == [[0], [1, 2]]
    assert sorted(done) == [1, 2]


async def test_several_sandboxes_work_at_once() -> None:
    running, most = 0, 0
    go = trio.Event()

    async def make(sandbox: int, batch: list[Call]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        for call in batch:
            call.outcome = Outcome()

    calls = Calls([1, 2], make)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(calls.submit, Call(Phase.TIMER, NOW, timer=number))
            await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert most == 2
