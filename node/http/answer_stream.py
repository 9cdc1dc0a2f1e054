"""``POST /messages?stream=true``: a message, and its answer while it is made, as server-sent events.

The message is accepted before the answer begins, so that what is wrong with it is an ordinary error. Then
come ``accepted``, a ``partial`` for each piece of text, a ``restart`` where what was shown counts no more,
and at the end ``reply`` with the whole message, or ``error`` where none came in time. Only the reply counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.types import Receive

from node.errors import NoReply, ValidationFailed
from node.http.event_streams import HEARTBEAT_S, Events, EventStream
from node.http.sending import receipt_json
from node.http.services import NodeServices, ReplyWait, SentMessage
from node.http.streams import Streams, Write
from node.http.traffic import Traffic
from node.message import Message
from node.messaging.partial_watches import Watch


class AnswerStream(EventStream):
    """One message and what comes of it.

    Args:
        services: The rooms of the node.
        streams: Counts it.
        traffic: Counts it among those that wait for a reply.
        message: Is sent.
        wait_s: How long to wait for the reply, in seconds.
        ttl_s: The message's life in seconds, or None for the configured one.
        traceparent: W3C Trace Context of the request.

    Raises:
        ValidationFailed: the message goes to many.
    """

    def __init__(
        self,
        services: NodeServices,
        streams: Streams,
        traffic: Traffic,
        message: Message,
        *,
        wait_s: float,
        ttl_s: float | None,
        traceparent: str,
    ) -> None:
        refuse_many(message)
        super().__init__(streams, self._run)
        self._bus, self._clock = services.bus, services.environment.clock
        self._traffic, self._message = traffic, message
        self._wait_s, self._ttl_s, self._traceparent = wait_s, ttl_s, traceparent
        self._watch: Watch
        self._wait: ReplyWait
        self._receipt: SentMessage

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Send the message, and wait for its reply until the answer is written."""
        bus, message = self._bus, self._message
        with self._traffic.wait_for_reply(), bus.partials.watches.watch(message.id) as self._watch:
            self._wait = bus.expect(message)
            try:
                self._receipt = await bus.accept(message, traceparent=self._traceparent, ttl_s=self._ttl_s)
                bus.partials.watches.look()
                yield
            finally:
                bus.expect_no_more(self._wait)

    async def _run(self, write: Write, receive: Receive) -> None:
        del receive
        events = Events(write, self._clock)
        await events.send("accepted", receipt_json(self._receipt))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wake)
            await self._tell(events)
            nursery.cancel_scope.cancel()

    async def _wake(self) -> None:
        await self._wait.satisfied.wait()
        self._watch.wake()

    async def _tell(self, events: Events) -> None:
        """Tell pieces until the reply is here; a reader that is slow gets longer ones."""
        until = self._clock.now() + self._wait_s
        while not self._wait.satisfied.is_set():
            piece = self._watch.take()
            if piece is not None:
                await events.send(piece.event, piece.as_json())
                continue
            left_s = until - self._clock.now()
            if left_s <= 0.0:
                await events.send("error", self._late().as_json())
                return
            await events.beat()
            with self._clock.move_on_after(min(left_s, HEARTBEAT_S)):
                await self._watch.change()
        while (piece := self._watch.take()) is not None:
            await events.send(piece.event, piece.as_json())
        reply = self._wait.replies[0]
        await events.send("reply", {"message_id": self._message.id, "reply": reply.as_json()})

    def _late(self) -> NoReply:
        return NoReply(
            f"no reply within {self._wait_s:g} s",
            why="the provider is slow, or nobody offers what is wanted yet",
            fix=f"Look at its history (`caxton trace {self._message.id}`); its reply is kept when it comes.",
            details={"message_id": self._message.id, "conversation_id": self._message.conversation_id},
        )


def refuse_many(message: Message) -> None:
    """Refuse to show the answer to a message that many answer.

    Raises:
        ValidationFailed: it goes to many.
    """
    if message.goes_to_all:
        raise ValidationFailed(
            "the answers of many cannot be shown while they are made",
            why="a topic or a broadcast has one reply of each receiver",
            fix="Leave stream out, or send to a capability or a receiver.",
            details={"field": "stream"},
        )
