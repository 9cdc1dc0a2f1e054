"""Watches whole nodes: their starts and ends, what they hold of each other, links and requests.

The trace tells what happens to nodes and what they send; the events of their membership are overheard as
they are written into its journal; what became of each request is what the properties have looked up at the
end of the run. Nothing is planned and nothing is waited for, or Trio would draw another order of tasks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Final

from simulations.cluster import SimulatedNode
from simulations.nodes.properties import SimulatedLedger
from simulations.report.story import Chart, Story, Turn
from simulations.report.verdicts import VERDICTS, tell, tell_table
from simulations.timeline import EPOCH_S, US_PER_S
from swim.events import Event

REQUESTS: Final = "requests"
OPEN: Final = "open"
UNKNOWN: Final = "end not known"
"""What became of these requests nobody can say at the end of the run."""
TRAFFIC: Final = "traffic"
TURNS: Final = {
    "ready": (Turn.UP, "is ready"),
    "paused": (Turn.PAUSED, "stands still"),
    "resumed": (Turn.UP, "goes on"),
    "crashed": (Turn.CRASHED, "crashes"),
    "lost": (Turn.CRASHED, "loses power"),
    "leaves": (Turn.LEAVING, "says goodbye"),
    "left": (Turn.LEFT, "has left"),
    "stopped": (Turn.STOPPED, "stops"),
}
"""By the word of the trace."""


class NodeCollector:
    """Tells a story of what nodes see and do.

    Args:
        story: Is told.
    """

    CHARTS: ClassVar = (
        Chart(REQUESTS, "Requests", "mirror", ("accepted", "refused", "settled", "failed", UNKNOWN)),
        Chart(OPEN, "Under way at the end of each second", "level", ("open",)),
        Chart(VERDICTS, "Changes of views", "stack", ("suspect", "dead", "left", "forgotten", "up")),
        Chart(TRAFFIC, "Packets sent", "stack", ("link writes", "gossip datagrams")),
    )
    FLOWS: ClassVar = "writes on links"
    """What is told of who sends to whom."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self._ledger: SimulatedLedger
        self._last_us = 0
        self._refused = 0
        self._silent: dict[str, SimulatedNode] = {}
        self._offsets: dict[str, list[tuple[int, float]]] = {}

    def observe(self, ledger: SimulatedLedger) -> None:
        """Watch a run before anything happens to it."""
        self._ledger = ledger
        ledger.actions.cluster.on_start = self._start
        ledger.actions.lines.listener = self._line

    def finish(self) -> None:
        """Tell what became of requests, which is known of those whose origin runs at the end."""
        if not hasattr(self, "_ledger"):
            return  # the run has ended before there was anything to watch
        clients, story = self._ledger.clients, self.story
        steps: dict[int, int] = {}
        known: set[str] = set()
        for asked, history in self._ledger.found:
            row = None if history is None else history.row
            if row is None:
                continue
            known.add(asked.id)
            began_us = round(asked.at_s * US_PER_S)
            steps[began_us // US_PER_S] = steps.get(began_us // US_PER_S, 0) + 1
            if row.ended_s is None:
                continue
            us = max(began_us, self._true_us(asked.origin, row.ended_s))
            steps[us // US_PER_S] = steps.get(us // US_PER_S, 0) - 1
            story.counted(us, REQUESTS, "settled" if row.state == "settled" else "failed")
        self._tell_open(steps)
        unknown = [] if clients is None else [asked for asked in clients.asked if asked.id not in known]
        for asked in unknown:
            story.counted(round(asked.at_s * US_PER_S), REQUESTS, UNKNOWN)
        if unknown:
            story.notes.append(
                f"What became of {len(unknown)} accepted requests is not known: their origin does not run at "
                "the end, has forgotten them, or the run ended before that was looked up."
            )

    def _tell_open(self, steps: dict[int, int]) -> None:
        """Tell how many requests are under way, by the changes in each second; of leaps there is nothing."""
        last = max([*steps, self._last_us // US_PER_S])
        leaps = [(from_us // US_PER_S, to_us // US_PER_S) for from_us, to_us in self.story.leaps]
        begins = [min(steps, default=0), *(until for _, until in leaps)]
        ends = [*(since for since, _ in leaps), last]
        number, waiting = 0, sorted(steps)[::-1]
        for begin, end in zip(begins, ends, strict=True):
            for second in range(begin, end + 1):
                while waiting and waiting[-1] <= second:
                    number += steps[waiting.pop()]
                if number:
                    self.story.counted(second * US_PER_S, OPEN, "open", number)

    def _true_us(self, name: str, wall_s: float) -> int:
        """When a node's wall clock, which may have been set off, showed a time."""
        us, offsets = 0, [(0, 0.0), *self._offsets.get(name, ())]
        for (_, offset_s), (until_us, _) in pairwise([*offsets, (1 << 62, 0.0)]):
            us = round((wall_s - EPOCH_S - offset_s) * US_PER_S)
            if us < until_us:
                break
        return max(0, us)

    def _start(self, running: SimulatedNode) -> None:
        """A life begins; its membership is made a little later, before it sends anything."""
        now_us = self._ledger.actions.timeline.now_us
        self.story.turned(now_us, running.name, Turn.STARTING, "starts")
        self.story.table(now_us, running.name, ())
        self._silent[running.name] = running

    def _overhear(self, running: SimulatedNode) -> None:
        """Listen to what the membership of a node writes into its journal, which is every event of it."""
        world, journal, name = self._ledger.actions.timeline, running.node.membership._journal, running.name
        note = journal.note

        def overhear(event: Event) -> None:
            note(event)
            if not running.host.fenced:
                tell(self.story, world.now_us, name, event)

        journal.note = overhear  # type: ignore[method-assign] # the node itself has no use for such a listener

    def _line(self, us: int, who: str, what: str, rest: str) -> None:
        self._last_us = us
        if who in self._silent:
            self._overhear(self._silent.pop(who))
        if what == "udp":
            self.story.counted(us, TRAFFIC, "gossip datagrams")
        elif what == "tcp":
            self.story.counted(us, TRAFFIC, "link writes")
            self.story.sent(us, who, rest.split(" ", 1)[0])
        elif what == "accepted":
            self.story.counted(us, REQUESTS, "accepted")
        elif what in TURNS:
            self._turn(us, who, what, rest)
        elif what == "clock":
            self._offsets.setdefault(who, []).append((us, float(rest)))
        elif what == "fault" and rest.startswith("heal"):
            self.story.healed_us = us
        elif what == "fault" and rest.startswith("jump "):
            self.story.leapt(us, int(rest.split()[1]))
        self._count_refused(us)

    def _turn(self, us: int, who: str, what: str, rest: str) -> None:
        turn, words = TURNS[what]
        self.story.turned(us, who, turn, f"{words}: {rest}" if what == "stopped" else words)
        running = self._ledger.actions.cluster.nodes.get(who)
        if what == "ready" and running is not None:
            tell_table(self.story, us, who, running.node.membership.swim)

    def _count_refused(self, us: int) -> None:
        clients = self._ledger.clients
        refused = 0 if clients is None else sum(clients.refused.values())
        if refused > self._refused:
            self.story.counted(us, REQUESTS, "refused", refused - self._refused)
            self._refused = refused
