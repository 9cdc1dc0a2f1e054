"""Pieces of answers on a link: they come after what is durable, are bounded, and go where a link is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.errors import PeerRejected
from node.transport.frames import HEADER_BYTES, MAX_PARTIAL_CHARS, Partial, decode, encode
from node.transport.inbound import MAX_PARTIALS
from tests.node.transport.peers import Cluster, item, until


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery)
        nursery.cancel_scope.cancel()


def piece(position: int, text: str = "so") -> Partial:
    return Partial("m1", "writer", 1, position, text)


async def test_pieces_go_to_whoever_has_dialled_in_their_order(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    assert not beta.links.partial("alpha", piece(0))  # nobody has dialled yet
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    pieces = [piece(2 * n) for n in range(10)]
    assert all(beta.links.partial("alpha", each) for each in pieces)
    await until(lambda: len(alpha.partials) == 10, cluster.clock)
    assert alpha.partials == [("beta", each) for each in pieces]
    assert alpha.links.is_open("beta")


async def test_what_waits_is_bounded_and_told_to_come_later(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    taken = [beta.links.partial("alpha", piece(n)) for n in range(MAX_PARTIALS + 5)]
    assert taken == [True] * MAX_PARTIALS + [False] * 5
    await until(lambda: len(alpha.partials) == MAX_PARTIALS, cluster.clock)
    assert beta.links.partial("alpha", piece(99))


async def test_a_piece_from_the_side_that_dialled_ends_the_link(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    session = alpha.links._outbound["beta"]._session
    assert session is not None
    await session.channel.send(encode(piece(0)))
    await until(lambda: beta.links.statistics()["rejects"]["frame"] == 1, cluster.clock)
    assert beta.partials == []


def test_a_piece_survives_its_encoding_and_one_that_is_too_long_does_not() -> None:
    whole = piece(7, "é" * MAX_PARTIAL_CHARS)
    assert decode(encode(whole)[HEADER_BYTES:]) == whole
    with pytest.raises(PeerRejected):
        decode(encode(piece(7, "é" * (MAX_PARTIAL_CHARS + 1)))[HEADER_BYTES:])
    with pytest.raises(PeerRejected):
        decode(encode(piece(-1))[HEADER_BYTES:])
