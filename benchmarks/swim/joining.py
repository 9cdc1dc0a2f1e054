"""How long it takes until members that are all started at one moment, through one seed, agree.

    .venv/bin/python -m benchmarks.swim.joining                                        # half a minute
    .venv/bin/python -m benchmarks.swim.joining --seeds 1..1000 --jobs 2 --csv         # 1,000 runs

All processes start at the same microsecond, the seed among them, and know nothing but its address. They
agree when every member holds every other one up; the events of all members are followed, so the moment is
exact. It counts only if they go on agreeing until the run ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.report import percentile
from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed, text
from simulations.members import SimulatedMember
from simulations.timeline import US_PER_S
from simulations.views import Views
from simulations.watcher import Watcher
from swim.events import Event, MemberDied, MemberSuspected

REFERENCE: Final = "memberlist: 28 of 30 runs within 2 s, two took 54 s and 101 s"
GOAL: Final = "all agree within 2 s in 1,000 of 1,000 seeds"
GOAL_S: Final = 2.0
STEP_S: Final = 0.25
"""Between two looks whether the run is over; the time of agreement does not depend on it."""
AFTER_S: Final = 2.0
"""For so long they have to go on agreeing."""
PATIENCE_S: Final = 120.0


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        loss: Of each link.
    """

    seed: int
    members: int
    loss: float


class Doubts(Watcher):
    """Counts what should not happen while all are well.

    Attributes:
        suspicions: Events of suspicion.
        deaths: Events of death.
    """

    def __init__(self) -> None:
        self.suspicions = self.deaths = 0

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Count an event."""
        self.suspicions += isinstance(event, MemberSuspected)
        self.deaths += isinstance(event, MemberDied)


def run(task: Task) -> Found:
    """Start everybody, and wait until all agree and go on agreeing."""
    cluster = runs.cluster(task.seed, loss=task.loss)
    views, doubts = Views(cluster), Doubts()
    cluster.watch(views, doubts)
    seed, *others = runs.names(task.members)
    cluster.start(seed)
    for name in others:
        cluster.start(name, seeds=[seed])
    while cluster.timeline.now() < PATIENCE_S:
        cluster.run_for(STEP_S)
        since_us = views.agreed_us
        if since_us is not None and cluster.timeline.now_us >= since_us + AFTER_S * US_PER_S:
            break
    machines = cluster.machines.values()
    sent = sum(machine.traffic.total()[1] for machine in machines)
    row: Row = {
        "seed": task.seed,
        "members": task.members,
        "loss": task.loss,
        "agreed_s": "" if views.agreed_us is None else fixed(views.agreed_us / US_PER_S),
        "suspicions": doubts.suspicions,
        "deaths": doubts.deaths,
        "sent_bytes_per_member": round(sent / task.members),
        "sent_by_seed_bytes": cluster.machines[seed].traffic.total()[1],
    }
    return Found([row], {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("Simulated members that all start at one moment.", seeds="1..10", resumable=True)
    parser.add_argument("--members", type=runs.numbers, default=(100,), help="sizes, as in 100,1000")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    options = parser.parse_args(arguments)
    with Results("joining", options.csv, resume=options.resume) as results:
        for members in options.members:
            tasks = [Task(seed, members, options.loss) for seed in options.seeds]
            rows: list[Row] = []
            for found in results.each(run, tasks, options.jobs):
                rows += found.rows
            runs.line(f"{members} members at once, {len(rows)} seeds", summary(rows), REFERENCE, GOAL)
    return 0


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""
    times_s = [row["agreed_s"] for row in rows if row["agreed_s"] != ""]
    within = sum(at <= GOAL_S for at in times_s)
    if not times_s:
        return f"none of {len(rows)} agreed"
    return (
        f"{within} of {len(rows)} within {GOAL_S:g} s, p50 {text(percentile(times_s, 0.5))} s, p99 "
        f"{text(percentile(times_s, 0.99))} s, max {text(max(times_s))} s, {len(rows) - len(times_s)} never, "
        f"{sum(row['suspicions'] for row in rows)} suspicions, {runs.cost(rows, len(rows), 'seed')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
