"""What the simulator costs: processor seconds for a thousand members, with real packets and signatures.

    .venv/bin/python -m benchmarks.swim.speed                                           # three minutes
    .venv/bin/python -m benchmarks.swim.speed --members 100,1000 --seeds 1..3 --csv     # alone on the machine

Three figures for each size, trace and its digest included: members that know each other already, idle; the
same for a minute in which 1 % of them crash and as many new ones join; and members that all start at one
moment, through one seed, until they agree. Each member checks every signature and credential and agrees on
every key for itself, as in production; with ``--cryptography shared`` members use each other's answers, which
is how sweeps are run: the trace is the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed
from simulations.members import MemberCluster
from simulations.timeline import US_PER_S
from simulations.views import Views

REFERENCE: Final = "-"
GOAL: Final = "1,000 converged members x 60 s with 1 % churn in at most 60 CPU s"
CHURN: Final = 0.01
LASTS_S: Final = 60.0
PATIENCE_S: Final = 60.0
SEEDS: Final = 3
"""Through so many members new ones join."""
CRYPTOGRAPHY: Final = ("own", "shared")
"""Whether each member computes for itself, or uses what another one has computed."""


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        measure: A key of `MEASURES`.
        loss: Of each link.
        lasts_s: Virtual seconds, where they are given.
        cryptography: One of `CRYPTOGRAPHY`.
    """

    seed: int
    members: int
    measure: str
    loss: float
    lasts_s: float
    cryptography: str = "own"


def run(task: Task) -> Found:
    """Run one measure."""
    prepared = runs.cluster(task.seed, loss=task.loss, shared_cryptography=task.cryptography == "shared")
    for name in runs.names(task.members + _churned(task)):
        runs.identities().of(name)  # signing credentials is no part of what is measured
    began = time.process_time()
    start_s = MEASURES[task.measure](task, prepared)
    took_s = time.process_time() - began
    virtual_s, run_s = prepared.timeline.now(), took_s - start_s
    counted = prepared.statistics()
    row: Row = task._asdict() | {
        "virtual_s": fixed(virtual_s),
        "start_cpu_s": fixed(start_s),
        "run_cpu_s": fixed(run_s),
        "member_seconds_per_cpu_s": round(task.members * virtual_s / max(run_s, 1e-6)),
        "datagrams": sum(count for fate, count in prepared.fates.items() if fate != "full"),
        "happened": counted["happened"],
        "signatures": counted["signatures_asked"],
        "digest": prepared.lines.digest(),
    }
    return Found([row], {})


def _churned(task: Task) -> int:
    return max(1, round(task.members * CHURN)) if task.measure == "churn" else 0


def _idle(task: Task, cluster: MemberCluster) -> float:
    began = time.process_time()
    cluster.start_converged(runs.names(task.members))
    start_s = time.process_time() - began
    cluster.run_for(task.lasts_s)
    return start_s


def _churn(task: Task, cluster: MemberCluster) -> float:
    chance = cluster.timeline.stream("churn")
    names = runs.names(task.members)
    fresh = runs.names(task.members + _churned(task))[task.members :]
    seeds, others = names[:SEEDS], names[SEEDS:]

    def join(name: str) -> None:
        cluster.start(name, seeds=seeds)

    for action, subjects in ((cluster.crash, chance.sample(others, len(fresh))), (join, fresh)):
        for name in subjects:
            cluster.timeline.at_us(round(task.lasts_s * chance.random() * US_PER_S), action, name)
    return _idle(task, cluster)


def _bootstrap(task: Task, cluster: MemberCluster) -> float:
    views = Views(cluster)
    cluster.watch(views)
    seed, *others = runs.names(task.members)
    cluster.start(seed)
    for name in others:
        cluster.start(name, seeds=[seed])
    while views.wrong and cluster.timeline.now() < PATIENCE_S:
        cluster.run_for(0.1)
    return 0.0


MEASURES: Final[dict[str, Callable[[Task, MemberCluster], float]]] = {
    "idle": _idle,
    "churn": _churn,
    "bootstrap": _bootstrap,
}
"""Each runs a cluster and returns the processor seconds that its start took, if they are counted apart."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("What simulating membership costs.", seeds="1")
    parser.add_argument("--members", type=runs.numbers, default=(100, 1000), help="sizes, as in 100,1000")
    parser.add_argument("--measures", default=",".join(MEASURES), help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--cryptography", default="own", help=f"of {', '.join(CRYPTOGRAPHY)}")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument("--lasts", type=float, default=LASTS_S, help="virtual seconds")
    options = parser.parse_args(arguments)
    measures = options.measures.split(",")
    if unknown := [measure for measure in measures if measure not in MEASURES]:
        parser.error(f"--measures: there is no {unknown[0]}")
    kinds = options.cryptography.split(",")
    if unknown := [kind for kind in kinds if kind not in CRYPTOGRAPHY]:
        parser.error(f"--cryptography: there is no {unknown[0]}")
    with Results("speed", options.csv) as results:
        for members, measure, kind in itertools.product(options.members, measures, kinds):
            tasks = [
                Task(seed, members, measure, options.loss, options.lasts, kind) for seed in options.seeds
            ]
            rows: list[Row] = []
            for found in runs.each(run, tasks, options.jobs):
                rows += found.rows
                results.add(found.rows)
            runs.line(f"{members} members, {measure}, cryptography {kind}", summary(rows), REFERENCE, GOAL)
    return 0


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""
    run_s = median(row["run_cpu_s"] for row in rows)
    start_s = median(row["start_cpu_s"] for row in rows)
    per_second = median(row["member_seconds_per_cpu_s"] for row in rows)
    virtual_s = median(row["virtual_s"] for row in rows)
    return (
        f"{run_s:.1f} CPU s for {virtual_s:g} virtual s, {start_s:.1f} CPU s before to make the members, "
        f"{per_second:,.0f} member-seconds per CPU s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
