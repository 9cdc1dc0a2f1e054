"""One open link, either side: frames in, frames out, and a pulse.

Two tasks share the stream. The reader hands each frame on before it reads the next, so that a slow room
above slows the peer down. The writer asks its owner for the next frame whenever it is woken, and sends a
Ping now and then; both sides do, so silence means that the peer is gone even while one side's reader is busy.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from node.environment import Clock
from node.errors import CaxtonError, PeerRejected
from node.security.permissions import FRAMES, Permission
from node.transport.frames import (
    FRAME_NAMES,
    HEADER_BYTES,
    MAX_COUNTER,
    MAX_FRAME_BYTES,
    Frame,
    Goodbye,
    Ping,
    Pong,
    decode,
    encode,
    rejected,
)
from node.transport.handler import LinkCounters, LinkLimits

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK_BYTES: Final = 65_536
_GOODBYE_S: Final = 1.0
"""How long a link that is being closed tries to say why."""


class LinkEnded(Exception):
    """The link is over, for an everyday reason: the peer closed it, went silent or was unreachable."""


class FrameChannel:
    """Frames over a byte stream.

    Args:
        stream: The encrypted stream.
        clock: For deadlines.
        limits: How long silence may last.
        counters: Bytes and frames are counted here.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, clock: Clock, limits: LinkLimits, counters: LinkCounters
    ) -> None:
        self._stream, self._clock, self._limits, self._counters = stream, clock, limits, counters
        self._buffer = bytearray()
        self._sending = False

    @property
    def intact(self) -> bool:
        """Whether a further frame would begin where the peer expects one."""
        return not self._sending

    async def send(self, data: bytes) -> None:
        """Send an encoded frame.

        Raises:
            LinkEnded: the peer is gone, or takes nothing for ``dead_s``.
        """
        self._sending = True
        view = memoryview(data)
        # In pieces: each must get away within the deadline, so a slow line is not taken for a dead one.
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            with self._clock.move_on_after(self._limits.dead_s) as scope:
                try:
                    await self._stream.send_all(piece)
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    raise LinkEnded("the connection broke") from None
            if scope.cancelled_caught:
                raise LinkEnded(f"the peer took nothing for {self._limits.dead_s:g} s")
            self._counters.bytes_sent += len(piece)
        self._counters.frames_sent += 1
        self._sending = False

    async def receive(self) -> Frame:
        """The next frame.

        Raises:
            LinkEnded: the peer closed the link, or is silent for ``dead_s``.
            PeerRejected: what arrived is no frame.
        """
        await self._fill(HEADER_BYTES)
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if not 0 < length <= MAX_FRAME_BYTES:
            raise rejected(
                "oversize", f"a frame of {length} bytes is announced; at most {MAX_FRAME_BYTES} pass"
            )
        await self._fill(HEADER_BYTES + length)
        body = bytes(memoryview(self._buffer)[HEADER_BYTES : HEADER_BYTES + length])
        del self._buffer[: HEADER_BYTES + length]
        frame = decode(body)
        self._counters.frames_received += 1
        return frame

    async def aclose(self) -> None:
        """Close the stream at once."""
        await trio.aclose_forcefully(self._stream)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data: bytes | bytearray = b""
            with self._clock.move_on_after(self._limits.dead_s) as scope:
                try:
                    data = await self._stream.receive_some(_CHUNK_BYTES)
                except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                    raise LinkEnded("the connection broke") from None
            if scope.cancelled_caught:
                raise LinkEnded(f"the peer was silent for {self._limits.dead_s:g} s")
            if not data:
                raise LinkEnded("the peer closed the connection")
            self._counters.bytes_received += len(data)
            self._buffer += data


