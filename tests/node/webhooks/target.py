"""A receiver of webhooks on a real port, which does what it is told with each request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Target:
    """``plan`` says what is done with the next requests: a status, ``stall``, ``cut`` or ``redirect``."""

    port: int = 0
    plan: list[Any] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some() or b"\r\n\r\n"
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            while len(body) < int(headers.get("content-length", 0)):
                body += await stream.receive_some()
            what = self.plan.pop(0) if self.plan else 204
            self.received.append(Received(first.split(" ")[1], headers, body))
            if what == "stall":
                await trio.sleep_forever()
            if what == "cut":
                await stream.send_all(b"HTTP/1.1 200 O")
                return
            status, extra = (302, f"location: {self.url}/elsewhere\r\n") if what == "redirect" else (what, "")
            answer = f"HTTP/1.1 {status} X\r\n{extra}content-length: 0\r\n\r\n"
            await stream.send_all(answer.encode())


@asynccontextmanager
async def target(*plan: Any) -> AsyncIterator[Target]:
    found = Target(plan=list(plan))
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")  # noqa: TID251 - a real server
        found.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, found.serve, [listener])
        yield found
        nursery.cancel_scope.cancel()
