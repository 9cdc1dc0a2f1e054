"""Leaves agents alone that keep failing, and nodes that cannot be reached: a circuit breaker for each.

A breaker counts failures in a row: of an agent, messages that its handler could not handle; of a node, dials
without an answer and messages that were never acknowledged, while membership shows it alive. An open one
takes its agent, or all agents of its node, out of the choice; half open, one message at a time is let
through. Where nobody else is left to choose, breakers are not looked at: a message is better with an agent
that has failed than nowhere, and a single sender of bad messages cannot close an agent for everybody.

No I/O: time is passed in. :mod:`node.messaging.placement` asks, :mod:`node.messaging.decisions` tells.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from node.breaker import Admission, Breaker, BreakerLimits, BreakerState
from node.messaging.explanation import Target

TROUBLED_LIMIT: Final = 1_000
"""Most agents and nodes whose failures are counted; the longest untouched are forgotten."""
NODE_LIMITS: Final = BreakerLimits(failures=5, open_s=10.0, probes=1)
"""Of a node: dials fail several times before membership notices a death, and one answer proves it well."""


class Breakers:
    """The breakers of agents (agent, node) and of nodes; those without failures are not kept.

    Args:
        limits: Of agents.
    """

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._troubled: OrderedDict[Target, Breaker] = OrderedDict()
        self._probes: dict[Target, float] = {}
        self._version = 0
        self._due = math.inf
        self._counts = dict.fromkeys(("opened", "ignored"), 0)

    @property
    def are_all_closed(self) -> bool:
        """Whether nobody is left out, which is nearly always so."""
        return self._due == math.inf

    @property
    def are_untroubled(self) -> bool:
        """Whether nobody has failed lately, so that there is no success to count either."""
        return not self._troubled

    def version(self, now: float) -> int:
        """Another number whenever others may be left out than before."""
        if now >= self._due:
            self._look(now)
        return self._version

    def why_not(self, target: Target, now: float) -> str | None:
        """Why an agent is left out now, or None."""
        for which, name in ((target, "its"), (_of_node(target[1]), "its node's")):
            found = self._troubled.get(which)
            if found is None:
                continue
            state = found.state(now)
            if state is BreakerState.OPEN:
                return f"{name} breaker is open for {found.open_s(now):.1f} s more"
            if state is BreakerState.HALF_OPEN and self._probes.get(which, -math.inf) > now:
                return f"{name} breaker is half open, and being tried"
        return None

    def chosen(self, target: Target, now: float) -> None:
        """An agent was given a message: where its breaker is half open, that is a trial."""
        for which in (target, _of_node(target[1])):
            found = self._troubled.get(which)
            if found is not None and found.state(now) is BreakerState.HALF_OPEN:
                found.admit(now)
                self._probes[which] = now + self._limits_of(which).open_s
                self._look(now)

    def succeeded(self, target: Target, now: float) -> None:
        """An agent has handled a message."""
        if self._troubled:
            self._well(target, now)
            self._well(_of_node(target[1]), now)

    def failed(self, target: Target, now: float) -> bool:
        """An agent could not handle a message; says whether its breaker has opened."""
        return self._ill(target, now)

    def unreachable(self, node: str, now: float) -> bool:
        """A node did not answer; says whether its breaker has opened."""
        return self._ill(_of_node(node), now)

    def reached(self, node: str, now: float) -> None:
        """A node has answered, or membership has heard it anew: its past counts no more."""
        if self._troubled.pop(_of_node(node), None) is not None:
            self._probes.pop(_of_node(node), None)
            self._look(now)

    def ignored(self) -> None:
        """Nobody else was left to choose."""
        self._counts["ignored"] += 1

    def shown(self, now: float) -> dict[str, dict[str, object]]:
        """Every breaker that is not closed, by ``agent@node`` or ``@node``."""
        return {
            "@".join(which): breaker.statistics(now)
            for which, breaker in self._troubled.items()
            if breaker.state(now) is not BreakerState.CLOSED
        }

    def statistics(self, now: float) -> dict[str, int]:
        """Counts and sizes."""
        states = [breaker.state(now) for breaker in self._troubled.values()]
        return {
            "troubled": len(states),
            "troubled_limit": TROUBLED_LIMIT,
            "breakers_open": states.count(BreakerState.OPEN),
            "breakers_half_open": states.count(BreakerState.HALF_OPEN),
            "breakers_opened": self._counts["opened"],
            "breakers_ignored": self._counts["ignored"],
        }

    def _limits_of(self, which: Target) -> BreakerLimits:
        return self._limits if which[0] else NODE_LIMITS

    def _admission(self, which: Target) -> Admission:
        return Admission(probe=self._probes.pop(which, None) is not None)

    def _well(self, which: Target, now: float) -> None:
        found = self._troubled.get(which)
        if found is None:
            return
        found.succeeded(self._admission(which))
        if found.state(now) is BreakerState.CLOSED:
            del self._troubled[which]
        self._look(now)

    def _ill(self, which: Target, now: float) -> bool:
        found = self._troubled.setdefault(which, Breaker(self._limits_of(which)))
        self._troubled.move_to_end(which)
        was_open = found.state(now) is BreakerState.OPEN
        found.failed(self._admission(which), now)
        opened = not was_open and found.state(now) is BreakerState.OPEN
        self._counts["opened"] += opened
        if len(self._troubled) > TROUBLED_LIMIT:
            forgotten, _ = self._troubled.popitem(last=False)
            self._probes.pop(forgotten, None)
        self._look(now)
        return opened

    def _look(self, now: float) -> None:
        """Find out when somebody is left out, or let in, next; nobody's ranking is valid any more."""
        self._version += 1
        soonest = math.inf
        for which, breaker in self._troubled.items():
            if breaker.state(now) is BreakerState.OPEN:
                soonest = min(soonest, now + breaker.open_s(now))
            elif breaker.state(now) is BreakerState.HALF_OPEN:
                soonest = min(soonest, max(self._probes.get(which, now + 1.0), now))
        self._due = soonest


def _of_node(node: str) -> Target:
    return "", node
