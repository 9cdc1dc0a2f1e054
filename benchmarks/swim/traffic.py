"""What an idle member sends, in a cluster that holds 10,000 map entries.

    .venv/bin/python -m benchmarks.swim.traffic                                         # a minute
    .venv/bin/python -m benchmarks.swim.traffic --members 50,200,1000 --seeds 1..3 --jobs 2 --csv

Members have known each other for long and hold all maps; nothing happens. Packets are sealed with a gossip
key, as those of nodes are. After a while in which what is left of the start dies down, all that members send
is counted for a while: the payload of datagrams and streams, and the same with the headers of IPv4 and UDP,
28 bytes for each datagram. Lost datagrams count as sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Final, NamedTuple

from benchmarks.report import percentile
from benchmarks.swim import runs
from benchmarks.swim.runs import Found, Results, Row, fixed
from benchmarks.swim.shared_maps import SharedMaps
from simulations.member_streams import CONNECT, STREAM
from simulations.members import MemberCluster
from swim.keyring import KEY_BYTES

REFERENCE: Final = {50: "0.25 KB/s", 200: "0.5 KB/s", 1000: "0.6 KB/s"}
ENTRIES: Final = 10_000
HEADER_BYTES: Final = 28
"""IPv4 and UDP."""
SETTLE_S: Final = 20.0
MEASURED_S: Final = 60.0


class Task(NamedTuple):
    """One run.

    Attributes:
        seed: Everything random follows from it.
        members: How many there are.
        entries: Of all maps together.
        loss: Of each link.
        sealed: Whether packets are encrypted; a checksum takes 30 bytes less.
        settle_s: Before the measurement.
        measured_s: Of the measurement.
    """

    seed: int
    members: int
    entries: int
    loss: float
    sealed: bool
    settle_s: float
    measured_s: float


def run(task: Task) -> Found:
    """Let a cluster be idle, and count what it sends."""
    maps = SharedMaps(task.members, task.entries // task.members)
    keys = [bytes(KEY_BYTES)] if task.sealed else []
    cluster = runs.cluster(task.seed, loss=task.loss, gossip_keys=keys, replicated=maps.of)
    maps.fill(cluster)
    cluster.start_converged(runs.names(task.members))
    cluster.run_for(task.settle_s)
    before = sent(cluster)
    cluster.run_for(task.measured_s)
    after = sent(cluster)
    per_second = [
        tuple((now - then) / task.measured_s for now, then in zip(after[name], before[name], strict=True))
        for name in after
    ]
    packets_s, bytes_s, streams_s = (mean(values) for values in zip(*per_second, strict=True))
    row: Row = task._asdict() | {
        "sealed": int(task.sealed),
        "datagrams_per_member_s": fixed(packets_s),
        "datagram_bytes_per_member_s": fixed(bytes_s),
        "stream_bytes_per_member_s": fixed(streams_s),
        "bytes_per_member_s": fixed(bytes_s + streams_s),
        "with_headers_per_member_s": fixed(bytes_s + streams_s + HEADER_BYTES * packets_s),
        "busiest_member_bytes_s": fixed(max(values[1] + values[2] for values in per_second)),
        "p99_member_bytes_s": fixed(percentile([values[1] + values[2] for values in per_second], 0.99)),
        "distinct_map_roots": len({held.root() for held in maps.held.values()}),
    }
    return Found([row], {})


def sent(cluster: MemberCluster) -> dict[str, tuple[int, int, int]]:
    """Datagrams, bytes in datagrams and bytes on streams that each machine has sent so far."""
    found = {}
    for name, machine in cluster.machines.items():
        packets, payload = machine.traffic.packets, machine.traffic.payload_bytes
        on_streams = [payload.get(kind, 0) for kind in (STREAM, CONNECT)]
        datagrams = sum(packets.values()) - packets.get(STREAM, 0) - packets.get(CONNECT, 0)
        found[name] = (datagrams, sum(payload.values()) - sum(on_streams), sum(on_streams))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = runs.parser("What idle members of a simulated cluster send.", seeds="1", resumable=True)
    parser.add_argument("--members", type=runs.numbers, default=(50, 200), help="sizes, as in 50,200,1000")
    parser.add_argument("--entries", type=runs.positive, default=ENTRIES, help="of all maps together")
    parser.add_argument("--loss", type=float, default=runs.LOSS)
    parser.add_argument("--plain", action="store_true", help="a checksum in the place of encryption")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before the measurement")
    parser.add_argument("--lasts", type=float, default=MEASURED_S, help="seconds of the measurement")
    options = parser.parse_args(arguments)
    sealed = not options.plain
    with Results("traffic", options.csv, resume=options.resume) as results:
        for members in options.members:
            tasks = [
                Task(seed, members, options.entries, options.loss, sealed, options.settle, options.lasts)
                for seed in options.seeds
            ]
            rows: list[Row] = []
            for found in results.each(run, tasks, options.jobs):
                rows += found.rows
            reference = REFERENCE.get(members, "-")
            cell = f"{members} members, {options.entries:,} entries"
            runs.line(cell, summary(rows), f"memberlist {reference}", f"<= {reference}")
    return 0


def summary(rows: Sequence[Row]) -> str:
    """What some runs came to, in words."""
    kb = {
        what: mean(row[what] for row in rows) / 1000
        for what in ("bytes_per_member_s", "with_headers_per_member_s", "stream_bytes_per_member_s")
    }
    busiest = max(row["busiest_member_bytes_s"] for row in rows) / 1000
    return (
        f"{kb['bytes_per_member_s']:.3f} KB/s of payload sent per member "
        f"({kb['stream_bytes_per_member_s']:.3f} of it on streams), "
        f"{kb['with_headers_per_member_s']:.3f} KB/s with headers, "
        f"busiest member {busiest:.3f} KB/s, {runs.cost(rows, len(rows), 'run')}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
