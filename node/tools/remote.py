"""A tool server that is reached by streamable HTTP, and the guard before it.

The url is the operator's, but what its name leads to is not. So the name is resolved first, its addresses are
judged, and the connection goes to an address that was judged. Redirects are followed only where they stay on
the same origin (the SDK sees to it), no proxy of the environment is used, and answers are counted before they
are read: a body, or what a stream sends in a while, that is too large is broken off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import httpx2
import trio

from node.config import McpServer, ToolServerLimits
from node.config.tool_servers import is_this_machine
from node.environment import Clock, Environment
from node.security.outbound import domain_allowed, is_public, is_within, plain_address
from node.tools.stdio import MESSAGE_BYTES_LIMIT

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

STREAM_BYTES_LIMIT: Final = 4 * MESSAGE_BYTES_LIMIT
"""Most bytes that an event stream sends within :data:`STREAM_PERIOD_S`."""
STREAM_PERIOD_S: Final = 10.0
CONNECT_S: Final = 10.0
SILENCE_S: Final = 300.0
"""Longest silence of an answer or an event stream, in seconds."""
_PORTS: Final = {"http": 80, "https": 443}


class HttpLink:
    """One connection to a streamable HTTP server.

    Args:
        server: Its url and headers, as configured.
        limits: Where it may lead.
        environment: Clock and network.
    """

    def __init__(self, server: McpServer, limits: ToolServerLimits, *, environment: Environment) -> None:
        self._server, self._limits, self._environment = server, limits, environment
        self.ended = trio.Event()
        self.reason, self.hint = "its connection has ended", ""
        self.missing: Mapping[str, str] = {}

    def end(self, reason: str) -> None:
        """Note why it is over, the first time; whoever owns the link then leaves it."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransportStreams]:
        """Speak to the server as long as the block lasts."""
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - by who connects

        headers = {name: secret.get_secret_value() for name, secret in self._server.headers.items()}
        async with httpx2.AsyncClient(
            transport=GuardedTransport(self._server.url or "", self._limits, self._environment),
            headers=headers | {"accept-encoding": "identity"},
            timeout=httpx2.Timeout(CONNECT_S, read=SILENCE_S),
            trust_env=False,
        ) as client:
            url = self._server.url or ""
            async with streamable_http_client(
                url, http_client=client, max_sse_event_size=MESSAGE_BYTES_LIMIT
            ) as streams:
                yield streams


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Makes requests to one server, and to nobody else.

    Args:
        url: The server's, as configured.
        limits: Where it may lead.
        environment: Clock and network.
        inner: Makes the requests to addresses; by default over the network.
    """

    def __init__(
        self,
        url: str,
        limits: ToolServerLimits,
        environment: Environment,
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._url, self._limits, self._environment = httpx2.URL(url), limits, environment
        self._inner = inner or httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make a request where it may go, and bound what is answered.

        Raises:
            ConnectError: it must not go there.
            StreamError: the answer is larger than is read, or packed.
        """
        url = request.url
        address = await self._judged(url)
        answer = await self._inner.handle_async_request(
            httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # its Host is the name still
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )
        )
        if answer.headers.get("content-encoding", "identity") != "identity":
            await answer.aclose()
            raise httpx2.StreamError("the answer is packed, although that was not asked for")
        events = answer.headers.get("content-type", "").startswith("text/event-stream")
        body = _Bounded(answer.stream, None if not events else self._environment.clock)
        return httpx2.Response(
            answer.status_code, headers=answer.headers, stream=body, extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

    async def _judged(self, url: httpx2.URL) -> str:
        """The address to connect to; every address of the name must be one that may be called."""
        host = url.host
        if host != self._url.host or (self._limits.allowed_domains and not self._is_named(host)):
            raise httpx2.ConnectError(f"{host} is not the configured server")
        network = self._environment.network
        try:
            found = await network.resolve(host, url.port or _PORTS.get(url.scheme, 443))
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError(f"{host} cannot be resolved: {error}") from None
        if not found:
            raise httpx2.ConnectError(f"{host} has no address")
        for address, _ in found:
            self._check(host, address)
        return found[0][0]

    def _is_named(self, host: str) -> bool:
        return domain_allowed(host, self._limits.allowed_domains)

    def _check(self, host: str, address: str) -> None:
        ip = plain_address(address)
        if is_public(ip) or is_within(ip, self._limits.allowed_networks):
            return
        if is_this_machine(host) and ip.is_loopback:
            return
        if host.strip("[]") == address and not ip.is_link_local and not ip.is_unspecified:
            return  # whoever wrote an address into the configuration has meant that address
        raise httpx2.ConnectError(
            f"{host} leads to {ip}, which is no public address; if it is meant, name its network in "
            "allowed_networks of the server"
        )


class _Bounded(httpx2.AsyncByteStream):
    """A body of an answer, broken off where it becomes too large."""

    def __init__(self, inner: Any, clock: Clock | None) -> None:
        self._inner, self._clock = inner, clock

    async def __aiter__(self) -> AsyncIterator[bytes]:
        limit = MESSAGE_BYTES_LIMIT if self._clock is None else STREAM_BYTES_LIMIT
        began, size = 0.0, 0
        chunks = aiter(self._inner)
        async for chunk in chunks:
            if self._clock is not None and self._clock.now() - began >= STREAM_PERIOD_S:
                began, size = self._clock.now(), 0
            size += len(chunk)
            if size > limit:
                await self._inner.aclose()
                with suppress(Exception):
                    await anext(chunks)  # from a closed stream: ends the iterator, and those within it
                raise httpx2.StreamError(f"it sent more than {limit:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
