"""What comes together is handed on together, and a peer that stands still is given up, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from node.transport import outbound
from node.transport.frames import Outcome
from node.transport.handler import LinkCounters, LinkLimits
from node.transport.session import FrameChannel, LinkEnded
from tests.node.transport.peers import Cluster, MemoryStream, item, until


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery)
        nursery.cancel_scope.cancel()


async def test_frames_that_came_while_the_room_was_busy_are_handed_on_together(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    gate = trio.Event()
    beta.on_arrival = gate.wait
    for number in range(6):  # a frame each: the writer has sent one before the next is queued
        alpha.send("beta", item(number))
        await cluster.clock.sleep(0.5)
    gate.set()
    await until(lambda: not alpha.outbox, cluster.clock)
    assert beta.together == [1, 5]
    assert beta.batches == [1] * 6
    assert beta.arrivals == [item(number).key for number in range(6)]
    assert len({proof.signature for proof in beta.proofs}) == 6  # each frame is proven by itself


async def test_acknowledgements_that_came_while_the_room_was_busy_are_one(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha = await cluster.start("alpha")
    await cluster.start("beta")
    alpha.hold = trio.Event()
    calls: list[int] = []
    on_settled = alpha.on_settled

    async def count(peer: str, outcomes: Sequence[Outcome]) -> None:
        calls.append(len(outcomes))
        await on_settled(peer, outcomes)

    alpha.on_settled = count  # type: ignore[method-assign]
    for number in range(6):
        alpha.send("beta", item(number))
        await cluster.clock.sleep(0.5)
    alpha.hold.set()
    await until(lambda: not alpha.outbox, cluster.clock)
    assert calls == [1, 5]
    assert [outcome.key for outcome in alpha.settled] == [item(number).key for number in range(6)]


async def test_what_came_before_a_frame_that_proves_nothing_is_taken(
    cluster: Cluster, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    gate = trio.Event()
    beta.on_arrival = gate.wait
    sign = outbound.sign_deliver
    for number in range(3):
        if number == 2:  # the last one is signed for somebody else
            monkeypatch.setattr(outbound, "sign_deliver", lambda who, _, items: sign(who, "gamma", items))
        alpha.send("beta", item(number))
        await cluster.clock.sleep(0.5)
    monkeypatch.undo()
    gate.set()
    await until(lambda: ("beta", False) in alpha.events, cluster.clock)
    assert beta.arrivals[:2] == [item(number).key for number in range(2)]
    assert beta.links.statistics()["rejects"]["signature"] == 1
    await until(lambda: not alpha.outbox, cluster.clock)  # the next link brings it, signed as it should be


async def test_a_peer_that_takes_nothing_is_given_up(cluster: Cluster, autojump_clock: MockClock) -> None:
    class Stuck(MemoryStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep_forever()

    stream = Stuck(trio.testing.memory_stream_pair()[0], cluster.network)
    clock = cluster.clock
    channel = FrameChannel(stream, clock=clock, limits=LinkLimits(), counters=LinkCounters())
    assert channel.deadline == float("inf")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, b"frame")
        await trio.testing.wait_all_tasks_blocked()
        assert channel.deadline == clock.now() + LinkLimits().dead_s
        channel.check(channel.deadline - 0.1)
        with pytest.raises(LinkEnded, match="took nothing"):
            channel.check(channel.deadline)
        nursery.cancel_scope.cancel()
    assert not channel.intact  # half a frame may have left
