"""A beat on the event loop that is a millisecond long when it says so.

An event loop counts its pauses in whole milliseconds and rounds them up (epoll_wait(2)), so a load that
sleeps between its messages offers them in lumps, later than they are due, and the latencies it sees are its
own. A timer of the kernel (timerfd_create(2)) is a file descriptor that becomes readable on time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

_CLOCK_MONOTONIC: Final = 1
_COUNT_BYTES: Final = 8


class Metronome:
    """Beats that are waited for; those that nobody waited for are one. Made by :func:`metronome`.

    Args:
        timer: A timerfd that does not block.
    """

    def __init__(self, timer: int) -> None:
        self._timer = timer

    async def beat(self) -> None:
        """Wait for the next beat; at once where one has passed."""
        await trio.lowlevel.wait_readable(self._timer)
        os.read(self._timer, _COUNT_BYTES)


@contextmanager
def metronome(every_s: float) -> Iterator[Metronome]:
    """A beat every ``every_s`` seconds, inside a context.

    Raises:
        OSError: this system has no such timers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        seconds, nanoseconds = divmod(round(every_s * 1e9), 1_000_000_000)
        times = (ctypes.c_long * 4)(seconds, nanoseconds, seconds, nanoseconds)
        if libc.timerfd_settime(timer, 0, times, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        yield Metronome(timer)
    finally:
        os.close(timer)
