"""What is demanded of whole nodes: always, while faults happen, and finally, once everything is healed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.errors import CaxtonError
from node.messaging.history import MessageHistory
from node.messaging.receiver import ItemState
from node.messaging.settings import HANDLER_ATTEMPTS
from simulations.cluster import SimulatedNode
from simulations.faults import Fault
from simulations.nodes.actions import NodeActions
from simulations.nodes.memories import (
    Rememberers,
    forgotten_stays_forgotten,
    memories_agree,
    remembered_is_kept,
)
from simulations.nodes.observed import Nodes
from simulations.nodes.placing import own_memory_follows_the_replica, replicas_are_as_wanted, replicas_of
from simulations.nodes.spending import budgets_hold
from simulations.nodes.witness import ANSWERED, RAISED, Execution
from simulations.nodes.workload import Asked, Clients
from simulations.properties import Violation

MAX_VIOLATIONS: Final = 100
UNSETTLED_S: Final = 1.0
"""So long before a crash a handler may have ended without its answer being on disk."""
SAMPLE_S: Final = 2.0
"""How often queues are measured."""


@dataclass(slots=True)
class Ledger:
    """What is known of a run.

    Args:
        nodes: Who is judged.
        clients: What they have accepted; None without a workload.
        lost_power: Lives of nodes that ended with the loss of power or of their disk: name and boot.
        happened: How many faults of each kind have happened.
        violations: Where violations go.
        checks: How often each property was put to the test.
        found: What :meth:`histories` has found.
    """

    nodes: Nodes
    clients: Clients | None
    lost_power: set[tuple[str, int]] = field(default_factory=set)
    happened: Mapping[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)
    found: list[tuple[Asked, MessageHistory | None]] = field(default_factory=list)

    def checked(self, name: str, times: int = 1) -> None:
        """Count tests of a property."""
        self.checks[name] = self.checks.get(name, 0) + times

    def violated(self, name: str, text: str, at_us: int | None = None) -> None:
        """Report that a property does not hold."""
        world = self.nodes.timeline
        world.record("-", f"violated {name}: {text}")
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(name, world.now_us if at_us is None else at_us, text))

    def placed(self) -> set[str]:
        """The nodes that run what the cluster has placed itself."""
        return set()

    async def histories(self) -> list[tuple[Asked, MessageHistory | None]]:
        """What became of each accepted request whose origin runs; None where it knows nothing of it.

        Nodes are asked once, when the run has ended; the answers serve all properties.
        """
        if not self.found:
            self.found = [
                (asked, await self.nodes.history(asked.origin, asked.id))
                for asked in (self.clients.asked if self.clients is not None else ())
                if asked.origin in self.nodes.running
            ]
        return self.found

    def may_have_forgotten(self, asked: Asked) -> bool:
        """Whether a request is older than what nodes keep, or was not durable when its life ended."""
        if self.nodes.timeline.now() - asked.at_s >= self.nodes.retention_s(asked.origin):
            return True
        return any(name == asked.origin and boot >= asked.boot for name, boot in self.lost_power)

    def died_inside(self, execution: Execution) -> bool:
        """Whether the process may have ended before the run of a handler was on disk."""
        if any(name == execution.node and boot >= execution.boot for name, boot in self.lost_power):
            return True
        ended_s = self.nodes.ended_s(execution.node, execution.boot)
        return ended_s is not None and (
            execution.ended_s is None or ended_s - execution.ended_s <= UNSETTLED_S
        )


@dataclass(slots=True)
class SimulatedLedger(Ledger):
    """What is known of a run of simulated nodes.

    Args:
        actions: The nodes, whose inside can be seen.
        rememberers: What they were told to remember; None without such clients.
        remembered: What was stored that agents remember for themselves, by agent.
        plan: The faults of the run.
        fullest: The most messages that an agent was ever seen to have, as a part of what its mailbox takes.
    """

    actions: NodeActions = field(kw_only=True)
    rememberers: Rememberers | None = None
    remembered: dict[str, list[str]] = field(default_factory=dict)
    plan: Sequence[Fault] = ()
    fullest: float = 0.0

    def statistics(self, life: SimulatedNode) -> Mapping[str, Any]:
        """What the rooms of a node have counted in one life; nothing if it never came to have them."""
        try:
            return life.node.statistics()
        except (AttributeError, CaxtonError):  # it could not start
            return {}

    def placed(self) -> set[str]:
        """The nodes that run what the cluster has placed itself."""
        agents = [placed.id() for placed in self.actions.scenario.placed]
        return {name for agent in agents for name in replicas_of(self.actions, agent)}


Check = Callable[[Ledger], Coroutine[Any, Any, None]]
InsideCheck = Callable[[SimulatedLedger], Coroutine[Any, Any, None]]


# ---- always ------------------------------------------------------------------------------------------


async def handled_once(ledger: Ledger) -> None:
    """No handler has answered one message twice on one node, unless the process died inside it."""
    name, answered = "always_handled_once", dict[tuple[str, str], Execution]()
    for execution in ledger.nodes.executions:
        key = (execution.node, execution.id)
        earlier = answered.get(key)
        ledger.checked(name)
        if earlier is not None and not ledger.died_inside(earlier):
            ledger.violated(
                name, f"{execution.node} has handled request {execution.number} of {execution.origin} again, "
                f"answered at {earlier.ended_s or earlier.began_s:.3f} s before", _us(execution.began_s),
            )  # fmt: skip
        if execution.outcome != RAISED:
            answered[key] = execution


async def in_order(ledger: Ledger) -> None:
    """The requests of one conversation reach each handler in the order in which they were accepted."""
    name = "always_in_order"
    newest: dict[tuple[str, int, str], Execution] = {}
    seen: set[tuple[str, str]] = set()
    for execution in ledger.nodes.executions:
        if (execution.node, execution.id) in seen:
            continue
        seen.add((execution.node, execution.id))
        key = (execution.node, execution.boot, execution.conversation)
        earlier = newest.get(key)
        if earlier is not None:
            ledger.checked(name)
            if execution.number < earlier.number:
                ledger.violated(
                    name, f"{execution.node} has begun request {execution.number} of "
                    f"{execution.conversation} after {earlier.number}", _us(execution.began_s),
                )  # fmt: skip
        if earlier is None or execution.number > earlier.number:
            newest[key] = execution


def queues_are_bounded(ledger: Ledger, name: str, statistics: Mapping[str, Any]) -> None:
    """What a node's statistics give a limit for does not exceed it; called again and again."""
    for where, value, limit in _limited(statistics, ""):
        ledger.checked("always_queues_are_bounded")
        if value > limit:
            ledger.violated("always_queues_are_bounded", f"{name}: {where} is {value}, its limit {limit}")


