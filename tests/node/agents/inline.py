"""An environment for tests: Trio's (virtual) clock, counted chance, and blocking work done inline."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from node.environment import CannotWait, Environment, SystemNetwork
from swim.loop_lag import LoopLag, TrioLoopLag

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InlineWorkers:
    async def run(self, lane: str, job: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        assert lane in (
            "wasm",
            "wasm_waiting",
            "wasm_compiling",
            "files",
            "memory_read",
            "memory_write",
            "storage",
            "checkpoint",
            "model",
        )
        await trio.lowlevel.checkpoint()
        return job(*args)

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        raise CannotWait

    def rests(self) -> Callable[[], None]:
        return lambda: None


class TestClock:
    __test__ = False

    def now(self) -> float:
        return trio.current_time()  # noqa: TID251 - the clock of the tests

    def wall(self) -> float:
        return 1_700_000_000.0 + trio.current_time()  # noqa: TID251 - the clock of the tests

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)  # noqa: TID251 - the clock of the tests

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)  # noqa: TID251 - the clock of the tests

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.move_on_after(seconds)  # noqa: TID251 - the clock of the tests

    def loop_lag(self) -> LoopLag:
        return TrioLoopLag(self.now)


class CountedRandomness:
    def __init__(self) -> None:
        self._drawn = 0

    def token(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_128(str(self._drawn).encode()).digest(size)

    def stream(self, purpose: str) -> random.Random:
        return random.Random(purpose)


def inline_environment() -> Environment:
    return Environment(TestClock(), CountedRandomness(), SystemNetwork(), InlineWorkers())
