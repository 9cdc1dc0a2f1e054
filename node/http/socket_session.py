"""One WebSocket: frames of JSON text in both directions, each with a ``type``.

What arrives is taken in order. Messages and acknowledgements that have arrived are written together, then
answered; meanwhile no more is read than fits, so a client that is quicker than the disk waits. A mailbox that
the client subscribes to is told by a task of its own, as far as the client's credit goes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final

import trio
from pydantic import ValidationError

from node.errors import CaxtonError, ResourceLimitExceeded, StorageFailed, Unauthorized, ValidationFailed
from node.http.answer_stream import refuse_many
from node.http.errors import facts, validation_failed
from node.http.frames import (
    FRAMES,
    AckFrame,
    CreditFrame,
    Frame,
    HelloFrame,
    PingFrame,
    SendFrame,
    SubscribeFrame,
    UnsubscribeFrame,
)
from node.http.mailboxes import check_owner
from node.http.sending import Item, Sender, accept_items, read_item, receipt_json
from node.http.services import Caller, NodeServices, SentMessage
from node.http.strict_json import strict_json
from node.messaging.consumer import WINDOW_LIMIT, Consumer
from node.messaging.partial_watches import Watch
from node.security.permissions import WS_FRAMES

HELLO_S: Final = 5.0
"""Seconds within which a client that has sent no token with its request says hello."""
DRAIN_S: Final = 5.0
"""Longest time that what a client has sent before it went may take to be written, in seconds."""
SEND_WINDOW: Final = 256
"""Messages that a client may send before the first of them is answered."""
SUBSCRIPTION_LIMIT: Final = 64
"""Most mailboxes that one socket reads."""
STREAMED_LIMIT: Final = 32
"""Most messages of one socket whose replies are told while they are made."""
AT_ONCE: Final = 16
"""Most messages of a mailbox that are told at once."""
DELIVERY_LIMIT: Final = SUBSCRIPTION_LIMIT * WINDOW_LIMIT
"""Deliveries remembered until they are acknowledged; beyond it those that have expired are forgotten."""
BAD_FRAME_LIMIT: Final = 16
"""Frames that are none; then the socket is closed."""

NORMAL, GOING_AWAY, NOT_TEXT, POLICY = 1000, 1001, 1003, 1008
"""Close codes of RFC 6455, section 7.4.1."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class Closed(Exception):
    """The socket is to be closed from here.

    Args:
        code: The close code.
        reason: For people; at most 123 bytes.
        count: Under what it is counted.
    """

    def __init__(self, code: int, reason: str, count: str) -> None:
        super().__init__(reason)
        self.code, self.reason, self.count = code, reason, count


class Gone(Exception):
    """The client has gone."""


