"""How soon a planted bug has become small enough to read: processor time of shrinking one failure.

    .venv/bin/python -m benchmarks.simulation.shrinking --csv      # a minute, alone on the machine

Each bug is a patch to production code, the scenario has faults that do not matter beside the one that does,
and lasts at most twenty virtual seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from unittest import mock

from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed
from node.cluster.registry import CapabilityRegistry
from node.messaging.runs import Runs
from node.storage import storage as storage_room
from simulations.runner import run as run_scenario
from simulations.scenario import check
from simulations.shrink import shrink

REFERENCE: Final = ""
GOAL: Final = "under 60 s"
NOISE: Final = (
    {"reset": {"at_s": 4}},
    {"pause": {"members": ["n3"], "at_s": 5, "for_s": 1}},
    {"disturb": {"at_s": 6, "for_s": 3, "loss": 0.1}},
    {"agents": {"members": ["n1"], "at_s": 7, "for_s": 2, "takes_s": 0.3}},
    {"clock": {"members": ["n2"], "at_s": 8, "wall_offset_s": 5}},
)


class Task(NamedTuple):
    """One failure to shrink.

    Attributes:
        seed: Of the failing run.
        bug: A key of `BUGS`.
        nodes: How many the scenario has.
        safety_s: How long it lasts before it is healed.
    """

    seed: int
    bug: str
    nodes: int
    safety_s: float


def _full_is_normal() -> Any:
    connect = storage_room._connect  # noqa: SLF001 - the bug is planted inside
    return mock.patch.object(
        storage_room, "_connect", lambda *args, durability, **how: connect(*args, durability="normal", **how)
    )


def _entries_of_one_node_are_lost() -> Any:
    apply = CapabilityRegistry.apply
    return mock.patch.object(
        CapabilityRegistry,
        "apply",
        lambda self, events: apply(self, [e for e in events if getattr(e, "owner", "") != "n2"]),
    )


async def _nothing(*_: object) -> list[object]:
    return []


BUGS: Final[dict[str, tuple[Callable[[], Any], list[dict[str, Any]]]]] = {
    "durability-full-is-normal": (
        _full_is_normal,
        [
            {"crash": {"members": ["n2"], "at_s": 9, "power": True}},
            {"restart": {"members": ["n2"], "at_s": 11}},
        ],
    ),
    "registry-loses-one-node": (_entries_of_one_node_are_lost, []),
    "settled-without-its-handler": (lambda: mock.patch.object(Runs, "_call", _nothing), []),
}
"""How each is planted, and the faults that bring it to light."""


def run(task: Task) -> Found:
    """Shrink one failure."""
    plant, faults = BUGS[task.bug]
    data = {
        "name": "shrinking",
        "about": "A planted bug.",
        "runs": "nodes",
        "members": task.nodes,
        "settings": {"storage.durability": "full"},
        "agents": [{"agent": "witness"}],
        "workload": {"capability": "witness", "per_s": 10, "reply_within_s": 5},
        "safety_s": task.safety_s,
        "bounds": {"converge_s": 8},
        "faults": [*NOISE, *faults],
    }
    scenario = check(data, "shrinking")
    attempts: list[str] = []
    with plant():
        first = run_scenario(scenario, task.seed)
        began_cpu, began = time.process_time(), time.monotonic()
        smallest, result = shrink(scenario, task.seed, first.plan, lambda each: attempts.append(each.digest))
    row: Row = task._asdict() | {
        "failed": " ".join(result.failed),
        "cpu_s": fixed(time.process_time() - began_cpu),
        "real_s": fixed(time.monotonic() - began),
        "runs": len(attempts),
        "faults_before": len(first.plan),
        "faults": len(result.plan),
        "nodes_left": smallest.members,
        "safety_left_s": smallest.safety_s,
    }
    return Found([row], {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("How soon a planted bug has become small.", seeds="1")
    parser.add_argument("--bugs", default=",".join(BUGS), help=f"of {', '.join(BUGS)}")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--safety", type=float, default=12.0, help="virtual seconds before healing")
    options = parser.parse_args(arguments)
    with Results("shrinking", options.csv, group="simulation") as results:
        for bug in options.bugs.split(","):
            tasks = [Task(seed, bug, options.nodes, options.safety) for seed in options.seeds]
            for found in runs.each(run, tasks, options.jobs):
                results.add(found.rows)
                row = found.rows[0]
                left = f"{row['faults']} of {row['faults_before']} faults"
                left += f", {row['nodes_left']} of {row['nodes']} nodes"
                what = f"{row['real_s']} s, {row['runs']} runs: {left}"
                runs.line(bug, what, REFERENCE, GOAL)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
