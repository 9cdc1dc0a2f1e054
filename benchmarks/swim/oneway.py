"""Members that cannot send, cannot receive, or lose most packets: whether everybody comes to rest about them.

    .venv/bin/python -m benchmarks.swim.oneway                                          # two minutes
    .venv/bin/python -m benchmarks.swim.oneway --members 100,1000 --seeds 1..3 --jobs 2 --csv

One member in a hundred is hit, and stays so. A change is an event of one member about the state of another
one: suspected, refuted, dead, alive again, joined, left, reaped. All are counted by who tells and about whom.
A run has settled when for a minute no healthy member has told a change about anybody; it ends when no hit one
has either, or when patience is over. What is said of paths (``PathLost``) or of a member that knows itself
impaired is no change of state: that is how such a fault should show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed, text
from simulations.links import Change, Rule
from simulations.members import MemberCluster, SimulatedMember
from simulations.timeline import US_PER_S, Timeline
from simulations.watcher import Watcher
from swim.events import (
    Event,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefuted,
    MemberSuspected,
    PathLost,
)

REFERENCE: Final = "memberlist oscillates for ever (Rapid, ATC 2018)"
GOAL: Final = "settles (60 s without a change), no healthy member suspected or dead"
CHANGES: Final = (
    MemberSuspected, MemberRefuted, MemberDied, MemberAlive, MemberJoined, MemberLeft, MemberReaped,
)  # fmt: skip
SETTLE_S: Final = 15.0
QUIET_S: Final = 60.0
PATIENCE_S: Final = 600.0
STEP_S: Final = 1.0
FAULTS: Final[dict[str, tuple[Change | None, Change | None]]] = {
    "cannot-send": (Change(cut=True), None),
    "cannot-receive": (None, Change(cut=True)),
    "loses-80": (Change(loss=0.8), Change(loss=0.8)),
    "udp-blocked": (Change(cut_datagrams=True), Change(cut_datagrams=True)),
}
"""What becomes of what a hit member sends, and of what it should receive, datagrams and streams alike."""


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        hit: How many are hit.
        fault: A key of `FAULTS`.
        loss: Of each link.
        patience_s: How long they may take to come to rest.
    """

    seed: int
    members: int
    hit: int
    fault: str
    loss: float
    patience_s: float


