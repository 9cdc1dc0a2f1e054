"""One connection of the admin API: Hypercorn's, where it would hang or grow without a bound made safe.

Hypercorn hands what it reads to the application through a queue, and waits while that is full. The end of the
connection goes the same way; but an application that is sending just then learns of it by that very send, and
would wait for itself. So here the end of a connection always has room, and what comes for an application that
is gone is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr
from wsproto.events import Message

INLET_BYTES: Final = 1024 * 1024
"""Bytes that wait for an application from which on no more are taken."""


class Inlet:
    """What one application receives.

    Args:
        limit: Most events that wait, and none beyond :data:`INLET_BYTES`; whoever puts more waits, too.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._events: deque[Any] = deque()
        self._end: Any = None
        self._closed = False
        self._changed = trio.Event()

    async def put(self, event: Any) -> None:
        """Hand over an event; the end of the connection never waits."""
        if event["type"].endswith(".disconnect"):
            self._end = event
            self._change()
            await trio.lowlevel.checkpoint()
            return
        while self._is_full and self._end is None and not self._closed:
            await self._changed.wait()
        if self._end is None and not self._closed:
            self._events.append(event)
            self._bytes += _size(event)
            self._change()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> Any:
        """The next event: what came before the connection ended, then that it has, again and again."""
        while self._end is None and not self._events:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        if not self._events:
            return self._end
        self._change()
        event = self._events.popleft()
        self._bytes -= _size(event)
        return event

    @property
    def _is_full(self) -> bool:
        return len(self._events) >= self._limit or self._bytes >= INLET_BYTES

    def close(self) -> None:
        """The application is done: nobody receives any more."""
        self._closed = True
        self._events.clear()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _size(event: Any) -> int:
    return len(event.get("body") or event.get("text") or event.get("bytes") or b"")


class _Tasks(TaskGroup):
    """The tasks of a connection; each application gets an :class:`Inlet`."""

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        inlet = Inlet(config.max_app_queue_size)

        async def answer(
            scope: Any, receive: Any, send: Any, sync_spawn: Callable[..., Any], call_soon: Callable[..., Any]
        ) -> None:
            del receive
            try:
                await app(scope, inlet.receive, send, sync_spawn, call_soon)
            finally:
                inlet.close()

        await super().spawn_app(answer, config, scope, send)
        return inlet.put


class _FrameBuffer(WebsocketBuffer):
    """Gathers the pieces of one WebSocket message, and keeps nothing of one that is too long."""

    def __init__(self, limit: Callable[[], int], on_overlong: Callable[[], None]) -> None:
        super().__init__(limit())
        self._limit, self._on_overlong = limit, on_overlong

    def extend(self, event: Message[Any]) -> None:
        """Add a piece.

        Raises:
            FrameTooLargeError: the message is too long; Hypercorn closes with 1009.
        """
        if self.length <= self.max_length:
            self.max_length = self._limit()
        if self.length + len(event.data) > self.max_length:
            if self.length <= self.max_length:
                self._on_overlong()
            self.value, self.length = None, self.max_length + 1
            raise FrameTooLargeError
        super().extend(event)


class _Http1(H11Protocol):
    """HTTP/1.1 whose WebSockets are not compressed, since a little can be a lot, and are bounded."""

    on_overlong: Callable[[], None]
    frame_limit: Callable[[], int]

    async def _create_stream(self, request: h11.Request) -> None:
        kept = [pair for pair in request.headers if pair[0].lower() != b"sec-websocket-extensions"]
        if len(kept) != len(request.headers):
            request = h11.Request(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)
        if isinstance(self.stream, WSStream):
            self.stream.buffer = _FrameBuffer(self.frame_limit, self.on_overlong)


class Connection(TCPServer):
    """A connection without TLS, of Hypercorn's Trio worker but for its tasks and its WebSockets.

    Args:
        arguments: Hypercorn's.
        on_overlong: Called when a WebSocket has sent a message that is too long.
    """

    def __init__(self, *arguments: Any, on_overlong: Callable[[], None]) -> None:
        super().__init__(*arguments)
        self._on_overlong = on_overlong

    def _frame_limit(self) -> int:
        return int(min(self.config.websocket_max_message_size, self.stream.frame_limit_bytes))

    def _overlong(self) -> None:
        self._on_overlong()
        self.stream.end_soon()

    async def run(self) -> None:
        """Serve it to its end."""
        try:
            socket = self.stream.socket
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with _Tasks() as tasks:
                self._task_group = tasks
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState(self.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                    "http/1.1",
                )
                http1 = _Http1(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState(self.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                http1.on_overlong, http1.frame_limit = self._overlong, self._frame_limit
                self.protocol.protocol = http1
                await self.protocol.initiate()
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass  # it has ended before it began
        finally:
            await self._close()
