"""The environment of one simulated node: virtual clock, seeded chance, virtual network, inline work."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from node.environment import Environment
from simulations.kernel import EPOCH_S, World
from simulations.network import Host, HostNetwork, VirtualNetwork
from simulations.turns import Turns

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WAITING: Final = ("wasm_waiting",)
"""Lanes whose jobs may wait for the event loop."""


@dataclass(slots=True)
class SimulatedClock:
    """One node's time: it can be off, and nothing of it happens while the node is paused.

    Args:
        world: Whose clock it is based on.
        host: The process it belongs to.
        offset_s: How far its wall clock is ahead of the true time.
    """

    world: World
    host: Host
    offset_s: float = 0.0

    def now(self) -> float:
        """Virtual seconds."""
        return self.world.now()

    def wall(self) -> float:
        """Unix seconds, as this node believes."""
        return EPOCH_S + self.world.now() + self.offset_s

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        """Sleep until ``deadline``, longer when the node is paused then."""
        over = trio.Event()
        planned = self.world.at(deadline, over.set, self.host)
        try:
            await over.wait()
        except trio.Cancelled:
            if not over.is_set():
                self.world.drop(planned)
            raise

    def move_on_after(self, seconds: float) -> Patience:
        """A scope that is cancelled after ``seconds``, later when the node is paused then."""
        return Patience(self.world, self.now() + seconds, self.host)

    def loop_lag(self) -> StandsStill:
        """A meter of how long the process stood still; computing takes no virtual time."""
        return StandsStill(self.host)


class Patience(AbstractContextManager[trio.CancelScope, bool]):
    """A cancel scope with a deadline of a world, which its end drops.

    Args:
        world: Whose time counts.
        deadline_s: When the scope is cancelled.
        host: The process it belongs to.
    """

    def __init__(self, world: World, deadline_s: float, host: Host) -> None:
        self._world, self._scope = world, trio.CancelScope()
        self._planned = world.at(deadline_s, self._scope.cancel, host)

    def __enter__(self) -> trio.CancelScope:
        return self._scope.__enter__()

    def __exit__(self, *raised: Any) -> bool:
        if not self._scope.cancel_called:
            self._world.drop(self._planned)
        return self._scope.__exit__(*raised)


class StandsStill:
    """The lag of a process whose loop is late only when the process stands still.

    Args:
        host: The process.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def start(self) -> None:
        """Forget earlier pauses."""
        self._host.stood_still_s = 0.0

    def stop(self) -> None:
        """Nothing needs to be stopped."""

    def take(self) -> float:
        """The longest pause since the last call, in seconds."""
        longest_s, self._host.stood_still_s = self._host.stood_still_s, 0.0
        return longest_s


@dataclass(slots=True)
class SimulatedRandomness:
    """Chance that follows from the seed, the node and the purpose."""

    world: World
    name: str
    _secrets: random.Random

    def token(self, size: int) -> bytes:
        """Bytes for keys and identifiers; here they follow from the seed too."""
        return self._secrets.randbytes(size)

    def stream(self, purpose: str) -> random.Random:
        """A generator for one purpose."""
        return self.world.stream(self.name, purpose)


class InlineWorkers:
    """Blocking work runs on the spot: a thread beside the event loop would make the virtual clock jump."""

    def __init__(self) -> None:
        self._turns = Turns()

    async def run(self, lane: str, job: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``job(*args)`` now."""
        await trio.lowlevel.checkpoint()
        if lane in _WAITING:
            return await self._turns.run(lambda: job(*args))
        return job(*args)

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the event loop do ``work``; in lanes where jobs do not wait this is refused."""
        return self._turns.wait(work)

    def rests(self) -> Callable[[], None]:
        """No rest: nothing else can run meanwhile."""
        return lambda: None


def simulated_environment(
    world: World, network: VirtualNetwork, name: str, *, boot: int = 0, clock_offset_s: float = 0.0
) -> tuple[Environment, Host]:
    """The environment of the node called ``name``, and the host it lives on.

    Args:
        world: The run it belongs to.
        network: The network it is plugged into.
        name: Node name; also the purpose prefix of its chance.
        boot: How often it was started before: each start draws other secrets.
        clock_offset_s: How far its wall clock is off.
    """
    host = network.host(name)
    environment = Environment(
        SimulatedClock(world, host, clock_offset_s),
        SimulatedRandomness(world, f"{name}.{boot}", world.stream(f"{name}.{boot}", "secrets")),
        HostNetwork(network, host),
        InlineWorkers(),
    )
    return environment, host
