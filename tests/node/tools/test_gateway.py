"""A stdio server whose hosts are named: it reaches these by the node's proxy, and nothing else by any way."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config import ToolServerLimits
from node.environment import Address, Environment, system_environment
from node.tools.gateway import HEAD_BYTES_LIMIT, TUNNELS_LIMIT, Gateway
from tests.node.tools.test_external import raw_config, running

SIZE = 3_000_000


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A server on loopback that reads so many bytes and sends as many back."""

    async def serve(stream: trio.abc.Stream) -> None:
        left = SIZE
        while left and (chunk := await stream.receive_some()):
            left -= len(chunk)
        await stream.send_all(b"y" * SIZE)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_server_reaches_the_hosts_that_are_named_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"allowed_domains": ["127.0.0.1"], "allowed_networks": ["127.0.0.0/8"]}
    config = raw_config(tmp_path / "starts", limits=limits | {"write": [str(tmp_path)]})
    async with listening() as port, running(config) as desk:
        missing = desk.server()["not_confined"]
        if "namespace" in missing or "allowed_domains" in missing:
            pytest.skip(f"this system has no network namespaces for users: {missing}")
        seen = await desk.call("see", read=[], write=[], connect=["127.0.0.1", port], kill=os.getpid())
        assert seen["connect"] == "Connection refused"  # by its own, empty loopback
        assert {"HTTPS_PROXY", "https_proxy", "NO_PROXY"} <= set(seen["variables"])
        head = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n"
        told = (await desk.call("tunnel", head=head, size=SIZE))["text"]
        assert told == f"HTTP/1.1 200 Connection established\r\n\r\ny|{SIZE + 39}"
        told = (await desk.call("tunnel", head=head.replace("127.0.0.1", "example.org", 1), size=0))["text"]
        assert told.startswith("HTTP/1.1 403")
    assert "tool server raw may not reach example.org: it is not among its allowed_domains" in caplog.text


class Names:
    """A network of names whose connections nobody answers."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.called = addresses, list[str]()

    async def resolve(self, host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [(address, port) for address in self.addresses]

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.called.append(host)
        raise ConnectionRefusedError


async def asked(network: Names, head: bytes, path: Path, **limits: Any) -> tuple[bytes, list[str]]:
    own, told = system_environment(), list[str]()
    environment = Environment(own.clock, own.randomness, network, own.workers)  # type: ignore[arg-type]
    bounds = ToolServerLimits.model_validate({"allowed_domains": ["mcp.org", "*.b.org"]} | limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(Gateway("raw", bounds, environment, told.append).run, str(path))
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(head)
            found = b""
            while chunk := await stream.receive_some():
                found += chunk
        nursery.cancel_scope.cancel()
    return found.partition(b"\r\n")[0], told


@pytest.mark.parametrize(
    ("head", "addresses", "limits", "status", "called"),
    [
        (b"CONNECT mcp.org:443 HTTP/1.1\r\n\r\n", ["93.184.216.34"], {}, b"502", ["93.184.216.34"]),
        (b"CONNECT a.b.org:443 HTTP/1.1\r\n\r\n", ["1.1.1.1", "1.0.0.1"], {}, b"502", ["1.1.1.1", "1.0.0.1"]),
        (b"CONNECT mcp.org:443 HTTP/1.1\r\n\r\n", ["10.0.0.1"], {}, b"403", []),
        (b"CONNECT mcp.org:443 HTTP/1.1\r\n\r\n", ["1.1.1.1", "127.0.0.1"], {}, b"403", []),
        (
            b"CONNECT mcp.org:443 HTTP/1.1\r\n\r\n",
            ["10.0.0.1"],
            {"allowed_networks": ["10.0.0.0/8"]},
            b"502",
            ["10.0.0.1"],
        ),
        (b"CONNECT other.org:443 HTTP/1.1\r\n\r\n", ["93.184.216.34"], {}, b"403", []),
        (b"CONNECT mcp.org:0 HTTP/1.1\r\n\r\n", ["93.184.216.34"], {}, b"405", []),
        (b"CONNECT mcp.org HTTP/1.1\r\n\r\n", ["93.184.216.34"], {}, b"405", []),
        (b"GET http://mcp.org/ HTTP/1.1\r\n\r\n", ["93.184.216.34"], {}, b"405", []),
        (b"\xff\x00\r\n\r\n", [], {}, b"405", []),
        (b"x" * (HEAD_BYTES_LIMIT + 1), [], {}, b"", []),
    ],
)
async def test_tunnels_lead_to_named_hosts_at_judged_addresses(  # noqa: PLR0917 - one case
    tmp_path: Path,
    head: bytes,
    addresses: list[str],
    limits: dict[str, Any],
    status: bytes,
    called: list[str],
) -> None:
    network = Names(*addresses)
    answer, told = await asked(network, head, tmp_path / "gate", **limits)
    assert (answer[9:12], network.called) == (status, called)
    assert len(told) == (status == b"403")


async def test_tunnels_at_once_are_bounded(tmp_path: Path) -> None:
    path = str(tmp_path / "gate")
    gateway = Gateway("raw", ToolServerLimits(), system_environment(), lambda _: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.run, path)
        streams = [await trio.open_unix_socket(path) for _ in range(TUNNELS_LIMIT)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with await trio.open_unix_socket(path) as late:
            assert (await late.receive_some()).startswith(b"HTTP/1.1 503")
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()
