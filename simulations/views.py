"""Whom each member holds up, as its events tell, and in how many cases that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulations import production
from simulations.watcher import Watcher
from swim.events import Event

if TYPE_CHECKING:
    from simulations.members import MemberCluster, SimulatedMember


class Views(Watcher):
    """The views of all members, kept up to date by their events.

    Args:
        cluster: Whose views they are.

    Attributes:
        up: Whom each running member holds up.
        wrong: Pairs of running member and other in which the view differs from the truth.
        agreed_us: Since when no view has been wrong; None while one is.
    """

    def __init__(self, cluster: MemberCluster) -> None:
        self._cluster = cluster
        self.up: dict[str, dict[str, None]] = {}
        self.wrong = 0
        self.agreed_us: int | None = 0

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Take an event into the view of the member that tells it."""
        subject = production.subject(event)
        view = self.up.get(member.name)
        if subject is None or view is None:
            return
        holds = production.tells_up(event)
        if holds is None or holds == (subject.name in view):
            return
        is_up = subject.name in self.up
        self._count(-1 if holds == is_up else 1)
        if holds:
            view[subject.name] = None
        else:
            del view[subject.name]

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Take into account who runs."""
        name = member.name
        if what == "started":
            holding = sum(name in view for view in self.up.values())
            self._count(len(self.up) - 2 * holding)
            self.up[name] = {m.name: None for m in member.swim.members() if m.is_up}
            self._count(self._wrong_of(name))
        elif what in ("crashed", "left", "stopped"):
            self._count(-self._wrong_of(name))
            del self.up[name]
            holding = sum(name in view for view in self.up.values())
            self._count(2 * holding - len(self.up))

    def _wrong_of(self, name: str) -> int:
        """How many others a member holds wrongly up or not up."""
        view = self.up[name]
        right = sum(other in self.up for other in view)
        return len(view) - right + len(self.up) - 1 - right

    def _count(self, more: int) -> None:
        self.wrong += more
        if self.wrong:
            self.agreed_us = None
        elif self.agreed_us is None:
            self.agreed_us = self._cluster.timeline.now_us
