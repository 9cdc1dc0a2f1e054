"""When messages end: what is written, and not told yet, must not be forgotten by whoever was told less."""

from __future__ import annotations

from collections.abc import Callable

from node.environment import Clock


class Dated:
    """A moment at which messages end, from when it is read until what ended is told.

    Args:
        clock: Tells it.
        untold: Where it stands meanwhile.
        told: Called with it at the end.
    """

    __slots__ = ("_clock", "_dated_s", "_told", "_untold")

    def __init__(self, clock: Clock, untold: dict[int, float], told: Callable[[float], None]) -> None:
        self._clock, self._untold, self._told = clock, untold, told
        self._dated_s = 0.0

    def __enter__(self) -> float:
        self._dated_s = self._untold[id(self)] = self._clock.wall()
        return self._dated_s

    def __exit__(self, *raised: object) -> None:
        del self._untold[id(self)]
        self._told(self._dated_s)
