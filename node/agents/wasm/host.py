"""The host as one call of a guest sees it: what it may ask for, what it asked for, and how often.

There is one :class:`Host` per instance; :meth:`Host.begin` opens a call. Core modules and components reach
it through the same methods, so both live under the same rules. Nothing here knows WebAssembly, Trio or a
clock: it runs on a worker thread, and what it collects is carried out on the event loop after the call.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

from node.agents.wasm.failure import GuestFailed, NotDone
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.state import KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES, AgentState, StateChanges

if TYPE_CHECKING:
    from node.agents.wasm.outside import Errands

SENT_LIMIT_BYTES: Final = 1024 * 1024
"""Largest message sent by a guest."""
SENT_LIMIT: Final = 16
"""Most messages sent while handling one."""
CONSOLE_LIMIT: Final = 64
"""Most console lines kept of one message."""
CONSOLE_LINE_LIMIT: Final = 1_000
"""Longest console line kept, in bytes."""
COUNTERS_LIMIT: Final = 32
"""Most counters of one agent's own."""
COUNTER_NAME_LIMIT: Final = 64
"""Longest name of a counter, in characters."""
TIMERS_LIMIT: Final = 16
"""Most timers of one agent."""
TIMER_LIMIT_US: Final = 86_400_000_000
"""Longest delay of a timer: a day, in microseconds."""
TIMER_MINIMUM_US: Final = 10_000
"""Shortest delay of a timer, in microseconds; a shorter one is stretched to it."""

SEED_BYTES: Final = 16
"""Length of a call's seed."""
SEEDS_AT_ONCE: Final = 64
"""Seeds drawn at once: each draw is a call of the system that lets go of the interpreter."""


class Status(IntEnum):
    """What host functions answer with."""

    OK = 0
    NOT_FOUND = -1
    NO_ROOM = -2
    REFUSED = -3
    UNAVAILABLE = -4


class Phase(StrEnum):
    """What a guest is called for; only the last two may send messages."""

    START = "agent_init"
    OTHER = "other"
    MESSAGE = "handle_message"
    TIMER = "handle_timer"


class Way(StrEnum):
    """How a message leaves; named after the import that sends it."""

    SEND = "send_message"
    LOCAL = "send_local_message"
    BROADCAST = "broadcast_message"


@dataclass(frozen=True, slots=True)
class Moment:
    """The outside world as one call sees it: Unix time in microseconds, and a seed."""

    now_us: int
    seed: bytes


@dataclass(slots=True)
class Said:
    """What a guest asked for during one call; ``timers`` has delays in microseconds, None to cancel."""

    sent: list[tuple[Way, bytes]] = field(default_factory=list)
    console: list[tuple[str, str]] = field(default_factory=list)
    timers: dict[int, int | None] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    slept_us: int = 0
    host_calls: int = 0
    drawn: int = 0


