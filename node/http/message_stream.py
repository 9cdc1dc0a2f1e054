"""``POST /messages/stream``: messages in, one a line, and what became of each out, one a line, in order.

The request's body is read while it arrives, and the answer is written while it does. What has arrived is
accepted in one durable write, then told; only then is more of it taken. So a reader that is slow, or a disk,
or an outbox that is full slows the sender down, and what is held of a stream is bounded.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final

import trio
from starlette.types import Receive

from node.environment import Clock
from node.errors import CaxtonError, NoReply, StorageFailed, ValidationFailed
from node.http.errors import ClientGone, RequestTimedOut, RequestTooLarge, facts
from node.http.sending import Item, Sender, accept_items, read_item, result_json
from node.http.services import ReplyWait, SentMessage
from node.http.streams import Write
from node.http.strict_json import strict_json
from node.message import Message

BATCH_LINES: Final = 256
"""Most lines accepted in one write, and as many more are read meanwhile."""
IDLE_LIMIT_S: Final = 300.0
"""Longest time without a byte from the sender, in seconds; then the stream ends."""
REPLIES_LIMIT: Final = 1_000
"""Most replies that one stream waits for at once; it takes no more lines until some have come."""
STALL_S: Final = 60.0
"""How long a line waits for room in the outbox before it is refused, in seconds."""
ROOM_PAUSE_S: Final = 0.02
"""Pause between two looks whether there is room."""


_FIX: Final = "Send less in one message, or raise server.request_limit_bytes."

Line = tuple[int, bytes | CaxtonError]
"""A line's number, from 1, and its text, or what is wrong with it."""


class Lines:
    """Cuts a byte stream into lines; an overlong one is told and left out.

    Args:
        limit_bytes: Most bytes of one line.
        fix: What the sender of a longer one can do.
    """

    def __init__(self, limit_bytes: int, fix: str = _FIX) -> None:
        self._limit_bytes = limit_bytes
        self._fix = fix
        self._number = 0
        self._rest = bytearray()
        self._skipping = False

    def feed(self, chunk: bytes, *, last: bool = False) -> list[Line]:
        """The lines that are complete with ``chunk``; blank ones are numbered and left out."""
        found: list[Line] = []
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self._end(piece, found)
        if not self._skipping:
            self._rest += rest
            if len(self._rest) > self._limit_bytes:
                self._skip(found)
        if last and (self._rest or self._skipping):
            self._end(b"", found)
        return found

    def _end(self, piece: bytes, found: list[Line]) -> None:
        if self._skipping:
            self._skipping = False
            return
        line = bytes(self._rest + piece).strip()
        if len(self._rest) + len(piece) > self._limit_bytes:
            self._skip(found)
            self._skipping = False
            return
        self._rest.clear()
        self._number += 1
        if line:
            found.append((self._number, line))

    def _skip(self, found: list[Line]) -> None:
        self._rest.clear()
        self._skipping = True
        self._number += 1
        found.append(
            (
                self._number,
                RequestTooLarge(
                    "the line is too long",
                    why=f"the limit is {self._limit_bytes} bytes",
                    fix=self._fix,
                    details={"limit_bytes": self._limit_bytes},
                ),
            )
        )


class Arriving:
    """The lines that have arrived and are not accepted yet: at most a batch, and one line's bytes.

    Args:
        receive: The receiving side of the request.
        clock: Measures the patience.
        limit_bytes: Most bytes of one line, and of all that wait, but for the last chunk.
        fix: What the sender of a longer one can do.
    """

    def __init__(self, receive: Receive, clock: Clock, limit_bytes: int, fix: str = _FIX) -> None:
        self._receive = receive
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._fix = fix
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._complete = False
        self._arrived = trio.Event()
        self._taken = trio.Event()

    async def read(self) -> None:
        """Read to the end of the body.

        Raises:
            ClientGone: it did not come.
        """
        cutter, complete = Lines(self._limit_bytes, self._fix), False
        while not complete:
            while self._lines and (len(self._lines) >= BATCH_LINES or self._bytes >= self._limit_bytes):
                self._taken = trio.Event()
                await self._taken.wait()
            event = None
            with self._clock.move_on_after(IDLE_LIMIT_S):
                event = await self._receive()
            if event is None:
                self._add([(0, _idle())])
                break
            if event["type"] == "http.disconnect":
                raise ClientGone
            complete = not event.get("more_body", False)
            self._add(cutter.feed(event.get("body", b""), last=complete))
        self._complete = True
        self._arrived.set()

    async def take(self) -> list[Line]:
        """What has arrived, at most a batch; empty at the end of the body."""
        while not self._lines and not self._complete:
            self._arrived = trio.Event()
            await self._arrived.wait()
        found = [self._lines.popleft() for _ in range(min(len(self._lines), BATCH_LINES))]
        self._bytes -= sum(_size(line) for line in found)
        self._taken.set()
        return found

    def _add(self, lines: list[Line]) -> None:
        self._lines += lines
        self._bytes += sum(_size(line) for line in lines)
        if lines:
            self._arrived.set()


