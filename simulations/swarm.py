"""Fault plans drawn from a seed, within bounds.

Swarm testing (Groce et al., ISSTA 2012): each run leaves some kinds of faults out altogether, because kinds
that are always there hide what only shows without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from simulations import faults

Count = Annotated[int, Field(ge=0)]


class Swarm(BaseModel):
    """Bounds of a drawn plan.

    Attributes:
        most: Most faults of one plan.
        kinds: Kinds that may be drawn.
        struck: Largest share of the members that one fault strikes.
        pause_s: Longest pause.
        partition_s: Longest partition.
        loss: Most loss of a disturbance.
        corrupt: Most corruption.
        duplicate: Most duplication.
        reorder: Most reordering.
        delay_s: Most added delay.
        drift: Largest deviation of a clock's rate from 1.
        wall_offset_s: Largest offset of a wall clock.
        takes_s: Longest mean time that an agent takes.
        raises: Largest chance that an agent raises.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    most: Count = 12
    kinds: tuple[str, ...] = (
        "pause", "starve", "crash", "join", "leave", "partition", "disturb", "clock", "churn",
    )  # fmt: skip
    struck: Annotated[float, Field(gt=0, le=1)] = 0.2
    pause_s: Annotated[float, Field(gt=0)] = 10.0
    partition_s: Annotated[float, Field(gt=0)] = 60.0
    loss: Annotated[float, Field(ge=0, le=1)] = 0.3
    corrupt: Annotated[float, Field(ge=0, le=1)] = 0.05
    duplicate: Annotated[float, Field(ge=0, le=1)] = 0.2
    reorder: Annotated[float, Field(ge=0, le=1)] = 0.2
    delay_s: Annotated[float, Field(ge=0)] = 0.05
    drift: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    wall_offset_s: Annotated[float, Field(ge=0)] = 30.0
    takes_s: Annotated[float, Field(ge=0)] = 3.0
    raises: Annotated[float, Field(ge=0, le=1)] = 0.5


def draw_plan(swarm: Swarm, names: list[str], safety_s: float, chance: random.Random) -> list[faults.Fault]:
    """Draw the faults of one run.

    Args:
        swarm: Within which bounds.
        names: The members there are at first.
        safety_s: How long faults may happen; each begins in the first three quarters.
        chance: Every draw comes from it.
    """
    drawn = _Draw(swarm, names, safety_s, chance)
    kinds = [kind for kind in swarm.kinds if chance.random() < 0.5] or [chance.choice(swarm.kinds)]
    found: list[faults.Fault] = []
    for _ in range(chance.randint(1, max(1, swarm.most))):
        found += drawn.fault(chance.choice(kinds))
    return found