class Session:
    """The reader and the writer of an open link.

    Args:
        peer: The authenticated node at the other end.
        channel: The frames.
        clock: For the pulse.
        limits: Its period.
        counters: Refusals are counted here.
        take: The owner's next frame, encoded, or None if it has nothing to say now.
        due: When the owner will have something to say, if it knows, on the monotonic clock.
        handle: What the owner does with a frame that is not about the session itself.
    """

    def __init__(
        self,
        peer: str,
        channel: FrameChannel,
        *,
        clock: Clock,
        limits: LinkLimits,
        counters: LinkCounters,
        take: Callable[[], bytes | None],
        handle: Callable[[Frame], Awaitable[None]],
        due: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.peer = peer
        self.channel = channel
        self.rtt_s: float | None = None
        self.confirmed_s: float | None = None
        """Unix seconds at which a Ping was sent that was answered: a peer handles frames in their order, so
        it is done with all that was sent before."""
        self._clock, self._limits, self._counters = clock, limits, counters
        self._take, self._handle, self._due = take, handle, due
        self._wake = trio.Event()
        self._pong: int | None = None
        self._pinged: tuple[int, float] = (0, 0.0)
        self._farewell: str | None = None
        self._reason = ""
        self._scope = trio.CancelScope()

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def end(self, reason: str, *, farewell: str | None = None) -> None:
        """Close the link; ``farewell`` is told to the peer if the stream still allows it."""
        self._reason = self._reason or reason
        self._farewell = self._farewell or farewell
        self._scope.cancel()

    async def run(self, body: Callable[[], Awaitable[None]] | None = None) -> str:
        """Run the link, with ``body`` beside it, until it ends; return why.

        The channel is closed afterwards.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guard, self._read)
                    nursery.start_soon(self._guard, self._write)
                    if body is not None:
                        nursery.start_soon(self._guard, body)
            if self._farewell is not None and self.channel.intact:
                with self._clock.move_on_after(_GOODBYE_S):
                    try:
                        await self.channel.send(encode(Goodbye(self._farewell)))
                    except LinkEnded:
                        logger.debug("%s was gone before it could be told why", self.peer)
        finally:
            await self.channel.aclose()
        return self._reason

    async def dispatch(self, frame: Frame) -> None:
        """Handle a frame, also before :meth:`run`.

        Raises:
            LinkEnded: it was a Goodbye.
        """
        if FRAMES.get(FRAME_NAMES[type(frame)]) is not Permission.PEER:
            raise rejected("frame", f"a peer may not send a {type(frame).__name__}")
        if isinstance(frame, Ping):
            self._pong = frame.number
            self.wake()
        elif isinstance(frame, Pong):
            number, sent_at = self._pinged
            if frame.number == number:
                self.rtt_s = self._clock.now() - sent_at
                self.confirmed_s = self._clock.wall() - self.rtt_s
        elif isinstance(frame, Goodbye):
            raise LinkEnded(f"the peer said goodbye: {frame.reason}")
        else:
            await self._handle(frame)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Turn every way in which ``work`` can fail into the end of this link, and of nothing else."""
        try:
            await work()
        except LinkEnded as ended:
            self.end(str(ended))
        except PeerRejected as refusal:
            self._counters.reject(str(refusal.details.get("reason", "frame")))
            logger.warning("closing the link with %s: %s", self.peer, refusal)
            self.end(refusal.what, farewell=refusal.what)
        except CaxtonError as error:  # an operating error above, such as a full disk, says it all
            self._counters.reject("handler")
            logger.warning("closing the link with %s: %s", self.peer, error)
            self.end("handling a frame failed here", farewell="handling a frame failed")
        except Exception:
            self._counters.reject("handler")
            logger.exception("closing the link with %s: handling a frame failed", self.peer)
            self.end("handling a frame failed here", farewell="handling a frame failed")

    async def _read(self) -> None:
        while True:
            await self.dispatch(await self.channel.receive())

    async def _write(self) -> None:
        ping_at = self._clock.now() + self._limits.ping_s
        while True:
            data = self._next()
            if data is not None:
                await self.channel.send(data)
                if self._clock.now() < ping_at:
                    continue
                await self._ping()
                ping_at = self._clock.now() + self._limits.ping_s
                continue
            due = self._due()
            until = ping_at if due is None else min(due, ping_at)
            with self._clock.move_on_after(max(0.0, until - self._clock.now())):
                await self._wake.wait()
                await trio.lowlevel.checkpoint()  # what else is ready now shares the frame
            self._wake = trio.Event()
            if self._clock.now() >= ping_at:
                await self._ping()
                ping_at = self._clock.now() + self._limits.ping_s

    async def _ping(self) -> None:
        number = self._pinged[0] % MAX_COUNTER + 1
        self._pinged = (number, self._clock.now())
        await self.channel.send(encode(Ping(number)))

    def _next(self) -> bytes | None:
        if self._pong is not None:
            number, self._pong = self._pong, None
            return encode(Pong(number))
        return self._take()
