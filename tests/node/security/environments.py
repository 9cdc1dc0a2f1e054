"""Environments whose chance is seeded and whose wall clock is set by hand."""

from __future__ import annotations

import dataclasses
import random

from node.environment import Environment, SystemClock, system_environment


class SetClock(SystemClock):
    """Trio's clock, and a wall clock that stands where the test put it."""

    def __init__(self, wall: float) -> None:
        self.wall_s = wall

    def wall(self) -> float:
        return self.wall_s


class SeededRandomness:
    """Tokens and streams from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def stream(self, purpose: str) -> random.Random:
        return random.Random(purpose + str(self._random.random()))


def seeded(seed: int = 1, wall: float | None = None) -> tuple[Environment, SetClock]:
    clock = SetClock(SystemClock().wall() if wall is None else wall)
    return dataclasses.replace(system_environment(), clock=clock, randomness=SeededRandomness(seed)), clock
