"""``caxton mcp``: agents of the cluster as tools, as the SDK's own client sees them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from node.cli.mcp_server import CALLS_LIMIT, TIMEOUT_S, ClusterTools, tool_name
from node.errors import CaxtonError, Forbidden, NoReply
from tests.node.cli.conftest import FakeNode as Served
from tests.node.cli.conftest import Shell


class FakeNode:
    def __init__(self, *capabilities: str) -> None:
        self.offered = list(capabilities)
        self.reply: dict[str, Any] | CaxtonError = {}
        self.requests: list[dict[str, Any]] = []
        self.refuses = False
        self.running = self.most = 0

    async def capabilities(self) -> list[dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise Forbidden("not with this token", why="it lacks ViewMetrics")
        return [{"capability": name, "agents_count": 2} for name in self.offered]

    async def agents(self) -> list[dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        return [
            {"capabilities": ["echo"], "description": "Says it again."},
            {"capabilities": ["echo"], "description": "Another."},
        ]

    async def request(self, content: Any, *, timeout_s: float, **fields: Any) -> dict[str, Any]:
        self.running += 1
        self.most = max(self.most, self.running)
        await trio.testing.wait_all_tasks_blocked()
        self.running -= 1
        self.requests.append({"content": content, "timeout_s": timeout_s, **fields})
        if isinstance(self.reply, CaxtonError):
            raise self.reply
        return self.reply


@asynccontextmanager
async def connected(node: FakeNode) -> AsyncIterator[Client]:
    async with Client(ClusterTools(node).server(), cache=None) as client:
        yield client


def said(performative: str, content: Any) -> dict[str, Any]:
    return {"content": content, "performative": performative, "sender": "a@n", "conversation_id": "c"}


async def test_each_capability_is_a_tool() -> None:
    async with connected(FakeNode("echo", "a:v2", "data-analysis")) as client:
        listed = (await client.list_tools()).tools
    names = [tool.name for tool in listed]
    assert [name for name in names if name != names[0]] == ["data-analysis", "echo"]
    assert re.fullmatch(r"a_v2_[0-9a-f]{8}", names[0])
    assert listed[2].description == "Says it again. (2 agents offer echo in the cluster.)"
    assert listed[1].description == "(2 agents offer data-analysis in the cluster.)"


async def test_a_call_is_a_request_and_its_reply_the_answer() -> None:
    node = FakeNode("echo")
    node.reply = said("inform", {"n": 1})
    async with connected(node) as client:
        answer = await client.call_tool("echo", {"content": [1], "conversation_id": "c", "timeout": 2})
        await client.call_tool("echo", {"content": "plain"})
    assert not answer.is_error
    assert answer.content[0].text == '{"n": 1}'  # type: ignore[union-attr]
    assert answer.structured_content == node.reply
    first = {"content": [1], "timeout_s": 2.0, "capability": "echo", "conversation_id": "c"}
    assert node.requests == [first, {"content": "plain", "timeout_s": TIMEOUT_S, "capability": "echo"}]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (said("failure", {"code": "X", "reason": "no paper"}), "failure: no paper"),
        (said("refuse", "not now"), "refuse: not now"),
        (said("not_understood", {"a": 1}), 'not_understood: {"a": 1}'),
        (NoReply("no reply within 2 s"), "NO_REPLY: no reply within 2 s."),
    ],
)
async def test_what_is_no_answer_is_an_error_with_its_reason(
    reply: dict[str, Any] | CaxtonError, text: str
) -> None:
    node = FakeNode("echo")
    node.reply = reply
    async with connected(node) as client:
        answer = await client.call_tool("echo", {"content": 1})
    assert answer.is_error
    assert answer.content[0].text == text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "'content' is missing"),
        ({"content": 1, "to": "x"}, "there is no argument 'to'"),
        ({"content": 1, "timeout": 0}, "timeout must be"),
        ({"content": 1, "timeout": 601}, "timeout must be"),
        ({"content": 1, "timeout": True}, "timeout must be"),
        ({"content": 1, "conversation_id": ""}, "conversation_id must be"),
        ({"content": 1, "conversation_id": 3}, "conversation_id must be"),
    ],
)
async def test_wrong_arguments_send_nothing(arguments: dict[str, Any], why: str) -> None:
    node = FakeNode("echo")
    async with connected(node) as client:
        answer = await client.call_tool("echo", arguments)
    assert answer.is_error
    assert why in answer.content[0].text  # type: ignore[union-attr]
    assert node.requests == []


async def test_a_capability_that_has_come_since_can_be_called_and_an_unknown_one_is_told() -> None:
    node = FakeNode("echo")
    node.reply = said("inform", "yes")
    async with connected(node) as client:
        await client.list_tools()
        node.offered.append("late")
        assert not (await client.call_tool("late", {"content": 1})).is_error
        answer = await client.call_tool("ecko", {"content": 1})
    assert answer.is_error
    assert "Did you mean 'echo'?" in answer.content[0].text  # type: ignore[union-attr]


async def test_a_refusal_of_the_node_is_told_in_its_words() -> None:
    node = FakeNode("echo")
    node.refuses = True
    async with connected(node) as client:
        with pytest.raises(MCPError, match="FORBIDDEN: not with this token: it lacks ViewMetrics"):
            await client.list_tools()
        answer = await client.call_tool("echo", {"content": 1})
    assert answer.is_error


async def test_calls_beyond_the_limit_wait() -> None:
    node = FakeNode("echo")
    node.reply = said("inform", 1)
    async with connected(node) as client, trio.open_nursery() as nursery:
        for _ in range(CALLS_LIMIT + 5):
            nursery.start_soon(client.call_tool, "echo", {"content": 1})
    assert len(node.requests) == CALLS_LIMIT + 5
    assert node.most == CALLS_LIMIT


@given(st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=90))
def test_names_of_tools_are_valid_and_one_to_one(first: str, second: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tool_name(first))
    assert (tool_name(first) == tool_name(second)) == (first == second)


def test_the_tools_are_shown_with_json(node: Served, shell: Shell) -> None:
    node.answers["GET", "/capabilities"] = 200, {"capabilities": [{"capability": "echo", "agents_count": 1}]}
    node.answers["GET", "/agents"] = 200, {"agents": [], "total": 0}
    description = "(1 agent offers echo in the cluster.)"
    assert shell.json("mcp") == {"tools": [{"name": "echo", "description": description}]}


def test_without_a_node_it_says_so(shell: Shell) -> None:
    assert shell("mcp") == 3
    assert "no node is running on this machine" in shell.err
