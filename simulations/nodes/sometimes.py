"""What a run of whole nodes is there to meet: counted over all lives of all nodes when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from simulations.nodes.spending import overspent

if TYPE_CHECKING:
    from simulations.nodes.properties import SimulatedLedger


def _counted(*path: str) -> Callable[[SimulatedLedger], int]:
    """What a counter in the statistics of the nodes says, all lives together."""

    def count(ledger: SimulatedLedger) -> int:
        found = 0
        for life in ledger.actions.cluster.lives:
            statistics: Any = ledger.statistics(life)
            for key in path:
                statistics = statistics.get(key, {}) if isinstance(statistics, Mapping) else {}
            found += statistics or 0
        return found

    return count


def _faults(*kinds: str) -> Callable[[SimulatedLedger], int]:
    return lambda ledger: sum(ledger.happened.get(kind, 0) for kind in kinds)


def _of_disks(what: str) -> Callable[[SimulatedLedger], int]:
    return lambda ledger: sum(life.disk.counts[what] for life in ledger.actions.cluster.lives)


SOMETIMES: Final[Mapping[str, Callable[[SimulatedLedger], int]]] = {
    "sometimes_a_request_was_refused": lambda ledger: (
        sum(ledger.clients.refused.values()) if ledger.clients is not None else 0
    ),
    "sometimes_a_message_went_to_another_provider": _counted("messaging", "outbox", "rerouted"),
    "sometimes_a_message_was_sent_again": _counted("messaging", "outbox", "resent"),
    "sometimes_a_delivery_came_twice": _counted("messaging", "inbox", "duplicates"),
    "sometimes_an_outcome_came_late": _counted("messaging", "outbox", "late"),
    "sometimes_a_message_failed": _counted("messaging", "outbox", "failed"),
    "sometimes_a_message_expired": _counted("messaging", "outbox", "expired"),
    "sometimes_a_handler_raised": _counted("messaging", "handlers", "raised"),
    "sometimes_a_link_ended": _counted("links", "ended"),
    "sometimes_a_member_was_suspected": _counted("membership", "swim", "suspicions"),
    "sometimes_a_process_ended_in_a_handler": lambda ledger: sum(
        execution.ended_s is None for execution in ledger.actions.witness.executions
    ),
    "sometimes_a_commit_failed": _counted("storage", "groups_failed"),
    "sometimes_a_write_was_refused": _of_disks("writes_refused"),
    "sometimes_a_sync_failed": _of_disks("syncs_failed"),
    "sometimes_a_node_crashed": _faults("crash"),
    "sometimes_a_partition_began": _faults("partition"),
    "sometimes_a_process_stood_still": _faults("pause", "starve"),
    "sometimes_connections_broke": _faults("reset"),
    "sometimes_a_model_failed": lambda ledger: sum(
        weather.counts.total() for weather in ledger.actions.weathers.values()
    ),
    "sometimes_a_budget_refused": _counted("llm", "budgets", "refused"),
    "sometimes_a_node_waited_for_the_counters_of_others": _counted("llm", "budgets", "waited"),
    "sometimes_a_budget_was_overspent": overspent,
    "sometimes_a_mailbox_was_full": lambda ledger: int(ledger.fullest >= 1),
    "sometimes_something_was_forgotten": lambda ledger: (
        ledger.rememberers.measures()["forgotten"] if ledger.rememberers is not None else 0
    ),
    "sometimes_a_replica_was_started": _counted("deployments", "started"),
    "sometimes_a_replica_was_stopped": _counted("deployments", "stopped"),
    "sometimes_two_releases_spoke": lambda ledger: int(
        len({life.node.release for life in ledger.actions.cluster.lives}) > 1
    ),
}
"""By name: how often it has happened."""


def met(ledger: SimulatedLedger) -> Counter[str]:
    """What has happened in a run, by name."""
    return Counter({name: times for name, count in SOMETIMES.items() if (times := count(ledger))})