def _limited(statistics: Mapping[str, Any], above: str) -> Iterator[tuple[str, float, float]]:
    """Whatever stands beside its own limit, as ``open`` and ``open_limit`` do."""
    for key, value in statistics.items():
        if isinstance(value, Mapping):
            yield from _limited(value, f"{above}{key}.")
        elif f"{key}_limit" in statistics:
            yield f"{above}{key}", value, statistics[f"{key}_limit"]


# ---- finally -----------------------------------------------------------------------------------------


async def accepted_is_kept(ledger: Ledger) -> None:
    """A node that runs knows every message that it has accepted, in whatever life."""
    for asked, history in await ledger.histories():
        if ledger.may_have_forgotten(asked):
            continue
        ledger.checked("finally_accepted_is_kept")
        if history is None:
            ledger.violated(
                "finally_accepted_is_kept", f"{asked.origin} has lost request {asked.number}, accepted at "
                f"{asked.at_s:.3f} s",
            )  # fmt: skip


async def everything_ends(ledger: Ledger) -> None:
    """Every accepted message has come to an end that its sender can see."""
    for asked, history in await ledger.histories():
        if history is None or history.row is None:
            continue
        ledger.checked("finally_everything_ends")
        if history.row.state == "open":
            ledger.violated(
                "finally_everything_ends", f"request {asked.number} of {asked.origin} is open "
                f"{ledger.nodes.timeline.now() - asked.at_s:.0f} s after it was accepted",
            )  # fmt: skip


