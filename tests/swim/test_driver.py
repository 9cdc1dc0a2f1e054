"""The driver over real loopback sockets: short, because everything else is tested in virtual time."""

# ruff: noqa: TID251, ASYNC110 (real sockets and real time)

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio

from swim.broadcast import NothingReplicated
from swim.config import SwimConfig
from swim.driver import SwimHandle, run_swim
from swim.events import Event, MemberDied, MemberLeft, SeedUnreachable
from swim.messages import Who
from swim.protocol import Swim
from tests.swim.net import CLUSTER, authority, identity_of
from tests.swim.real_network import RealClock, RealNetwork

FAST = SwimConfig.profile(
    "local", label=CLUSTER, probe_interval_s=0.2, probe_timeout_min_s=0.05, probe_timeout_s=0.08,
    suspicion_min_s=0.6, suspicion_max_s=1.2, doubt_margin_s=0.2, isolation_s=1.0, gossip_interval_s=0.02,
    leave_linger_s=0.1, join_retry_initial_s=0.05, stream_timeout_s=0.5, lag_warning_s=1.0,
)  # fmt: skip
KEY = b"k" * 32


class Node:
    def __init__(self, name: str, config: SwimConfig = FAST) -> None:
        self.events: list[Event] = []
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.swim = Swim(
            config,
            identity_of(name),
            authority(),
            address=("", 1),
            meta=name.encode(),
            replicated=NothingReplicated(),
            rng=random.Random(name),
            entropy=os.urandom,
            gossip_keys=[KEY],
        )
        self.handle: SwimHandle

    async def run(self, port: int = 0, *, task_status: trio.TaskStatus[SwimHandle]) -> None:
        with self.scope:
            await run_swim(
                self.swim,
                network=RealNetwork(),
                clock=RealClock(),
                bind=("127.0.0.1", port),
                on_event=self.events.append,
                task_status=task_status,
            )
        self.ended.set()

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def up(self) -> list[str]:
        return sorted(member.name for member in self.handle.members() if member.is_up)


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[Node]]:
    async with trio.open_nursery() as nursery:
        started: list[Node] = []
        for number in range(count):
            node = Node(f"n{number}")
            node.handle = await nursery.start(node.run)
            if started:
                host, port = started[0].handle.address
                node.handle.join([f"{host}:{port}"])
            started.append(node)
        try:
            yield started
        finally:
            nursery.cancel_scope.cancel()


async def eventually(condition: partial[bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


async def test_three_nodes_meet_notice_a_crash_and_a_goodbye() -> None:
    async with nodes(3) as (first, second, third):
        await eventually(partial(lambda: [n.up() for n in (first, second, third)] == [
            ["n1", "n2"], ["n0", "n2"], ["n0", "n1"]]))  # fmt: skip
        assert first.swim.member("n2").meta == b"n2"  # type: ignore[union-attr]
        third.scope.cancel()
        await eventually(partial(lambda: bool(first.told(MemberDied) and second.told(MemberDied))))
        await second.handle.leave()
        await second.ended.wait()
        await eventually(partial(lambda: bool(first.told(MemberLeft))))
        assert first.up() == []


async def test_garbage_on_both_ports_is_counted_and_hurts_nobody() -> None:
    async with nodes(2) as (first, second):
        await eventually(partial(lambda: first.up() == ["n1"]))
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
            for size in (0, 1, 60, 2000):
                await socket.sendto(os.urandom(size), first.handle.address)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 10_000, b"", b"\0\0\0\x05hello"):
            stream = await trio.open_tcp_stream(*first.handle.address)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(garbage)
                await stream.send_eof()
                while await stream.receive_some(1000):
                    pass
            await stream.aclose()
        counts = first.handle.statistics()
        assert counts["dropped_truncated"] >= 2
        assert counts["dropped_oversized"] == 1
        assert counts["dropped_stream_frame_too_large"] == 2
        assert counts["dropped_stream_truncated"] >= 2
        await eventually(partial(lambda: first.handle.statistics()["driver_streams"] == 0))
        assert first.up() == ["n1"]
        assert second.up() == ["n0"]


async def test_a_seed_that_starts_later_is_found() -> None:
    async with nodes(1) as (first,):
        probe = await RealNetwork().listen("127.0.0.1", 0)
        port = probe.address[1]
        await probe.aclose()
        first.handle.join([f"127.0.0.1:{port}"])
        await eventually(partial(lambda: len(first.told(SeedUnreachable)) >= 2))
        assert "refused" in first.told(SeedUnreachable)[0].reason  # type: ignore[union-attr]
        async with trio.open_nursery() as nursery:
            late = Node("late")
            late.handle = await nursery.start(late.run, port)
            await eventually(partial(lambda: first.up() == ["late"] and late.up() == ["n0"]))
            nursery.cancel_scope.cancel()


async def test_a_loop_that_is_kept_busy_tells_the_core_before_any_probe_has_failed() -> None:
    async with nodes(2) as (first, second):
        await eventually(partial(lambda: first.up() == ["n1"] and second.up() == ["n0"]))
        time.sleep(0.4)  # noqa: ASYNC251 (the whole loop shall stand still)
        for node in (first, second):  # each learns of it when its own timer is due next
            await eventually(partial(lambda node: node.handle.statistics()["longest_lag_ms"] >= 350, node))
        assert first.up() == ["n1"]


async def test_streams_and_datagrams_from_networks_that_are_not_allowed_are_refused() -> None:
    async with nodes(1) as (first,), trio.open_nursery() as nursery:
        picky = Node("picky", replace(FAST, allowed_networks=("10.0.0.0/8",)))
        picky.handle = await nursery.start(picky.run)
        host, port = picky.handle.address
        first.handle.join([f"{host}:{port}"])
        await eventually(partial(lambda: bool(first.told(SeedUnreachable))))
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
            await socket.sendto(b"anything", picky.handle.address)
            await eventually(
                partial(lambda: picky.handle.statistics().get("dropped_network_not_allowed", 0) >= 2)
            )
        assert picky.up() == first.up() == []
        nursery.cancel_scope.cancel()


async def test_a_port_in_use_is_an_error() -> None:
    async with nodes(1) as (first,):
        second = Node("second")
        with pytest.raises(OSError, match=r"in use"):
            await run_swim(
                second.swim,
                network=RealNetwork(),
                clock=RealClock(),
                bind=first.handle.address,
                on_event=second.events.append,
            )


async def test_a_member_that_listens_at_a_name_costs_no_lookup() -> None:
    async with nodes(2) as (first, second):
        await eventually(partial(lambda: first.up() == ["n1"] and second.up() == ["n0"]))
        swim = first.swim
        swim._outgoing.send(("slow.example", 7946), [Who(1)])
        first.handle.wake()
        assert first.handle.statistics()["datagrams_to_host_names"] == 1


async def test_an_unspecified_address_is_not_advertised() -> None:
    node = Node("n0")
    with pytest.raises(ValueError, match=r"advertise"):
        await run_swim(
            node.swim,
            network=RealNetwork(),
            clock=RealClock(),
            bind=("0.0.0.0", 0),
            on_event=node.events.append,
        )