class Host:
    """See the module's docstring.

    Args:
        policy: Grants and bounds.
        moment: The world in which the instance starts.
    """

    def __init__(self, policy: WasmPolicy, moment: Moment) -> None:
        self._policy = policy
        self._moment = moment
        self._phase = Phase.START
        self._state = StateChanges(AgentState({}))
        self.said = Said()
        self.active_timers: frozenset[int] = frozenset()
        self.errands: Errands | None = None
        self._answer: bytes | None = None
        self._unended: dict[str, bytes] = {}

    def begin(
        self,
        phase: Phase,
        moment: Moment,
        state: StateChanges | None = None,
        timers: frozenset[int] = frozenset(),
    ) -> None:
        """Open a call.

        Args:
            phase: What it is for.
            moment: The world it sees.
            state: What it keeps; nothing that is kept, by default.
            timers: Ids of the agent's timers that are running.
        """
        started = self._phase is Phase.START  # what it asked for then counts with its first call
        self.said = Said(console=self.said.console, timers=self.said.timers) if started else Said()
        self._phase = phase
        self._moment = moment
        self._state = StateChanges(AgentState({})) if state is None else state
        self.active_timers = timers
        self._answer = None

    def charge(self) -> None:
        """Count one host call.

        Raises:
            GuestFailed: it was one too many.
        """
        self.said.host_calls += 1
        if self.said.host_calls > self._policy.host_calls:
            raise GuestFailed("host_calls", f"more than {self._policy.host_calls} host calls for one message")

    def send(self, way: Way, data: bytes) -> int:
        """Take a message, which leaves when the call has succeeded.

        Raises:
            GuestFailed: there is nothing to be handled now, or it sent too many.
        """
        if self._phase not in (Phase.MESSAGE, Phase.TIMER):  # it would be lost, and the guest would not know
            raise GuestFailed("messages", f"{way} is only for handle_message and handle_timer")
        if len(self.said.sent) >= SENT_LIMIT:
            raise GuestFailed("messages", f"more than {SENT_LIMIT} messages for one")
        self.said.sent.append((way, data))
        return Status.OK

    def log(self, level: str, data: bytes) -> None:
        """Keep a line for the agent's log; lines beyond the limit are dropped."""
        if len(self.said.console) < CONSOLE_LIMIT:
            self.said.console.append((level, data[:CONSOLE_LINE_LIMIT].decode("utf-8", "replace")))

    def write(self, level: str, data: bytes) -> None:
        """Take what is written to a standard stream: its lines go to the agent's log."""
        *lines, rest = (self._unended.get(level, b"") + data).split(b"\n", CONSOLE_LIMIT)
        for line in lines:
            self.log(level, line)
        self._unended[level] = rest[:CONSOLE_LINE_LIMIT]

    def end(self) -> list[tuple[str, str]]:
        """Close a call: lines that were begun are kept, too. Returns what it has logged."""
        for level, rest in self._unended.items():
            if rest:
                self.log(level, rest)
        self._unended.clear()
        return self.said.console

    def now_us(self) -> int:
        """Unix time in microseconds; it stands still but for what the guest slept."""
        return self._moment.now_us + self.said.slept_us

    def random_u32(self) -> int:
        """The next number drawn from the call's seed, as a signed 32-bit integer."""
        self.said.drawn += 1
        drawn = hashlib.blake2b(self.said.drawn.to_bytes(8, "big"), key=self._moment.seed, digest_size=4)
        return int.from_bytes(drawn.digest(), "big", signed=True)

    def random_bytes(self, length: int) -> bytes:
        """The next bytes drawn from the call's seed."""
        self.said.drawn += 1
        key = hashlib.blake2b(self.said.drawn.to_bytes(8, "big"), key=self._moment.seed, digest_size=32)
        return hashlib.shake_256(key.digest()).digest(length)

    def count(self, name: str, value: float) -> None:
        """Add to one of the agent's own counters; beyond the limits nothing is counted."""
        known = name in self.said.counts or len(self.said.counts) < COUNTERS_LIMIT
        if known and 0 < len(name) <= COUNTER_NAME_LIMIT and math.isfinite(value):
            self.said.counts[name] = self.said.counts.get(name, 0.0) + value

    def sleep(self, micros: int) -> None:
        """Sleep within the time of the call.

        No thread sleeps: messages leave when the call is over, so a sleep that is made up for before they
        leave cannot be told from one that is kept at once.

        Raises:
            GuestFailed: the call's time is up before the sleep is.
        """
        self.said.slept_us += max(0, micros)
        if self.said.slept_us > self._policy.timeout_s * 1_000_000:
            raise GuestFailed("wall_clock", "it slept for longer than it has time")

    def load(self, key: bytes) -> bytes | None:
        """A kept value, or None."""
        return self._state.get(key)

    def store(self, key: bytes, value: bytes) -> int:
        """Keep a value."""
        if not 0 < len(key) <= KEY_LIMIT_BYTES or len(value) > VALUE_LIMIT_BYTES:
            return Status.REFUSED
        return Status.OK if self._state.put(key, value) else Status.NO_ROOM

    def delete(self, key: bytes) -> int:
        """Forget a value."""
        return Status.OK if self._state.remove(key) else Status.NOT_FOUND

    def set_timer(self, timer: int, delay_us: int) -> int:
        """Have ``handle_timer(timer)`` called once; a timer that is running starts anew."""
        if not 0 <= delay_us <= TIMER_LIMIT_US:
            return Status.REFUSED
        running = {t for t, delay in self.said.timers.items() if delay is not None}
        running |= self.active_timers - set(self.said.timers)
        if timer not in running and len(running) >= TIMERS_LIMIT:
            return Status.NO_ROOM
        self.said.timers[timer] = max(TIMER_MINIMUM_US, delay_us)
        return Status.OK

    def cancel_timer(self, timer: int) -> int:
        """Have it not called."""
        known = self.said.timers.get(timer, timer in self.active_timers)
        self.said.timers[timer] = None
        return Status.OK if known else Status.NOT_FOUND

    def outside(self) -> Errands:
        """What the call may ask for beyond its sandbox.

        Raises:
            NotDone: there is nothing, or not at this time.
        """
        if self._phase not in (Phase.MESSAGE, Phase.TIMER):
            raise NotDone("unavailable", "only while a message or a timer is handled")
        if self.errands is None:
            deterministic = self._policy.deterministic
            raise NotDone(
                "unavailable", "a deterministic agent has none" if deterministic else "there is no node here"
            )
        return self.errands

    def keep_answer(self, answer: bytes) -> int:
        """Keep what a core module asked for, until it takes it; its length."""
        self._answer = answer
        return len(answer)

    def answer(self) -> bytes | None:
        """What was kept last, or None."""
        return self._answer

    def subscribe(self, pattern: bytes) -> int:
        """Say whether the agent is subscribed to a pattern over topics: its agent file decides."""
        return Status.OK if pattern.decode("utf-8", "replace") in self._policy.topics else Status.REFUSED
