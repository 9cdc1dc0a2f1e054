"""How long it takes until a crashed member is declared dead, at every survivor.

    .venv/bin/python -m benchmarks.swim.detection                                     # a minute
    .venv/bin/python -m benchmarks.swim.detection --seeds 1..200 --jobs 2 --csv       # 1,000 crashes

A run starts members that have known each other for long, lets their round trips be measured for a while, and
then crashes one member after the other at random moments, each with some time of its own. A detection is the
time from the crash to the event of death in one survivor. A survivor that never tells it, until long after
the last crash, has missed it. Every death of a member that runs is a false one.

With ``--together N`` so many crash at the same moment first, as in ``benchmarks/swim/real``, and with
``--detections FILE`` each detection is a row that ``benchmarks.swim.real.run --simulated FILE`` understands.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.report import percentile
from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed, text
from simulations.members import SimulatedMember
from simulations.timeline import US_PER_S, Timeline
from simulations.watcher import Watcher
from swim.events import Event, MemberAlive, MemberDied, MemberSuspected

REFERENCE: Final = "memberlist p50 9.86 s, p99 11.98 s, 0 missed, 0 false"
GOAL: Final = "p50 <= 6.0 s, p99 <= 7.5 s, 0 missed, 0 false (stretch 5.0 / 6.5)"
BIN_S: Final = 0.05
SETTLE_S: Final = 15.0
"""Before the first crash, so that round trips are known."""
SPREAD_S: Final = 2.0
"""The time of a crash is random within so much: two rounds of probes."""
LINGER_S: Final = 40.0
"""Most time after the last crash for those that have not noticed all of them yet: longer than the longest
suspicion, so that what is late is late and not missed."""
MAX_DETECTION_ROWS: Final = 5_000


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        kill: How many crash, one after the other.
        together: How many crash at the same moment before.
        own_s: The time that each crash has of its own, at least.
        loss: Of each link.
    """

    seed: int
    members: int
    kill: int
    together: int
    own_s: float
    loss: float


