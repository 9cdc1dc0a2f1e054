"""A call that is marked waits for an operator: durably, decided once, made at most once, answered once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from node.agents import approvals as room
from node.agents.parked import ApprovalDecided, ApprovalNotFound
from node.config import ToolsConfig
from node.environment import Workers
from node.errors import (
    AgentInvalid,
    ConfigInvalid,
)
from node.storage import approvals as table
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import ToolServer
from node.tools.files import FileSpaces
from node.tools.host import ToolHost, ToolSettings
from node.vocabulary import Performative
from tests.node.agents.desk import MARKED, RESTART_DB, Asks, Ops, desk
from tests.node.agents.inline import inline_environment
from tests.node.agents.rooms import MemoryStore
from tests.node.agents.test_configured import Recorder, recorded
from tests.node.agents.test_definition import agent


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
