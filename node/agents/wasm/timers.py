"""The timers of one agent: which are running, and when each is due. No I/O; time is passed in."""

from __future__ import annotations

from collections.abc import Mapping


class Timers:
    """Timers by the guest's own numbers; bounded by ``node.agents.wasm.host.TIMERS_LIMIT``."""

    def __init__(self) -> None:
        self._due_us: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._due_us)

    @property
    def running(self) -> frozenset[int]:
        """The numbers of those that are running."""
        return frozenset(self._due_us)

    def change(self, asked: Mapping[int, int | None], now_us: int) -> None:
        """Set and cancel what a call asked for.

        Args:
            asked: A delay in microseconds by number; None cancels.
            now_us: Unix time of that call, in microseconds.
        """
        for timer, delay_us in asked.items():
            self._due_us.pop(timer, None)
            if delay_us is not None:
                self._due_us[timer] = now_us + delay_us

    def next_us(self) -> int | None:
        """When the next one is due (Unix microseconds); None while none is running."""
        return min(self._due_us.values(), default=None)

    def take_due(self, now_us: int) -> list[tuple[int, int]]:
        """Take out those that are due, as (number, when it was due), earliest first."""
        due = sorted((at, timer) for timer, at in self._due_us.items() if at <= now_us)
        for _, timer in due:
            del self._due_us[timer]
        return [(timer, at) for at, timer in due]