async def settled_is_handled(ledger: Ledger) -> None:
    """What its origin holds settled was answered by a handler, and one answer counts."""
    name = "finally_settled_is_handled"
    answered = {run.id for run in ledger.nodes.executions if run.outcome == ANSWERED}
    for asked, history in await ledger.histories():
        if not asked.is_witnessed or history is None or history.row is None:
            continue
        if history.row.state != "settled":
            continue
        ledger.checked(name)
        answers = [reply for reply in history.replies if reply.state != ItemState.LATE.value]
        if asked.id not in answered:
            ledger.violated(name, f"request {asked.number} of {asked.origin} is settled, and nobody did it")
        elif len(answers) > 1:
            ledger.violated(name, f"request {asked.number} of {asked.origin} has {len(answers)} answers")


async def poison_is_put_aside(ledger: Ledger) -> None:
    """A message on which the handler raises has failed, after a bounded number of runs in each life."""
    name = "finally_poison_is_put_aside"
    runs: dict[tuple[str, int, str], int] = {}
    for run in ledger.nodes.executions:
        key = (run.node, run.boot, run.id)
        runs[key] = runs.get(key, 0) + 1
    for asked, history in await ledger.histories():
        if not asked.is_poison or history is None or history.row is None:
            continue
        ledger.checked(name)
        most = max((count for (_, _, id_), count in runs.items() if id_ == asked.id), default=0)
        if history.row.state == "settled":
            ledger.violated(name, f"poison request {asked.number} of {asked.origin} is settled")
        elif most > HANDLER_ATTEMPTS:
            ledger.violated(name, f"poison request {asked.number} of {asked.origin} was run {most} times")


async def registries_agree(ledger: Ledger) -> None:
    """All nodes that run see the same providers: those that run."""
    running, scenario = ledger.nodes.running, ledger.nodes.scenario
    deployed = {name for deployment in scenario.agents for name in deployment.on(scenario.names())}
    expected = sorted((deployed & running.keys()) | ledger.placed())
    for observer in running:
        seen = sorted(await ledger.nodes.providers(observer))
        ledger.checked("finally_registries_agree")
        if seen != expected:
            ledger.violated(
                "finally_registries_agree", f"{observer} sees providers on {', '.join(seen) or 'none'}, "
                f"not on {', '.join(expected) or 'none'}",
            )  # fmt: skip


async def nobody_who_runs_is_held_dead(ledger: Ledger) -> None:
    """Whoever runs is up in everybody's eyes, and whoever does not is not."""
    running = ledger.nodes.running
    for observer in running:
        up = await ledger.nodes.up(observer)
        for name in ledger.nodes.machines:
            if name == observer:
                continue
            ledger.checked("finally_members_are_who_runs")
            if (name in up) != (name in running):
                held = "dead, which runs" if name in running else "up, which does not run"
                ledger.violated("finally_members_are_who_runs", f"{observer} holds {name} {held}")


CHECKS: Final[Sequence[Check]] = (
    handled_once, in_order, accepted_is_kept, everything_ends, settled_is_handled, poison_is_put_aside,
    registries_agree, nobody_who_runs_is_held_dead,
)  # fmt: skip
"""Made when a run ends; :func:`queues_are_bounded` is made all the time."""

SHARED: Final[Sequence[InsideCheck]] = (
    budgets_hold, memories_agree, remembered_is_kept, forgotten_stays_forgotten,
)  # fmt: skip
"""Of what nodes share, when a run ends; :mod:`simulations.nodes.credit` is asked all the time."""
INSIDE: Final[Sequence[InsideCheck]] = (*SHARED, replicas_are_as_wanted, own_memory_follows_the_replica)
"""Made when a run of simulated nodes ends."""


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
