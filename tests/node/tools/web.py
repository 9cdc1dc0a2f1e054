"""A web server on a real port, by names that only the tests' network knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from node.environment import Address, Environment, SystemNetwork
from tests.node.agents.inline import inline_environment


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """``pages`` has what each path answers, head and body; ``seen`` has what was asked."""

    pages: dict[str, bytes]
    port: int = 0
    seen: list[Request] = field(default_factory=list)

    def url(self, path: str, host: str = "site.example") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some() or b"\r\n\r\n"
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines if line)}
            while len(body) < int(headers.get("content-length", 0)):
                body += await stream.receive_some()
            method, path, _ = first.split(" ")
            self.seen.append(Request(method, path, headers, body))
            if path == "/silent":
                await trio.sleep_forever()
            try:
                await stream.send_all(self.pages[path])
            except trio.BrokenResourceError:
                return  # the client has read enough


def page(
    body: bytes, content_type: str = "text/plain", status: int = 200, headers: Mapping[str, str] | None = None
) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return page(b"", status=status, headers={"location": location})


class Names(SystemNetwork):
    """Knows the addresses of a few names; each look-up takes the next answer, the last one stays."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        answers = self.names[host.partition(".")[0]]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(address, port) for address in found]


def environment_with(names: Names) -> Environment:
    return replace(inline_environment(), network=names)


@asynccontextmanager
async def web(**pages: bytes) -> AsyncIterator[Web]:
    found = Web({f"/{name}": answer for name, answer in pages.items()})
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")  # noqa: TID251 - a real server
        found.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, found.serve, [listener])
        yield found
        nursery.cancel_scope.cancel()
