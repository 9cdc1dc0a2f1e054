"""Decides what this node does for the deployments of the cluster; does no I/O.

There is no coordinator: every node judges by its own view, and all that see the same judge alike
(:mod:`node.deployments.ranking`). What keeps them from acting on a view that is about to change:

* **Who is there** changes only once it has lasted: a node counts as gone when it was not up for
  ``settle_s`` in one piece, and as come likewise, unless everybody who is remembered is up (for a tenth
  of that time), when nobody is missing who could know better.
* **A majority** of the remembered members has to be up, and to have been for as long. On the smaller
  side of a partition nothing is started; what runs goes on, or stops where the deployment says so. A
  restarted node runs none of its replicas before.
* **Others first**: a replica that belongs elsewhere stops when those to whom it belongs say that they
  run the wanted package. So an update, a move, and a heal (after which there are too many) never leave
  fewer than before.
* **One after the other**: where the package has changed, a node takes it up when those before it in the
  ranking run it. Who could not run it keeps the old one and is passed over; it is tried again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from node.deployments.desired import Desired
from node.deployments.facts import NodeFacts, Report
from node.deployments.ranking import Plan, all_run, meets, plan
from swim.partition import Side

RETRY_S: Final = 300.0
"""So long a node is passed over that could not run a package, in seconds."""
WHOLE_SHARE: Final = 0.1
"""Of ``settle_s``: so long everybody who is remembered has to be up before that counts for the whole cluster.
A node that has just joined remembers a part of it at first."""
FETCH_RETRY_S: Final = 5.0
"""Pause after a package could not be had, in seconds."""
STOP_RETRY_S: Final = 5.0
"""Pause after a replica could not be removed, in seconds."""


@dataclass(frozen=True, slots=True)
class Own:
    """A replica on this node.

    Args:
        runs: The package, by the beginning of its digest.
        status: ``running``, ``waiting`` (after a restart), or ``error``.
        code: Why it is ``error``.
    """

    runs: str
    status: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """All that is judged by.

    Args:
        up: Who is up, this node included.
        facts: What nodes say of themselves, or said last.
        remembered: How many members have not said goodbye, those that are lost included.
        side: Of a partition.
        joined: Whether the cluster has answered, or this node is its first.
        desired: The deployments, by agent.
        withdrawn: Agents whose deployment is known to have been deleted.
        reports: What the other nodes say of each deployment, or said last: agent -> node -> report.
        own: The replicas of this node, by agent.
        held: Packages that are here, by agent.
    """

    up: frozenset[str]
    remembered: int
    side: Side
    joined: bool
    facts: Mapping[str, NodeFacts] = field(default_factory=dict)
    desired: Mapping[str, Desired] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    reports: Mapping[str, Mapping[str, Report]] = field(default_factory=dict)
    own: Mapping[str, Own] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Run this package from now on, in the place of an older one if there is one."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class Fetch:
    """Have this package here, in case a replica has to be started."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class Stop:
    """Let the replica finish, and remove it."""

    agent: str
    why: str


Effect = Start | Fetch | Stop


@dataclass(frozen=True, slots=True)
class Setback:
    """What did not work: with which package, why, and until when it is not tried again."""

    short: str
    code: str
    until: float


