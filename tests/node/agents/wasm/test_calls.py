"""Several messages are one hop to a sandbox: in order, each with its own end; what is left comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw
import pytest
import trio
import trio.testing

from node.agents.journal import Journal
from node.agents.wasm import WasmAgent
from node.agents.wasm.calls import BATCH_FUEL, Sandboxes
from node.agents.wasm.serving import WasmServing
from node.errors import CaxtonError, StorageFailed
from node.messaging.delivery import Answer, Delivery
from tests.node.agents.rooms import MemoryStore, delivery
from tests.node.agents.wasm.guests import House, guest

T = TypeVar("T")
COUNT = """(i32.store (i32.const 2000) (i32.add (i32.load (i32.const 2000)) (i32.const 1)))
  {} (call $answer (i32.load (i32.const 2000)))"""
"""Answers with how many messages its instance has seen."""
PUT = "(drop (call $store_data (i32.const 2000) (i32.const 4) (i32.const 2000) (i32.const 4)))"


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        self.writes += 1
        return await super().write(job)


def shown(answers: Sequence[Answer]) -> list[Any]:
    """Of each message the content of its one answer, or the limit that was broken."""
    found = []
    for answer in answers:
        assert not isinstance(answer, Exception)
        [draft] = answer
        found.append(draft.content["details"]["limit"] if isinstance(draft.content, dict) else draft.content)
    return found


async def test_who_waits_longest_for_a_sandbox_gets_it() -> None:
    sandboxes, taken = Sandboxes(["one", "two"]), list[tuple[int, str]]()
    go = [trio.Event() for _ in range(4)]

    async def use(number: int) -> None:
        async with sandboxes.one() as sandbox:
            taken.append((number, sandbox))
            await go[number].wait()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(use, number)
            await trio.testing.wait_all_tasks_blocked()
        assert sandboxes.waiting == 2
        go[1].set()
        await trio.testing.wait_all_tasks_blocked()
        assert taken[2:] == [(2, dict(taken)[1])]
        for each in go:
            each.set()
    assert [number for number, _ in taken] == [0, 1, 2, 3]
    assert sandboxes.waiting == 0


async def test_several_messages_are_answered_in_their_order_by_one_instance() -> None:
    agent = await House().load(guest(COUNT.format("")))
    assert shown(await agent.handle_many([delivery(None) for _ in range(5)])) == [1, 2, 3, 4, 5]


async def test_a_trap_ends_one_message_and_those_after_it_have_a_fresh_instance() -> None:
    trap = "(if (i32.eq (i32.load (i32.const 2000)) (i32.const 3)) (then (unreachable)))"
    agent = await House().load(guest(COUNT.format(trap)))
    assert shown(await agent.handle_many([delivery(None) for _ in range(5)])) == [1, 2, "trap", 1, 2]
    assert agent.statistics()["instances_started"] == 2


async def test_a_batch_that_takes_long_ends_early_and_the_rest_is_left() -> None:
    spin = f"""(i32.store (i32.const 2004) (i32.const 0))
      (loop $more (i32.store (i32.const 2004) (i32.add (i32.load (i32.const 2004)) (i32.const 1)))
        (br_if $more (i32.lt_u (i32.load (i32.const 2004)) (i32.const {BATCH_FUEL // 20}))))"""
    agent = await House().load(guest(COUNT.format(spin)), fuel=BATCH_FUEL)
    several = [delivery(None) for _ in range(5)]
    first = shown(await agent.handle_many(several))
    assert first == list(range(1, len(first) + 1))
    assert 1 < len(first) < 5
    rest = shown(await agent.handle_many(several[len(first) :]))
    assert rest[0] == len(first) + 1


async def test_the_values_of_a_batch_are_one_write_before_its_answers() -> None:
    store = CountingStore()
    agent = await House(store=store).load(guest(COUNT.format(PUT), imports=("store_data",)))
    before = store.writes
    assert shown(await agent.handle_many([delivery(None) for _ in range(5)])) == [1, 2, 3, 4, 5]
    assert store.writes == before + 1
    store.fails = True
    found = await agent.handle_many([delivery(None) for _ in range(2)])
    assert [type(answer) for answer in found] == [StorageFailed, StorageFailed]


async def test_who_goes_away_takes_no_sandbox_along() -> None:
    agent = await House().load(guest(COUNT.format("")))
    with trio.CancelScope() as scope:
        scope.cancel()
        await agent.handle_many([delivery(None)])
    assert scope.cancelled_caught
    assert len(await agent.handle_many([delivery(None)])) == 1


async def test_a_failure_of_the_node_is_answered_for_each_message_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        instances = 3

        async def handle_many(self, deliveries: Sequence[Delivery]) -> list[Answer]:
            await trio.lowlevel.checkpoint()
            if len(deliveries) == 1:
                raise ValueError("a bug of all")
            return [StorageFailed("the disk is full"), ValueError("a bug"), []]

    house = House()
    journal = Journal(house.environment.clock, 10)
    broken: Any = Broken()
    assert WasmServing("guest", broken, journal, house.environment.clock).handler.runs == 3
    serving = WasmServing("guest", broken, journal, house.environment.clock)
    storage, bug, fine = await serving.handle_many([delivery(None) for _ in range(4)])
    assert not isinstance(storage, Exception)
    assert not isinstance(bug, Exception)
    assert [storage[0].content["code"], bug[0].content["code"], fine] == [
        StorageFailed.code, CaxtonError.code, [],
    ]  # fmt: skip
    stats = journal.execution_stats
    assert (stats["successful_requests"], stats["failed_requests"]) == (1, 2)
    [alone] = await serving.handle(delivery(None))
    assert alone.content["reason"].startswith("the agent failed unexpectedly")
    assert "a bug of all" in caplog.text


async def test_a_quarantined_agent_answers_all_without_being_called() -> None:
    agent: WasmAgent = await House().load(guest("(unreachable)"), quarantine_after=2)
    assert shown(await agent.handle_many([delivery(None) for _ in range(2)])) == ["trap", "trap"]
    assert shown(await agent.handle_many([delivery(None) for _ in range(3)])) == ["quarantine"] * 3
