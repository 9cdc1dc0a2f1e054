"""The world a simulated cluster lives in: one virtual clock, one heap of happenings, one trace.

Everything that happens to a node from outside (a packet arrives, a timer fires, a scope's deadline passes)
is a callback on one heap ordered by (time, sequence number), run by one Trio task under a
:class:`trio.testing.MockClock` that jumps to the next deadline as soon as every task is blocked. Chance is
split into one seeded stream per (seed, node, purpose), so that a new draw in one place shifts no other.

A process has no say while it is paused: its happenings wait (:meth:`World.at` takes the process they
concern) and run, in order, when it is resumed. A process that crashed is fenced first: from that instant on
nothing it still tries to do has an effect.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import apsw
import trio
import trio._core._run as trio_run
import trio.testing

from node.errors import invariant

T = TypeVar("T")

TRACE_LIMIT = 2_000_000
"""Most lines a trace keeps; beyond it only the hash goes on."""
EPOCH_S = 1_800_000_000.0
"""Unix time at which every simulation starts."""


class Process(Protocol):
    """What a happening may concern: something that can be paused or fenced."""

    name: str
    paused: bool
    fenced: bool


@dataclass(slots=True)
class Trace:
    """What happened, one line each, and a running hash of all of it."""

    lines: list[str] = field(default_factory=list)
    _hash: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, line: str) -> None:
        """Append one line."""
        self._hash.update(line.encode() + b"\n")
        if len(self.lines) < TRACE_LIMIT:
            self.lines.append(line)

    def digest(self) -> str:
        """The hash of all lines so far, in hex."""
        return str(self._hash.hexdigest())


class _SeededVFS(apsw.VFS):
    """The system's file layer with a seeded source of chance: SQLite's salts follow from the seed too.

    SQLite seeds its generator from the default VFS the first time it is asked after a reset
    (``sqlite3_randomness(0, NULL)``), hence the resets around a run.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed}/sqlite")
        super().__init__(f"caxton-{seed}", base="unix", makedefault=True)

    def xRandomness(self, size: int) -> bytes:  # noqa: N802 - SQLite's name for it
        return self._random.randbytes(size)


class World:
    """The scheduler, the trace and the source of chance of one run.

    Args:
        seed: Everything random follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.trace = Trace()
        self._heap: list[tuple[float, int, Process | None, Callable[[], None]]] = []
        self._held: dict[str, list[tuple[int, Process | None, Callable[[], None]]]] = {}
        self._sequence = 0
        self._earlier = trio.Event()

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return trio.current_time()  # noqa: TID251 - the simulator is the clock

    def stream(self, *purpose: str) -> random.Random:
        """A generator for one purpose."""
        return random.Random("/".join((str(self.seed), *purpose)))

    def record(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.add(f"{self.now():.6f} {who} {what}")

    def at(self, time: float, callback: Callable[[], None], process: Process | None = None) -> None:
        """Run ``callback`` at ``time``; if ``process`` is paused then, when it is resumed."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now()), self._sequence, process, callback))
        if self._heap[0][1] == self._sequence:
            self._earlier.set()

    def resume(self, process: Process) -> None:
        """Let a paused process go on: what waited for it happens now, in order."""
        process.paused = False
        for _, owner, callback in self._held.pop(process.name, []):
            self.at(self.now(), callback, owner)

    async def run(self) -> None:
        """Let things happen, until cancelled."""
        while True:
            self._earlier = trio.Event()
            if not self._heap:
                await self._earlier.wait()
                continue
            with trio.move_on_at(self._heap[0][0]):
                await self._earlier.wait()
            while self._heap and self._heap[0][0] <= self.now():
                _, sequence, process, callback = heapq.heappop(self._heap)
                if process is not None and process.fenced:
                    continue
                if process is not None and process.paused:
                    self._held.setdefault(process.name, []).append((sequence, process, callback))
                    continue
                callback()


class Stuck(Exception):
    """The scenario did not end within its limit of virtual time."""


def run(scenario: Callable[[World], Awaitable[T]], seed: int, *, limit_s: float = 86_400.0) -> T:
    """Run ``scenario`` in a new world, deterministically.

    Args:
        scenario: What to do.
        seed: Everything random follows from it.
        limit_s: Virtual seconds after which it is given up.

    Raises:
        Stuck: the limit was reached; without one a world in which nothing more happens would wait for ever.

    Trio draws the order of ready tasks from a private generator and lets it be seeded only when told so;
    both are private names of the pinned Trio, and ``tests/simulations`` has a canary for them.
    """
    invariant(hasattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING"), "this Trio schedules in another way")
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    state = trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    vfs = _SeededVFS(seed)
    apsw.randomness(0)

    async def main() -> T:
        world = World(seed)
        with trio.move_on_after(limit_s):  # noqa: TID251 - the simulator is the clock
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.run)
                result = await scenario(world)
                nursery.cancel_scope.cancel()
            return result
        raise Stuck(f"seed {seed}: not done after {limit_s} s of virtual time")

    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)
        vfs.unregister()
        apsw.randomness(0)
