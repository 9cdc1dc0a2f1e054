"""Serves the admin API with Hypercorn's Trio worker on the node's own event loop.

Hypercorn's own accept loop runs all connections in one nursery, so that one malformed HTTP/2 upgrade ends
the server (and with it the node). The loop is therefore ours: each connection is Hypercorn's, and what
goes wrong in it ends there.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from node.environment import Address, Clock, Environment, Listener
from node.errors import AddressInUse
from node.http.connection import Connection

GRACE_S: Final = 3.0
"""Longest time that running requests may take to end when the node stops, in seconds."""
KEEP_ALIVE_S: Final = 15
"""Longest time a connection may idle between requests, or take to send its first, in seconds."""
READ_LIMIT_S: Final = 30.0
"""Longest time the other end may take to read one piece of an answer, in seconds."""
PING_S: Final = 20.0
"""How often the other end of a WebSocket is pinged, in seconds."""
SILENCE_LIMIT_S: Final = 60.0
"""Longest time without a byte from the other end of a WebSocket, in seconds."""
CLOSING_S: Final = 5.0
"""Longest time that the other end may take to close a WebSocket that is to be closed, in seconds."""
PIECE_BYTES: Final = 64 * 1024
"""Bytes of one piece."""
CONNECTION_LIMIT: Final = 1024
"""Most connections at once; more are closed at once."""
ACCEPT_PAUSE_S: Final = 0.1
"""Pause when the system refuses to accept (no file descriptor is free), in seconds."""

_LOG: Final = logging.getLogger("caxton.http")


async def serve(
    app: FastAPI,
    *,
    environment: Environment,
    host: str,
    port: int,
    shutdown: Callable[[], Awaitable[None]],
    key: str = "server.port",
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``shutdown`` returns, then let running requests end for at most :data:`GRACE_S`.

    Args:
        app: The application.
        environment: Clock and network.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        shutdown: Waits for the end.
        key: The configuration key that an error about the port names.
        task_status: Is told the bound address.

    Raises:
        AddressInUse: the port is taken, or the address cannot be bound.
    """
    try:
        listener = await environment.network.listen(host, port)
    except OSError as error:
        raise _not_bound(error, host, port, key) from error
    server = _Server(app, environment)
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(server.accept, listener, connections)
                task_status.started(listener.address)
                await shutdown()
                accepting.cancel_scope.cancel()
            await listener.aclose()
            await server.context.terminated.set()
            app.state.streams.end()
            connections.cancel_scope.deadline = environment.clock.now() + GRACE_S
    finally:
        with trio.CancelScope(shield=True):  # closing a listening socket does not wait for anybody
            await listener.aclose()


class _Server:
    """The connections of one listener."""

    def __init__(self, app: FastAPI, environment: Environment) -> None:
        self._config = _settings(app)
        self._on_overlong = app.state.sockets.overlong
        self._app: AppWrapper = wrap_app(app, self._config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
        self._clock = environment.clock
        self._open = 0
        self.context = WorkerContext(None)

    async def accept(self, listener: Listener, connections: trio.Nursery) -> None:
        """Accept for ever; each connection gets a task of its own."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                _LOG.warning("no connection can be accepted: %s", error)
                await self._clock.sleep(ACCEPT_PAUSE_S)
                continue
            if self._open >= CONNECTION_LIMIT:
                await trio.aclose_forcefully(stream)
                continue
            self._open += 1
            connections.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            patient = _Patient(stream, self._clock)
            state = ConnectionState(LifespanState(connection=patient))
            await Connection(
                self._app, self._config, self.context, state, patient, on_overlong=self._on_overlong
            )
        except* Exception as errors:
            _LOG.info("a connection ended in an error: %r", errors.exceptions[0])
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)  # Hypercorn leaves it open when it is cancelled


class _Patient:
    """A connection whose other end must go on reading: one that stops would hold its request for ever.

    Args:
        stream: The connection.
        clock: Measures the patience.
    """

    def __init__(self, stream: trio.abc.Stream, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self.socket = stream.socket  # type: ignore[attr-defined]
        self.aclose = stream.aclose
        self.stalled = False
        """Whether the other end has stopped reading, and lost its connection by that."""
        self.frame_limit_bytes = 1 << 62
        """Bytes of a WebSocket's frame beyond which it is too long, where the configuration allows more."""
        self._silence_s = float("inf")
        self._until = float("inf")
        self._sending = trio.Lock()

    def expect_signs_of_life(self) -> None:
        """From now on the other end must send something every :data:`SILENCE_LIMIT_S`; it is pinged."""
        self._silence_s = SILENCE_LIMIT_S

    def end_soon(self) -> None:
        """The connection is to be closed; the other end has :data:`CLOSING_S` to do so itself."""
        self._until = min(self._until, self._clock.now() + CLOSING_S)

    async def receive_some(self, most: int | None = None) -> bytes:
        """Receive what is there.

        Raises:
            trio.BrokenResourceError: the other end is silent, or does not close; the connection is closed.
        """
        with self._clock.move_on_after(min(self._silence_s, self._until - self._clock.now())):
            return bytes(await self._stream.receive_some(most))
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError("the other end is silent")

    async def send_all(self, data: bytes) -> None:
        """Send, a piece at a time.

        Raises:
            trio.BrokenResourceError: a piece was not taken in time; the connection is closed.
        """
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            sent = False
            with self._clock.move_on_after(READ_LIMIT_S):
                async with self._sending:
                    await self._stream.send_all(view[start : start + PIECE_BYTES])
                sent = True
            if not sent:
                self.stalled = True
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError("the other end does not read")

    async def send_eof(self) -> None:
        """End the sending side, after what is being sent."""
        async with self._sending:
            await self._stream.send_eof()  # type: ignore[attr-defined]


def _settings(app: FastAPI) -> Config:
    config = Config()
    config.websocket_max_message_size = app.state.frame_limit_bytes
    config.websocket_ping_interval = PING_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _not_bound(error: OSError, host: str, port: int, key: str) -> AddressInUse:
    taken = error.errno == errno.EADDRINUSE
    return AddressInUse(
        f"the admin API cannot listen on {host}:{port}",
        why="another process listens there" if taken else str(error),
        fix=f"Stop that process, or set {key} to another port (0 takes a free one).",
        details={"key": key, "host": host, "port": port},
    )
