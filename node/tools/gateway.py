"""The one way out of a stdio server whose hosts are named: a proxy of the node, on a socket in a directory.

The server runs in a network namespace with nothing in it but a relay of its launcher, which leads here; it is
told of it by ``HTTPS_PROXY`` and the like, which common clients heed. One that does not heed them reaches
nothing. The proxy makes tunnels (``CONNECT``, RFC 9110 section 9.3.6) to hosts that are named, at addresses
that are judged as those of HTTP servers are, and understands nothing else: what is in a tunnel is TLS, and
the server's own.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from node.config import ToolServerLimits
from node.environment import Environment
from node.security.outbound import domain_allowed, is_public, is_within, plain_address

_log = logging.getLogger(__name__)

TUNNELS_LIMIT: Final = 32
"""Most tunnels of one server at once."""
HEAD_BYTES_LIMIT: Final = 8_192
"""Longest head of a request to the proxy."""
HEAD_S: Final = 10.0
"""How long a server may take to say where it wants to go, and the way there may take, in seconds."""
CHUNK_BYTES: Final = 65_536


class Gateway:
    """See the module's docstring.

    Args:
        name: The server's name.
        limits: Which hosts, and which networks that are not public.
        environment: Clock and network.
        tell: Told what was refused.
    """

    def __init__(
        self, name: str, limits: ToolServerLimits, environment: Environment, tell: Callable[[str], None]
    ) -> None:
        self._name, self._limits, self._environment, self._tell = name, limits, environment, tell
        self._tunnels = 0

    async def run(self, path: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a socket of the file system until cancelled."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:  # noqa: TID251 - of no network
            bound.bind(path)
            bound.listen(TUNNELS_LIMIT)
            bound.setblocking(False)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(bound)
                    try:
                        accepted, _ = bound.accept()
                    except OSError:
                        continue
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))  # noqa: TID251
                    nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            if self._tunnels >= TUNNELS_LIMIT:
                await _say(stream, "503 Service Unavailable")
                return
            self._tunnels += 1
            try:
                with self._environment.clock.move_on_after(HEAD_S) as opening:
                    far = await self._open(stream)
                if opening.cancelled_caught or far is None:
                    return
                async with far:
                    await _join(stream, far)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                _log.debug("tool server %s: a tunnel broke: %r", self._name, error)
            finally:
                self._tunnels -= 1

    async def _open(self, stream: trio.abc.Stream) -> trio.abc.Stream | None:
        """Read where the server wants to go, and go there if it may."""
        head = bytearray()
        while b"\r\n\r\n" not in head:
            chunk = await stream.receive_some(HEAD_BYTES_LIMIT)
            head += chunk
            if not chunk or len(head) > HEAD_BYTES_LIMIT:
                return None
        method, _, rest = bytes(head).partition(b"\r\n")[0].decode("latin-1").partition(" ")
        host, _, port = rest.partition(" ")[0].rpartition(":")
        if method != "CONNECT" or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            await _say(stream, "405 Method Not Allowed")
            return None
        addresses = await self._judged(host.strip("[]"), int(port))
        if addresses is None:
            await _say(stream, "403 Forbidden")
            return None
        for address in addresses:
            with suppress(OSError):
                far = await self._environment.network.connect(address, int(port))
                await _say(stream, "200 Connection established")
                return far
        await _say(stream, "502 Bad Gateway")
        return None

    async def _judged(self, host: str, port: int) -> list[str] | None:
        """The addresses of a host that may be reached; None if it may not."""
        if not domain_allowed(host, self._limits.allowed_domains):
            self._tell(f"may not reach {host[:200]}: it is not among its allowed_domains")
            return None
        try:
            found = await self._environment.network.resolve(host, port)
        except (OSError, UnicodeError):
            found = []
        for address, _ in found:
            ip = plain_address(address)
            if not is_public(ip) and not is_within(ip, self._limits.allowed_networks):
                self._tell(f"may not reach {host[:200]}: it leads to {ip}, which is no public address")
                return None
        return [address for address, _ in found]


async def _say(stream: trio.abc.Stream, status: str) -> None:
    await stream.send_all(f"HTTP/1.1 {status}\r\n\r\n".encode())


async def _join(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
    """Carry bytes both ways until either side has ended."""

    async def carry(source: trio.abc.Stream, to: trio.abc.Stream, scope: trio.CancelScope) -> None:
        try:
            while chunk := await source.receive_some(CHUNK_BYTES):
                await to.send_all(chunk)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, near, far, nursery.cancel_scope)
        nursery.start_soon(carry, far, near, nursery.cancel_scope)
