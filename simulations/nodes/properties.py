"""What is demanded of whole nodes, once everything has been healed and time was given."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.errors import MessageNotFound
from node.messaging.history import MessageHistory
from simulations.nodes.actions import NodeActions
from simulations.nodes.workload import Asked, Clients
from simulations.properties import Violation

MAX_VIOLATIONS: Final = 100


@dataclass(slots=True)
class Ledger:
    """What is known at the end of a run.

    Args:
        actions: The nodes.
        clients: What they have accepted; None without a workload.
        lost_power: Lives of nodes that ended with the loss of power or of their disk: name and boot.
        violations: Where violations go.
        checks: How often each property was put to the test.
    """

    actions: NodeActions
    clients: Clients | None
    lost_power: set[tuple[str, int]] = field(default_factory=set)
    violations: list[Violation] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)

    def checked(self, name: str) -> None:
        """Count a test of a property."""
        self.checks[name] = self.checks.get(name, 0) + 1

    def violated(self, name: str, text: str) -> None:
        """Report that a property does not hold."""
        world = self.actions.timeline
        world.record("-", f"violated {name}: {text}")
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(name, world.now_us, text))

    async def histories(self) -> list[tuple[Asked, MessageHistory | None]]:
        """What became of each accepted request whose origin runs; None where it knows nothing of it."""
        found: list[tuple[Asked, MessageHistory | None]] = []
        for asked in self.clients.asked if self.clients is not None else ():
            origin = self.actions.running.get(asked.origin)
            if origin is None:
                continue
            try:
                found.append((asked, await origin.node.bus.history(asked.id)))
            except MessageNotFound:
                found.append((asked, None))
        return found

    def may_have_forgotten(self, asked: Asked) -> bool:
        """Whether a request was accepted in a life that ended without what was not durable."""
        return any(name == asked.origin and boot >= asked.boot for name, boot in self.lost_power)


Check = Callable[[Ledger], Coroutine[Any, Any, None]]


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
                f"{ledger.actions.timeline.now() - asked.at_s:.0f} s after it was accepted",
            )  # fmt: skip


async def registries_agree(ledger: Ledger) -> None:
    """All nodes that run see the same providers: those that run."""
    running, scenario = ledger.actions.running, ledger.actions.scenario
    deployed = {name for deployment in scenario.agents for name in deployment.on(scenario.names())}
    expected = sorted(deployed & running.keys())
    for observer in running.values():
        offered = observer.node.membership.registry.capabilities()
        seen = sorted({provider.node for _, providers in offered for provider in providers})
        ledger.checked("finally_registries_agree")
        if seen != expected:
            ledger.violated(
                "finally_registries_agree", f"{observer.name} sees providers on {', '.join(seen) or 'none'}, "
                f"not on {', '.join(expected) or 'none'}",
            )  # fmt: skip


async def nobody_who_runs_is_held_dead(ledger: Ledger) -> None:
    """Whoever runs is up in everybody's eyes, and whoever does not is not."""
    running = ledger.actions.running
    for observer in running.values():
        for name in ledger.actions.machines:
            if name == observer.name:
                continue
            ledger.checked("finally_members_are_who_runs")
            if observer.node.membership.is_alive(name) != (name in running):
                held = "dead, which runs" if name in running else "up, which does not run"
                ledger.violated("finally_members_are_who_runs", f"{observer.name} holds {name} {held}")


CHECKS: Final[Sequence[Check]] = (
    accepted_is_kept, everything_ends, registries_agree, nobody_who_runs_is_held_dead,
)  # fmt: skip
