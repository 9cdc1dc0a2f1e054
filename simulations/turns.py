"""A job that may wait for the event loop, where nothing may run beside it.

The job has a thread, since it needs a stack of its own to come back to, and the event loop stands still while
that thread runs: each goes on only when the other has handed over. So it is a coroutine in all but name:
nothing happens at once, virtual time does not pass while the job runs, and the same seed gives the same run.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import outcome

from node.environment import CannotWait

T = TypeVar("T")


class Turns:
    """Runs such jobs for one node."""

    def __init__(self) -> None:
        self._own = threading.local()

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job; what it waits for is done here, in the task of its caller, and cancelled with it."""
        turn: _Turn[T] = _Turn(job)
        thread = threading.Thread(target=self._begin, args=(turn,), daemon=True)  # noqa: TID251 - see above
        thread.start()
        while True:
            turn.loop.acquire()
            work, turn.work = turn.work, None
            if work is None:
                break
            turn.done = await outcome.acapture(work)
            turn.job.release()
        thread.join()
        if isinstance(turn.done, outcome.Error):  # of what it waited for last: the caller was cancelled
            turn.done.unwrap()
        assert turn.ended is not None
        return turn.ended.unwrap()

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """In a job: have the event loop do ``work``.

        Raises:
            CannotWait: this is no job of :meth:`run`.
            trio.Cancelled: nobody waits for the job any more.
        """
        turn: _Turn[Any] | None = getattr(self._own, "turn", None)
        if turn is None:
            raise CannotWait
        turn.work = work
        turn.loop.release()
        turn.job.acquire()
        done, turn.done = turn.done, None
        assert done is not None
        if isinstance(done, outcome.Error) and not isinstance(done.error, Exception):
            turn.done = done  # told again at the end: to be cancelled is the caller's, too
            raise done.error
        found: T = done.unwrap()
        return found

    def _begin(self, turn: _Turn[Any]) -> None:
        self._own.turn = turn
        turn.ended = outcome.capture(turn.started)
        turn.loop.release()


class _Turn(Generic[T]):
    """Whose turn it is, and what is handed over with it."""

    def __init__(self, started: Callable[[], T]) -> None:
        self.started = started
        self.loop, self.job = threading.Semaphore(0), threading.Semaphore(0)
        self.work: Callable[[], Awaitable[Any]] | None = None
        self.done: outcome.Outcome[Any] | None = None
        self.ended: outcome.Outcome[T] | None = None