class StateChanges(Watcher):
    """Counts changes of state by who tells them and about whom.

    Args:
        timeline: Says when.
        hit: Names of the hit members.

    Attributes:
        counts: By ``healthy`` or ``hit`` for who tells, the same for about whom, and the kind of change.
        last_us: When the last change was told, by healthy members and by hit ones.
        paths_lost: How often a member has told that it cannot reach another one directly.
    """

    def __init__(self, timeline: Timeline, hit: Sequence[str]) -> None:
        self._timeline, self._hit = timeline, frozenset(hit)
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.last_us = {"healthy": 0, "hit": 0}
        self.paths_lost = 0

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Count an event."""
        self.paths_lost += isinstance(event, PathLost)
        if isinstance(event, CHANGES):
            by = "hit" if member.name in self._hit else "healthy"
            about = "hit" if event.member.name in self._hit else "healthy"
            self.counts[by, about, type(event).__name__] += 1
            self.last_us[by] = self._timeline.now_us


def run(task: Task) -> Found:
    """Hit some members, and wait until nobody changes its mind any more."""
    cluster = runs.cluster(task.seed, loss=task.loss)
    names = runs.names(task.members)
    hit = cluster.timeline.stream("hit").sample(names, task.hit)
    changes = StateChanges(cluster.timeline, hit)
    cluster.start_converged(names)
    cluster.run_for(SETTLE_S)
    cluster.watch(changes)
    _hit(cluster, hit, task.fault)
    began_us = cluster.timeline.now_us
    changes.last_us = dict.fromkeys(changes.last_us, began_us)
    while cluster.timeline.now_us < began_us + task.patience_s * US_PER_S:
        cluster.run_for(STEP_S)
        if cluster.timeline.now_us >= max(changes.last_us.values()) + QUIET_S * US_PER_S:
            break
    return Found([_row(task, cluster, changes, began_us)], {})


def _hit(cluster: MemberCluster, hit: Sequence[str], fault: str) -> None:
    sends, receives = FAULTS[fault]
    group = frozenset(hit)
    rules = [] if sends is None else [Rule(group, None, sends)]
    rules += [] if receives is None else [Rule(None, group, receives)]
    cluster.links.add(rules)


def _row(task: Task, cluster: MemberCluster, changes: StateChanges, began_us: int) -> Row:
    now_us, counts = cluster.timeline.now_us, changes.counts
    settled = {by: now_us >= us + QUIET_S * US_PER_S for by, us in changes.last_us.items()}
    after_s = {by: (us - began_us) / US_PER_S for by, us in changes.last_us.items()}

    def of(by: str, about: str, *kinds: type[Event]) -> int:
        wanted = [kind.__name__ for kind in kinds or CHANGES]
        return sum(counts[by, about, kind] for kind in wanted)

    return task._asdict() | {
        "settled": int(settled["healthy"]),
        "settled_after_s": fixed(after_s["healthy"]) if settled["healthy"] else "",
        "all_settled": int(all(settled.values())),
        "all_settled_after_s": fixed(max(after_s.values())) if all(settled.values()) else "",
        "healthy_suspected_by_healthy": of("healthy", "healthy", MemberSuspected),
        "healthy_died_by_healthy": of("healthy", "healthy", MemberDied),
        "changes_of_healthy_by_healthy": of("healthy", "healthy"),
        "healthy_suspected_by_hit": of("hit", "healthy", MemberSuspected),
        "healthy_died_by_hit": of("hit", "healthy", MemberDied),
        "changes_of_hit_by_healthy": of("healthy", "hit"),
        "hit_suspected_by_healthy": of("healthy", "hit", MemberSuspected),
        "hit_died_by_healthy": of("healthy", "hit", MemberDied),
        "hit_back_by_healthy": of("healthy", "hit", MemberAlive, MemberJoined),
        "paths_lost": changes.paths_lost,
        "virtual_s": fixed((now_us - began_us) / US_PER_S),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("Members that are hit by one-way faults and heavy loss.", seeds="1", resumable=True)
    parser.add_argument("--members", type=runs.numbers, default=(100,), help="sizes, as in 100,1000")
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds to come to rest")
    options = parser.parse_args(arguments)
    faults = options.faults.split(",")
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        parser.error(f"--faults: there is no {unknown[0]}")
    with Results("oneway", options.csv, resume=options.resume) as results:
        for members in options.members:
            for fault in faults:
                hit = max(1, members // 100)
                tasks = [
                    Task(seed, members, hit, fault, options.loss, options.patience) for seed in options.seeds
                ]
                rows: list[Row] = []
                for found in results.each(run, tasks, options.jobs):
                    rows += found.rows
                runs.line(f"{members} members, {hit} {fault}", summary(rows), REFERENCE, GOAL)
    return 0


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""

    def total(what: str) -> int:
        return sum(row[what] for row in rows)

    after_s = [row["settled_after_s"] for row in rows if row["settled"]]
    return (
        f"{len(after_s)} of {len(rows)} settled, after {text(max(after_s, default=None), 0)} s at most "
        f"({total('all_settled')} with the hit ones' own views). Told by healthy members: of healthy ones "
        f"{total('healthy_suspected_by_healthy')} suspicions, {total('healthy_died_by_healthy')} deaths; "
        f"of hit ones {total('hit_suspected_by_healthy')} suspicions, {total('hit_died_by_healthy')} deaths, "
        f"{total('hit_back_by_healthy')} returns. Told by hit members of healthy ones: "
        f"{total('healthy_suspected_by_hit')} suspicions, {total('healthy_died_by_hit')} deaths. "
        f"{runs.cost(rows, len(rows), 'run')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
