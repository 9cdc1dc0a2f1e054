"""A mailbox on a node, read over connections that come and go; nothing is lost, and nothing is given twice.

The node holds each message until it is acknowledged. When a connection ends, the next one brings everything
again that was not; what the application already has in hand of it is left out here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import anyio
import httpx

from node.client.calls import Calls, unreachable
from node.client.failures import TakenOver, error_of
from node.client.shapes import Delivery, Message
from node.errors import CaxtonError, ResourceLimitExceeded, StorageFailed

SILENCE_S: Final = 45.0
"""Seconds without a byte after which a connection is given up; a node sends a comment every 15."""
PATIENCE_S: Final = 300.0
"""How long a connection is tried for, unless the application says otherwise, in seconds."""
PAUSE_LIMIT_S: Final = 5.0
"""Longest pause between attempts, in seconds."""


class AsyncMailbox:
    """A named address of this client on its node.

    Args:
        calls: Calls of the node.
        shown: The mailbox, as the node shows it.
    """

    def __init__(self, calls: Calls, shown: Message) -> None:
        self._calls = calls
        self.name: str = shown["name"]
        self.address: str = shown["address"]
        """Where others send to, and what to give as ``sender`` for replies to come here."""
        self._path = f"/mailboxes/{quote(self.name, safe='')}"

    def subscribe(self, *, window: int = 256, patience_s: float = PATIENCE_S) -> Subscription:
        """Read it: an asynchronous context manager, and iterator of deliveries.

        Args:
            window: Most deliveries in hand that are not acknowledged, 1 to 1,000.
            patience_s: How long to try for a connection, in seconds.
        """
        return Subscription(self._calls, self._path, window, patience_s)

    async def ack(self, *deliveries: Delivery) -> int:
        """These are done: the node holds them no more; returns how many it still held."""
        body = {"ids": [delivery.id for delivery in deliveries]}
        route = "/mailboxes/{name}/acknowledgements"
        answer = await self._calls.call("POST", f"{self._path}/acknowledgements", route=route, body=body)
        return int(answer.body["acknowledged"])

    async def delete(self) -> None:
        """Remove it, with what it holds; the senders are told."""
        await self._calls.call("DELETE", self._path, route="/mailboxes/{name}")


class Subscription:
    """One reader of a mailbox; see the module's docstring.

    Args:
        calls: Calls of the node.
        path: The mailbox's.
        window: Most deliveries in hand.
        patience_s: How long to try for a connection, in seconds.
    """

    def __init__(self, calls: Calls, path: str, window: int, patience_s: float) -> None:
        self._calls, self._path, self._window, self._patience_s = calls, path, window, patience_s
        self._in_hand: dict[str, None] = {}
        self._stack: AsyncExitStack | None = None
        self._events: AsyncIterator[tuple[str, str, Any]] | None = None
        self._failures = 0
        self._failing_since = 0.0

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._disconnect()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery; waits for one, over as many connections as it takes.

        Raises:
            TakenOver: another client reads the mailbox now, or it was deleted.
            CaxtonError: the node refuses.
            NodeUnreachable: no connection could be made for too long.
        """
        while True:
            try:
                if self._events is None:
                    await self._connect()
                found = await self._next()
            except (httpx.TransportError, ResourceLimitExceeded, StorageFailed, ValueError) as error:
                await self._failed(error)
                continue
            if found is None:  # the node stops, or what is between closes what is silent
                await self._failed(httpx.RemoteProtocolError("the stream ended"))
                continue
            self._failures = 0
            if found.id not in self._in_hand:
                self._in_hand[found.id] = None
                return found

    async def ack(self, *deliveries: Delivery) -> int:
        """These are done: the node holds them no more; returns how many it still held."""
        body = {"ids": [delivery.id for delivery in deliveries]}
        route = "/mailboxes/{name}/acknowledgements"
        answer = await self._calls.call("POST", f"{self._path}/acknowledgements", route=route, body=body)
        for delivery in deliveries:
            self._in_hand.pop(delivery.id, None)
        return int(answer.body["acknowledged"])

    async def _failed(self, error: Exception) -> None:
        """A connection has ended or could not be made: pause before the next."""
        await self._disconnect()
        now = time.monotonic()
        self._failing_since = now if self._failures == 0 else self._failing_since
        self._failures += 1
        if now - self._failing_since >= self._patience_s:
            raise error if isinstance(error, CaxtonError) else unreachable(self._path, error) from None
        pause_s = self._calls.retries.pause_s(self._failures, None, self._calls.chance)
        await anyio.sleep(min(pause_s, PAUSE_LIMIT_S))

    async def _connect(self) -> None:
        stack = AsyncExitStack()
        opening: AbstractAsyncContextManager[AsyncIterator[tuple[str, str, Any]]] = self._calls.events(
            f"{self._path}/events", {"window": self._window}, SILENCE_S
        )
        self._events = await stack.enter_async_context(opening)
        self._stack = stack

    async def _disconnect(self) -> None:
        stack, self._stack, self._events = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _next(self) -> Delivery | None:
        """The next delivery of this connection; None when it has ended."""
        events = self._events
        if events is None:
            return None
        async for name, identifier, data in events:
            if name == "message":
                return Delivery(identifier, data["message"])
            if name == "end":
                raise TakenOver("the mailbox is read no more", why=str(data.get("reason", "")))
            if name == "error":
                error: CaxtonError = error_of(data.get("error"))
                raise error
        return None
