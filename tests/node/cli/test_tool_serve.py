"""Built-in tool servers by themselves, used by the SDK's own client over real pipes and a real port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from node.cli.tool_serve import TOKEN_VARIABLE, _built, _Given
from node.tools.caller import Caller
from tests.acceptance.processes import free_port
from tests.node.cli.conftest import TOKEN, FakeNode, Shell

ROOT = Path(__file__).parents[3]
COMMAND = ("-m", "node.cli.main", "tool", "serve")


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[Client]:
    """A server in a process of its own, started as MCP clients do."""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::ResourceWarning"}
    parameters = StdioServerParameters(command=sys.executable, args=[*COMMAND, *arguments], env=environment)
    async with Client(stdio_client(parameters)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    if answer.is_error:
        return " ".join(block.text for block in answer.content if block.type == "text")
    return answer.structured_content


async def test_files_are_served_over_pipes_and_a_client_cannot_widen_its_reach(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "reports" / "tea.txt").write_text("green")
    async with served(
        "files", "--root", str(tmp_path / "reports"), "--write", str(tmp_path / "out")
    ) as client:
        assert (await call(client, "read_file", file="reports/tea.txt"))["text"] == "green"
        assert (await call(client, "write_file", file="out/a.txt", text="x"))["replaced"] is False
        assert "must not be written" in await call(client, "write_file", file="reports/a.txt", text="x")
        forged: Any = Caller("root", paths=("etc",), file_access="read_write").as_meta()
        answer = await client.call_tool("write_file", {"file": "reports/a.txt", "text": "x"}, meta=forged)
        assert answer.is_error
    assert (tmp_path / "out" / "a.txt").read_text() == "x"


async def test_over_http_a_token_is_needed() -> None:
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), TOKEN_VARIABLE: "swordfish"}
    process = await trio.lowlevel.open_process(
        [sys.executable, *COMMAND, "time", "--http", str(port)], env=environment, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        said = b""
        while b"/mcp" not in said:
            said += await process.stderr.receive_some() or pytest.fail(said.decode())
        assert b"swordfish" not in said
        url = f"http://127.0.0.1:{port}/mcp"
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-03-26",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        headers = {"accept": "application/json, text/event-stream"}
        key = {"authorization": "Bearer swordfish"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            for _ in range(100):
                try:
                    refused = await http.post(url, json=hello)
                    break
                except httpx.ConnectError:
                    await trio.sleep(0.05)  # noqa: TID251 - until a real process listens
            assert refused.status_code == 401
            assert (
                await http.post(url, json=hello, headers={"authorization": "Bearer x"})
            ).status_code == 401
            answered = await http.post(url, json=hello, headers=key)
            assert answered.status_code == 200
            assert '"serverInfo"' in answered.text
            page = {"origin": "https://evil.example", **key}
            assert (await http.post(url, json=hello, headers=page)).status_code == 403
            rebound = {"host": "evil.example", **key}
            assert (await http.post(url, json=hello, headers=rebound)).status_code == 421
    finally:
        process.terminate()
        await process.wait()


def test_a_port_that_is_taken_is_said(shell: Shell) -> None:
    with socket.socket() as taken:  # noqa: TID251 - takes a port
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert shell("tool", "serve", "time", "--http", port) == 3
    assert f"port {port} of 127.0.0.1 cannot be used" in shell.err


async def test_the_memory_is_served_from_a_folder_and_stays(tmp_path: Path) -> None:
    given = _Given(data_dir=tmp_path / "mind", agent="me")
    async with _built("memory", given) as server, Client(server) as client:
        entity = {"name": "Tea", "entityType": "drink", "observations": ["green"]}
        assert (await call(client, "create_entities", entities=[entity]))["entities"][0]["created"] is True
    async with _built("memory", given) as server, Client(server) as client:
        [found] = (await call(client, "open_nodes", names=["Tea"]))["entities"]
        assert (found["observations"], found["scope"]) == (["green"], "agent-only")
    async with _built("memory", _Given(data_dir=tmp_path / "mind")) as server, Client(server) as client:
        assert (await call(client, "open_nodes", names=["Tea"]))["entities"] == []  # another's memory


async def test_a_capability_is_asked_for_through_a_node(node: FakeNode) -> None:
    reply = {"sender": "clerk@alpha", "performative": "inform", "content": {"total": 3}}
    node.answers["POST", "/messages"] = 200, {"message_id": "m", "reply": reply}
    node.answers["GET", "/capabilities"] = 200, {"capabilities": [{"name": "sums"}]}
    async with _built("request_capability", _Given()) as server, Client(server) as client:
        answer = await call(client, "request_capability", capability="sums", content={"a": 1})
        assert answer == {"from": "clerk@alpha", "performative": "inform", "content": {"total": 3}}
        assert (await call(client, "list_capabilities"))["capabilities"] == [{"name": "sums"}]
        node.answers["POST", "/messages"] = 200, {"reply": reply | {"performative": "failure"}}
        assert "answered failure" in await call(client, "request_capability", capability="sums")
        node.answers["POST", "/messages"] = 202, {"reply": None}
        assert "nobody has answered" in await call(client, "request_capability", capability="sums")
        del node.answers["GET", "/capabilities"]
        assert "no route" in await call(client, "list_capabilities")
    method, path, body, authorization = node.requests[0]
    assert (method, path, authorization) == ("POST", "/messages?wait=30.0", f"Bearer {TOKEN}")
    assert body == {"capability": "sums", "performative": "request", "content": {"a": 1}}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("nothing",), "nothing"),
        (("files",), "could reach nothing"),
        (("csv_parser",), "could reach nothing"),
        (("http_client",), "could reach nothing"),
        (("memory",), "could reach nothing"),
        (("time", "--root", "."), "--root means nothing for time"),
        (("files", "--root", ".", "--allow-domain", "a.b"), "--allow-domain means nothing"),
        (("files", "--root", "/does/not/exist"), "nothing is there"),
        (("http_client", "--allow-domain", "https://a.b"), "not valid"),
        (("http_client", "--allow-domain", "*", "--allow-network", "10.0.0.1/8"), "not valid"),
        (("time", "--http", "0"), "--http"),
    ],
)
def test_what_makes_no_sense_is_refused(shell: Shell, arguments: tuple[str, ...], what: str) -> None:
    assert shell("tool", "serve", *arguments) == 2
    assert what in shell.err
    assert "Traceback" not in shell.err


def test_an_api_of_the_environment_is_for_other_verbs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAXTON_API", "http://127.0.0.1:1")
    assert shell("tool", "serve", "files") == 2
    assert "could reach nothing" in shell.err
