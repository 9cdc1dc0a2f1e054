r"""How long it takes until one update has reached all members: of a member's metadata, and of a map entry.

    .venv/bin/python -m benchmarks.swim.dissemination                                 # a quarter of a minute
    .venv/bin/python -m benchmarks.swim.dissemination --members 100,1000 --updates 50 --seeds 1..4 \
        --jobs 2 --csv

In a cluster at rest, one member after the other changes its metadata, and then one entry of its map, each
update with seconds of its own. The events of all other members tell when it has arrived. What has not arrived
when the run ends is counted as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from benchmarks.report import percentile
from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed, text
from benchmarks.swim.shared_maps import SharedMaps
from simulations.members import MemberCluster, SimulatedMember
from simulations.timeline import EPOCH_S, US_PER_S
from simulations.watcher import Watcher
from swim.events import Event, MemberUpdated
from swim.map_events import EntryChanged

REFERENCE: Final = {100: "1.84 s", 1000: "2.15 s"}
KINDS: Final = ("metadata", "map entry")
OWNED: Final = 10
"""Entries of each member's map."""
BIN_S: Final = 0.02
SETTLE_S: Final = 5.0
OWN_S: Final = 2.5
"""Each update has so much time of its own, at least."""
SPREAD_S: Final = 1.0
LINGER_S: Final = 30.0
"""After the last update, so that what is late is late and not missed."""


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        updates: Of each kind.
        loss: Of each link.
        linger_s: How long what is late is waited for at the end.
    """

    seed: int
    members: int
    updates: int
    loss: float
    linger_s: float


class Arrivals(Watcher):
    """Notes when each update has reached whom.

    Args:
        cluster: Whose members are followed.

    Attributes:
        said_us: When each update was said, by the bytes that tell it.
        arrived_us: When it has reached which member.
    """

    def __init__(self, cluster: MemberCluster) -> None:
        self._timeline = cluster.timeline
        self.said_us: dict[bytes, int] = {}
        self.arrived_us: dict[bytes, dict[str, int]] = {}

    def follow(self, maps: SharedMaps) -> None:
        """Note what changes in maps, too."""
        for name, held in maps.held.items():
            held.when_changed(partial(self._later, name, maps))

    def said(self, data: bytes) -> None:
        """An update is said now."""
        self.said_us[data] = self._timeline.now_us
        self.arrived_us[data] = {}

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Note metadata that has arrived."""
        if isinstance(event, MemberUpdated):
            self._note(event.member.meta, member.name)

    def _later(self, name: str, maps: SharedMaps) -> None:
        # The map is in the middle of a packet: what it has to tell is read at the same instant, after that.
        self._timeline.at_us(self._timeline.now_us, self._drain, name, maps)

    def _drain(self, name: str, maps: SharedMaps) -> None:
        for event in maps.of(name).events():
            if isinstance(event, EntryChanged) and event.value is not None and event.owner != name:
                self._note(event.value, name)

    def _note(self, data: bytes, name: str) -> None:
        if data in self.said_us:
            self.arrived_us[data].setdefault(name, self._timeline.now_us)


def run(task: Task) -> Found:
    """Say one thing after the other: a row per update, and all times by kind and update."""
    maps = SharedMaps(task.members, OWNED)
    cluster = runs.cluster(task.seed, loss=task.loss, replicated=maps.of)
    maps.fill(cluster)
    arrivals = Arrivals(cluster)
    arrivals.follow(maps)
    cluster.watch(arrivals)
    names = runs.names(task.members)
    cluster.start_converged(names)
    cluster.run_for(SETTLE_S)
    chance = cluster.timeline.stream("updates")
    authors: list[tuple[str, str, bytes]] = []
    for number in range(task.updates):
        for kind in KINDS:
            author, data = chance.choice(names), f"{kind} {number}".encode().ljust(40, b".")
            authors.append((kind, author, data))
            cluster.run_for(SPREAD_S * chance.random())
            _say(cluster, maps, arrivals, authors[-1])
            cluster.run_for(OWN_S)
    end_us = cluster.timeline.now_us + round(task.linger_s * US_PER_S)
    while cluster.timeline.now_us < end_us and any(
        len(reached) < task.members - 1 for reached in arrivals.arrived_us.values()
    ):
        cluster.run_for(1.0)
    times_s: dict[tuple[str, str], float | None] = {}
    rows = []
    for number, (kind, author, data) in enumerate(authors):
        took_s = [(us - arrivals.said_us[data]) / US_PER_S for us in arrivals.arrived_us[data].values()]
        times_s |= {(kind, f"{number}/{place}"): at for place, at in enumerate(took_s)}
        rows.append(_row(task, kind, author, took_s))
    return Found(rows, times_s)


def _say(
    cluster: MemberCluster, maps: SharedMaps, arrivals: Arrivals, update: tuple[str, str, bytes]
) -> None:
    kind, author, data = update
    member = cluster.running[author]
    arrivals.said(data)
    if kind == KINDS[0]:
        member.swim.update_meta(data, cluster.local_now(member))
    else:
        maps.of(author).put(f"agent/{author}-w0/1.0.0", data, EPOCH_S + cluster.timeline.now())
    cluster.pump(member)


def _row(task: Task, kind: str, author: str, took_s: list[float]) -> Row:
    return {
        "seed": task.seed,
        "members": task.members,
        "loss": task.loss,
        "kind": kind,
        "author": author,
        "reached": len(took_s),
        "missed": task.members - 1 - len(took_s),
        "p50_s": fixed(percentile(took_s, 0.5)) if took_s else "",
        "p99_s": fixed(percentile(took_s, 0.99)) if took_s else "",
        "max_s": fixed(max(took_s)) if took_s else "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("How updates reach all members of a simulated cluster.", seeds="1")
    parser.add_argument("--members", type=runs.numbers, default=(100,), help="sizes, as in 100,1000")
    parser.add_argument("--updates", type=runs.positive, default=20, help="of each kind in each run")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument("--linger", type=float, default=LINGER_S, help="seconds to wait for what is late")
    options = parser.parse_args(arguments)
    spread: list[Row] = []
    with Results("dissemination", options.csv) as results:
        for members in options.members:
            tasks = [
                Task(seed, members, options.updates, options.loss, options.linger) for seed in options.seeds
            ]
            rows: list[Row] = []
            times_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for found in runs.each(run, tasks, options.jobs):
                rows += found.rows
                results.add(found.rows)
                for (kind, _), at in found.times_s.items():
                    times_s[kind] += [] if at is None else [at]
            for kind in KINDS:
                spread += [
                    {"members": members, "kind": kind, **entry}
                    for entry in runs.histogram(times_s[kind], BIN_S)
                ]
                reference = REFERENCE.get(members, "-")
                measured = summary([row for row in rows if row["kind"] == kind], times_s[kind])
                runs.line(f"{members} members, {kind}", measured, f"{reference} (a model)", f"<= {reference}")
        results.beside("histogram", spread)
    return 0


def summary(rows: Sequence[Row], times_s: Sequence[float]) -> str:
    """What the updates of one kind came to, in words."""
    if not times_s:
        return "nothing arrived"
    points = ", ".join(
        f"p{100 * share:g} {text(percentile(times_s, share))} s" for share in (0.5, 0.99, 0.9999)
    )
    return (
        f"{points}, max {text(max(times_s))} s of {len(times_s):,} arrivals of {len(rows)} updates, "
        f"{sum(row['missed'] for row in rows)} missed, {runs.cost(rows, len(rows), 'update')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
