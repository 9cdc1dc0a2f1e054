r"""False deaths of members whose processes get too little of a processor, beside ablations of our own code.

    .venv/bin/python -m benchmarks.swim.starved --members 50 --seeds 1..2                # two minutes
    .venv/bin/python -m benchmarks.swim.starved --seeds 1..20 --jobs 2 --csv             # 18 cells, 3 systems
    .venv/bin/python -m benchmarks.swim.starved --pauses 5,30 --seeds 1..20 --jobs 2 --csv \
        --systems caxton,lifeguard-slow,caxton-slow                                      # longer pauses

**Pause law.** Each starved process runs for an exponentially distributed time, 2 s on average (a Poisson
process of stalls), and then stands still for a time that is uniformly distributed between 0.5 and 4 s; so it
is still for more than half of the time. A process that stands still does nothing while its socket's buffer
fills; when it goes on it reads what has arrived, and then its timers fire, late. A run has converged members,
10 s of quiet and 120 s of starvation; 1 member, 5 % or 10 % of the members are starved, without loss and with
5 %. No process ends, so **every** death that any member declares is a false one, whoever it is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from benchmarks.swim import runs
from benchmarks.swim.ablation import SYSTEMS
from benchmarks.swim.runs import Found, Results, Row, fixed
from simulations.faults import Starve
from simulations.injector import Injector
from simulations.members import SimulatedMember
from simulations.truth import Truth
from simulations.watcher import Watcher
from swim.events import Event, MemberDied, MemberRefuted, MemberSuspected

REFERENCE: Final = "Lifeguard 108 of 3,600 runs with a false death, SWIM + TCP 2,253"
GOAL: Final = "at most 1 of 100 runs, and at most a 20th of plain SWIM"
RUNNING_S: Final = 2.0
"""Mean of the exponentially distributed time between two pauses."""
PAUSES_S: Final = (0.5, 4.0)
SETTLE_S: Final = 10.0
STARVED_S: Final = 120.0
SHARES: Final = (0.0, 0.05, 0.1)
"""Of the members that are starved; one at least."""


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        system: A key of `benchmarks.swim.ablation.SYSTEMS`.
        members: How many there are.
        starved: How many of them are starved.
        loss: Of each link.
        shortest_s: Of the pauses.
        longest_s: Of the pauses.
        lasts_s: How long members are starved.
    """

    seed: int
    system: str
    members: int
    starved: int
    loss: float
    shortest_s: float
    longest_s: float
    lasts_s: float


class Verdicts(Watcher):
    """Counts what members say of others.

    Args:
        starved: Names of those that stand still at times.

    Attributes:
        deaths: Who was declared dead, by whom.
        suspected: Events of suspicion.
        healthy_suspected: Those about members that are not starved.
        refuted: Events of refutation.
    """

    def __init__(self, starved: Sequence[str]) -> None:
        self._starved = frozenset(starved)
        self.deaths: list[tuple[str, str]] = []
        self.suspected = self.healthy_suspected = self.refuted = 0

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Count an event."""
        if isinstance(event, MemberDied):
            self.deaths.append((event.member.name, member.name))
        elif isinstance(event, MemberSuspected):
            self.suspected += 1
            self.healthy_suspected += event.member.name not in self._starved
        elif isinstance(event, MemberRefuted):
            self.refuted += 1


def run(task: Task) -> Found:
    """Starve some members for a while."""
    system = SYSTEMS[task.system]
    with system.ablation():
        cluster = runs.cluster(task.seed, system.config(task.members), loss=task.loss)
        starved = cluster.timeline.stream("starved").sample(runs.names(task.members), task.starved)
        verdicts = Verdicts(starved)
        cluster.watch(verdicts)
        injector = Injector(cluster, Truth(cluster, pause_bound_s=0.0, settle_s=0.0), ())
        cluster.start_converged(runs.names(task.members))
        pauses_s = (task.shortest_s, task.longest_s)
        starve = Starve(
            members=tuple(starved),
            at_s=SETTLE_S,
            for_s=task.lasts_s,
            running_s=RUNNING_S,
            paused_s=pauses_s,
        )
        injector.plan([starve])
        cluster.run_for(SETTLE_S + task.lasts_s)
    victims = {name for name, _ in verdicts.deaths}
    row = task._asdict() | {
        "false_deaths": len(verdicts.deaths),
        "victims": len(victims),
        "healthy_victims": len(victims - set(starved)),
        "declared_by_healthy": sum(by not in starved for _, by in verdicts.deaths),
        "suspicions": verdicts.suspected,
        "healthy_suspected": verdicts.healthy_suspected,
        "refutations": verdicts.refuted,
        "virtual_s": fixed(cluster.timeline.now()),
    }
    return Found([row], {})


def cells(members: Sequence[int], losses: Sequence[float]) -> list[tuple[int, int, float]]:
    """Members, how many of them are starved, and loss, of all cells."""
    return [
        (count, starved, loss)
        for count in members
        for starved in dict.fromkeys(max(1, math.ceil(count * share)) for share in SHARES)
        for loss in losses
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("False deaths of starved members.", seeds="1..2", resumable=True)
    parser.add_argument(
        "--members", type=runs.numbers, default=(50, 100, 200), help="sizes, as in 50,100,200"
    )
    parser.add_argument("--losses", type=runs.shares, default=(0.0, 0.05), help="as in 0,0.05")
    parser.add_argument("--systems", default="caxton,swim,swim-slow", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--pauses", type=runs.shares, default=PAUSES_S, help="shortest and longest, seconds")
    parser.add_argument("--lasts", type=float, default=STARVED_S, help="seconds of starvation")
    options = parser.parse_args(arguments)
    systems = options.systems.split(",")
    if len(options.pauses) != 2 or options.pauses[0] > options.pauses[1]:
        parser.error("--pauses: write the shortest and the longest pause, as in 0.5,4")
    if unknown := [system for system in systems if system not in SYSTEMS]:
        parser.error(f"--systems: there is no {unknown[0]}")
    shortest_s, longest_s = options.pauses
    name = "starved" if tuple(options.pauses) == PAUSES_S else "starved-{:g}-{:g}".format(*options.pauses)
    with Results(name, options.csv, script="starved", resume=options.resume) as results:
        for system in systems:
            print(f"{system}: {SYSTEMS[system].about}")
            whole: list[Row] = []
            for cell in cells(options.members, options.losses):
                tasks = [Task(s, system, *cell, shortest_s, longest_s, options.lasts) for s in options.seeds]
                rows: list[Row] = []
                for found in results.each(run, tasks, options.jobs):
                    rows += found.rows
                whole += rows
                print("  {} members, {} starved, loss {:g}: ".format(*cell) + summary(rows), flush=True)
            runs.line(f"{system}, all cells", summary(whole), REFERENCE, GOAL)
    return 0


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""
    with_death = sum(row["false_deaths"] > 0 for row in rows)
    deaths = sum(row["false_deaths"] for row in rows)
    return (
        f"{with_death} of {len(rows)} runs with a false death ({deaths} deaths, "
        f"{sum(row['healthy_victims'] for row in rows)} healthy victims), suspicion events p50 "
        f"{median(row['suspicions'] for row in rows):,.0f}, {runs.cost(rows, len(rows), 'run')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
