"""Blocking work that ends early when nobody waits for it any more.

A thread cannot be cancelled, and a node must not leave threads behind that go on reading for minutes. So the
work looks at a mark now and then, which is set when its caller is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from node.environment import Workers
from node.errors import CaxtonError

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for the result any more."""


@dataclass(slots=True)
class Stop:
    """Whether work is to end; set by who waits, looked at by who works."""

    is_set: bool = False

    def check(self) -> None:
        """End the work if nobody waits for it.

        Raises:
            Stopped: nobody does.
        """
        if self.is_set:
            raise Stopped


async def run_stoppable(workers: Workers, lane: str, job: Callable[[Stop], T]) -> T:
    """Run ``job`` in a lane; when the caller is cancelled its mark is set, and its end is waited for.

    Raises:
        CaxtonError: what the work raises.
    """
    stop = Stop()
    results: list[T] = []
    failure: CaxtonError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        try:
            results.append(await workers.run(lane, job, stop))
        except CaxtonError as error:
            failure = error
        except Stopped:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return results[0]


async def _set_when_cancelled(stop: Stop) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.is_set = True
