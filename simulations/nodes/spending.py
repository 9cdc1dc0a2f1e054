"""Budgets are never overspent beyond what is stated: the bills of all models against what the budgets allow.

What is stated (``docs/llm.md``) is computed from the scenario and the bills:

- for an agent and a conversation, on each node: what requests under way cost beyond what was promised;
- for the cluster: that of each node; the dearest request, once for each node but one; and what was left,
  as everybody knew it, whenever nodes parted, once for each side but one. Everybody knows what was spent
  :data:`node.llm.budget.WINDOW_S` ago. Nodes part when ways are cut, and a node that ends or stands still
  parts from all others;
- what a node spent that has lost it with its disk, or with its power, or is forgotten by all others.

Where a scenario lets nodes be out of touch all the time (bad links, starved processes, clocks that disagree
on the period), nothing is stated for the cluster, and nothing is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from node.config import LlmBudget, LlmBudgets
from node.llm.budget import MICROS, WINDOW_S, Spent
from simulations.faults import Churn, Clock, Crash, Disturb, Jump, Leave, Partition, Pause, Starve
from simulations.nodes.bills import Bill

if TYPE_CHECKING:
    from simulations.nodes.properties import SimulatedLedger

NAME: Final = "always_budgets_hold"
UNJUDGED: Final = (Churn, Clock, Disturb, Jump, Starve)
"""Faults under which nothing is stated for the cluster."""

Kind = Callable[[Spent], int]
KINDS: Final[dict[str, Kind]] = {"tokens": lambda spent: spent.tokens, "money": lambda spent: spent.micros}


async def budgets_hold(ledger: SimulatedLedger) -> None:
    """No budget was overspent beyond its slack; tool calls, which no model bills, are not looked at."""
    for where, spent, limit, slack in findings(ledger):
        ledger.checked(NAME)
        if spent > limit + slack:
            ledger.violated(NAME, f"{where}: {spent} of {limit} were spent, {slack} beyond it may be")


def overspent(ledger: SimulatedLedger) -> int:
    """How many budgets were overspent, within their slack or not."""
    return sum(spent > limit for _, spent, limit, _ in findings(ledger))


def findings(ledger: SimulatedLedger) -> Iterator[tuple[str, int, int, int]]:
    """For each budget of each period: whose it is, what was spent, its limit, and its slack."""
    lives = ledger.actions.cluster.lives
    if not lives or not lives[0].node.config.llm.budgets.bounded:
        return
    budgets = lives[0].node.config.llm.budgets
    bills = sorted(ledger.actions.bills.all, key=lambda bill: _period(bill, budgets))
    for _, found in groupby(bills, key=lambda bill: _period(bill, budgets)):
        of_period = sorted(found, key=lambda bill: bill.began_s)
        yield from _of_nodes(ledger, budgets, of_period)
        if not any(isinstance(fault, UNJUDGED) for fault in ledger.plan):
            yield from _of_the_cluster(ledger, budgets.cluster, of_period)


def parted(ledger: SimulatedLedger) -> list[tuple[float, int]]:
    """When nodes lost sight of each other, and how many sides there were then, but one."""
    names = ledger.actions.machines
    found = []
    for fault in ledger.plan:
        if isinstance(fault, Partition):
            found.append((fault.at_s, _sides(names, fault) - 1))
        elif isinstance(fault, Crash | Leave | Pause):
            found.append((fault.at_s, len(fault.members)))
    return found


def left(bills: Sequence[Bill], limit: int, kind: Kind, at_s: float) -> int:
    """What is left of a budget for whoever knows of all that was asked for before."""
    return max(0, limit - sum(kind(bill.cost) for bill in bills if bill.began_s < at_s))


def beyond(bills: Sequence[Bill], kind: Kind) -> int:
    """The most by which the requests that were under way at once cost more than was promised."""
    changes: list[tuple[float, int]] = []
    for bill in bills:
        more = max(0, kind(bill.cost) - kind(bill.promised))
        changes += [(bill.began_s, more), (bill.ended_s, -more)]
    most = now = 0
    for _, change in sorted(changes, key=lambda each: (each[0], -each[1])):
        now += change
        most = max(most, now)
    return most


def _of_nodes(
    ledger: SimulatedLedger, budgets: LlmBudgets, bills: Sequence[Bill]
) -> Iterator[tuple[str, int, int, int]]:
    """The budgets of agents and conversations, which each node keeps for itself."""
    scopes: tuple[tuple[str, LlmBudget, Callable[[Bill], str]], ...] = (
        ("agent", budgets.agent, lambda bill: bill.agent),
        ("conversation", budgets.conversation, lambda bill: bill.conversation),
    )
    for scope, budget, name_of in scopes:
        limits = _limits(budget)
        if not limits:
            continue
        for key in sorted({(bill.node, name_of(bill)) for bill in bills}):
            own = [bill for bill in bills if (bill.node, name_of(bill)) == key]
            for kind, limit in limits.items():
                of = KINDS[kind]
                slack = beyond(own, of) + _forgotten(ledger, own, of)
                where = f"{kind} of the {scope} {key[1]} on {key[0]}"
                yield where, sum(of(bill.cost) for bill in own), limit, slack


def _of_the_cluster(
    ledger: SimulatedLedger, budget: LlmBudget, bills: Sequence[Bill]
) -> Iterator[tuple[str, int, int, int]]:
    names = ledger.actions.machines
    for kind, limit in _limits(budget).items():
        of = KINDS[kind]
        slack = (len(names) - 1) * max(of(bill.promised) for bill in bills)
        slack += sum(beyond([bill for bill in bills if bill.node == name], of) for name in names)
        slack += _forgotten(ledger, bills, of)
        slack += sum(sides * left(bills, limit, of, at_s - WINDOW_S) for at_s, sides in parted(ledger))
        yield f"{kind} of the cluster", sum(of(bill.cost) for bill in bills), limit, slack


def _forgotten(ledger: SimulatedLedger, bills: Sequence[Bill], of: Kind) -> int:
    """What was spent by lives of which nobody knows it any more."""
    reap_s = ledger.actions.scenario.swim_config().reap_after_s
    now_s, running = ledger.actions.timeline.now(), ledger.actions.running

    def is_forgotten(bill: Bill) -> bool:
        if any(name == bill.node and boot >= bill.boot for name, boot in ledger.lost_power):
            return True
        ended_s = ledger.actions.ended_s(bill.node, bill.boot)
        return ended_s is not None and bill.node not in running and now_s - ended_s >= reap_s

    return sum(of(bill.cost) for bill in bills if is_forgotten(bill))


def _sides(names: Sequence[str], fault: Partition) -> int:
    """Into how many parts a cut leaves the nodes, each of which hears all of its own."""
    cut = {frozenset(pair) for pair in fault.pairs}
    for number, side in enumerate(fault.sides):
        for other in fault.sides[number + 1 :]:
            cut |= {frozenset((one, two)) for one in side for two in other}
    rest, sides = list(names), 0
    while rest:
        sides += 1
        waiting = [rest.pop()]
        while waiting:
            here = waiting.pop()
            reached = [name for name in rest if frozenset((here, name)) not in cut]
            rest = [name for name in rest if name not in reached]
            waiting += reached
    return sides


def _limits(budget: LlmBudget) -> dict[str, int]:
    money = None if budget.money is None else round(budget.money * MICROS)
    return {kind: limit for kind, limit in (("tokens", budget.tokens), ("money", money)) if limit is not None}


def _period(bill: Bill, budgets: LlmBudgets) -> int:
    return int(bill.wall_s // budgets.period_s)
