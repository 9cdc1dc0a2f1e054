"""What the replicated maps cost: processor time per operation, memory per bucket, redundancy of gossip.

    .venv/bin/python -m benchmarks.swim.maps

Processor time is the median of several rounds in this process, with real signatures. The maps are those of
1,000 owners with 10 entries each; a frame carries one or two buckets. Gossip is simulated on a virtual clock,
with a fixed seed, so its figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Final

from benchmarks.report import machine, percentile, show, write
from swim import strict_cbor, units
from swim.identity import Ed25519Identity, verify
from swim.replicated import Replicated
from swim.unit_reader import UnitReader
from tests.swim.map_gossip import GossipCluster
from tests.swim.map_model import authority, identity

OWNERS: Final = 1000
WALL: Final = 1_000_000.0
LIFE: Final = (1, b"8 bytes.")

Prepared = tuple[list[Callable[[], object]], int]
"""Calls to be timed together, and by how much their time is divided."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Processor time and memory of the replicated maps.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=50, help="spread at 100 members; a fifth at 1,000")
    options = parser.parse_args()
    facts = machine()
    rows: list[dict[str, object]] = []
    for name, prepare in measures():
        for run in range(options.rounds):
            calls, divisor = prepare(run)
            gc.collect()
            gc.disable()
            began = time.process_time()
            for call in calls:
                call()
            took = time.process_time() - began
            gc.enable()
            rows.append({"measure": name, "run": run, "unit": "us", "value": f"{took * 1e6 / divisor:.3f}"})
    for name, size in memory():
        rows.append({"measure": name, "run": 0, "unit": "bytes", "value": f"{size:.0f}"})
    for members, updates in ((100, options.updates), (1000, options.updates // 5)):
        for loss in (0.01, 0.2):
            for name, unit, value in gossip(members, updates, loss):
                rows.append({"measure": name, "run": 0, "unit": unit, "value": f"{value:.3f}"})
    print(f"raw: {write('maps', facts, rows).name}")
    names = dict.fromkeys(str(row["measure"]) for row in rows)
    table = []
    for name in names:
        found = [row for row in rows if row["measure"] == name]
        values = [float(str(row["value"])) for row in found]
        table.append([name, found[0]["unit"], f"{median(values):,.2f}", f"{min(values):,.2f}"])
    show(["measure", "unit", "median", "least"], table)
    return 0


# The cluster

AUTHORITY: Final = authority()


def node(name: str, reader: UnitReader | None = None) -> Replicated:
    """Return a node that has admitted all owners and holds nothing."""
    rng = random.Random(name)
    held = Replicated(identity(name), AUTHORITY, rng=rng, entropy=rng.randbytes, reader=reader)
    for owner in OWNED:
        held.admit_owner(owner, WALL)
    return held


def bucket(owner: Ed25519Identity, version: int, depth: int = 0, prefix: int = 0) -> bytes:
    """Return a signed bucket with 10 entries of the registry's size."""
    entries: dict[str, bytes] = {}
    number = 0
    while len(entries) < 10:
        key = f"agent/w{number}/1.0"
        number += 1
        if units.prefix_of(key, depth) == prefix:
            entries[key] = strict_cbor.encode([["reason"], version, 255])
    fields = [1, owner.credential, *LIFE, version, depth, prefix]
    if "published_ms" in units.Bucket.__dataclass_fields__:
        fields.append(int(WALL * 1000))
    signed = [*fields, entries]
    signature = owner.sign(b"caxton/bucket/1\0" + strict_cbor.encode(signed))
    return strict_cbor.encode([*signed, signature])


def push(*pushed: bytes) -> bytes:
    """Return a frame with units."""
    return strict_cbor.encode([1, 0, bytes(8), list(pushed)])


OWNERS_BY_NAME: Final = {f"owner-{number}": identity(f"owner-{number}") for number in range(OWNERS)}
OWNED: Final = {name: bucket(owner, 1) for name, owner in OWNERS_BY_NAME.items()}
NEXT: Final = {name: bucket(owner, 2) for name, owner in OWNERS_BY_NAME.items()}
DEEP: Final = [bucket(OWNERS_BY_NAME["owner-0"], 2 + place, 7, place) for place in range(128)]
DEEPER: Final = [bucket(OWNERS_BY_NAME["owner-0"], 200 + place, 7, place) for place in range(128)]


def full(name: str = "full") -> Replicated:
    """Return a node that holds a bucket of each owner."""
    held = node(name)
    for unit in OWNED.values():
        held.bulk_receive("peer", push(unit), 0.0, WALL)
    held.root()
    return held


FULL: Final = full()
READER: Final = UnitReader(2 * OWNERS)


# What is measured


def measures() -> Iterator[tuple[str, Callable[[int], Prepared]]]:
    """Yield each measure with what prepares one round of it."""
    yield "Ed25519 check alone", signature_alone
    yield "receive: a unit that is held, two to a frame", partial(duplicates, list(OWNED.values()), 2)
    yield "receive: a unit just heard, two to a frame", partial(duplicates, list(OWNED.values())[:40], 2)
    yield "receive: first bucket of an owner, one to a frame", first_buckets
    yield "receive: next bucket of an owner, one to a frame", next_buckets
    yield "receive: next bucket of 128 of one owner, one to a frame", deep_buckets
    yield "broadcasts: nothing waits", idle_broadcasts
    yield "broadcasts: 1,000 units wait, one packet", busy_broadcasts
    yield "adopt 1,000 units", adoptions
    yield "peer_root: in step", roots_in_step
    yield "peer_root: differs, too soon", roots_that_differ
    yield "answer: hashes of the root, one unit differs", answers_to_hashes
    yield "answer: a summary, one unit differs", answers_to_summary
    yield "bulk_digest of 1,000 units", lambda _: ([FULL.bulk_digest] * 20, 20)
    yield "put of one entry among 10, signing included", puts


def signature_alone(_: int) -> Prepared:
    """Check one signature of each of 200 keys, as a node does when buckets of 200 owners arrive."""
    calls = []
    for owner in list(OWNERS_BY_NAME.values())[:200]:
        admitted = AUTHORITY.admit(owner.credential, WALL)
        assert admitted is not None
        data = owner.credential * 4
        calls.append(partial(verify, admitted.public_key, owner.sign(data), data))
    return calls, 200


def duplicates(held: list[bytes], per_frame: int, _: int) -> Prepared:
    frames = [push(*held[at : at + per_frame]) for at in range(0, len(held), per_frame)]
    frames *= max(1, 1000 // len(held))
    calls = [partial(FULL.receive, "peer", frame, 0.0, WALL) for frame in frames]
    return calls, len(frames) * per_frame


def first_buckets(run: int) -> Prepared:
    fresh = node(f"fresh-{run}")
    chosen = list(OWNED.values())[:200]
    return [partial(fresh.receive, "peer", push(unit), 0.0, WALL) for unit in chosen], 200


def next_buckets(run: int) -> Prepared:
    held = full(f"next-{run}")
    chosen = list(NEXT.values())[:200]
    return [partial(held.receive, "peer", push(unit), 0.0, WALL) for unit in chosen], 200


def deep_buckets(run: int) -> Prepared:
    held = full(f"deep-{run}")
    for unit in DEEP:
        held.bulk_receive("peer", push(unit), 0.0, WALL)
    return [partial(held.receive, "peer", push(unit), 0.0, WALL) for unit in DEEPER], 128


def idle_broadcasts(_: int) -> Prepared:
    return [partial(FULL.broadcasts, 1100, 1000)] * 1000, 1000


def busy_broadcasts(run: int) -> Prepared:
    fresh = node(f"busy-{run}")
    for unit in OWNED.values():
        fresh.receive("peer", push(unit), 0.0, WALL)
    assert fresh.queued() == OWNERS
    return [partial(fresh.broadcasts, 1150, 1000)] * 400, 400


def adoptions(run: int) -> Prepared:
    return [partial(node(f"adopts-{run}-{number}").adopt, FULL) for number in range(20)], 20


def roots_in_step(_: int) -> Prepared:
    root = FULL.root()
    return [partial(FULL.peer_root, f"owner-{number % 500}", root, 5.0) for number in range(1000)], 1000


def roots_that_differ(_: int) -> Prepared:
    for number in range(500):
        FULL.peer_root(f"owner-{number}", b"another.", 5.0)
    calls = [partial(FULL.peer_root, f"owner-{number % 500}", b"another.", 5.0) for number in range(1000)]
    return calls, 1000


def answers_to_hashes(run: int) -> Prepared:
    other = full(f"other-{run}")
    other.bulk_receive("peer", push(NEXT["owner-1"]), 0.0, WALL)
    (frame,) = other.peer_root("peer", b"\xff" * 8, 0.0) or other.peer_root("peer", b"\xff" * 8, 10.0)
    calls = [partial(FULL.receive, f"peer-{number}", frame, 0.0, WALL) for number in range(200)]
    return calls, 200


def answers_to_summary(run: int) -> Prepared:
    other = full(f"other-{run}")
    other.bulk_receive("peer", push(NEXT["owner-1"]), 0.0, WALL)
    (frame,) = other.peer_root("peer", b"\xff" * 8, 0.0) or other.peer_root("peer", b"\xff" * 8, 10.0)
    (summary,) = FULL.receive(f"summaries-{run}", frame, 0.0, WALL)
    calls = [partial(other.receive, f"peer-{number}", summary, 0.0, WALL) for number in range(200)]
    return calls, 200


def puts(run: int) -> Prepared:
    fresh = node(f"writer-{run}")
    fresh.start(0, 0.0, WALL)
    for number in range(10):
        fresh.put(f"agent/{number}", bytes(40))
    return [partial(fresh.put, "agent/5", bytes([value]) * 40) for value in range(1, 101)], 100


def memory() -> Iterator[tuple[str, float]]:
    """Yield what a bucket takes in the memory of a node that holds those of all owners."""
    frames = [push(unit) for unit in OWNED.values()]
    warm = node("warm")
    for frame in frames:
        warm.bulk_receive("peer", frame, 0.0, WALL)
    yield "memory per bucket: received", traced(lambda: receive_all(node("memory"), frames))
    receive_all(node("remembers", READER), frames)
    yield (
        "memory per bucket: received, the reader being shared",
        traced(lambda: receive_all(node("sharing", READER), frames)),
    )
    yield "memory per bucket: adopted", traced(lambda: adopted("adopted"))


def receive_all(held: Replicated, frames: list[bytes]) -> Replicated:
    for frame in frames:
        held.bulk_receive("peer", frame, 0.0, WALL)
    held.root()
    held.events()
    return held


def adopted(name: str) -> Replicated:
    held = node(name)
    held.adopt(FULL)
    held.root()
    held.events()
    return held


def traced(build: Callable[[], Replicated]) -> float:
    """Return the bytes per owner that what is built takes, without what it shares."""
    gc.collect()
    tracemalloc.start()
    built = build()
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] / OWNERS
    tracemalloc.stop()
    assert built.statistics()["buckets"] == OWNERS
    return size


# Gossip


def gossip(members: int, updates: int, loss: float) -> Iterator[tuple[str, str, float]]:
    """Yield what updates cost and how far gossip alone carries them, simulated."""
    cluster = GossipCluster(members, seed=1, loss=loss, repair=False)
    delays: list[float] = []
    sent, reached = cluster.total("units_sent"), 0
    for number in range(updates):
        owner, began = cluster.random.randrange(members), cluster.now
        value = b"update %d" % number
        cluster.on_change = lambda _member, _event, began=began: delays.append(cluster.now - began)
        cluster.put(owner, "key", value)
        cluster.run_until(began + 4.0)
        reached += cluster.holders(owner, "key", value)
    delays += [float("inf")] * (updates * members - reached)
    what = f"gossip to {members:,}, {loss:.0%} loss"
    yield f"{what}: sent by each member", "packets", (cluster.total("units_sent") - sent) / members / updates
    yield f"{what}: reached without repair", "%", 100 * reached / members / updates
    for share in (0.5, 0.99, 0.9999):
        yield f"{what}: p{100 * share:g}", "s", percentile(delays, share)


if __name__ == "__main__":
    raise SystemExit(main())
