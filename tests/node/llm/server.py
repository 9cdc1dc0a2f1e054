"""An HTTP server on loopback that answers as a test tells it to: whole, in pieces, broken, or not at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    target: str
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class Server:
    """Where it listens, what it answers one after the other, and what it was asked."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request and hang up."""
        async with stream:
            request = await _read(stream)
            if request is None:
                return
            self.seen.append(request)
            answer = self.answers.pop(0)
            with suppress(trio.BrokenResourceError):  # the client has had enough
                await answer(stream)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    """A server that gives these answers in order."""
    server = Server(answers=list(answers))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, server.serve, 0)
        port = listeners[0].socket.getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        yield server
        nursery.cancel_scope.cancel()


async def _read(stream: trio.SocketStream) -> Seen | None:
    raw = b""
    while b"\r\n\r\n" not in raw:
        more = await stream.receive_some()
        if not more:
            return None
        raw += more
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive_some()
    return Seen(first.split(" ")[1], headers, json.loads(body))


def head(status: int, kind: str, *more: str) -> bytes:
    """Status line and headers of an answer that ends with the connection."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "connection: close", *more, "", ""]
    return "\r\n".join(lines).encode()


def whole(found: Any, status: int = 200, *headers: str) -> Answer:
    """JSON, or bytes as they are."""
    data = found if isinstance(found, bytes) else json.dumps(found).encode()

    async def answer(stream: trio.SocketStream) -> None:
        first = head(status, "application/json", f"content-length: {len(data)}", *headers)
        await stream.send_all(first + data)

    return answer


def events(found: Sequence[Any], *, done: bool = True, named: bool = False, then: str = "close") -> Answer:
    """Server-sent events, each by itself; then the connection is closed, or nothing more comes."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "text/event-stream; charset=utf-8"))
        for event in found:
            name = f"event: {event['type']}\n" if named else ""
            await stream.send_all(f"{name}data: {json.dumps(event)}\n\n".encode())
            await trio.lowlevel.checkpoint()
        if done:
            await stream.send_all(b"data: [DONE]\n\n")
        if then == "stall":
            await trio.sleep_forever()

    return answer


async def hang_up(stream: trio.SocketStream) -> None:
    """Close without a word."""


async def stall(stream: trio.SocketStream) -> None:
    """Say nothing, for ever."""
    await trio.sleep_forever()


def raw(*pieces: bytes) -> Answer:
    """Exactly these bytes."""

    async def answer(stream: trio.SocketStream) -> None:
        for piece in pieces:
            await stream.send_all(piece)

    return answer


async def flood(stream: trio.SocketStream) -> None:
    """An answer that never ends."""
    await stream.send_all(head(200, "text/event-stream"))
    while True:
        await stream.send_all(b'data: {"choices": []}\n\n' * 100)
