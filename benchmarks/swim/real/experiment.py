"""One run: start, join, settle, stay idle, then kill several at once and several one by one.

Which members are killed follows from the number of the run, so both systems lose the same ones. A run ends
in `Detection` rows, one for each survivor and victim, and one `Summary`.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.swim.real.cluster import NS, Cluster, Peer, RunFailed, System

CONVERGE_S: Final = 180.0
"""Every member sees every other within this, or the run counts as not converged and nobody is killed."""
DETECT_S: Final = 90.0
"""A victim that a survivor has not declared dead by then was missed."""
BREATH_S: Final = (1.0, 2.0)
"""Shortest and longest pause before the next victim when they are killed one by one."""
AT_ONCE: Final = "at once"
ONE_BY_ONE: Final = "one by one"
RATES: Final = ("packets_sent", "bytes_sent", "stream_bytes_sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What each run does.

    Attributes:
        members: processes.
        kill: how many are killed in each of the two phases.
        stagger_s: pause between two starts.
        settle_s: pause after everybody sees everybody.
        idle_s: the stretch in which traffic and processor are measured.
    """

    members: int
    kill: int
    stagger_s: float
    settle_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Detection:
    """How one survivor learned of one death.

    Attributes:
        run: number of the run.
        system: which system.
        phase: `at once` or `one by one`.
        survivor: who learned it.
        victim: who was killed.
        detection_s: from the kill to the verdict in the survivor; None if there was none.
        outcome: `detected`, `missed`, or `dead before`, if the survivor held it dead when it was killed.
    """

    run: int
    system: str
    phase: str
    survivor: str
    victim: str
    detection_s: float | None
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run measured besides detections; None where it did not come to that.

    Attributes:
        run: number of the run.
        system: which system.
        members: processes.
        load_before: the machine's load average over one minute, before the run.
        start_s: from the first process created to the last one listening.
        start_one_s: median time from the creation of a process to its listening.
        join_s: from the word to join until every member saw every other.
        join_p50_s: until the median member saw every other.
        join_cpu_s: processor time of a member, from its creation to the end of joining, mean.
        idle_s: length of the idle stretch.
        cpu_s_per_minute: processor time of a member in the idle stretch, mean.
        datagram_bytes_per_s: sent by a member in the idle stretch, mean, lost ones included.
        stream_bytes_per_s: sent by a member over TCP, mean.
        packets_per_s: datagrams sent by a member, mean.
        rss_mb: resident memory of a member, median.
        pss_mb: the same with shared pages divided among those that share them, median.
        late_p99_s: how late tasks that wait for a time were woken in the idle stretch, 99th percentile.
        late_join_max_s: the latest wake-up of all members before the idle stretch.
        cores_busy: cores of the machine that were at work in the idle stretch, whatever for.
        cores_members: cores that the members themselves used.
        health_max: the highest penalty of local health that a member had in the run.
        false_deaths: verdicts of death on a process that lived, counted per survivor.
        false_accusations: members' own failed probes of processes that lived.
        resurrected: victims held to be up again after they were held dead, counted per survivor.
        lost_share: share of the sent datagrams that the injected loss took.
        buffer_drops: datagrams that the kernel dropped in the run for full receive buffers, of any process.
    """

    run: int
    system: str
    members: int
    load_before: float
    start_s: float | None = None
    start_one_s: float | None = None
    join_s: float | None = None
    join_p50_s: float | None = None
    join_cpu_s: float | None = None
    idle_s: float | None = None
    cpu_s_per_minute: float | None = None
    datagram_bytes_per_s: float | None = None
    stream_bytes_per_s: float | None = None
    packets_per_s: float | None = None
    rss_mb: float | None = None
    pss_mb: float | None = None
    late_p99_s: float | None = None
    late_join_max_s: float | None = None
    cores_busy: float | None = None
    cores_members: float | None = None
    health_max: int | None = None
    false_deaths: int | None = None
    false_accusations: int | None = None
    resurrected: int | None = None
    lost_share: float | None = None
    buffer_drops: int | None = None


def one_run(
    number: int, system: System, plan: Plan, *, directory: Path, keys: Path, say: Callable[[str], None]
) -> tuple[Summary, list[Detection]]:
    """Do one run.

    Args:
        number: of the run; decides the victims.
        system: what to start.
        plan: what to do.
        directory: for journals and logs, empty.
        keys: the directory with the keys.
        say: told what is going on.

    Raises:
        RunFailed: if a member did not start, or ended without being told to.
    """
    facts: dict[str, float | int | None] = {"load_before": round(os.getloadavg()[0], 2)}
    rng = random.Random(f"victims/{number}")
    drops = _buffer_drops()
    detections: list[Detection] = []
    with Cluster(system, directory, keys) as cluster:
        facts |= _start_and_join(cluster, plan)
        say(f"started in {facts['start_s']} s, joined in {facts['join_s']} s")
        if facts["join_s"] is not None:
            cluster.watch(plan.settle_s)
            facts |= _idle(cluster, plan.idle_s)
            say(f"idle: {facts['datagram_bytes_per_s']} + {facts['stream_bytes_per_s']} bytes/s a member")
            doomed = [cluster.peers[place] for place in rng.sample(range(plan.members), 2 * plan.kill)]
            for phase, groups in (
                (AT_ONCE, [doomed[: plan.kill]]),
                (ONE_BY_ONE, [[victim] for victim in doomed[plan.kill :]]),
            ):
                for victims in groups:
                    found = _kill(number, cluster, victims, phase)
                    detections += found
                    say(_tell(phase, victims, found))
                    cluster.watch(rng.uniform(*BREATH_S))
        facts |= _verdicts(cluster.peers) | {"buffer_drops": _buffer_drops() - drops}
    return Summary(run=number, system=system.name, members=plan.members, **facts), detections


def _start_and_join(cluster: Cluster, plan: Plan) -> dict[str, float | None]:
    cluster.start(plan.members, plan.stagger_s)
    peers = cluster.peers
    first, last = peers[0].started_ns, max(peer.ready_ns for peer in peers)
    told = cluster.tell_to_join()
    cluster.wait(lambda: all(len(peer.up) == plan.members - 1 for peer in peers), CONVERGE_S)
    cluster.watch(1.0)  # so that counters have been written after it
    complete = [_complete_ns(peer, plan.members - 1) for peer in peers]
    known = [when for when in complete if when is not None]
    converged = len(known) == len(peers)
    return {
        "start_s": _seconds(first, last),
        "start_one_s": round(statistics.median((p.ready_ns - p.started_ns) / NS for p in peers), 3),
        "join_s": max(0.0, _seconds(told, max(known))) if converged else None,
        "join_p50_s": max(0.0, _seconds(told, sorted(known)[len(known) // 2])) if converged else None,
        "join_cpu_s": round(statistics.fmean(peer.counters[-1]["cpu_s"] for peer in peers), 3),
    }


def _complete_ns(peer: Peer, others: int) -> int | None:
    """When a member first saw so many others, or None if it never did."""
    first_seen = sorted(times[0] for times in peer.joined.values())
    return first_seen[others - 1] if len(first_seen) >= others else None


def _idle(cluster: Cluster, idle_s: float) -> dict[str, float | int]:
    busy, began = _machine_busy_s(), time.monotonic_ns()
    cluster.watch(idle_s)
    busy, ended = _machine_busy_s() - busy, time.monotonic_ns()
    rss, pss = _memory_mb(cluster.peers)
    spans = [(peer.counters_at(began), peer.counters_at(ended)) for peer in cluster.peers]
    if any(first["t"] >= last["t"] for first, last in spans):
        raise RunFailed("a member wrote no counters in the idle stretch; make it longer")
    lengths = [(last["t"] - first["t"]) / NS for first, last in spans]

    def mean_rate(name: str) -> float:
        pairs = zip(spans, lengths, strict=True)
        return statistics.fmean((last[name] - first[name]) / seconds for (first, last), seconds in pairs)

    cpu = mean_rate("cpu_s")
    packets, datagram_bytes, stream_bytes = (round(mean_rate(name), 1) for name in RATES)
    before = [line["late_s"] for p in cluster.peers for line in p.counters if line["t"] <= began]
    late = sorted(line["late_s"] for p in cluster.peers for line in p.counters if began < line["t"] <= ended)
    return {
        "idle_s": round(statistics.fmean(lengths), 1),
        "cpu_s_per_minute": round(60 * cpu, 3),
        "datagram_bytes_per_s": datagram_bytes,
        "stream_bytes_per_s": stream_bytes,
        "packets_per_s": packets,
        "rss_mb": rss,
        "pss_mb": pss,
        "late_p99_s": round(late[int(0.99 * (len(late) - 1))], 4),
        "late_join_max_s": round(max(before), 4),
        "cores_busy": round(busy / _seconds(began, ended), 2),
        "cores_members": round(cpu * len(cluster.peers), 2),
    }


def _kill(run: int, cluster: Cluster, victims: Sequence[Peer], phase: str) -> list[Detection]:
    for victim in victims:
        cluster.kill(victim)
    survivors = cluster.living

    def all_know() -> bool:
        return not any(victim.name in survivor.up for survivor in survivors for victim in victims)

    cluster.wait(all_know, DETECT_S)
    return [
        _judge(run, cluster.system.name, phase, survivor, victim)
        for victim in victims
        for survivor in survivors
    ]


def _judge(run: int, system: str, phase: str, survivor: Peer, victim: Peer) -> Detection:
    killed = victim.killed_ns or 0
    verdicts = [when for when in survivor.died.get(victim.name, []) if when >= killed]
    if verdicts:
        detection_s = round((verdicts[0] - killed) / NS, 4)
        return Detection(run, system, phase, survivor.name, victim.name, detection_s, "detected")
    outcome = "missed" if victim.name in survivor.up else "dead before"
    return Detection(run, system, phase, survivor.name, victim.name, None, outcome)


def _tell(phase: str, victims: Sequence[Peer], found: Sequence[Detection]) -> str:
    times = sorted(one.detection_s for one in found if one.detection_s is not None)
    missed = sum(one.outcome == "missed" for one in found)
    names = ", ".join(victim.name for victim in victims)
    middle = f"{statistics.median(times):.2f} s, last {times[-1]:.2f} s" if times else "never"
    return f"{phase}: {names} detected in {middle}, missed {missed}"


def _verdicts(peers: Sequence[Peer]) -> dict[str, int | float]:
    """Judge, with hindsight, what members said of each other: who lived is known exactly here."""
    killed = {peer.name: peer.killed_ns for peer in peers}

    def lived(name: str, when: int) -> bool:
        end = killed[name]
        return end is None or when < end

    def after_death(peer: Peer, name: str) -> bool:
        end = killed[name]
        times = peer.died.get(name, [])
        first = min((when for when in times if end is not None and when >= end), default=None)
        return first is not None and any(when > first for when in peer.joined[name])

    sent = sum(peer.counters[-1]["packets_sent"] for peer in peers)
    lost = sum(peer.counters[-1]["packets_lost"] for peer in peers)
    return {
        "false_deaths": sum(
            lived(name, when) for peer in peers for name, times in peer.died.items() for when in times
        ),
        "false_accusations": sum(lived(name, when) for peer in peers for when, name in peer.accused),
        "resurrected": sum(after_death(peer, name) for peer in peers for name in killed),
        "health_max": max(line.get("health", 0) for peer in peers for line in peer.counters),
        "lost_share": round(lost / sent, 5) if sent else 0.0,
    }


def _memory_mb(peers: Sequence[Peer]) -> tuple[float, float]:
    """Median resident and proportional memory of the living."""
    rss, pss = [], []
    for peer in peers:
        lines = Path(f"/proc/{peer.process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        sizes = {line.partition(":")[0]: line.split()[1] for line in lines[1:]}
        rss.append(int(sizes["Rss"]) / 1024)
        pss.append(int(sizes["Pss"]) / 1024)
    return round(statistics.median(rss), 1), round(statistics.median(pss), 1)


def _buffer_drops() -> int:
    """Datagrams that this machine's kernel has dropped because a receive buffer was full."""
    lines = Path("/proc/net/snmp").read_text(encoding="utf-8").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def _machine_busy_s() -> float:
    """Processor time the machine has used since it started, by anybody, in seconds."""
    ticks = [
        int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    ]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def _seconds(began_ns: int, ended_ns: int) -> float:
    return round((ended_ns - began_ns) / NS, 3)
