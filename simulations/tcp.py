"""Connections as TCP makes them: in order, nothing lost, and slow where the network loses packets.

What a process writes is cut into segments. A lost segment is sent again, and everything behind it waits:
after one round trip when enough segments follow it to show the gap (fast retransmit, RFC 5681 section 3.2),
else after the retransmission timeout, which doubles (RFC 6298 with Linux's bounds). A cut is a loss of
everything, looked at again at each retransmission, so a connection that has stalled goes on some time after
the cut has healed, not at once. A connection request is repeated after 1 s, 2 s, 4 s, as RFC 6298 says.

A host whose process has died says so: with a reset at once, and with one to every segment that still comes
(RFC 9293 section 3.5.1). A host without power says nothing, so that the other end keeps half of a
connection, which it sends to until it gives up by itself or the host is back and answers with a reset.

What is left out: congestion windows (a write leaves as one burst), flow control, half-closed connections, and
the difference between a lost acknowledgement and none, except that where nothing at all comes back only the
first :data:`WINDOW_BYTES` get through.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

from simulations.links import Link
from simulations.timeline import US_PER_S, Process, Timeline

SEGMENT_BYTES: Final = 1_448
"""Payload of one segment on an Ethernet with timestamps."""
RETRANSMIT_US: Final = US_PER_S // 5
"""First retransmission timeout: Linux's shortest, which holds on any network of this house."""
MAX_RETRANSMIT_US: Final = 120 * US_PER_S
MAX_RETRANSMISSIONS: Final = 15
"""After so many in a row without progress the connection breaks (tcp_retries2)."""
DUPLICATE_ACKS: Final = 3
"""So many segments behind a lost one show the gap before the timeout does."""
WINDOW_BYTES: Final = 10 * SEGMENT_BYTES
"""What may be on the way without an acknowledgement, when none can come back (RFC 6928)."""
CONNECT_RETRY_US: Final = US_PER_S
MAX_CONNECT_RETRIES: Final = 6
RECEIVE_BYTES: Final = 65_536
"""Most bytes a process reads at once, as the driver does."""


class End(Protocol):
    """One end of a connection, as the network tells it."""

    @property
    def host(self) -> str:
        """The name of its host."""

    @property
    def process(self) -> Process:
        """The process that reads it; while it is paused, what arrives waits."""

    @property
    def is_closed(self) -> bool:
        """Whether the process has closed it or is no more: what still arrives is answered with a reset."""

    @property
    def is_off(self) -> bool:
        """Whether the whole host is off now: nothing is answered. Once it is back, the end is closed."""

    @property
    def has_vanished(self) -> bool:
        """Whether its host has lost its power, be it back or not: what it still had to send is gone."""

    def take(self, data: bytes) -> None:
        """Bytes arrive."""

    def end(self) -> None:
        """The other end has closed, and all its bytes have arrived."""

    def break_(self, reason: str) -> None:
        """The connection is no more."""


LinkOf = Callable[[str, str], Link]


