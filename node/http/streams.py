"""Answers that go on: how they are written piece by piece, how many there may be, and how they end.

A stream ends when its source has no more to say, when the other end goes, or when the node stops. The other
end reads as slowly as it likes, up to ``node.http.server.READ_LIMIT_S`` for each piece: writing waits for it,
so that whatever produces the answer waits as well, and nothing is gathered in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.errors import ResourceLimitExceeded

STREAM_LIMIT: Final = 256
"""Most streams at once, of all kinds; each is one of the requests in flight."""

Write = Callable[[bytes], Awaitable[None]]
"""Sends a piece; waits until the other end has room for it."""


class Streams:
    """The streams under way on this node."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}
        self._ending = False
        self._opened = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Count one stream; what is inside is cancelled when the node stops.

        Raises:
            ResourceLimitExceeded: there are too many.
        """
        if len(self._scopes) >= STREAM_LIMIT:
            raise ResourceLimitExceeded(
                "too many streams are open",
                why=f"the limit is {STREAM_LIMIT}",
                fix="Close some, or use one for several purposes.",
                details={"retry_after_s": 5},
            )
        self._opened += 1
        with trio.CancelScope() as scope:
            if self._ending:
                scope.cancel(reason="the node stops")
            self._scopes[scope] = None
            try:
                yield
            finally:
                del self._scopes[scope]

    def end(self) -> None:
        """The node stops: end all streams, and those that are yet to come."""
        self._ending = True
        for scope in self._scopes:
            scope.cancel(reason="the node stops")

    @property
    def ending(self) -> bool:
        """Whether the node stops."""
        return self._ending

    def statistics(self) -> dict[str, int]:
        """Counts and their bound."""
        return {
            "streams": len(self._scopes),
            "streams_limit": STREAM_LIMIT,
            "streams_opened": self._opened,
        }


class Streamed(Response):
    """An answer whose body is written while it is made.

    Args:
        streams: Counts it.
        produce: Writes it; is given the receiving side of the request, too.
        reads: Whether ``produce`` reads the request's body; otherwise the other end is watched from here.
    """

    def __init__(
        self,
        streams: Streams,
        produce: Callable[[Write, Receive], Awaitable[None]],
        *,
        reads: bool = False,
    ) -> None:
        self._streams = streams
        self._produce = produce
        self._reads = reads
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"x-accel-buffering": "no"})
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        del scope

        async def write(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        with self._streams.open():
            async with self.held():
                await self._answer(receive, send, write)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """What is held while the answer is written; what it raises before is answered in its place."""
        yield

    async def _answer(self, receive: Receive, send: Send, write: Write) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with trio.open_nursery() as nursery:
            if not self._reads:
                nursery.start_soon(_watch, receive, nursery.cancel_scope)
            await self._produce(write, receive)
            nursery.cancel_scope.cancel()


class JsonLines(Streamed):
    """One JSON object a line."""

    media_type = "application/x-ndjson"


async def _watch(receive: Receive, scope: trio.CancelScope) -> None:
    """End the answer when nobody is there any more to read it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel(reason="the other end has gone")