class Placing:
    """The decisions of one node.

    Args:
        node: Its name.
        settle_s: How long a change has to last before it counts, in seconds.
    """

    def __init__(self, node: str, settle_s: float) -> None:
        self.node, self._settle_s = node, settle_s
        self._view: View | None = None
        self._seen: dict[str, tuple[bool, float]] = {}  # up or not, and since when
        self._present: set[str] = set()
        self._majority: tuple[bool, float] | None = None
        self._whole: tuple[frozenset[str], float] | None = None  # all of them, and since when they are up
        self._complete = self._awaits_word = False
        self._busy: dict[str, Effect] = {}
        self._failed: dict[str, Setback] = {}
        self._missing: dict[str, Setback] = {}
        self._stuck: dict[str, Setback] = {}
        self._company: dict[str, tuple[str, ...]] = {}  # those that were chosen when this node was, too
        self._effects: list[Effect] = []
        self._now = 0.0
        self._nodes: dict[str, NodeFacts | None] = {}
        self._known: dict[str, tuple[Desired, dict[str, str], Plan]] = {}
        self.plans: dict[str, Plan] = {}
        self._counts = dict.fromkeys(("started", "fetched", "stopped", "failed", "missing"), 0)

    # Verbs

    def receive(self, view: View, now: float) -> None:
        """Judge a view.

        Args:
            view: As it is now.
            now: Monotonic seconds.
        """
        self._view = view
        self.handle_timer(now)

    def handle_timer(self, now: float) -> None:
        """Judge the last view again: something has lasted long enough, or may be tried again."""
        self._now = now
        view = self._view
        if view is None:
            return
        self._settle(view)
        self._note_errors(view)
        self._look_around(view)
        self.plans = {agent: self._plan(view, desired) for agent, desired in view.desired.items()}
        for agent, where in self.plans.items():
            if self.node in where.chosen:
                self._company[agent] = where.chosen
        self._forget(view)
        for agent in sorted(view.own.keys() & view.withdrawn):
            if agent not in view.desired:
                self._do(agent, Stop(agent, "its deployment was deleted"))
        for desired in sorted(view.desired.values(), key=lambda each: (-each.priority, each.agent)):
            self._judge(view, desired)

    def finished(self, agent: str, now: float, *, failed: str = "", missing: bool = False) -> None:
        """An effect has been carried out, or could not be.

        Args:
            agent: Whose it was.
            now: Monotonic seconds.
            failed: The code of the error for which the package does not run here.
            missing: Whether the package was not to be had.
        """
        effect = self._busy.pop(agent)
        if isinstance(effect, Stop):
            self._finished_stop(agent, now, failed)
            return
        short = effect.desired.short
        if failed:
            self._failed[agent] = Setback(short, failed, now + RETRY_S)
            self._counts["failed"] += 1
        elif missing:
            self._missing[agent] = Setback(short, "", now + FETCH_RETRY_S)
            self._counts["missing"] += 1
        else:
            self._failed.pop(agent, None)
            self._missing.pop(agent, None)
            self._counts["started" if isinstance(effect, Start) else "fetched"] += 1

    def _finished_stop(self, agent: str, now: float, failed: str) -> None:
        self._stuck.pop(agent, None)
        if failed:  # of a sick disk: the replica is still there
            self._stuck[agent] = Setback("", failed, now + STOP_RETRY_S)
        else:
            self._counts["stopped"] += 1

    def effects(self) -> list[Effect]:
        """What is to be done, once."""
        effects, self._effects = self._effects, []
        return effects

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` has something to do, in monotonic seconds; None for never."""
        due = [
            since + self._settle_s
            for name, (up, since) in self._seen.items()
            if up != (name in self._present)
        ]
        due += [setback.until for setback in self._setbacks()]
        if self._majority is not None:
            due.append(self._majority[1] + self._settle_s)
        if self._whole is not None:
            due.append(self._whole[1] + self._settle_s * WHOLE_SHARE)
        due += [since + self._settle_s for name, (_, since) in self._seen.items() if self._is_unknown(name)]
        return min((at for at in due if at > self._now), default=None)

    # What is told

    @property
    def is_sure(self) -> bool:
        """Whether this node may start what belongs here: it sees a majority, and has for long enough."""
        if self._majority is None or not self._majority[0]:
            return False
        return self._complete or self._lasted(self._majority[1])

    def report(self, agent: str) -> Report:
        """What this node says of a deployment."""
        view = self._view
        own = None if view is None else view.own.get(agent)
        runs = own.runs if own is not None and own.status == "running" else ""
        setback = self._failed.get(agent)
        failed, code = (
            (setback.short, setback.code) if setback is not None and self._holds(setback) else ("", "")
        )
        return Report(runs, "" if view is None else view.held.get(agent, ""), failed, code)

    def why_waiting(self, agent: str) -> str:
        """Why this node, to which a replica belongs, does not run it; empty where it does, or is about to."""
        if self._view is None or not self.is_sure:
            return "it does not see a majority of the cluster, or not for long enough"
        missing = self._missing.get(agent)
        if missing is not None:
            return "the package is on no node that can be reached"
        return ""

    def successor(self, agent: str) -> str:
        """The node that has taken this one's place; the first where that is not known, empty for none."""
        chosen = self.plans.get(agent, Plan()).chosen
        if not self.is_sure or not chosen or self.node in chosen:
            return ""
        company = self._company.get(agent, ())
        return next((node for node in chosen if node not in company), chosen[0])

    def statistics(self) -> dict[str, int]:
        """Counts of what was done, and of what is known."""
        return {
            **self._counts,
            "deployments": len(self.plans),
            "nodes_present": len(self._present),
            "under_way": len(self._busy),
            "sure": int(self.is_sure),
        }

    # Inside

    def _settle(self, view: View) -> None:
        """Take note of who is there, as far as it has lasted."""
        now = self._now
        majority = view.joined and view.side is Side.MAJORITY
        if self._majority is None or self._majority[0] != majority:
            self._majority = majority, now
        whole = view.up if majority and len(view.up) == view.remembered else frozenset()
        if self._whole is None or self._whole[0] != whole:
            self._whole = whole, now
        self._complete = bool(whole) and now >= self._whole[1] + self._settle_s * WHOLE_SHARE
        for name in sorted(self._seen.keys() | view.up):
            up = name in view.up
            if self._seen.get(name, (not up, now))[0] != up:
                self._seen[name] = up, now
            if not self._complete and not self._lasted(self._seen[name][1]):
                continue
            if up:
                self._present.add(name)
            else:
                self._present.discard(name)
                del self._seen[name]

    def _lasted(self, since: float) -> bool:
        return self._now >= since + self._settle_s

    def _holds(self, setback: Setback) -> bool:
        return self._now < setback.until

    def _is_unknown(self, name: str) -> bool:
        """Whether somebody has come so lately that what it says of itself may be on its way."""
        view = self._view
        if view is None or name not in view.up or name in view.facts:
            return False
        return not self._lasted(self._seen[name][1])

    def _note_errors(self, view: View) -> None:
        """A replica that has failed while it ran is passed over as one that did not start."""
        for agent, own in view.own.items():
            if own.status != "error":
                continue
            known = self._failed.get(agent)
            if agent not in self._busy and (known is None or known.short != own.runs):
                self._failed[agent] = Setback(own.runs, own.code, self._now + RETRY_S)
                self._counts["failed"] += 1

    def _look_around(self, view: View) -> None:
        """Who is there, with what it says of itself; where that is as before, so is where replicas belong."""
        self._awaits_word = any(map(self._is_unknown, self._present))
        nodes = {name: view.facts.get(name) for name in sorted(self._present)}
        if nodes != self._nodes:
            self._nodes = nodes
            self._known.clear()

    def _plan(self, view: View, desired: Desired) -> Plan:
        failed = {
            node: report.code
            for node, report in view.reports.get(desired.agent, {}).items()
            if report.failed == desired.short
        }
        own = self._failed.get(desired.agent)
        if own is not None and own.short == desired.short and self._holds(own):
            failed[self.node] = own.code
        known = self._known.get(desired.agent)
        if known is None or known[:2] != (desired, failed):
            known = self._known[desired.agent] = desired, failed, plan(desired, self._nodes, failed)
        return known[2]

    def _judge(self, view: View, desired: Desired) -> None:
        agent, me = desired.agent, self.node
        if agent in self._busy:
            return
        own, where = view.own.get(agent), self.plans[agent]
        if not self.is_sure:
            lasted = self._majority is not None and not self._majority[0] and self._lasted(self._majority[1])
            if own is not None and own.status == "running" and desired.minority == "stop" and lasted:
                self._do(agent, Stop(agent, "a majority of the cluster cannot be seen"))
            return
        if me in where.chosen:
            if self._is_due(view, desired, own):
                self._do(agent, Start(desired))
        elif own is not None:
            why = self._why_stop(view, desired)
            if why:
                self._do(agent, Stop(agent, why))
        elif me == where.spare and view.held.get(agent) != desired.short and self._may_fetch(desired):
            self._do(agent, Fetch(desired))

    def _is_due(self, view: View, desired: Desired, own: Own | None) -> bool:
        """Whether this node, which is chosen, has to start what it does not run yet."""
        if self._awaits_word or not self._may_fetch(desired):
            return False
        if own is None or own.status != "running":
            return True
        if own.runs == desired.short:
            return False
        chosen = self.plans[desired.agent].chosen
        before = chosen[: chosen.index(self.node)]
        return not before or all_run(before, desired, self._runs(view, desired.agent))

    def _why_stop(self, view: View, desired: Desired) -> str:
        """Why a replica that is not chosen has to stop; empty while it is still needed."""
        if not desired.replicas:
            return "no replicas are wanted"
        if not meets(desired, view.facts.get(self.node), self.node):
            return "this node lacks what is required"
        chosen = self.plans[desired.agent].chosen
        return "others run it" if all_run(chosen, desired, self._runs(view, desired.agent)) else ""

    def _may_fetch(self, desired: Desired) -> bool:
        missing = self._missing.get(desired.agent)
        return missing is None or missing.short != desired.short or not self._holds(missing)

    def _runs(self, view: View, agent: str) -> dict[str, str]:
        reports = view.reports.get(agent, {})
        found = {node: report.runs for node, report in reports.items() if node in view.up}
        own = view.own.get(agent)
        if own is not None and own.status == "running":
            found[self.node] = own.runs
        return found

    def _setbacks(self) -> list[Setback]:
        return [*self._failed.values(), *self._missing.values(), *self._stuck.values()]

    def _do(self, agent: str, effect: Effect) -> None:
        stuck = self._stuck.get(agent) if isinstance(effect, Stop) else None
        if agent not in self._busy and (stuck is None or not self._holds(stuck)):
            self._busy[agent] = effect
            self._effects.append(effect)

    def _forget(self, view: View) -> None:
        """Remember nothing of deployments that are gone."""
        for remembered in (self._failed, self._missing, self._known, self._company):
            for agent in sorted(remembered.keys() - view.desired.keys()):
                del remembered[agent]
        for agent in sorted(self._stuck.keys() - view.own.keys()):
            del self._stuck[agent]