class MessageStream:
    """One request of the route.

    Args:
        sender: Who sends.
        wait_s: How long to wait for each reply, in seconds; None to tell no replies.
    """

    def __init__(self, sender: Sender, wait_s: float | None) -> None:
        self._sender, self._services = sender, sender.services
        self._clock = sender.services.environment.clock
        self._wait_s = wait_s
        self._waiting = 0
        self._answered = trio.Event()
        self._writing = trio.Lock()

    async def run(self, write: Write, receive: Receive) -> None:
        """Take lines until there are no more, then wait for the last replies."""
        limit_bytes = self._services.config.server.request_limit_bytes
        arriving = Arriving(receive, self._clock, limit_bytes)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arriving.read)
                while lines := await arriving.take():
                    while lines:
                        batch = await self._fitting(lines)
                        lines = lines[len(batch) :]
                        await self._accept(batch, write, nursery)
        except* ClientGone:
            pass

    async def _fitting(self, lines: list[Line]) -> list[Line]:
        """The first of these lines that there is room for; waits for some if there is none."""
        bus, count, size = self._services.bus, 0, 0
        with self._clock.move_on_after(STALL_S):
            while not bus.has_room(1, _size(lines[0])) or self._waiting >= REPLIES_LIMIT:
                await self._clock.sleep(ROOM_PAUSE_S)
        for line in lines[: max(1, REPLIES_LIMIT - self._waiting)]:
            if count and not bus.has_room(count + 1, size + _size(line)):
                break
            count, size = count + 1, size + _size(line)
        return lines[:count]

    async def _accept(self, batch: list[Line], write: Write, nursery: trio.Nursery) -> None:
        """Accept a batch and tell of each line; those whose replies are wanted get a task that waits."""
        read: list[Item | CaxtonError] = []
        waits: dict[int, ReplyWait] = {}
        for place, (_, text) in enumerate(batch):
            try:
                item = self._read(text)
                if self._wait_s is not None and item.message.expects_reply:
                    waits[place] = self._services.bus.expect(item.message)
                read.append(item)
            except CaxtonError as error:
                read.append(error)
        started: set[int] = set()
        try:
            results = await self._results(read)
            told = b""
            for (number, _), each, result in zip(batch, read, results, strict=True):
                message = each.message if isinstance(each, Item) else None
                told += _line({"line": number, **result_json(message, result)})
            async with self._writing:
                await write(told)
            for place, wait in waits.items():
                sent, receipt = read[place], results[place]
                if isinstance(sent, Item) and not isinstance(receipt, CaxtonError):
                    if _broadcast(sent.message):
                        wait.expect(len(receipt.routed_to))
                    started.add(place)
                    self._waiting += 1
                    nursery.start_soon(self._reply, batch[place][0], sent, wait, write)
        finally:
            for place, wait in waits.items():
                if place not in started:
                    self._services.bus.expect_no_more(wait)

    async def _results(self, read: list[Item | CaxtonError]) -> list[SentMessage | CaxtonError]:
        try:
            return await accept_items(self._sender, read)
        except StorageFailed as error:
            return [each if isinstance(each, CaxtonError) else error for each in read]

    def _read(self, text: bytes | CaxtonError) -> Item:
        if isinstance(text, CaxtonError):
            raise text
        try:
            value = strict_json(text)
        except json.JSONDecodeError as error:
            raise ValidationFailed(
                "the line is not valid JSON",
                why=f"{error.msg} at column {error.pos + 1}",
                fix="Send one JSON object a line.",
                details={"field": "", "column": error.pos + 1},
            ) from None
        return read_item(self._sender, value)

    async def _reply(self, number: int, item: Item, wait: ReplyWait, write: Write) -> None:
        """Tell the reply to a line, or that none came in time."""
        try:
            with self._clock.move_on_after(self._wait_s or 0.0):
                await wait.satisfied.wait()
        finally:
            self._services.bus.expect_no_more(wait)
            self._waiting -= 1
        shown: dict[str, Any] = {"line": number, "message_id": item.message.id}
        if not wait.replies:
            shown["error"] = facts(
                NoReply(
                    f"no reply within {self._wait_s:g} s",
                    fix=f"Look at its history (`caxton trace {item.message.id}`).",
                )
            )
        elif _broadcast(item.message):
            shown["replies"] = [reply.as_json() for reply in wait.replies]
        else:
            shown["reply"] = wait.replies[0].as_json()
        async with self._writing:
            await write(_line(shown))


def _broadcast(message: Message) -> bool:
    """Whether every provider answers."""
    return message.goes_to_all


def _size(line: Line) -> int:
    return len(line[1]) if isinstance(line[1], bytes) else 0


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _idle() -> RequestTimedOut:
    return RequestTimedOut(
        "the stream has ended", why=f"nothing came for {IDLE_LIMIT_S:.0f} s", fix="Open another one."
    )
