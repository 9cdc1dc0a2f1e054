"""A client of the WebSocket, on wsproto, that can misbehave."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import LocalProtocolError

from node.environment import SystemNetwork
from tests.node.http.duplex import soon
from tests.node.http.fakes import ADMIN


class SocketClient:
    """One WebSocket."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.refusal = b""
        self.close_code: int | None = None
        self.extensions: list[Any] = []
        self._events: list[Event] = []
        self._text = ""

    @classmethod
    async def open(
        cls,
        port: int,
        *,
        token: str | None = ADMIN,
        origin: str | None = None,
        path: str = "/api/v1/ws",
        host: str | None = None,
    ) -> SocketClient:
        made = cls(await SystemNetwork().connect("127.0.0.1", port))
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        headers += [] if origin is None else [(b"origin", origin.encode())]
        request = Request(
            host=host or f"127.0.0.1:{port}",
            target=path,
            extra_headers=headers,
            extensions=[PerMessageDeflate()],
        )
        await made.stream.send_all(made.ws.send(request))
        event = await made._next()
        if isinstance(event, AcceptConnection):
            made.status, made.extensions = 101, event.extensions
        elif isinstance(event, RejectConnection):
            made.status, made.headers = event.status_code, list(event.headers)
            while isinstance(more := await made._next(), RejectData):
                made.refusal += more.data
                if more.body_finished:
                    break
        return made

    async def send(self, frame: Any) -> None:
        """Send a frame; text goes as it is."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        await self.stream.send_all(self.ws.send(TextMessage(data=text)))

    async def frame(self) -> dict[str, Any] | None:
        """The next frame, or None when the socket is closed."""
        with soon():
            while True:
                event = await self._next()
                if event is None:
                    return None
                if isinstance(event, TextMessage):
                    self._text += event.data
                    if event.message_finished:
                        text, self._text = self._text, ""
                        found: dict[str, Any] = json.loads(text)
                        return found
                elif isinstance(event, CloseConnection):
                    self.close_code = event.code
                    with suppress(trio.BrokenResourceError, LocalProtocolError):
                        await self.stream.send_all(self.ws.send(event.response()))
                    return None
                elif isinstance(event, Ping):
                    await self.stream.send_all(self.ws.send(event.response()))

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next frame of this type; what comes before is left out."""
        while True:
            frame = await self.frame()
            assert frame is not None, f"closed with {self.close_code} before a {kind}"
            if frame["type"] == kind:
                return frame

    async def messages(self, count: int) -> list[dict[str, Any]]:
        return [await self.expect("message") for _ in range(count)]

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def _next(self) -> Event | None:
        while not self._events:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self.ws.receive_data(data)
            self._events += list(self.ws.events())
        return self._events.pop(0)
