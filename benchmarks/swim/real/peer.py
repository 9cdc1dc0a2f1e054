"""One operating-system process that is one member, for `benchmarks.swim.real.run`.

It is `swim.driver.run_swim` over the production network and clock, with the socket wrapped so that a share
of the datagrams it sends is lost, and with everything it hears written down as JSON lines. Standard input
steers it: the first line says "join now", and its end says "end", so that no member outlives the harness.

Every line of the journal has `t`, nanoseconds of CLOCK_MONOTONIC (one clock for all processes of a machine),
and `event`: `ready`, `joined`, `suspected`, `refuted`, `died`, `left`, or, once a second, `counters`.
`memberlist/` writes the same lines.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.environment import SystemClock, SystemNetwork
from swim import (
    Address,
    Event,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberRefuted,
    MemberSuspected,
    NothingReplicated,
    Swim,
    SwimConfig,
)
from swim.driver import Datagrams, Listener, SwimHandle, run_swim
from swim.identity import ClusterAuthority, Ed25519Identity, issue_credential

CLUSTER: Final = "benchmark"
NOT_AFTER: Final = 2**40
"""The credentials of this benchmark never end: seconds since the epoch, in the far future."""
TICK_S: Final = 1.0
"""How often the counters are written."""
HEALTH_TICKS: Final = 5
"""Local health is asked for once in so many ticks: to gather all statistics costs more than the rest."""
CA_SEED_FILE: Final = "ca.seed"
GOSSIP_KEY_FILE: Final = "gossip.key"

TOLD: Final = {
    MemberJoined: "joined",
    MemberAlive: "joined",
    MemberSuspected: "suspected",
    MemberRefuted: "refuted",
    MemberDied: "died",
    MemberLeft: "left",
}
"""What the journal calls an event; others are not written."""


@dataclass(slots=True)
class Traffic:
    """What this member has handed to the network and taken from it, since it started.

    Attributes:
        packets_sent: datagrams, lost ones included.
        packets_lost: datagrams that the injected loss took.
        bytes_sent: bytes of datagrams, lost ones included.
        packets_received: datagrams.
        bytes_received: bytes of datagrams.
        stream_bytes_sent: payload of TCP.
        stream_bytes_received: payload of TCP.
        streams: connections opened and accepted.
    """

    packets_sent: int = 0
    packets_lost: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    stream_bytes_sent: int = 0
    stream_bytes_received: int = 0
    streams: int = 0


class Journal:
    """Appends JSON lines to a file, one `write` each, so that a kill never leaves half of two.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **facts: object) -> None:
        """Write one line, stamped now."""
        line = json.dumps({"t": time.monotonic_ns(), "event": event, **facts}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")


class LossyDatagrams:
    """A datagram socket that loses a share of what is sent.

    Args:
        inner: the socket.
        loss: share lost, 0 to 1.
        rng: decides which.
        traffic: counts.
    """

    def __init__(self, inner: Datagrams, loss: float, rng: random.Random, traffic: Traffic) -> None:
        self._inner = inner
        self._loss = loss
        self._rng = rng
        self._traffic = traffic

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._inner.address

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, or lose it."""
        self._traffic.packets_sent += 1
        self._traffic.bytes_sent += len(data)
        if self._rng.random() < self._loss:
            self._traffic.packets_lost += 1
            return
        self._inner.send(data, to)

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams."""
        batch = await self._inner.receive()
        self._traffic.packets_received += len(batch)
        self._traffic.bytes_received += sum(len(data) for data, _ in batch)
        return batch

    def close(self) -> None:
        """Close the socket."""
        self._inner.close()


class CountedStream(trio.abc.Stream):
    """A stream whose bytes are counted.

    Args:
        inner: the stream.
        traffic: counts.
    """

    def __init__(self, inner: trio.abc.Stream, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic
        traffic.streams += 1

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        self._traffic.stream_bytes_sent += len(data)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Wait for some bytes."""
        data = await self._inner.receive_some(max_bytes)
        self._traffic.stream_bytes_received += len(data)
        return data

    async def aclose(self) -> None:
        """Close it."""
        await self._inner.aclose()


class CountedListener:
    """A listener whose streams are counted.

    Args:
        inner: the listener.
        traffic: counts.
    """

    def __init__(self, inner: Listener, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    @property
    def address(self) -> Address:
        """Where it is bound."""
        return self._inner.address

    async def accept(self) -> trio.abc.Stream:
        """Wait for one connection."""
        return CountedStream(await self._inner.accept(), self._traffic)

    async def aclose(self) -> None:
        """Close it."""
        await self._inner.aclose()


class LossyNetwork:
    """The production network with loss on datagrams, none on streams, and everything counted.

    Args:
        loss: share of the datagrams sent that is lost.
        rng: decides which.
        traffic: counts.
    """

    def __init__(self, loss: float, rng: random.Random, traffic: Traffic) -> None:
        self._inner = SystemNetwork()
        self._loss = loss
        self._rng = rng
        self._traffic = traffic

    async def open_datagrams(self, host: str, port: int) -> LossyDatagrams:
        """Bind a datagram socket."""
        inner = await self._inner.open_datagrams(host, port)
        return LossyDatagrams(inner, self._loss, self._rng, self._traffic)

    async def listen(self, host: str, port: int) -> CountedListener:
        """Bind a stream listener."""
        return CountedListener(await self._inner.listen(host, port), self._traffic)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Open a stream."""
        return CountedStream(await self._inner.connect(host, port), self._traffic)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host name."""
        return await self._inner.resolve(host, port)


def build(options: argparse.Namespace) -> Swim:
    """Build the member; its key follows from the authority's seed and its name."""
    ca_seed = (options.keys / CA_SEED_FILE).read_bytes()
    ca = Ed25519PrivateKey.from_private_bytes(ca_seed)
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(ca_seed + options.name.encode()).digest())
    public_key = key.public_key().public_bytes_raw()
    credential = issue_credential(
        ca, cluster=CLUSTER, name=options.name, public_key=public_key, not_after=NOT_AFTER
    )
    return Swim(
        SwimConfig.profile(options.profile, label=CLUSTER),
        Ed25519Identity(options.name, key, credential),
        ClusterAuthority(ca.public_key().public_bytes_raw(), CLUSTER),
        ("127.0.0.1", 0),
        b"",
        NothingReplicated(),
        random.Random(f"{options.random_seed}/{options.name}/swim"),
        entropy=os.urandom,
        gossip_keys=[(options.keys / GOSSIP_KEY_FILE).read_bytes()],
    )


async def run(options: argparse.Namespace, journal: Journal) -> None:
    """Be a member until standard input ends."""
    traffic = Traffic()
    network = LossyNetwork(options.loss, random.Random(f"{options.random_seed}/{options.name}/loss"), traffic)

    def note(event: Event) -> None:
        told = TOLD.get(type(event))
        if told is not None:
            author = getattr(event, "author", "")
            journal.write(told, member=event.member.name, **({"author": author} if author else {}))

    async with trio.open_nursery() as nursery:
        swim = build(options)

        async def be_a_member(task_status: trio.TaskStatus[SwimHandle]) -> None:
            await run_swim(
                swim,
                network=network,
                clock=SystemClock(),
                bind=("127.0.0.1", 0),
                on_event=note,
                task_status=task_status,
            )

        handle: SwimHandle = await nursery.start(be_a_member)
        journal.write("ready", address=f"{handle.address[0]}:{handle.address[1]}")
        nursery.start_soon(count, handle, traffic, journal)
        await next_words()
        if options.seed:
            handle.join(options.seed)
        while await next_words():
            pass
        nursery.cancel_scope.cancel()


async def next_words() -> bytes:
    """Wait for what the harness writes next; nothing means that it has gone."""
    await trio.lowlevel.wait_readable(sys.stdin)
    return os.read(sys.stdin.fileno(), 4096)


async def count(handle: SwimHandle, traffic: Traffic, journal: Journal) -> None:
    """Write the counters once a second, with how late this task was woken: a sign of starvation."""
    names = [field.name for field in fields(traffic)]
    due = trio.current_time()
    for ticks in itertools.count():
        due += TICK_S
        await trio.sleep_until(due)
        late_s = trio.current_time() - due
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts = {name: getattr(traffic, name) for name in names}
        if ticks % HEALTH_TICKS == 0:
            facts["health"] = handle.statistics().get("health_penalty", 0)
        cpu_s = round(used.ru_utime + used.ru_stime, 6)
        journal.write("counters", **facts, cpu_s=cpu_s, late_s=round(late_s, 6))
        due = max(due, trio.current_time() - TICK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description="one member; started by benchmarks.swim.real.run")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", action="append", default=[], help="HOST:PORT of a member, repeatable")
    parser.add_argument("--profile", default="lan", choices=["local", "lan", "wan", "edge"])
    parser.add_argument("--loss", type=float, default=0.0, help="share of sent datagrams that is lost")
    parser.add_argument("--random-seed", type=int, default=0)
    parser.add_argument("--keys", type=Path, required=True, help="directory with the keys")
    parser.add_argument("--journal", type=Path, required=True, help="file to append events to")
    options = parser.parse_args()
    trio.run(run, options, Journal(options.journal))


if __name__ == "__main__":
    main()
