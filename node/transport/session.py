"""One open link, either side: frames in, frames out, and a pulse.

Three tasks share the stream. The reader hands frames on before it reads the next, so that a slow
room above slows the peer down; those that have come meanwhile are handed on together, so that a room that is
behind finds more at once, and catches up. The writer asks its owner for the next frame whenever it is woken.
The pulse attends to time, so that reader and writer need no deadline of their own for each frame: it has a
Ping sent now and then, on both sides, so silence means that the peer is gone even while one side's reader is
busy; it looks whether that is so, and wakes the writer for what is due later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
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
TOGETHER_BYTES: Final = 65_536
"""Most bytes of frames that are handled together: a few hundred messages, or a thousand ends of some."""
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
        self._refused: PeerRejected | None = None
        self._sending = False
        self._sends_since: float | None = None
        self._listens_since: float | None = None

    @property
    def intact(self) -> bool:
        """Whether a further frame would begin where the peer expects one."""
        return not self._sending

    @property
    def deadline(self) -> float:
        """When the peer is given up if nothing gets away, or nothing comes, until then."""
        waits = [since for since in (self._sends_since, self._listens_since) if since is not None]
        return min(waits, default=float("inf")) + self._limits.dead_s

    def check(self, now: float) -> None:
        """Look whether the peer is gone; who runs the channel calls this at :attr:`deadline`.

        Raises:
            LinkEnded: it is silent, or takes nothing, for ``dead_s``.
        """
        dead_s = self._limits.dead_s
        if self._sends_since is not None and now >= self._sends_since + dead_s:
            raise LinkEnded(f"the peer took nothing for {dead_s:g} s")
        if self._listens_since is not None and now >= self._listens_since + dead_s:
            raise LinkEnded(f"the peer was silent for {dead_s:g} s")

    async def send(self, data: bytes) -> None:
        """Send an encoded frame.

        Raises:
            LinkEnded: the peer is gone.
        """
        self._sending = True
        view = memoryview(data)
        # In pieces: each must get away within the deadline, so a slow line is not taken for a dead one.
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            self._sends_since = self._clock.now()
            try:
                await self._stream.send_all(piece)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise LinkEnded("the connection broke") from None
            self._counters.bytes_sent += len(piece)
        self._counters.frames_sent += 1
        self._sends_since = None
        self._sending = False

    async def receive(self) -> Frame:
        """The next frame.

        Raises:
            LinkEnded: the peer closed the link.
            PeerRejected: what arrived is no frame.
        """
        if self._refused is not None:
            raise self._refused
        await self._fill(HEADER_BYTES)
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if not 0 < length <= MAX_FRAME_BYTES:
            raise rejected(
                "oversize", f"a frame of {length} bytes is announced; at most {MAX_FRAME_BYTES} pass"
            )
        await self._fill(HEADER_BYTES + length)
        return self._cut(HEADER_BYTES + length)

    async def receive_several(self) -> list[Frame]:
        """The next frame, and those behind it that are here already, up to :data:`TOGETHER_BYTES`.

        Raises:
            LinkEnded: as :meth:`receive`.
            PeerRejected: the first of what is left is no frame; those before it were given out.
        """
        frames = [await self.receive()]
        room = TOGETHER_BYTES
        while len(self._buffer) >= HEADER_BYTES:
            whole = HEADER_BYTES + int.from_bytes(self._buffer[:HEADER_BYTES], "big")
            room -= whole
            if room < 0 or len(self._buffer) < whole or whole == HEADER_BYTES:
                break
            if self._refused is not None:
                break
            try:
                frames.append(self._cut(whole))
            except PeerRejected as refusal:  # of what came before it nothing is wrong
                self._refused = refusal
        return frames

    async def aclose(self) -> None:
        """Close the stream at once."""
        await trio.aclose_forcefully(self._stream)

    def _cut(self, whole: int) -> Frame:
        """Take the first frame, of so many bytes with its header, out of the buffer."""
        body = bytes(memoryview(self._buffer)[HEADER_BYTES:whole])
        del self._buffer[:whole]
        frame = decode(body)
        self._counters.frames_received += 1
        return frame

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            self._listens_since = self._clock.now()
            try:
                data = await self._stream.receive_some(_CHUNK_BYTES)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise LinkEnded("the connection broke") from None
            self._listens_since = None
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
        handle: What the owner does with frames that are not about the session itself: one, or several of the
            same type that have come one after the other.
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
        handle: Callable[[Sequence[Frame]], Awaitable[None]],
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
        self._wake, self._rouse = trio.Event(), trio.Event()
        self._sleeps_until = float("inf")
        self._ping_is_due = False
        self._pong: int | None = None
        self._pinged: tuple[int, float] = (0, 0.0)
        self._farewell: str | None = None
        self._reason = ""
        self._scope = trio.CancelScope()

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def expect(self, due: float) -> None:
        """There will be something to send at ``due``."""
        if due < self._sleeps_until:
            self._rouse.set()

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
                    nursery.start_soon(self._guard, self._pulse)
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
        _check_allowed(type(frame))
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
            await self._handle((frame,))

    async def _dispatch_several(self, frames: Sequence[Frame]) -> None:
        """Handle frames in their order, those of one type that follow each other together."""
        for kind, alike in groupby(frames, type):
            several = list(alike)
            if len(several) == 1 or kind in _OWN:
                for frame in several:
                    await self.dispatch(frame)
            else:
                _check_allowed(kind)
                await self._handle(several)

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
            await self._dispatch_several(await self.channel.receive_several())

    async def _write(self) -> None:
        while True:
            data = self._next()
            if data is not None:
                await self.channel.send(data)
                continue
            await self._wake.wait()
            await trio.lowlevel.checkpoint()  # what else is ready now shares the frame
            self._wake = trio.Event()

    async def _pulse(self) -> None:
        ping_at = self._clock.now() + self._limits.ping_s
        while True:
            now = self._clock.now()
            self.channel.check(now)
            due = self._due()
            if now >= ping_at:
                self._ping_is_due, ping_at = True, now + self._limits.ping_s
                self.wake()
            if due is not None and due <= now:
                self.wake()
                due = None
            self._sleeps_until = min(ping_at, self._limit(now), ping_at if due is None else due)
            with self._clock.move_on_after(self._sleeps_until - now):
                await self._rouse.wait()
            self._rouse = trio.Event()

    def _limit(self, now: float) -> float:
        """When to look at the channel again: one that waits for nothing now may begin to at any time."""
        return min(self.channel.deadline, now + self._limits.dead_s)

    def _next(self) -> bytes | None:
        if self._pong is not None:
            number, self._pong = self._pong, None
            return encode(Pong(number))
        if self._ping_is_due:
            self._ping_is_due = False
            self._pinged = (self._pinged[0] % MAX_COUNTER + 1, self._clock.now())
            return encode(Ping(self._pinged[0]))
        return self._take()


_OWN: Final = (Ping, Pong, Goodbye)
"""Frames that are about the session itself."""


def _check_allowed(kind: type[Frame]) -> None:
    if FRAMES.get(FRAME_NAMES[kind]) is not Permission.PEER:
        raise rejected("frame", f"a peer may not send a {kind.__name__}")
