"""A call that is marked waits for an operator: durably, decided once, made at most once, answered once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from mcp.server.mcpserver import MCPServer
from msgspec.structs import replace as with_fields

from node.agents import approvals as room
from node.agents.configured import ConfiguredAgent
from node.agents.guard import LoopState
from node.agents.history import Earlier, Turn
from node.agents.parked import ApprovalDecided, ApprovalNotFound
from node.agents.remembering import Recalled
from node.agents.turn import ParkedTurn
from node.config import ToolsConfig
from node.environment import Workers
from node.errors import (
    AgentInvalid,
    ConfigInvalid,
    DuplicateMessage,
    MessageTooLarge,
    ResourceLimitExceeded,
    StorageFailed,
    ValidationFailed,
)
from node.llm.provider import ChatMessage, Memory, ToolCall
from node.llm.registry import ProviderRegistry
from node.message import Attachment
from node.messaging.delivery import Draft
from node.storage import approvals as table
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import ToolServer
from node.tools.files import FileSpaces
from node.tools.host import ToolHost, ToolSettings
from node.vocabulary import DeliveryClass, Performative
from tests.node.agents.inline import TestClock, inline_environment
from tests.node.agents.rooms import MemoryStore, Rooms, delivery, rooms
from tests.node.agents.test_configured import Recorder, recorded
from tests.node.agents.test_definition import agent

MARKED = "security: {require_approval: [ops/restart]}"
OPERATOR = agent("tools: [ops]", MARKED)
CLOCK = TestClock()


class Ops:
    """A tool server that notes what it was called with; ``restart`` waits while it is told to."""

    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.looked = 0
        self.hold: trio.Event | None = None
        self.about = "Restart a service."

    def server(self) -> ToolServer:
        def create(_files: FileSpaces, _workers: Workers) -> MCPServer:
            server = MCPServer("ops")

            @server.tool(structured_output=True, description=self.about)
            async def restart(name: str) -> dict[str, Any]:
                self.restarted.append(name)
                if self.hold is not None:
                    await self.hold.wait()
                return {"restarted": name}

            @server.tool(structured_output=True)
            async def look() -> dict[str, Any]:
                self.looked += 1
                return {"seen": self.looked}

            return server

        return ToolServer("ops", ("restart", "look"), create)


class Desk:
    """A node as its operator sees it, and one who asks its agent."""

    def __init__(self, here: Rooms, store: MemoryStore) -> None:
        self.here, self.store = here, store
        self.approvals = here.supervisor.approvals

    async def ask(self, number: int = 1, *, fields: dict[str, Any] | None = None, **more: Any) -> list[Draft]:
        """Send the agent a message, the first one by default, with further fields of it."""
        asked = delivery("restart the database", **more)
        name = f"message-{number}"
        message = with_fields(asked.message, id=name, reply_with=name, **(fields or {}))
        return list(await self.here.bus.handlers["tester"](replace(asked, message=message)))

    async def waiting(self) -> list[dict[str, Any]]:
        return await self.approvals.page(100, states=[table.WAITING])

    async def decide(self, verdict: str = room.APPROVED, reason: str = "", by: str = "ada") -> None:
        [found] = await self.waiting()
        await self.approvals.decide(found["approval_id"], verdict, reason=reason, by=by)
        await trio.testing.wait_all_tasks_blocked()

    async def outcomes(self) -> list[str | None]:
        return [row["outcome"] for row in await self.approvals.page(100)][::-1]

    @property
    def sent(self) -> list[tuple[Performative, Any]]:
        return [(message.performative, message.content) for message in self.here.bus.accepted]

    def endings(self) -> list[str]:
        return [
            content["details"]["ending"]
            for performative, content in self.sent
            if performative is Performative.FAILURE
        ]


@asynccontextmanager
async def desk(
    ops: Ops,
    providers: ProviderRegistry,
    store: MemoryStore | None = None,
    *,
    content: bytes | None = OPERATOR,
    config: ToolsConfig | None = None,
) -> AsyncIterator[Desk]:
    """One run of a node; ``content`` is deployed, None leaves what an earlier run has."""
    store = store or MemoryStore()
    settings = None if config is None else ToolSettings.from_config(config)
    async with rooms(store, providers, tool_settings=settings, more_servers=[ops.server()]) as here:
        if content is not None:
            await here.supervisor.deploy(content, replace=True)
        await trio.testing.wait_all_tasks_blocked()
        yield Desk(here, store)


class Asks(Recorder):
    """A model that asks for the same calls first, and then tells what it was told; it waits if it must."""

    name = "recorder"

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        super().__init__()
        self.calls = calls
        self.hold: trio.Event | None = None

    async def complete(self, request: Any, **more: Any) -> Any:
        answer = await super().complete(request, **more)
        if request.turn == 1:
            called = tuple(
                ToolCall(f"call-{number}", name, arguments)
                for number, (name, arguments) in enumerate(self.calls)
            )
            return replace(answer, text="", tool_calls=called)
        if self.hold is not None:
            await self.hold.wait()
        return replace(
            answer, text="told " + " | ".join(m.text for m in request.messages if m.role == "tool")
        )


RESTART_DB = ("restart", {"name": "db"})


async def test_a_marked_call_parks_the_turn_and_an_approved_one_is_made_and_answered() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        [draft] = await here.ask()
        assert draft.performative is Performative.AGREE
        [found] = await here.waiting()
        assert draft.content["approval"] == found["approval_id"]
        assert draft.content["node"] == "node-1"
        assert not ops.restarted
        assert not here.sent

        whole = await here.approvals.get(found["approval_id"])
        assert (whole["agent"], whole["tool"], whole["arguments"]) == (
            "tester",
            "ops/restart",
            {"name": "db"},
        )
        assert (whole["caller"], whole["message_id"]) == ("client@node-2", "message-1")
        assert whole["calls"] == [{"tool": "restart", "status": "this one"}]

        await here.decide()
        assert ops.restarted == ["db"]
        [(performative, content)] = here.sent
        assert performative is Performative.INFORM
        assert content["answer"] == 'told {"restarted": "db"}'
        [answer] = here.here.bus.accepted
        assert (answer.in_reply_to, answer.receiver, answer.sender) == (
            "message-1",
            "client@node-2",
            "tester@node-1",
        )
        assert answer.conversation_id == "conversation-1"
        assert await here.outcomes() == ["answered inform"]
        whole = await here.approvals.get(found["approval_id"])
        assert (whole["state"], whole["verdict"], whole["decided_by"]) == ("ended", "approved", "ada")
        told = [record.text for record in here.here.supervisor.logs("tester")]
        assert "tool ops/restart waits for approval" in told
        assert "tool ops/restart: approved by ada" in told


async def test_the_model_is_told_of_a_denial_with_its_reason_and_goes_on() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        await here.decide(room.DENIED, "not on a Friday", by="bob")
        assert not ops.restarted
        [(performative, content)] = here.sent
        assert performative is Performative.INFORM
        assert content["answer"] == "told denied by the operator: not on a Friday"


async def test_a_decision_is_taken_once() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        [found] = await here.waiting()
        await here.decide(by="ada")
        with pytest.raises(ApprovalDecided, match="ada has approved it"):
            await here.approvals.decide(found["approval_id"], room.DENIED, reason="", by="bob")
        with pytest.raises(ApprovalNotFound):
            await here.approvals.decide("nothing", room.APPROVED, reason="", by="ada")
        with pytest.raises(ApprovalNotFound):
            await here.approvals.get("nothing")
        assert len(here.sent) == 1


async def test_the_configuration_marks_tools_that_the_agent_file_does_not() -> None:
    ops = Ops()
    config = ToolsConfig(require_approval=("ops/restart",))
    async with desk(ops, recorded(Asks(RESTART_DB)), content=agent("tools: [ops]"), config=config) as here:
        [draft] = await here.ask()
        assert draft.performative is Performative.AGREE
        assert not ops.restarted


async def test_calls_that_need_no_approval_are_made_and_the_others_wait_one_after_the_other() -> None:
    ops = Ops()
    calls = (("look", {}), RESTART_DB, ("restart", {"name": "web"}), ("look", {}))
    async with desk(ops, recorded(Asks(*calls))) as here:
        await here.ask()
        assert (ops.looked, ops.restarted) == (2, [])
        [first] = await here.waiting()
        assert (await here.approvals.get(first["approval_id"]))["calls"] == [
            {"tool": "look", "status": "done"},
            {"tool": "restart", "status": "this one"},
            {"tool": "restart", "status": "waits for an approval of its own"},
            {"tool": "look", "status": "done"},
        ]
        await here.decide()
        assert (ops.restarted, here.sent) == (["db"], [])
        [second] = await here.waiting()
        assert second["approval_id"] != first["approval_id"]
        await here.decide(room.DENIED, "enough")
        assert (ops.looked, ops.restarted) == (2, ["db"])
        [(performative, content)] = here.sent
        assert performative is Performative.INFORM
        told = content["answer"].removeprefix("told ").split(" | ")
        assert json.loads(told[1]) == {"restarted": "db"}
        assert sorted(json.loads(text)["seen"] for text in (told[0], told[3])) == [1, 2]
        assert told[2] == "denied by the operator: enough"
        assert await here.outcomes() == [f"goes on with {second['approval_id']}", "answered inform"]


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


async def test_a_tool_that_is_described_otherwise_than_when_it_was_approved_is_not_called() -> None:
    ops, store = Ops(), MemoryStore()
    async with desk(ops, recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
    ops.about = "Restart a service, and delete its data."
    async with desk(ops, recorded(Asks(RESTART_DB)), store, content=None) as here:
        await here.decide()
        assert not ops.restarted
        [(performative, content)] = here.sent
        assert performative is Performative.INFORM
        assert "not what was approved" in content["answer"]


async def test_arguments_that_are_not_those_approved_are_not_called() -> None:
    ops = Ops()
    async with desk(ops, recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        [row] = table.unended(here.store.connection, 10)
        turn = json.loads(table.turn(here.store.connection, row.id))
        turn["said"][-1]["tool_calls"][0]["arguments"]["name"] = "everything"
        here.store.connection.execute("UPDATE approvals SET turn = ?", (json.dumps(turn).encode(),))
        await here.decide()
        assert not ops.restarted
        assert "not what was approved" in here.sent[0][1]["answer"]


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


async def test_an_answer_that_was_sent_before_is_not_sent_again() -> None:
    async with desk(Ops(), recorded(Asks(RESTART_DB))) as here:
        await here.ask()
        here.here.bus.refuses = DuplicateMessage("it was accepted before")
        await here.decide()
        assert await here.outcomes() == ["answered inform"]
        assert not here.sent


async def test_a_turn_that_cannot_be_read_ends_and_harms_nobody() -> None:
    store = MemoryStore()
    async with desk(Ops(), recorded(Asks(RESTART_DB)), store) as here:
        await here.ask()
    store.connection.execute("UPDATE approvals SET turn = ?", (b'{"message": 1}',))
    table.decide(store.connection, table.unended(store.connection, 1)[0].id, (room.APPROVED, "", "ada", 1.0))
    async with desk(Ops(), recorded(Asks(RESTART_DB)), store, content=None) as here:
        assert await here.outcomes() == ["unreadable"]


async def test_an_inform_is_promised_nothing_and_answered_later() -> None:
    content = agent("tools: [ops]", MARKED, "messaging: {auto_respond: true}")
    async with desk(Ops(), recorded(Asks(RESTART_DB)), content=content) as here:
        assert await here.ask(performative=Performative.INFORM) == []
        await here.decide()
        assert [performative for performative, _ in here.sent] == [Performative.INFORM]


@pytest.mark.parametrize("name", ["\ud800", 1e999])
async def test_what_no_operator_can_be_shown_is_not_asked_for(name: Any) -> None:
    def create(_files: FileSpaces, _workers: Workers) -> MCPServer:
        server = MCPServer("ops")

        @server.tool(structured_output=True)
        async def restart(name: Any) -> dict[str, Any]:
            raise AssertionError(f"called with {name!r}")

        return server

    ops = Ops()
    ops.server = lambda: ToolServer("ops", ("restart",), create)  # type: ignore[method-assign]
    async with desk(ops, recorded(Asks(("restart", {"name": name})))) as here:
        [draft] = await here.ask()
        assert draft.performative is Performative.INFORM
        assert "cannot be shown to an operator" in draft.content["answer"]


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


async def test_names_that_mark_nothing_are_refused() -> None:
    async with desk(Ops(), recorded(Recorder()), content=None) as here:
        for name in ("ops/restrat", "opps", "restart", "csv_parser"):
            with pytest.raises(AgentInvalid) as caught:
                await here.here.supervisor.deploy(
                    agent("tools: [ops]", f"security: {{require_approval: [{name}]}}")
                )
            [problem] = caught.value.details["problems"]
            assert (problem["field"], problem["type"]) == ("security.require_approval[0]", "unknown_tool")
        await here.here.supervisor.deploy(agent("tools: [ops]", "security: {require_approval: ['*']}"))
    for config in (ToolsConfig(require_approval=("opps",)), ToolsConfig(repeatable=("ops/restrat",))):
        with pytest.raises(ConfigInvalid, match="which is no tool"):
            ToolHost(
                environment=inline_environment(),
                tracing=Tracing.off(),
                settings=ToolSettings.from_config(config),
                servers=[Ops().server()],
            )
