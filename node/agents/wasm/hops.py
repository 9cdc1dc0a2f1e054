"""One hop to a worker thread and back for the calls of several guests.

Theory of operation. Waking a thread, and being woken by it, costs more than a short call itself, and the more
the busier the event loop is, since both want the interpreter. So calls that are expected to be short share
hops: who comes while none is under way takes its own to a worker; whoever comes meanwhile waits, and the
first of these takes all that wait along with the next. Answers are told when the hop has ended, so a guest
that is slow for once holds up those beside it; :class:`Expectation` says who is trusted to be short, by the
instructions of its calls and by the clock, and one that was slow goes alone for its next :data:`PROBATION`
turns. The wall clock ends the calls of a hop one by one, as it ends those that go alone
(:mod:`node.agents.wasm.watch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import outcome
import trio

from node.agents.wasm.calls import Progress
from node.environment import Environment

CHECKS: Final = 10
"""How often within its time a running call is looked at: it may take a tenth longer than it has."""
HOP_LIMIT: Final = 32
"""Calls after which a hop takes no more guests along."""
SHORT_FUEL: Final = 500_000
"""Instructions of a call that is short: about half a millisecond."""
LINGER_S: Final = 0.05
"""How long a turn may take before its guest counts as slow, in seconds; it is looked at that often."""
TRIAL: Final = 1
"""Turns without a long call, from the start, after which a guest is expected to be short."""
PROBATION: Final = 100
"""The same after one with a long call."""


@dataclass(slots=True)
class Expectation:
    """Whether a guest's next turn will be short."""

    _missing: int = TRIAL

    @property
    def is_short(self) -> bool:
        """Whether enough turns in a row were."""
        return self._missing == 0

    def took(self, fuel: int) -> None:
        """The longest call of a turn took so many instructions."""
        self._missing = max(0, self._missing - 1) if fuel <= SHORT_FUEL else PROBATION

    def lingers(self) -> None:
        """A turn took long, whatever its instructions were: some move megabytes."""
        self._missing = PROBATION


@dataclass(slots=True, eq=False)
class Turn:
    """One guest's part in a hop: a batch of its calls.

    Args:
        job: Makes them; runs on a worker.
        calls: How many they are.
        timeout_s: Wall time for each.
        expectation: What is expected of the guest.
        result: What the job returned or raised; None where it was not begun.
        leads: Whether whoever waits for it is to take the next hop.
    """

    job: Callable[[Progress], Any]
    calls: int
    timeout_s: float
    expectation: Expectation
    progress: Progress = field(default_factory=Progress)
    result: outcome.Outcome[Any] | None = None
    leads: bool = False
    told: trio.Event = field(default_factory=trio.Event)


class Hops:
    """See the module's docstring.

    Args:
        environment: Clock and workers.
        tick: Has every guest that runs asked whether it must end.
    """

    def __init__(self, environment: Environment, tick: Callable[[], None]) -> None:
        self._environment, self._clock, self._tick = environment, environment.clock, tick
        self._waiting: deque[Turn] = deque()  # as many as there are sandboxes
        self._under_way: list[Turn] | None = None
        self._at = -1
        self._hops = self._turns = 0
        self.is_watched, self._pause_s, self._sooner = False, LINGER_S, trio.Event()

    async def run(
        self, job: Callable[[Progress], Any], calls: int, timeout_s: float, expectation: Expectation
    ) -> Any:
        """Make a guest's calls, which are expected to be short, together with those of others.

        Args:
            job: Says in its :class:`Progress` which call it is making.
            calls: How many it makes.
            timeout_s: Wall time for each.
            expectation: Told if its turn takes long after all.
        """
        turn = Turn(job, calls, timeout_s, expectation)
        self._waiting.append(turn)
        if self._under_way is None:
            await self._hop()
        else:
            await self._wait(turn)
            if turn.leads:
                await self._hop()
        await trio.lowlevel.checkpoint_if_cancelled()
        assert turn.result is not None  # only who goes away has none
        return turn.result.unwrap()

    def statistics(self) -> dict[str, int]:
        """Hops, and the turns in them."""
        return {"hops": self._hops, "turns": self._turns, "waiting": len(self._waiting)}

    async def _wait(self, turn: Turn) -> None:
        """Wait until the turn is over, or leads; who goes away ends its guest."""
        try:
            await turn.told.wait()
        except trio.Cancelled:
            if turn in self._waiting:
                self._waiting.remove(turn)
                if turn.leads:  # it was told so at the very moment at which it was cancelled
                    self._pass_on()
            else:
                turn.progress.cancelled = True
                self._tick()
                with trio.CancelScope(shield=True):  # its sandbox is free when the guest has ended
                    await turn.told.wait()
            raise

    async def _hop(self) -> None:
        """Take all that wait, and this is the first of them, to a worker and back."""
        turns: list[Turn] = []
        calls = 0
        while self._waiting and calls < HOP_LIMIT:
            turns.append(self._waiting.popleft())
            calls += turns[-1].calls
        self._under_way, self._at = turns, -1
        self._hops += 1
        self._turns += len(turns)
        self._watch_for(turns)
        try:
            with trio.CancelScope(shield=True):  # for the others; those that are cancelled hear it afterwards
                await self._run(turns)
        finally:
            for turn in turns:
                turn.told.set()
            self._pass_on()

    def _pass_on(self) -> None:
        """No hop is under way: the first of those that wait takes the next."""
        self._under_way = None
        if self._waiting:
            self._under_way = []  # nobody else begins one before the next leader does
            self._waiting[0].leads = True
            self._waiting[0].told.set()

    async def _run(self, turns: list[Turn]) -> None:
        try:
            await self._environment.workers.run("wasm", self._make, turns)
        except Exception as error:  # there was no worker: nobody has had a turn
            for turn in turns:
                turn.result = turn.result or outcome.Error(error)

    def _make(self, turns: list[Turn]) -> None:
        """Runs on a worker."""
        for place, turn in enumerate(turns):
            self._at = place
            if not turn.progress.cancelled:
                turn.result = outcome.capture(turn.job, turn.progress)

    def _watch_for(self, turns: list[Turn]) -> None:
        """Have a hop watched that begins now; nobody is woken for it if the one before is watched still."""
        pause_s = min(LINGER_S, min(turn.timeout_s for turn in turns) / CHECKS)
        if not self.is_watched:
            self.is_watched = True
            # Of the system, since hops are everybody's: a task of each hop's own cost more than its calls.
            trio.lowlevel.spawn_system_task(self._watch)
        elif pause_s < self._pause_s:
            self._sooner.set()
        self._pause_s = pause_s

    async def _watch(self) -> None:
        """End each call of hops when its time is up, counted from when it was seen first.

        It ends when it finds no hop under way.
        """
        seen_turn, seen_call, turn_since, call_since = (-1, -1), -1, 0.0, 0.0
        while self._under_way is not None:
            self._sooner = trio.Event()
            with self._clock.move_on_after(self._pause_s):
                await self._sooner.wait()
            turns, at, now = self._under_way, self._at, self._clock.now()
            if not turns or at < 0:
                continue  # it has no worker yet
            turn = turns[at]
            call = turn.progress.call
            if (self._hops, at) != seen_turn:
                seen_turn, seen_call, turn_since, call_since = (self._hops, at), call, now, now
            elif now - turn_since >= LINGER_S - self._pause_s:
                turn.expectation.lingers()
            if call != seen_call:
                seen_call, call_since = call, now
            elif call >= 0 and now - call_since >= turn.timeout_s * (1 - 1 / CHECKS):
                turn.progress.expired = call
                self._tick()
        self.is_watched = False
