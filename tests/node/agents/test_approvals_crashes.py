"""A parked turn over crashes and deliveries again: nothing is parked twice, and no call made twice."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.agents import approvals as room
from node.agents.guard import LoopState
from node.agents.history import Earlier, Turn
from node.agents.remembering import Recalled
from node.agents.turn import ParkedTurn
from node.config import ToolsConfig
from node.errors import (
    DuplicateMessage,
    ValidationFailed,
)
from node.llm.provider import ChatMessage, Memory, ToolCall
from node.message import Attachment
from node.storage import approvals as table
from node.vocabulary import DeliveryClass, Performative
from tests.node.agents.desk import RESTART_DB, Asks, Ops, desk
from tests.node.agents.rooms import MemoryStore, delivery
from tests.node.agents.test_configured import recorded


async def test_a_turn_goes_on_after_a_restart_without_asking_the_model_again() -> None:
    ops, store = Ops(), MemoryStore()
    async with desk(ops, recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
    model = Asks(RESTART_DB)
    async with desk(ops, recorded(model), store, content=None) as here:
        await here.decide()
        assert ops.restarted == ["db"]
        assert [request.turn for request in model.requests] == [2]
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]


async def test_what_was_approved_before_a_crash_is_taken_up_at_the_start() -> None:
    ops, store = Ops(), MemoryStore()
    async with desk(ops, recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
        [found] = await here.waiting()
    table.decide(store.connection, found["approval_id"], (room.APPROVED, "", "ada", 1.0))
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert ops.restarted == ["db"]
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]


async def test_a_message_that_is_delivered_again_after_a_crash_parks_nothing_new() -> None:
    ops, store = Ops(), MemoryStore()
    async with desk(ops, recorded(Asks(RESTART_DB)), store) as here:
        [first] = await here.ask()
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        [again] = await here.ask()
        assert again == first
        await here.decide()
        assert await here.ask() == []  # it is answered
        assert (ops.restarted, len(here.sent)) == (["db"], 1)


async def test_a_call_that_had_begun_before_a_crash_is_not_made_again() -> None:
    ops, store = Ops(), MemoryStore()
    ops.hold = trio.Event()
    async with desk(ops, recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
        await here.decide()
        assert ops.restarted == ["db"]
        assert not here.sent
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert ops.restarted == ["db"]
        assert here.endings() == ["unknown"]
        assert await here.outcomes() == ["unknown"]


async def test_a_call_that_may_be_repeated_is_made_again_after_a_crash() -> None:
    ops, store = Ops(), MemoryStore()
    ops.hold = trio.Event()
    config = ToolsConfig(repeatable=("ops/restart",))
    async with desk(ops, recorded(Asks(RESTART_DB)), store, config=config) as here:
        await here.ask()
        await here.decide()
    ops.hold = None
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None, config=config) as here:
        assert ops.restarted == ["db", "db"]
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]


async def test_a_call_with_its_result_is_not_made_again_when_the_crash_comes_later() -> None:
    ops, store, model = Ops(), MemoryStore(), Asks(RESTART_DB)
    model.hold = trio.Event()
    async with desk(ops, recorded(model), store) as here:
        await here.ask()
        await here.decide()
        assert ops.restarted == ["db"]
        assert not here.sent
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert ops.restarted == ["db"]
        [(performative, content)] = here.sent
        assert performative is Performative.INFORM
        assert content["answer"] == 'told {"restarted": "db"}'


async def test_a_message_that_is_better_lost_does_not_go_on_twice() -> None:
    ops, store, model = Ops(), MemoryStore(), Asks(RESTART_DB)
    model.hold = trio.Event()
    async with desk(ops, recorded(model), store) as here:
        await here.ask(fields={"delivery": DeliveryClass.AT_MOST_ONCE})
        await here.decide()
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert here.endings() == ["unknown"]


async def test_an_answer_that_was_sent_before_is_not_sent_again() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        here.here.bus.refuses = DuplicateMessage("it was accepted before")
        await here.decide()
        assert await here.outcomes() == ["answered inform"]
        assert not here.sent


def test_a_turn_is_stored_as_it_is() -> None:
    said = delivery("x", Attachment("a.bin", "application/octet-stream", bytes(range(256)))).message
    call = ToolCall("c", "restart", {"n": 2**70, "text": "\ud800", "deep": [{"a": None}]})
    turn = ParkedTurn(
        message=said,
        sender_node="node-2",
        traceparent="",
        hops=3,
        said=(ChatMessage("system", "s"), ChatMessage("assistant", "", tool_calls=(call, call))),
        results=(ChatMessage("tool", "{}", call=call, result={"n": [1.5, 2**70]}), None),
        asked=1,
        is_repaired=True,
        recalled=Recalled((Memory("tea", "log", 0.5),), ("o-1",)),
        earlier=Earlier((Turn("m", "user", "hi"),), (), "sum"),
        spent=LoopState(1, 2, 3, {"k": 2}),
        produced=(Attachment("b.png", "image/png", b"png"),),
    )
    assert ParkedTurn.decode(turn.encode()) == turn
    assert turn.call == call
    with pytest.raises(ValidationFailed):
        ParkedTurn.decode(b"no turn")