class _Draw:
    """Draws single faults."""

    def __init__(self, swarm: Swarm, names: list[str], safety_s: float, chance: random.Random) -> None:
        self._swarm, self._names, self._safety_s, self._chance = swarm, names, safety_s, chance
        self._joined = 0

    def fault(self, kind: str) -> list[faults.Fault]:
        """One fault of a kind, with what belongs to it."""
        return DRAWS[kind](self)

    def _at(self) -> float:
        return self._second(self._safety_s * 0.75)

    def _second(self, most: float, least: float = 0.0) -> float:
        return round(self._chance.uniform(least, max(least, most)), 3)

    def _share(self, most: float) -> float:
        return round(self._chance.uniform(0, most), 4)

    def _some(self) -> tuple[str, ...]:
        most = max(1, int(self._swarm.struck * len(self._names)))
        return tuple(sorted(self._chance.sample(self._names, self._chance.randint(1, most))))

    def pause(self) -> list[faults.Fault]:
        return [
            faults.Pause(at_s=self._at(), members=self._some(), for_s=self._second(self._swarm.pause_s, 0.1))
        ]

    def starve(self) -> list[faults.Fault]:
        longest = self._second(self._swarm.pause_s / 2, 0.2)
        return [
            faults.Starve(
                at_s=self._at(),
                members=self._some(),
                for_s=self._second(self._safety_s / 2, 1.0),
                running_s=self._second(4.0, 0.5),
                paused_s=(0.1, longest),
            )
        ]

    def crash(self) -> list[faults.Fault]:
        at_s, members = self._at(), self._some()
        crash = faults.Crash(at_s=at_s, members=members, power=self._chance.random() < 0.5)
        if self._chance.random() < 0.3:
            return [crash]
        disk = self._chance.random() < 0.5
        restart = faults.Restart(
            at_s=self._second(self._safety_s, at_s),
            members=members,
            disk=disk,
            seeds=not disk or self._chance.random() < 0.5,
            moved=self._chance.random() < 0.3,
        )
        return [crash, restart]

    def join(self) -> list[faults.Fault]:
        self._joined += 1
        return [faults.Join(at_s=self._at(), members=(f"new{self._joined}",))]

    def leave(self) -> list[faults.Fault]:
        at_s, members = self._at(), self._some()
        leave = faults.Leave(at_s=at_s, members=members)
        if self._chance.random() < 0.5:
            return [leave]
        return [leave, faults.Restart(at_s=self._second(self._safety_s, at_s), members=members)]

    def partition(self) -> list[faults.Fault]:
        # Whoever joins meanwhile is on one side too: a bridge would carry verdicts from one to the other.
        everybody = [*self._names, *(f"new{number + 1}" for number in range(self._swarm.most))]
        shuffled = self._chance.sample(everybody, len(everybody))
        cut = self._chance.randint(1, max(1, len(shuffled) - 1))
        mode: Any = self._chance.choice(["symmetric", "symmetric", "one_way"])
        sides = (tuple(sorted(shuffled[:cut])), tuple(sorted(shuffled[cut:])))
        if not all(sides):
            return []
        return [
            faults.Partition(
                at_s=self._at(), sides=sides, mode=mode, for_s=self._second(self._swarm.partition_s, 1.0)
            )
        ]

    def disturb(self) -> list[faults.Fault]:
        swarm, everybody = self._swarm, self._chance.random() < 0.5
        return [
            faults.Disturb(
                at_s=self._at(),
                for_s=self._second(self._safety_s / 2, 1.0),
                sources=None if everybody else self._some(),
                both_ways=self._chance.random() < 0.5,
                loss=self._share(swarm.loss),
                delay_s=self._share(swarm.delay_s),
                duplicate=self._share(swarm.duplicate),
                reorder=self._share(swarm.reorder),
                corrupt=self._share(swarm.corrupt),
            )
        ]

    def clock(self) -> list[faults.Fault]:
        drift, offset = self._swarm.drift, self._swarm.wall_offset_s
        return [
            faults.Clock(
                at_s=self._at(),
                members=self._some(),
                rate=round(1 + self._chance.uniform(-drift, drift), 6),
                wall_offset_s=round(self._chance.uniform(-offset, offset), 3),
            )
        ]

    def reset(self) -> list[faults.Fault]:
        sources = None if self._chance.random() < 0.3 else self._some()
        return [faults.Reset(at_s=self._at(), sources=sources)]

    def agents(self) -> list[faults.Fault]:
        return [
            faults.Agents(
                at_s=self._at(),
                members=self._some(),
                for_s=self._second(self._safety_s / 2, 1.0),
                takes_s=self._second(self._swarm.takes_s),
                raises=self._share(self._swarm.raises),
            )
        ]

    def churn(self) -> list[faults.Fault]:
        return [
            faults.Churn(
                at_s=self._at(), for_s=self._second(self._safety_s / 2, 1.0), per_s=self._second(0.3, 0.02)
            )
        ]


DRAWS: Final[dict[str, Callable[[_Draw], list[faults.Fault]]]] = {
    "pause": _Draw.pause,
    "starve": _Draw.starve,
    "crash": _Draw.crash,
    "join": _Draw.join,
    "leave": _Draw.leave,
    "partition": _Draw.partition,
    "disturb": _Draw.disturb,
    "clock": _Draw.clock,
    "churn": _Draw.churn,
    "reset": _Draw.reset,
    "agents": _Draw.agents,
}
"""What draws a fault of each kind."""
