"""How a parked turn ends when nobody decides: by time, removal, stopping, cancelling, bounds and bugs."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from node.agents import approvals as room
from node.agents.configured import ConfiguredAgent
from node.agents.parked import ApprovalDecided
from node.config import ToolsConfig
from node.errors import (
    MessageTooLarge,
    ResourceLimitExceeded,
    StorageFailed,
)
from node.storage import approvals as table
from node.vocabulary import Performative
from tests.node.agents.desk import CLOCK, MARKED, OPERATOR, RESTART_DB, Asks, Ops, desk
from tests.node.agents.rooms import MemoryStore
from tests.node.agents.test_configured import recorded
from tests.node.agents.test_definition import agent


async def test_nobody_decides_in_time(autojump_clock: Any) -> None:
    config = ToolsConfig.model_validate({"approval_timeout": "60s"})
    async with desk(Ops(), recorded(Asks(RESTART_DB)), config=config) as here:
        await here.ask()
        [found] = await here.waiting()
        await CLOCK.sleep(59)
        assert not here.sent
        await CLOCK.sleep(2)
        assert here.endings() == ["expired"]
        with pytest.raises(ApprovalDecided, match="has ended: expired"):
            await here.approvals.decide(found["approval_id"], room.APPROVED, reason="", by="ada")


async def test_a_caller_that_names_a_time_waits_no_longer(autojump_clock: Any) -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask(fields={"reply_by_s": CLOCK.wall() + 30})
        await CLOCK.sleep(31)
        assert here.endings() == ["expired"]


async def test_turns_of_an_agent_that_is_removed_or_replaced_end() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.here.supervisor.deploy(agent("tools: [ops]", MARKED, "tags: [new]"), replace=True)
        await trio.testing.wait_all_tasks_blocked()
        assert here.endings() == ["replaced"]
        await here.ask(2, conversation="another")
        await here.here.supervisor.delete("tester")
        await trio.testing.wait_all_tasks_blocked()
        assert here.endings() == ["replaced", "removed"]


async def test_the_same_file_deployed_again_keeps_its_turns() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.here.supervisor.deploy(OPERATOR, replace=True)
        await here.decide()
        assert ops.restarted == ["db"]


async def test_a_stopped_agent_goes_on_when_it_is_started_again() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.here.supervisor.stop("tester")
        await here.decide()
        assert (ops.restarted, here.sent) == ([], [])
        await here.here.supervisor.start("tester")
        await trio.testing.wait_all_tasks_blocked()
        assert ops.restarted == ["db"]


async def test_stopping_waits_for_a_call_that_is_being_made_and_then_ends_it(autojump_clock: Any) -> None:
    ops = Ops()
    ops.hold = trio.Event()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.decide()
        began = CLOCK.now()
        await here.here.supervisor.stop("tester", grace_s=3.0)
        assert CLOCK.now() == pytest.approx(began + 3.0)
        await trio.testing.wait_all_tasks_blocked()
        assert here.endings() == ["unknown"]


async def test_a_cancel_drops_what_waits_and_both_messages_are_answered() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        [found] = await here.waiting()
        [other] = await here.ask(2, performative=Performative.CANCEL, conversation="elsewhere")
        assert other.performative is Performative.NOT_UNDERSTOOD
        [draft] = await here.ask(3, performative=Performative.CANCEL)
        assert draft.performative is Performative.INFORM
        assert draft.content == {"cancelled": [found["approval_id"]]}
        assert here.endings() == ["cancelled"]
        assert not await here.waiting()


async def test_a_call_that_has_begun_is_not_cancelled() -> None:
    ops = Ops()
    ops.hold = trio.Event()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.decide()
        [draft] = await here.ask(3, performative=Performative.CANCEL)
        assert draft.performative is Performative.FAILURE
        ops.hold.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]


async def test_parked_turns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "AGENT_PARKED_LIMIT", 1)
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        [draft] = await here.ask(2)
        assert draft.performative is Performative.FAILURE
        assert draft.content["details"] == {"limit": "parked_turns_of_agent"}
        assert len(await here.waiting()) == 1
        monkeypatch.setattr(room, "TURN_BYTES_LIMIT", 100)
        await here.decide()
        [draft] = await here.ask(3)
        assert draft.content["details"] == {"limit": "parked_turn_bytes"}


async def test_nothing_is_promised_that_is_not_on_disk() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        here.store.fails = True
        [draft] = await here.ask()
        assert (draft.performative, draft.content["code"]) == (Performative.FAILURE, StorageFailed.code)
        here.store.fails = False
        assert not await here.waiting()


async def test_the_answer_is_sent_when_the_bus_takes_messages_again(autojump_clock: Any) -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        here.here.bus.refuses = ResourceLimitExceeded("the outbox is full")
        await here.decide()
        await CLOCK.sleep(10)
        assert (here.sent, ops.restarted) == ([], ["db"])
        here.here.bus.refuses = None
        await CLOCK.sleep(1)
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]
        assert ops.restarted == ["db"]


async def test_a_bug_in_an_agent_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> Any:
        raise RuntimeError("a bug")

    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        with monkeypatch.context() as during:
            during.setattr(ConfiguredAgent, "call_approved", broken)
            await here.decide()
        [(performative, content)] = here.sent
        assert (performative, content["answer"]) == (
            Performative.INFORM,
            "told the call failed unexpectedly",
        )
        await here.ask(2)
        monkeypatch.setattr(ConfiguredAgent, "go_on", broken)
        await here.decide()
        assert here.sent[1][0] is Performative.FAILURE
        assert "unexpectedly" in here.sent[1][1]["reason"]


async def test_an_answer_that_nobody_takes_ends_its_turn_all_the_same() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        here.here.bus.refuses = MessageTooLarge("it is too large")
        await here.decide()
        assert await here.outcomes() == [f"not sent: {MessageTooLarge.code}"]


async def test_a_turn_that_cannot_be_read_ends_and_harms_nobody() -> None:
    store = MemoryStore()
    async with desk(Ops(), recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
    store.connection.execute("UPDATE approvals SET turn = ?", (b'{"message": 1}',))
    table.decide(store.connection, table.unended(store.connection, 1)[0].id, (room.APPROVED, "", "ada", 1.0))
    async with desk(Ops(), recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert await here.outcomes() == ["unreadable"]
