"""What the driver does first after a stall: it reads what has arrived, then looks at its timers."""

# ruff: noqa: TID251 (Trio's own virtual time)

import random

import trio
import trio.testing

from swim.broadcast import NothingReplicated
from swim.config import SwimConfig
from swim.driver import SwimHandle, run_swim
from swim.loop_lag import LoopLag
from swim.messages import Address
from swim.protocol import Swim
from tests.swim.net import CLUSTER, WALL, authority, identity_of

STALLS = 24
"""Each has an even chance of being served in the wrong order by a driver that does not care."""


class Noted(Swim):
    """A member that notes what its driver calls, and when."""

    calls: list[tuple[str, float]]

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.calls.append(("receive", now))
        super().receive(data, source, now)

    def handle_timer(self, now: float) -> None:
        self.calls.append(("timer", now))
        super().handle_timer(now)


class Socket:
    """A datagram socket that is filled by hand, one datagram at a time as the system hands them out."""

    address = ("127.0.0.1", 7946)

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.arrived = trio.Event()

    def fill(self, count: int) -> None:
        self.waiting += [b"anything"] * count
        self.arrived.set()

    def send(self, data: bytes, to: Address) -> None:
        pass

    async def receive(self) -> list[tuple[bytes, Address]]:
        while not self.waiting:
            self.arrived = trio.Event()
            await self.arrived.wait()
        await trio.lowlevel.checkpoint()
        return [(self.waiting.pop(0), ("127.0.0.2", 7946))]

    def close(self) -> None:
        pass


class Nobody:
    """A listener to which nobody connects."""

    address = ("127.0.0.1", 7946)

    async def accept(self) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        pass


class OneSocket:
    """A network of one socket."""

    def __init__(self) -> None:
        self.socket = Socket()

    async def open_datagrams(self, host: str, port: int) -> Socket:
        return self.socket

    async def listen(self, host: str, port: int) -> Nobody:
        return Nobody()

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        raise OSError("nobody is there")

    async def resolve(self, host: str, port: int) -> list[Address]:
        return [(host, port)]


class NoLag:
    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def take(self) -> float:
        return 0.0


class TrioClock:
    """Trio's time, which a test moves."""

    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return WALL + trio.current_time()

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.move_on_after(seconds)

    def loop_lag(self) -> LoopLag:
        return NoLag()


async def test_what_has_arrived_during_a_stall_is_read_before_any_timer_fires(
    mock_clock: trio.testing.MockClock,
) -> None:
    member = Noted(
        SwimConfig.profile("local", label=CLUSTER),
        identity_of("n0"),
        authority(),
        address=("", 1),
        meta=b"",
        replicated=NothingReplicated(),
        rng=random.Random(1),
        entropy=random.Random(1).randbytes,
    )
    member.calls = []
    network = OneSocket()
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[SwimHandle]) -> None:
            await run_swim(
                member,
                network=network,
                clock=TrioClock(),
                bind=network.socket.address,
                on_event=lambda event: None,
                task_status=task_status,
            )

        await nursery.start(run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(STALLS):
            member.calls.clear()
            network.socket.fill(5)  # while the process stood still, its socket was filled,
            mock_clock.jump(20.0)  # and a timer has been due for long
            now = trio.current_time()
            await trio.testing.wait_all_tasks_blocked()
            assert member.calls[:6] == [("receive", now)] * 5 + [("timer", now)]
        nursery.cancel_scope.cancel()
