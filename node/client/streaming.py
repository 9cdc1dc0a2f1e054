"""An answer that is shown while it is made: its text piece by piece, and the reply at the end.

What is shown before the reply is a preview. It may begin anew, which the pieces say, and it ends early where
the connection does: the reply, which the node keeps, is looked up then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import anyio
import httpx

from node.client.calls import Calls, unreachable
from node.client.failures import error_of
from node.client.shapes import Message, Receipt
from node.errors import CaxtonError, DuplicateMessage, ResourceLimitExceeded, StorageFailed

SILENCE_S: Final = 45.0
"""Seconds without a byte after which a connection is given up; a node sends a comment every 15."""

Later = Callable[[], Awaitable[Message]]
"""Looks up the reply to a message whose connection was lost."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A piece of an answer that is being made.

    Args:
        text: What comes next; empty where the answer begins anew.
        restarted: Whether what was shown before counts no more.
        sequence: Numbers the pieces, from 0.
        attempt: 1 at first, one more each time the answer begins anew.
        turn: The turn of the model that speaks.
        is_cut: Whether the rest of this turn is in the reply only.
    """

    text: str
    restarted: bool
    sequence: int
    attempt: int
    turn: int
    is_cut: bool

    @classmethod
    def of(cls, name: str, data: Message) -> Partial:
        """The piece in an event."""
        return cls(
            str(data.get("text") or ""),
            name == "restart",
            int(data["sequence"]),
            int(data["attempt"]),
            int(data["turn"]),
            bool(data.get("is_cut")),
        )


class AsyncAnswer:
    """See :meth:`node.client.AsyncClient.stream`: a context manager, and iterator of pieces.

    Args:
        calls: Calls of the node.
        message: What is sent.
        timeout_s: How long to wait for the reply, in seconds.
        later: Looks the reply up.
    """

    def __init__(self, calls: Calls, message: Message, timeout_s: float, later: Later) -> None:
        self._calls, self._message, self._timeout_s, self._later = calls, message, timeout_s, later
        self._stack = AsyncExitStack()
        self._events: AsyncIterator[tuple[str, str, Any]] | None = None
        self._reply: Message | None = None
        self.receipt: Receipt | None = None
        """Where the message went; None where an earlier attempt had got through."""
        self.text = ""
        """What was shown of the answer so far, from where it began anew last."""

    async def __aenter__(self) -> AsyncAnswer:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> AsyncAnswer:
        return self

    async def __anext__(self) -> Partial:
        """The next piece; waits for one.

        Raises:
            NoReply: no reply came in time; the message goes on.
            CaxtonError: the node refuses.
        """
        try:
            while self._events is not None and self._reply is None:
                name, _, data = await anext(self._events)
                if name in ("partial", "restart"):
                    piece = Partial.of(name, data)
                    self.text = "" if piece.restarted else self.text + piece.text
                    return piece
                if name == "error":
                    raise error_of(data.get("error"))
                if name == "reply":
                    self._reply = dict(data["reply"])
        except (httpx.TransportError, StopAsyncIteration, ValueError):
            self._events = None  # the reply comes all the same, and is kept by the node
        raise StopAsyncIteration

    async def reply(self) -> Message:
        """The reply, which may be a failure; passes over the pieces that were not read.

        Raises:
            NoReply: none came in time; the message goes on.
            CaxtonError: the node refuses.
        """
        async for _ in self:
            pass
        if self._reply is None:
            self._reply = await self._later()
        return self._reply

    async def _open(self) -> None:
        """Send the message, and again where that may help: the node accepts it once."""
        attempt, unsure = 1, False
        while True:
            asked_s: float | None = None
            error: CaxtonError
            try:
                opening = self._calls.events(
                    "/messages", {"wait": self._timeout_s, "stream": "true"}, SILENCE_S, body=self._message
                )
                self._events = await self._stack.enter_async_context(opening)
                _, _, data = await anext(self._events)
            except DuplicateMessage:
                if not unsure:
                    raise
                self._events = None
                return
            except (httpx.TransportError, StopAsyncIteration) as broken:
                error, unsure = unreachable(self._calls.url, broken), True
                error.details.setdefault("unsure", True)
            except (ResourceLimitExceeded, StorageFailed) as refused:
                error = refused
                asked = refused.details.get("retry_after_s")
                asked_s = float(asked) if isinstance(asked, int | float) else None
            else:
                self.receipt = Receipt.of(data)
                return
            await self._close()
            if attempt >= self._calls.retries.attempts:
                raise error from None
            await anyio.sleep(self._calls.retries.pause_s(attempt, asked_s, self._calls.chance))
            attempt += 1

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            stack, self._stack = self._stack, AsyncExitStack()
            self._events = None
            await stack.aclose()
