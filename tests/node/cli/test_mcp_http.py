"""``caxton mcp --http``: the cluster as tools for whoever shows a token, as the SDK's own client sees it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from node.cli.mcp import TOKEN_VARIABLE
from node.cli.mcp_http import guarded
from tests.acceptance.processes import free_port
from tests.node.cli.conftest import TOKEN, FakeNode, Shell

ROOT = Path(__file__).parents[3]
KEY = {"authorization": "Bearer swordfish"}


@asynccontextmanager
async def served(node: FakeNode, **variables: str) -> AsyncIterator[tuple[str, str]]:
    """The address, and what was said on standard error; ends the process."""
    port = free_port()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "node.cli.main", "mcp", "--http", str(port), "--api", node.api],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CAXTON_TOKEN": TOKEN, **variables},
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        said = b""
        while not said.endswith(b"\n"):
            said += await process.stderr.receive_some() or pytest.fail(said.decode())
        yield f"http://127.0.0.1:{port}/mcp", said.decode()
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def connected(url: str, key: dict[str, str]) -> AsyncIterator[Client]:
    transport = httpx2.AsyncHTTPTransport(trust_env=False, retries=10)  # until it listens
    async with (
        httpx2.AsyncClient(headers=key, transport=transport) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def test_an_agent_is_asked_by_http_with_a_token(node: FakeNode) -> None:
    node.answers["GET", "/capabilities"] = 200, {"capabilities": [{"capability": "echo", "agents_count": 1}]}
    node.answers["GET", "/agents"] = 200, {"agents": [], "total": 0}
    reply = {"content": 7, "performative": "inform", "sender": "a@n", "conversation_id": "c"}
    node.answers["POST", "/messages"] = 200, {"reply": reply}
    async with served(node, **{TOKEN_VARIABLE: "swordfish"}) as (url, said):
        assert url in said
        assert "swordfish" not in said
        async with connected(url, KEY) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["echo"]
            answer = await client.call_tool("echo", {"content": 7})
            assert answer.structured_content == reply
        assert {token for _, _, _, token in node.requests} == {f"Bearer {TOKEN}"}
        asked = len(node.requests)
        async with httpx2.AsyncClient(trust_env=False) as http:
            assert (await http.post(url, json={})).status_code == 401
            assert (await http.post(url, json={}, headers={"authorization": "Bearer x"})).status_code == 401
            foreign = KEY | {"origin": "https://evil.example"}
            assert (await http.post(url, json={}, headers=foreign)).status_code == 403
        assert len(node.requests) == asked


async def test_a_token_is_made_and_told_where_none_is_given(node: FakeNode) -> None:
    async with served(node) as (_, said):
        assert len(said.strip().rpartition("with the token ")[2]) == 48


def test_a_port_that_is_taken_is_said(node: FakeNode, shell: Shell) -> None:
    with socket.socket() as taken:  # noqa: TID251 - takes a port
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert shell("mcp", "--http", port) == 3
    assert f"port {port} of 127.0.0.1 cannot be used" in shell.err


async def test_what_is_no_request_passes_without_a_token() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(scope["type"])

    await guarded(app, "x")({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]
