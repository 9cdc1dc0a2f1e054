"""Servers by streamable HTTP: a real one on loopback, and where requests may not go."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from node.config import ToolsConfig, ToolServerLimits
from node.environment import Address, Environment, system_environment
from node.tools.in_process import quiet_logging
from node.tools.remote import GuardedTransport
from node.tools.stdio import MESSAGE_BYTES_LIMIT
from tests.node.tools.test_external import running


class Site:
    """A server of the SDK behind a door that notes what comes in, and can be shut."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.authorizations, self.shut = app, list[str](), False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope.get("headers", ())}
        self.authorizations.append(headers.get("authorization", ""))
        if scope["type"] == "http" and self.shut:
            head = [(b"location", b"https://example.org/mcp")]
            await send({"type": "http.response.start", "status": 307, "headers": head})
            await send({"type": "http.response.body"})
            return
        await self.app(scope, receive, send)


def sums() -> MCPServer:
    with quiet_logging():
        server: MCPServer = MCPServer("sums")

    @server.tool()
    async def add(a: int, b: int) -> dict[str, int]:
        """Adds."""
        return {"sum": a + b}

    @server.tool()
    async def much() -> str:
        """Says too much."""
        return "x" * (MESSAGE_BYTES_LIMIT + 1)

    @server.tool()
    async def learn(ctx: Context) -> str:
        """Learns another tool."""

        async def double(a: int) -> dict[str, int]:
            return {"double": 2 * a}

        server.add_tool(double, description="Doubles.")
        await ctx.notify_tools_changed()
        return "learned"

    return server


@asynccontextmanager
async def served(server: MCPServer, *, json_response: bool = False) -> AsyncIterator[tuple[Site, str]]:
    site = Site(server.streamable_http_app(json_response=json_response))
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(lambda task_status: _serve(site, config, stop, task_status))
        yield site, f"{bound}/mcp"
        stop.set()
        nursery.cancel_scope.cancel()


async def _serve(site: Site, config: Config, stop: trio.Event, task_status: Any) -> None:
    await serve(site, config, shutdown_trigger=stop.wait, task_status=task_status)  # type: ignore[arg-type]


def config_of(url: str, **limits: Any) -> ToolsConfig:
    server = {"url": url, "headers": {"Authorization": "Bearer swordfish"}}
    return ToolsConfig.model_validate({"mcpServers": {"raw": server}, "servers": {"raw": limits}})


@pytest.mark.parametrize("json_response", [False, True])
async def test_tools_are_called_over_http(json_response: bool) -> None:
    async with served(sums(), json_response=json_response) as (site, url), running(config_of(url)) as desk:
        assert desk.names() == ["add", "much", "learn"]
        assert await desk.call("add", a=1, b=2) == {"sum": 3}
        assert set(site.authorizations[1:]) == {"Bearer swordfish"}
        assert desk.server()["kind"] == "http"
        assert "failed" in await desk.refusal("much")
        assert await desk.call("add", a=2, b=2) == {"sum": 4}
        await desk.call("learn")
        await desk.until(lambda: any(tool["status"] == "new" for tool in desk.server()["tools"]))
        assert desk.names() == ["add", "much", "learn"]
        await desk.host.approve("raw", None)
        assert await desk.call("double", a=4) == {"double": 8}


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    async with served(sums()) as (site, url), running(config_of(url)) as desk:
        site.shut = True
        assert "Redirect to https://example.org/mcp not followed" in await desk.refusal("add", a=1, b=2)


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with running(config_of(f"http://127.0.0.1:{port}/mcp")) as desk:
        assert desk.server()["state"] == "waiting"
        assert desk.server()["reason"].startswith("ConnectError")
        assert "'raw' is waiting" in await desk.refusal("add")


class Names:
    """A network of names."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names

    async def resolve(self, host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [(address, port) for address in self.names.get(host.replace(".", "_"), [host])]


class Answers(httpx2.AsyncBaseTransport):
    """Answers all requests with one body, and keeps them."""

    def __init__(self, body: bytes = b"{}", **headers: str) -> None:
        self.body, self.headers = body, {"content-type": "application/json"} | headers
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return httpx2.Response(200, headers=self.headers, content=self.body)


def client(
    url: str, network: Names, inner: Answers, limits: ToolServerLimits | None = None
) -> httpx2.AsyncClient:
    own = system_environment()
    environment = Environment(own.clock, own.randomness, network, own.workers)  # type: ignore[arg-type]
    transport = GuardedTransport(url, limits or ToolServerLimits(), environment, inner)
    return httpx2.AsyncClient(transport=transport)


async def test_the_connection_goes_to_the_address_that_was_judged_under_the_name() -> None:
    inner = Answers()
    async with client("https://mcp.org/a", Names(mcp_org=["93.184.216.34"]), inner) as http:
        await http.post("https://mcp.org/a", json={})
    [request] = inner.requests
    assert (request.url.host, request.headers["host"]) == ("93.184.216.34", "mcp.org")
    assert request.extensions["sni_hostname"] == "mcp.org"


@pytest.mark.parametrize(
    ("host", "addresses", "limits", "allowed"),
    [
        ("mcp.org", ["10.0.0.1"], {}, False),
        ("mcp.org", ["93.184.216.34", "10.0.0.1"], {}, False),
        ("mcp.org", ["127.0.0.1"], {}, False),
        ("mcp.org", ["::ffff:10.0.0.1"], {}, False),
        ("mcp.org", ["10.0.0.1"], {"allowed_networks": ["10.0.0.0/8"]}, True),
        ("localhost", ["127.0.0.1"], {}, True),
        ("localhost", ["10.0.0.1"], {}, False),
        ("127.0.0.1", ["127.0.0.1"], {}, True),
        ("192.168.0.7", ["192.168.0.7"], {}, True),
        ("169.254.169.254", ["169.254.169.254"], {}, False),
        ("0.0.0.0", ["0.0.0.0"], {}, False),
        ("mcp.org", [], {}, False),
    ],
)
async def test_a_name_does_not_lead_to_where_only_the_node_can_go(
    host: str, addresses: list[str], limits: dict[str, Any], allowed: bool
) -> None:
    inner = Answers()
    network = Names(**{host.replace(".", "_"): addresses})
    bounds = ToolServerLimits.model_validate(limits)
    async with client(f"https://{host}/mcp", network, inner, bounds) as http:
        if allowed:
            await http.get(f"https://{host}/mcp")
        else:
            with pytest.raises(httpx2.ConnectError):
                await http.get(f"https://{host}/mcp")
    assert len(inner.requests) == allowed


async def test_no_other_host_is_called() -> None:
    inner = Answers()
    async with client("https://mcp.org/a", Names(), inner) as http:
        with pytest.raises(httpx2.ConnectError, match="is not the configured server"):
            await http.get("https://93.184.216.34/")


@pytest.mark.parametrize(
    "inner",
    [
        Answers(b"x" * (MESSAGE_BYTES_LIMIT + 1)),
        Answers(b"x" * (4 * MESSAGE_BYTES_LIMIT + 1), **{"content-type": "text/event-stream"}),
        Answers(b"", **{"content-encoding": "gzip"}),
    ],
)
async def test_an_answer_that_is_too_large_or_packed_is_broken_off(inner: Answers) -> None:
    async with client("https://mcp.org/a", Names(mcp_org=["93.184.216.34"]), inner) as http:
        with pytest.raises(httpx2.StreamError):
            await http.get("https://mcp.org/a")
