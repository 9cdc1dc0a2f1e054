"""How long it takes after a partition has healed until all hold one view again, without seeds.

    .venv/bin/python -m benchmarks.swim.healing                                        # two minutes
    .venv/bin/python -m benchmarks.swim.healing --members 5,20,100 --seeds 1..20 --jobs 2 --csv
    .venv/bin/python -m benchmarks.swim.healing --check --members 5,20 --lasts 1h --seeds 1..20 --jobs 2 --csv

Members that have known each other for long, and no seeds, are cut into two sides; both declare each other
dead, and after an hour the dead are reaped and forgotten but for their addresses. Then the cut is gone, at a
random moment. One view is reached when every member holds every other one up, and goes on doing so.

**The jump.** Once both sides are quiet, all clocks are set ahead at one stroke (``simulations/leap.py``), to
half a minute before the heal, which is simulated in full again. ``--check`` runs each partition twice, with
the jump and without, so that the two distributions can be compared; over an hour that is affordable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.report import percentile
from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed, text
from simulations.leap import NotQuiet, leap
from simulations.links import Change, separate
from simulations.members import MemberCluster
from simulations.timeline import US_PER_S
from simulations.views import Views

REFERENCE: Final = "memberlist never, serf up to 24 h"
GOAL: Final = "one view within 60 s, every seed"
GOAL_S: Final = 60.0
LASTS_S: Final = {"1min": 60.0, "1h": 3_600.0, "30d": 30 * 86_400.0}
SPLITS: Final = ("1", "2", "half")
SETTLE_S: Final = 10.0
SPREAD_S: Final = 10.0
"""The heal comes up to so much later than the partition lasts: at any phase of the attempts to reconnect."""
APART_S: Final = 45.0
"""Before the jump, so that both sides have given each other up."""
LAND_S: Final = 30.0
"""Simulated in full between the jump and the heal."""
AFTER_S: Final = 10.0
"""For so long they have to go on agreeing."""
PATIENCE_S: Final = 600.0
MAX_ATTEMPTS: Final = 3_600
"""Of a jump, each a second after the one before. A member that is cut off alone from a hundred takes twenty
minutes to give all of them up, for it trusts itself little and so probes rarely."""


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        split: How many are on the smaller side: ``1``, ``2`` or ``half``.
        lasts: A key of `LASTS_S`.
        jump: Whether the quiet stretch is jumped.
        loss: Of each link.
    """

    seed: int
    members: int
    split: str
    lasts: str
    jump: bool
    loss: float


def run(task: Task) -> Found:
    """Cut a cluster into two, heal it, and wait for one view."""
    cluster = runs.cluster(task.seed, loss=task.loss)
    views = Views(cluster)
    cluster.watch(views)
    names = runs.names(task.members)
    cluster.start_converged(names)
    chance = cluster.timeline.stream("partition")
    cluster.run_for(SETTLE_S * chance.uniform(1, 2))
    apart = chance.sample(names, task.members // 2 if task.split == "half" else int(task.split))
    rules = separate([apart, [name for name in names if name not in apart]], Change(cut=True))
    cluster.links.add(rules)
    heals_s = cluster.timeline.now() + LASTS_S[task.lasts] + SPREAD_S * chance.random()
    jumped_s = _jump(cluster, heals_s - LAND_S) if task.jump else 0.0
    cluster.run_for(heals_s - cluster.timeline.now())
    pairs = 2 * len(apart) * (task.members - len(apart))
    row: Row = task._asdict() | {"jump": int(task.jump), "jumped_s": fixed(jumped_s)}
    row |= {"pairs_apart": pairs, "pairs_given_up": views.wrong, "one_view_after_s": ""}
    cluster.links.remove(rules)
    healed_us = cluster.timeline.now_us
    while cluster.timeline.now_us < healed_us + PATIENCE_S * US_PER_S:
        cluster.run_for(1.0)
        since_us = views.agreed_us
        if since_us is not None and cluster.timeline.now_us >= since_us + AFTER_S * US_PER_S:
            row["one_view_after_s"] = fixed(max(0, since_us - healed_us) / US_PER_S)
            break
    return Found([row], {})


def _jump(cluster: MemberCluster, to_s: float) -> float:
    """Jump as soon as all is quiet, if there is time for that; return over how many seconds."""
    cluster.run_for(APART_S)
    for _ in range(MAX_ATTEMPTS):
        began_s = cluster.timeline.now()
        if began_s >= to_s:
            return 0.0
        try:
            leap(cluster, round(to_s * US_PER_S))
        except NotQuiet:
            cluster.run_for(1.0)
        else:
            return to_s - began_s
    return 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("Healing of partitions without seeds.", seeds="1..3", resumable=True)
    parser.add_argument("--members", type=runs.numbers, default=(5, 20), help="sizes, as in 5,20,100")
    parser.add_argument("--splits", default=",".join(SPLITS), help="sizes of the smaller side")
    parser.add_argument("--lasts", default=",".join(LASTS_S), help=f"of {', '.join(LASTS_S)}")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument(
        "--check", action="store_true", help="simulate each partition in full beside the jump"
    )
    options = parser.parse_args(arguments)
    lasts, splits = options.lasts.split(","), options.splits.split(",")
    if unknown := [last for last in lasts if last not in LASTS_S]:
        parser.error(f"--lasts: there is no {unknown[0]}")
    if unknown := [split for split in splits if split not in SPLITS]:
        parser.error(f"--splits: there is no {unknown[0]}")
    name = "healing-check" if options.check else "healing"
    whole: list[Row] = []
    with Results(name, options.csv, script="healing", resume=options.resume) as results:
        for tasks in _cells(options, splits, lasts):
            rows: list[Row] = []
            for found in results.each(run, tasks, options.jobs):
                rows += found.rows
            whole += rows
            first = tasks[0]
            cell = f"{first.members} members, {first.split}:rest, {first.lasts}"
            print(f"  {cell}, {'jumped' if first.jump else 'in full'}: {summary(rows)}", flush=True)
        runs.line("all cells", summary(whole), REFERENCE, GOAL)
    return 0


def _cells(options: Any, splits: Sequence[str], lasts: Sequence[str]) -> Iterator[list[Task]]:
    for members in options.members:
        for split in splits:
            if split == "half" and members // 2 <= 2:
                continue  # said already
            for last in lasts:
                for jump in (True, False) if options.check else (True,):
                    yield [Task(seed, members, split, last, jump, options.loss) for seed in options.seeds]


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""
    times_s = [row["one_view_after_s"] for row in rows if row["one_view_after_s"] != ""]
    within = sum(at <= GOAL_S for at in times_s)
    if not times_s:
        return f"none of {len(rows)} healed within {PATIENCE_S:g} s"
    apart = sum(row["pairs_given_up"] >= row["pairs_apart"] for row in rows)
    return (
        f"{within} of {len(rows)} within {GOAL_S:g} s, p50 {text(percentile(times_s, 0.5))} s, p99 "
        f"{text(percentile(times_s, 0.99))} s, max {text(max(times_s))} s, {len(rows) - len(times_s)} never, "
        f"all had given each other up in {apart}, {runs.cost(rows, len(rows), 'run')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
