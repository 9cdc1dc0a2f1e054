"""Watches members: what they hold of each other as their events tell, and what becomes of their datagrams."""

from __future__ import annotations

from typing import ClassVar, Final

from simulations.members import MemberCluster, SimulatedMember
from simulations.report.story import Chart, Story, Turn
from simulations.report.verdicts import VERDICTS, tell, tell_table
from simulations.watcher import Watcher
from swim.events import Event

DATAGRAMS: Final = "datagrams"
FATES: Final = "fates"
LOST: Final = frozenset({"lost", "cut", "overflow", "nobody"})
"""What a line of the trace says of a datagram that does not arrive."""
TURNS: Final = {
    "started": (Turn.UP, "starts"),
    "crashed": (Turn.CRASHED, "crashes"),
    "left": (Turn.LEFT, "has left"),
    "stopped": (Turn.STOPPED, "stops: another process has its name"),
    "paused": (Turn.PAUSED, "stands still"),
    "resumed": (Turn.UP, "goes on"),
}


class MemberCollector(Watcher):
    """Tells a story of what members see and do.

    Args:
        story: Is told.
    """

    CHARTS: ClassVar = (
        Chart(VERDICTS, "Changes of views", "stack", ("suspect", "dead", "left", "forgotten", "up")),
        Chart(DATAGRAMS, "Datagrams sent, by their first message", "stack"),
        Chart(FATES, "Datagrams lost", "share", ("lost", "arrived")),
    )
    FLOWS: ClassVar = "datagrams"
    """What is told of who sends to whom."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self._cluster: MemberCluster

    def observe(self, cluster: MemberCluster) -> None:
        """Watch a cluster before anything happens to it."""
        self._cluster = cluster
        cluster.watch(self)
        cluster.lines.listener = self._line

    def finish(self) -> None:
        """Everything has been told as it happened."""

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Note what a member holds from now on."""
        tell(self.story, self._cluster.timeline.now_us, member.name, event)

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note who starts, ends and stands still."""
        if what not in TURNS:
            return
        now_us = self._cluster.timeline.now_us
        turn, words = TURNS[what]
        if what == "crashed" and member.machine.off:
            words = "loses power"
        elif what == "resumed" and member.leaving:
            turn = Turn.LEAVING
        self.story.turned(now_us, member.name, turn, words)
        if what == "started":
            tell_table(self.story, now_us, member.name, member.swim)

    def _line(self, us: int, who: str, what: str, rest: str) -> None:
        if what == "send":
            self._send(us, who, rest.split())
        elif what == "full":
            self.story.counted(us, FATES, "lost")
            self.story.counted(us, FATES, "arrived", -1)
        elif what == "fault" and rest == "leave":
            self.story.turned(us, who, Turn.LEAVING, "says goodbye")
        elif what == "fault" and who == "-" and rest.startswith("heal"):
            self.story.healed_us = us
        elif what == "fault" and who == "-" and rest.startswith("jump "):
            self.story.leapt(us, int(rest.split()[1]))

    def _send(self, us: int, who: str, columns: list[str]) -> None:
        target, kind, fate = columns[0], columns[2], columns[-1]
        is_lost = fate in LOST
        self.story.sent(us, who, target, lost=is_lost)
        self.story.counted(us, DATAGRAMS, kind)
        self.story.counted(us, FATES, "lost" if is_lost else "arrived")