class Session:
    """See the module's docstring.

    Args:
        services: The rooms of the node.
        caller: Whose token came with the request; None until the client says hello.
        receive: The receiving side.
        send: The sending side.
        on_known: Called when the client has said who it is.
    """

    def __init__(
        self,
        services: NodeServices,
        caller: Caller | None,
        receive: Receive,
        send: Send,
        *,
        on_known: Callable[[], None],
    ) -> None:
        self._services, self._caller, self._on_known = services, caller, on_known
        self._clock = services.environment.clock
        self._receive, self._send = receive, send
        self._sending = trio.Lock()
        self._waiting: deque[tuple[str, Any]] = deque()
        self._waiting_bytes = self._frame_bytes = 0
        self._arrived, self._taken = trio.Event(), trio.Event()
        self._working = False
        self._bad_frames = self._streamed = 0
        self._subscriptions: dict[str, trio.CancelScope] = {}
        self._consumers: dict[str, Consumer] = {}
        self._windows: dict[str, int] = {}
        self._deliveries: dict[int, tuple[str, int, str]] = {}
        self._delivered = 0
        self._nursery: trio.Nursery
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "hello": self._on_hello,
            "send": self._on_send,
            "subscribe": self._on_subscribe,
            "unsubscribe": self._on_unsubscribe,
            "ack": self._on_ack,
            "credit": self._on_credit,
            "ping": self._on_ping,
        }

    async def run(self) -> None:
        """Serve the client until it goes.

        Raises:
            Closed: it is to be closed from here.
        """
        if self._caller is None:
            try:
                await self._wait_for_hello()
            except Gone:
                return
        await self._tell({"type": "welcome", "node": self._services.node, "credit": SEND_WINDOW})
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._work)
            try:
                while True:
                    await self._take(await self._read())
            except Gone:
                with self._clock.move_on_after(DRAIN_S):
                    await self._finish()
                nursery.cancel_scope.cancel(reason="the client has gone")

    async def _finish(self) -> None:
        """Read nothing more; what the client has sent and acknowledged before it went still counts."""
        for scope in self._subscriptions.values():
            scope.cancel(reason="the client has gone")
        while self._waiting or self._working:
            self._taken = trio.Event()
            await self._taken.wait()

    # Reading

    async def _read(self) -> str:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            raise Gone
        text = event.get("text")
        if not isinstance(text, str):
            raise Closed(NOT_TEXT, "frames are JSON text", "refused")
        return text

    async def _wait_for_hello(self) -> None:
        text = None
        with self._clock.move_on_after(HELLO_S):
            text = await self._read()
        if text is None:
            raise Closed(POLICY, f"no hello within {HELLO_S:.0f} s", "unauthorized")
        try:
            frame = self._frame(text)
            if not isinstance(frame, HelloFrame):
                raise Unauthorized("the first frame is no hello", fix='Send {"type": "hello", "token": ...}.')
            self._caller = self._services.tokens.authenticate(frame.token)
            self._on_known()
        except CaxtonError as error:
            await self._tell_error(None, error)
            raise Closed(POLICY, "who is there?", "unauthorized") from None

    async def _take(self, text: str) -> None:
        frame: Frame | None = None
        self._frame_bytes = len(text)
        try:
            frame = self._frame(text)
            self._sender.caller.require(WS_FRAMES[frame.type])
            await self._handlers[frame.type](frame)
        except CaxtonError as error:
            await self._tell_error(None if frame is None else frame.id, error)
            if frame is None:
                self._bad_frames += 1
                if self._bad_frames >= BAD_FRAME_LIMIT:
                    raise Closed(POLICY, "too many frames that are none", "refused") from None

    def _frame(self, text: str) -> Frame:
        try:
            value = strict_json(text.encode(errors="surrogatepass"))
        except json.JSONDecodeError as error:
            raise ValidationFailed(
                "the frame is not valid JSON",
                why=f"{error.msg} at column {error.pos + 1}",
                fix="Send one JSON object in each frame.",
            ) from None
        kind = value.get("type") if isinstance(value, dict) else None
        model = FRAMES.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise ValidationFailed(
                "there is no such type of frame",
                why="types are " + ", ".join(sorted(FRAMES)),
                fix="Send one of them.",
                details={"field": "type"},
            )
        try:
            return model.model_validate(value)
        except ValidationError as error:
            problems = [{**problem, "loc": ("frame", *problem["loc"])} for problem in error.errors()]
            raise validation_failed(problems, None) from None

    # Frames

    async def _on_hello(self, frame: HelloFrame) -> None:
        del frame
        raise ValidationFailed("you have said hello already", details={"field": "type"})

    async def _on_ping(self, frame: PingFrame) -> None:
        await self._tell({"type": "pong", "id": frame.id})

    async def _on_send(self, frame: SendFrame) -> None:
        await self._add("send", (frame.id, frame.message, frame.stream))

    async def _on_ack(self, frame: AckFrame) -> None:
        numbers = frame.delivery if isinstance(frame.delivery, list) else [frame.delivery]
        unknown = [number for number in numbers if number > self._delivered]
        if unknown:
            raise ValidationFailed(
                f"no delivery {unknown[0]} was made on this socket",
                fix="Acknowledge by the number that came with the message.",
                details={"field": "delivery"},
            )
        await self._add("ack", numbers)

    async def _on_subscribe(self, frame: SubscribeFrame) -> None:
        name = frame.mailbox
        check_owner(self._services, self._sender.caller, name)
        if name in self._subscriptions:
            raise ValidationFailed(f"you read {name!r} already", details={"field": "mailbox"})
        if len(self._subscriptions) >= SUBSCRIPTION_LIMIT:
            raise ResourceLimitExceeded(
                "this socket reads as many mailboxes as it can", why=f"the limit is {SUBSCRIPTION_LIMIT}"
            )
        self._subscriptions[name] = scope = trio.CancelScope()
        self._windows[name] = frame.credit
        await self._tell({"type": "subscribed", "mailbox": name, "id": frame.id})
        self._nursery.start_soon(self._deliver, name, scope)

    async def _on_unsubscribe(self, frame: UnsubscribeFrame) -> None:
        scope = self._subscriptions.get(frame.mailbox)
        if scope is None:
            raise ValidationFailed(f"you do not read {frame.mailbox!r}", details={"field": "mailbox"})
        scope.cancel(reason="unsubscribed")

    async def _on_credit(self, frame: CreditFrame) -> None:
        names = list(self._subscriptions) if frame.mailbox is None else [frame.mailbox]
        for name in names:
            if name not in self._subscriptions:
                raise ValidationFailed(f"you do not read {name!r}", details={"field": "mailbox"})
            self._windows[name] = frame.messages
            if name in self._consumers:
                self._consumers[name].open_window(frame.messages)

    # Writing to disk

    async def _add(self, kind: str, what: Any) -> None:
        limit_bytes = self._services.config.server.request_limit_bytes
        while len(self._waiting) >= SEND_WINDOW or self._waiting_bytes >= limit_bytes:
            self._taken = trio.Event()
            await self._taken.wait()
        self._waiting.append((kind, what))
        self._waiting_bytes += self._frame_bytes
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            taken = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._working = True
            self._taken.set()
            acks = [number for kind, numbers in taken if kind == "ack" for number in numbers]
            if acks:
                await self._acknowledge(acks)
            sends = [what for kind, what in taken if kind == "send"]
            if sends:
                await self._accept(sends)
            self._working = False
            self._taken.set()

    async def _accept(self, sends: list[tuple[Any, Any, bool]]) -> None:
        read: list[Item | CaxtonError] = []
        watches: dict[int, tuple[Watch, ExitStack]] = {}
        for place, (_, value, streams) in enumerate(sends):
            try:
                item = read_item(self._sender, value)
                if streams:
                    watches[place] = self._watch(item)
                read.append(item)
            except CaxtonError as error:
                read.append(error)
        try:
            results = await self._results(read)
            for place, ((identifier, _, _), result) in enumerate(zip(sends, results, strict=True)):
                if isinstance(result, CaxtonError):
                    await self._tell_error(identifier, result)
                    continue
                await self._tell({"type": "accepted", "id": identifier, **receipt_json(result)})
                if place in watches:
                    self._nursery.start_soon(self._show, identifier, *watches.pop(place))
        finally:
            for _, held in watches.values():
                held.close()
                self._streamed -= 1
        room = next(n for n in (SEND_WINDOW, 16, 1, 0) if n == 0 or self._services.bus.has_room(n, 0))
        await self._tell({"type": "credit", "messages": room})

    async def _results(self, read: list[Item | CaxtonError]) -> list[SentMessage | CaxtonError]:
        try:
            return await accept_items(self._sender, read)
        except StorageFailed as error:
            return [each if isinstance(each, CaxtonError) else error for each in read]

    def _watch(self, item: Item) -> tuple[Watch, ExitStack]:
        """Watch a message that is accepted next; what it takes is given back with the stack."""
        refuse_many(item.message)
        if self._streamed >= STREAMED_LIMIT:
            raise ResourceLimitExceeded(
                "this socket is told as many replies while they are made as it can be",
                why=f"the limit is {STREAMED_LIMIT}",
                fix="Wait until some have ended, or leave stream out.",
            )
        held = ExitStack()
        watch = held.enter_context(self._services.bus.partials.watches.watch(item.message.id))
        self._streamed += 1
        return watch, held

    async def _show(self, identifier: Any, watch: Watch, held: ExitStack) -> None:
        """Tell the reply to a message while it is made, until the message has ended."""
        self._services.bus.partials.watches.look()
        try:
            with held:
                while not watch.ended:
                    await watch.change()
                    while (piece := watch.take()) is not None:
                        await self._tell({"type": piece.event, "id": identifier, **piece.as_json()})
        finally:
            self._streamed -= 1
        await self._tell({"type": "ended", "id": identifier, "message_id": watch.message_id})

    async def _acknowledge(self, numbers: list[int]) -> None:
        by_mailbox: dict[str, list[tuple[int, str]]] = {}
        for number in numbers:
            found = self._deliveries.pop(number, None)
            if found is not None:
                by_mailbox.setdefault(found[0], []).append(found[1:])
        for name, given in by_mailbox.items():
            try:
                await self._services.bus.mailboxes.acknowledge(name, given)
            except CaxtonError as error:  # the mailbox was deleted
                await self._tell_error(None, error)

    # Telling

    async def _deliver(self, name: str, scope: trio.CancelScope) -> None:
        """Tell what a mailbox holds and gets, until it is read elsewhere or not at all."""
        reason = "unsubscribed"
        try:
            with scope, self._services.bus.mailboxes.consume(name, self._windows[name]) as consumer:
                self._consumers[name] = consumer
                while found := await consumer.take(AT_ONCE):
                    for entry in found:
                        self._delivered += 1
                        number = self._delivered
                        self._deliveries[number] = (name, entry.seq, entry.message.id)
                        if len(self._deliveries) > DELIVERY_LIMIT:
                            self._forget_expired()
                        shown = {"mailbox": name, "delivery": number, "message": entry.message.as_json()}
                        await self._tell({"type": "message", **shown})
                reason = consumer.reason
        except CaxtonError as error:
            reason = str(error)
        finally:
            self._forget(name)
        await self._tell({"type": "unsubscribed", "mailbox": name, "reason": reason})

    def _forget_expired(self) -> None:
        """Keep the deliveries that the windows count; the others have ended without an acknowledgement."""
        consumers = self._consumers
        self._deliveries = {
            number: (name, seq, message_id)
            for number, (name, seq, message_id) in self._deliveries.items()
            if name in consumers and consumers[name].waits_for(seq)
        }

    def _forget(self, name: str) -> None:
        self._consumers.pop(name, None)
        self._subscriptions.pop(name, None)
        self._windows.pop(name, None)
        for number in [n for n, found in self._deliveries.items() if found[0] == name]:
            del self._deliveries[number]

    async def _tell(self, frame: dict[str, Any]) -> None:
        shown = {key: value for key, value in frame.items() if value is not None}
        async with self._sending:
            await self._send({"type": "websocket.send", "text": json.dumps(shown, separators=(",", ":"))})

    async def _tell_error(self, identifier: Any, error: CaxtonError) -> None:
        retry_after_s = error.details.get("retry_after_s") if error.status == 429 else None
        frame = {"type": "error", "id": identifier, "retry_after_s": retry_after_s, "error": facts(error)}
        await self._tell(frame)

    @property
    def _sender(self) -> Sender:
        if self._caller is None:
            raise Unauthorized("the client has not said hello")
        return Sender(self._services, self._caller, "")
