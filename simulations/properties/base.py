"""What a property is, and what it may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from simulations.members import MemberCluster, SimulatedMember
from simulations.timeline import US_PER_S
from simulations.truth import Truth
from simulations.views import Views
from simulations.watcher import Watcher

MAX_VIOLATIONS: int = 100
"""Violations that are kept of one run; what comes after them says nothing new."""


class Bounds(BaseModel):
    """How long things may take, in seconds.

    Attributes:
        detect_s: From a crash until every live member knows of it.
        join_s: From a start until every live member knows of it.
        converge_s: From the healing of everything until all views agree.
        pause_s: A process that stands still for less must not be declared dead.
        settle_s: How long after a spell of bad luck its consequences are still excused.
        reap_slack_s: How late a dead or departed member may leave the table.
        quiet_s: At the end of the run nobody's state has changed for so long; 0 for no such demand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    detect_s: float = Field(default=60.0, gt=0)
    join_s: float = Field(default=15.0, gt=0)
    converge_s: float = Field(default=60.0, gt=0)
    pause_s: float = Field(default=2.0, ge=0)
    settle_s: float = Field(default=60.0, ge=0)
    reap_slack_s: float = Field(default=5.0, ge=0)
    quiet_s: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold.

    Args:
        property: Its name.
        at_us: When that was seen.
        text: What was seen.
    """

    property: str
    at_us: int
    text: str


@dataclass(slots=True)
class Context:
    """What properties look at.

    Args:
        cluster: The members.
        truth: What is true of them.
        views: Whom each of them holds up, by its events.
        bounds: How long things may take.
        violations: Where violations go.
    """

    cluster: MemberCluster
    truth: Truth
    views: Views
    bounds: Bounds
    violations: list[Violation] = field(default_factory=list)

    def after_s(self, seconds: float) -> int:
        """The time so many seconds from now, in microseconds of the run."""
        return self.cluster.timeline.now_us + round(seconds * US_PER_S)


class Property(Watcher):
    """Something that holds in every run.

    An ``always_`` property is violated when it is seen not to hold, which ends the run; an ``eventually_``
    one when its time is over; a ``finally_`` one at the end of the run. A ``sometimes_`` property never fails
    a run, but a sweep in which it never held has tested less than it says.

    Args:
        context: What it looks at.

    Attributes:
        name: Its name.
        checks: How often it was put to the test.
    """

    name: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self.context = context
        self.checks = 0

    @property
    def is_safety(self) -> bool:
        """Whether it must hold while everything goes wrong, too."""
        return self.name.startswith("always_")

    def sample(self, members: Sequence[SimulatedMember]) -> None:
        """Look at some members; called every few seconds, so that each has its turn."""

    def finish(self) -> None:
        """Judge; called at the end of the run."""

    def violated(self, text: str) -> None:
        """Report that the property does not hold."""
        context = self.context
        now_us = context.cluster.timeline.now_us
        context.cluster.lines.add(now_us, "-", "violated", f"{self.name}: {text}")
        if len(context.violations) < MAX_VIOLATIONS:
            context.violations.append(Violation(self.name, now_us, text))
        if self.is_safety:
            context.cluster.timeline.stop()
