"""The calls of one agent's guest, and its sandboxes: each makes a batch of calls at a time on a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import trio

from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import Moment, Phase
from node.message import Message
from node.messaging.delivery import Draft

BATCH_FUEL: Final = 20_000_000
"""Instructions after which a batch ends early, so that the agents of a node share its workers fairly."""

L = TypeVar("L")


@dataclass(slots=True)
class Outcome:
    """What became of a call.

    Args:
        drafts: The messages it sends.
        failure: Why it failed; it sends nothing then.
        console: Lines for the agent's log, as (level, text).
        timers: Timers it set or cancelled.
        counts: What it adds to counters of its own.
        slept_us: Microseconds it slept, which are still to be waited.
        error: The node's own failure, for example of its disk.
        fuel_used: Instructions it took.
        memory_bytes: Bytes of the instance's memory when it had ended; None where they are not known.
    """

    drafts: list[Draft] = field(default_factory=list)
    failure: GuestFailed | None = None
    console: list[tuple[str, str]] = field(default_factory=list)
    timers: dict[int, int | None] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    slept_us: int = 0
    error: Exception | None = None
    fuel_used: int = 0
    memory_bytes: int | None = None


@dataclass(slots=True, eq=False)
class Call:
    """One call that waits, or has been made.

    Args:
        phase: What the guest is called for.
        moment: The world it sees.
        message: The message to be handled.
        timer: The timer that is up.
        traceparent: Parent of the spans of what it asks for; empty for none.
    """

    phase: Phase
    moment: Moment
    message: Message | None = None
    timer: int = 0
    traceparent: str = ""
    outcome: Outcome | None = None


@dataclass(slots=True)
class Progress:
    """Where a batch is: written by its worker, but for the two marks that end a call, and for the waiting.

    A call that waited for the event loop is the last one of its batch, so its time is that of the batch.
    """

    call: int = -1
    expired: int = -1
    cancelled: bool = False
    waited_s: float = 0.0
    waiting_since: float | None = None

    def is_stopped(self) -> bool:
        """Whether the call that is being made must end."""
        return self.cancelled or (self.call >= 0 and self.expired == self.call)

    @contextmanager
    def waiting(self, now: Callable[[], float]) -> Iterator[None]:
        """Note that the guest waits for the event loop, where this runs; ``now`` tells monotonic seconds."""
        self.waiting_since = now()
        try:
            yield
        finally:
            self.waited_s += now() - self.waiting_since
            self.waiting_since = None

    def waited(self, now: float) -> float:
        """Seconds that the guest has waited until ``now``, which are not its own."""
        return self.waited_s + (0.0 if self.waiting_since is None else now - self.waiting_since)


class Sandboxes(Generic[L]):
    """The sandboxes of one agent; who waits longest for a free one gets it.

    Args:
        sandboxes: Each makes one batch at a time.
    """

    def __init__(self, sandboxes: Sequence[L]) -> None:
        self._free = list(sandboxes)
        self._places = trio.Semaphore(len(self._free))

    @property
    def waiting(self) -> int:
        """Batches that wait for one; bounded by the agent's handler runs and timers."""
        return self._places.statistics().tasks_waiting

    @asynccontextmanager
    async def one(self) -> AsyncIterator[L]:
        """A sandbox that nobody else has."""
        try:
            self._places.acquire_nowait()  # where one is free, no pass of the loop
        except trio.WouldBlock:
            await self._places.acquire()
        sandbox = self._free.pop()
        try:
            yield sandbox
        finally:
            self._free.append(sandbox)
            self._places.release()