class Pipe:
    """One direction of a connection.

    Args:
        timeline: When things happen.
        link_of: Finds links by the names of their hosts.
        chance: Every draw comes from it.
        near: The end that writes.
        far: The end that reads.
        counts: Where ``retransmitted`` is counted.
    """

    def __init__(
        self,
        timeline: Timeline,
        link_of: LinkOf,
        chance: random.Random,
        near: End,
        far: End,
        *,
        counts: Counter[str],
    ) -> None:
        self._timeline, self._link_of, self._chance, self._counts = timeline, link_of, chance, counts
        self._near, self._far = near, far
        self._queue: deque[bytes] = deque()
        self._finishing = self._finished = self._over = self._waits = False
        self._arrival_us = 0
        self._retransmit_us = RETRANSMIT_US
        self._retransmissions = 0
        self._gap_shown = False
        self._unacknowledged = 0
        self._flying = 0

    def send(self, data: bytes) -> None:
        """Write bytes."""
        if data and not self._over and not self._finishing:
            self._queue.append(data)
            self._push()

    def finish(self) -> None:
        """Close after what was written."""
        if not self._over and not self._finishing:
            self._finishing = True
            self._push()

    def stop(self) -> None:
        """Forget everything: the connection is no more."""
        self._over = True
        self._queue.clear()

    def lose(self) -> None:
        """Nothing that is on the way is answered: its reader has died, and nobody has said so."""
        if self._flying:
            self._send_again()

    def not_before(self, us: int) -> None:
        """Let nothing arrive before an instant."""
        self._arrival_us = max(self._arrival_us, us)

    def _push(self) -> None:
        while not self._over and not self._waits and not self._finished:
            if not self._queue and not self._finishing:
                return
            if self._near.has_vanished:  # with an end that was closed before all of it had arrived
                self.stop()
                return
            link = self._link_of(self._near.host, self._far.host)
            blind = self._link_of(self._far.host, self._near.host).cut
            if not blind:
                self._unacknowledged = 0
            if link.cut or self._far.is_off or (blind and self._unacknowledged >= WINDOW_BYTES):
                self._wait(0)
            else:
                self._burst(link)

    def _burst(self, link: Link) -> None:
        """Send the first of what was written, up to the first segment that is lost."""
        data = self._queue[0] if self._queue else b""
        segments = max(1, -(-len(data) // SEGMENT_BYTES))
        passed = segments
        if link.loss:
            passed = next((n for n in range(segments) if self._chance.random() < link.loss), segments)
        after_us = link.occupy(min(len(data), passed * SEGMENT_BYTES), self._timeline.now_us)
        if after_us is None:
            passed = after_us = 0
        if passed:
            if not self._far.is_closed:  # a reset acknowledges nothing
                self._progress()
            arrival_us = self._timeline.now_us + after_us + link.delay_us(self._chance)
            self._arrival_us = max(self._arrival_us, arrival_us)
            self._carry(data[: passed * SEGMENT_BYTES])
        if passed == segments:
            if self._queue:
                self._queue.popleft()
            else:
                self._finished = True
            return
        if passed:
            self._queue[0] = data[passed * SEGMENT_BYTES :]
        self._wait(segments - passed - 1, 2 * link.typical_delay_us)

    def _carry(self, data: bytes) -> None:
        self._unacknowledged += len(data)
        reader = None if self._far.is_closed else self._far.process  # its kernel answers for a closed end
        for start in range(0, max(1, len(data)), RECEIVE_BYTES):
            self._flying += 1
            part = data[start : start + RECEIVE_BYTES]
            self._timeline.at_us(self._arrival_us, self._arrive, part, process=reader)

    def _arrive(self, data: bytes) -> None:
        self._flying -= 1
        if self._far.is_off:
            self._send_again()
        elif self._far.is_closed:
            self._refused()
        elif data:
            self._far.take(data)
        else:
            self._far.end()

    def _progress(self) -> None:
        self._retransmit_us = RETRANSMIT_US
        self._retransmissions = 0
        self._gap_shown = False

    def _wait(self, behind: int, round_trip_us: int = 0) -> None:
        """Send again later.

        Args:
            behind: Segments that follow the lost one.
            round_trip_us: When the gap is known, if enough follow.
        """
        if self._retransmissions >= MAX_RETRANSMISSIONS:
            self.stop()
            self._timeline.at_us(
                self._timeline.now_us, self._near.break_, "connection timed out", process=self._near.process
            )
            return
        self._waits = True
        self._counts["retransmitted"] += 1
        if behind >= DUPLICATE_ACKS and not self._gap_shown:
            self._gap_shown = True
            self._timeline.after_us(round_trip_us, self._again)
            return
        self._timeline.after_us(self._retransmit_us, self._again)
        self._retransmit_us = min(2 * self._retransmit_us, MAX_RETRANSMIT_US)
        self._retransmissions += 1

    def _again(self) -> None:
        self._waits = False
        self._push()

    def _send_again(self) -> None:
        """Send one segment for all that was not answered; what it holds no process will ever read."""
        if self._over:
            return
        if self._finished:
            self._finished = False
        elif not self._queue:
            self._queue.append(b"\0")
        if not self._waits:
            self._wait(0)

    def _refused(self) -> None:
        """The other end's host answers for a socket that is no more; it is asked again if that is lost."""
        if self._over:
            return
        back = self._link_of(self._far.host, self._near.host)
        if back.cut or (back.loss and self._chance.random() < back.loss):
            self._send_again()
            return
        self.stop()
        us = back.delay_us(self._chance)
        self._timeline.after_us(us, self._near.break_, "connection reset", process=self._near.process)


class Connection:
    """Two pipes and how they end.

    Args:
        timeline: When things happen.
        link_of: Finds links by the names of their hosts.
        chance: Every draw comes from it.
        near: The end that dialled.
        far: The end that accepted.
        counts: Where ``retransmitted`` is counted.
    """

    def __init__(
        self,
        timeline: Timeline,
        link_of: LinkOf,
        chance: random.Random,
        near: End,
        far: End,
        *,
        counts: Counter[str],
    ) -> None:
        self._timeline, self._link_of, self._chance = timeline, link_of, chance
        self._ends = (near, far)
        self._pipes = {
            near: Pipe(timeline, link_of, chance, near, far, counts=counts),
            far: Pipe(timeline, link_of, chance, far, near, counts=counts),
        }

    def pipe(self, end: End) -> Pipe:
        """The direction in which an end writes."""
        return self._pipes[end]

    def reset(self, end: End) -> None:
        """The process at one end has died: the other learns it one delay later, or when it sends again."""
        self.stop(end)
        other = self._other(end)
        link = self._link_of(end.host, other.host)
        if link.cut or self._chance.random() < link.loss:
            self._pipes[other].lose()
            return
        self._timeline.after_us(
            link.delay_us(self._chance), other.break_, "connection reset", process=other.process
        )

    def vanish(self, end: End) -> None:
        """The host of one end has lost its power: the other hears nothing, not even that."""
        self.stop(end)
        self._pipes[self._other(end)].lose()

    def stop(self, end: End) -> None:
        """One end sends nothing any more, not even a reset."""
        self._pipes[end].stop()

    def _other(self, end: End) -> End:
        return self._ends[1] if end is self._ends[0] else self._ends[0]


class Dial:
    """An attempt to connect.

    Args:
        timeline: When things happen.
        link_of: Finds links by the names of their hosts.
        chance: Every draw comes from it.
        source: Name of the host that dials.
        target: Name of the host that is dialled.
        answer: Asked when a request reaches the target: True if somebody listens, False if the host refuses,
            None if it is off.
        done: Told at the dialling host how it ended: ``accepted``, with the time at which the other end takes
            it, ``refused`` or ``timed out``.
        process: Who dials.
    """

    def __init__(
        self,
        timeline: Timeline,
        link_of: LinkOf,
        chance: random.Random,
        *,
        source: str,
        target: str,
        answer: Callable[[], bool | None],
        done: Callable[[str, int], None],
        process: Process,
    ) -> None:
        self._timeline, self._link_of, self._chance = timeline, link_of, chance
        self._source, self._target = source, target
        self._answer, self._done, self._process = answer, done, process
        self._over = False
        self.tries = 0
        self._try()

    def cancel(self) -> None:
        """Give up."""
        self._over = True

    def _try(self) -> None:
        if self._over:
            return
        if self.tries > MAX_CONNECT_RETRIES:
            self._end("timed out")
            return
        link = self._link_of(self._source, self._target)
        self._timeline.after_us(CONNECT_RETRY_US << self.tries, self._try)
        self.tries += 1
        if not link.cut and self._chance.random() >= link.loss:
            self._timeline.after_us(link.delay_us(self._chance), self._asked)

    def _asked(self) -> None:
        answer = None if self._over else self._answer()
        back = self._link_of(self._target, self._source)
        if answer is None or back.cut or self._chance.random() < back.loss:
            return
        self._timeline.after_us(back.delay_us(self._chance), self._end, "accepted" if answer else "refused")

    def _end(self, how: str) -> None:
        if self._over:
            return
        self._over = True
        now_us = self._timeline.now_us
        accepted_us = now_us + self._link_of(self._source, self._target).delay_us(self._chance)
        self._timeline.at_us(now_us, self._done, how, accepted_us, process=self._process)