class Deaths(Watcher):
    """Notes when who declared whom dead.

    Args:
        timeline: Says when.

    Attributes:
        started: Everybody there ever was.
        crashed_us: When each victim crashed.
        detected_us: For each victim, when each survivor declared it dead first.
        false_deaths: Deaths of members that ran: when, who said it, of whom.
        suspicions: Suspicions of members that ran.
        resurrected: Victims that a survivor held to be up again.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.started: dict[str, None] = {}
        self.crashed_us: dict[str, int] = {}
        self.detected_us: dict[str, dict[str, int]] = {}
        self.false_deaths: list[tuple[int, str, str]] = []
        self.suspicions = 0
        self.resurrected = 0

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note who starts and who crashes."""
        if what == "started":
            self.started[member.name] = None
        elif what == "crashed":
            self.crashed_us[member.name] = self._timeline.now_us
            self.detected_us[member.name] = {}

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Note verdicts."""
        if isinstance(event, MemberDied):
            detected = self.detected_us.get(event.member.name)
            if detected is None:
                self.false_deaths.append((self._timeline.now_us, member.name, event.member.name))
            else:
                detected.setdefault(member.name, self._timeline.now_us)
        elif isinstance(event, MemberSuspected):
            self.suspicions += event.member.name not in self.crashed_us
        elif isinstance(event, MemberAlive):
            self.resurrected += event.member.name in self.crashed_us


def run(task: Task) -> Found:
    """Crash members of one cluster: a row per crash, and all detections by victim and survivor."""
    cluster = runs.cluster(task.seed, loss=task.loss)
    deaths = Deaths(cluster.timeline)
    cluster.watch(deaths)
    cluster.start_converged(runs.names(task.members))
    chance = cluster.timeline.stream("crashes")
    victims = chance.sample(runs.names(task.members), task.kill + task.together)
    cluster.run_for(SETTLE_S + SPREAD_S * chance.random())
    for number, victim in enumerate(victims, 1):
        cluster.crash(victim)
        if number >= task.together:
            cluster.run_for(task.own_s + SPREAD_S * chance.random())
    last_us = cluster.timeline.now_us + round(LINGER_S * US_PER_S)
    while cluster.timeline.now_us < last_us and any(None in detections(deaths, v).values() for v in victims):
        cluster.run_for(1.0)
    times_s = {(victim, name): at for victim in victims for name, at in detections(deaths, victim).items()}
    rows = [_row(task, deaths, victim, detections(deaths, victim)) for victim in victims]
    counts = (len(deaths.false_deaths), deaths.suspicions, deaths.resurrected)
    rows[0].update(zip(("false_deaths", "false_suspicions", "resurrected"), counts, strict=True))
    return Found(rows, times_s)


def detections(deaths: Deaths, victim: str) -> dict[str, float | None]:
    """Seconds until each survivor of a crash declared it, None for one that never did.

    Who crashed before, with it, or later without having noticed, is no survivor.
    """
    crashed_us, detected_us = deaths.crashed_us[victim], deaths.detected_us[victim]
    found: dict[str, float | None] = {}
    for name in deaths.started:
        us = detected_us.get(name)
        if us is not None:
            found[name] = (us - crashed_us) / US_PER_S
        elif name not in deaths.crashed_us:
            found[name] = None
    return found


def _row(task: Task, deaths: Deaths, victim: str, detected: dict[str, float | None]) -> Row:
    times_s = [at for at in detected.values() if at is not None]
    first = min(times_s, default=None)
    return {
        "seed": task.seed,
        "members": task.members,
        "loss": task.loss,
        "victim": victim,
        "crashed_at_s": fixed(deaths.crashed_us[victim] / US_PER_S),
        "survivors": len(detected),
        "missed": len(detected) - len(times_s),
        "first_s": "" if first is None else fixed(first),
        "p50_s": fixed(percentile(times_s, 0.5)) if times_s else "",
        "p99_s": fixed(percentile(times_s, 0.99)) if times_s else "",
        "max_s": fixed(max(times_s)) if times_s else "",
        "false_deaths": 0,
        "false_suspicions": 0,
        "resurrected": 0,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("Detection of crashes by simulated members.", seeds="1..5")
    parser.add_argument("--members", type=runs.positive, default=100)
    parser.add_argument("--kill", type=int, default=5, help="crashes of one run, one by one")
    parser.add_argument("--together", type=int, default=0, help="crashes at one moment before those")
    parser.add_argument(
        "--own", type=float, default=12.0, help="seconds that each crash has of its own, at least"
    )
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument("--detections", type=Path, help="write each detection into this CSV")
    options = parser.parse_args(arguments)
    if not 0 < options.kill + options.together < options.members - 1:
        parser.error("at least one member has to crash, and two have to survive")
    tasks = [
        Task(seed, options.members, options.kill, options.together, options.own, options.loss)
        for seed in options.seeds
    ]
    rows: list[Row] = []
    times_s: list[float] = []
    single: list[Row] = []
    with Results("detection", options.csv) as results:
        for task, found in zip(tasks, runs.each(run, tasks, options.jobs), strict=True):
            rows += found.rows
            results.add(found.rows)
            times_s += [at for at in found.times_s.values() if at is not None]
            if len(single) + len(found.times_s) <= MAX_DETECTION_ROWS:
                single += _single(task.seed, found)
        results.beside("histogram", runs.histogram(times_s, BIN_S))
    if options.detections is not None:
        with options.detections.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(single[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(single)
    total = {what: sum(row[what] for row in rows) for what in ("missed", "false_deaths", "false_suspicions")}
    runs.line(
        f"{options.members} members, {len(rows)} crashes, {len(times_s)} detections",
        f"p50 {text(percentile(times_s, 0.5))} s, p99 {text(percentile(times_s, 0.99))} s, max "
        f"{text(max(times_s))} s, {total['missed']} missed, {total['false_deaths']} false deaths, "
        f"{total['false_suspicions']} false suspicions, {runs.cost(rows, len(rows), 'crash')}",
        REFERENCE,
        GOAL,
    )
    return 0


def _single(seed: int, found: Found) -> list[Row]:
    return [
        {"run": seed, "survivor": survivor, "victim": victim, "detection_s": "" if at is None else fixed(at)}
        for (victim, survivor), at in found.times_s.items()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
