"""Pulls of the shared memory: one at a time on a link, answered now or later, lost with the link."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.errors import PeerRejected
from node.transport.frames import (
    HEADER_BYTES,
    MAX_PAGE_BYTES,
    MAX_PULL_BYTES,
    Page,
    Pull,
    decode,
    encode,
)
from node.transport.outbound import OutboundLink
from node.transport.questions import Pulls
from tests.node.transport.peers import Cluster, item, until


class Answering:
    """Notes pulls; answers at once unless told to wait."""

    def __init__(self) -> None:
        self.links: object = None
        self.pulled: list[tuple[str, int, bytes]] = []
        self.lost: list[str] = []
        self.answers = True

    def on_pull(self, peer: str, number: int, body: bytes) -> None:
        self.pulled.append((peer, number, body))
        if self.answers:
            self.links.answer_pull(peer, number, body * 2)  # type: ignore[attr-defined]

    def on_pull_lost(self, peer: str) -> None:
        self.lost.append(peer)


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery, idle_s=0.5)
        nursery.cancel_scope.cancel()


async def pair(cluster: Cluster) -> tuple[object, Answering]:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    answering = Answering()
    answering.links, beta.links.pulls = beta.links, answering
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    return alpha, answering


async def test_a_pull_is_answered_beside_the_messages(cluster: Cluster) -> None:
    alpha, answering = await pair(cluster)
    alpha.send("beta", *[item(number) for number in range(300)])  # type: ignore[attr-defined]
    assert await alpha.links.pull("beta", b"have") == b"havehave"  # type: ignore[attr-defined]
    assert await alpha.links.pull("beta", b"more") == b"moremore"  # type: ignore[attr-defined]
    assert answering.pulled == [("alpha", 1, b"have"), ("alpha", 2, b"more")]
    await until(lambda: not alpha.outbox, cluster.clock)  # type: ignore[attr-defined]


async def test_a_pull_that_waits_keeps_its_link_and_is_answered_later(cluster: Cluster) -> None:
    alpha, answering = await pair(cluster)
    answering.answers = False
    found: list[bytes | None] = []

    async def pull() -> None:
        found.append(await alpha.links.pull("beta", b"have"))  # type: ignore[attr-defined]

    cluster.nursery.start_soon(pull)
    await cluster.clock.sleep(2.0)
    assert alpha.links.is_open("beta")  # type: ignore[attr-defined]
    assert await alpha.links.pull("beta", b"another") is None  # type: ignore[attr-defined]
    assert answering.links.answer_pull("alpha", 1, b"news")  # type: ignore[attr-defined]
    await until(lambda: found, cluster.clock)
    assert found == [b"news"]
    assert not answering.links.answer_pull("alpha", 1, b"again")  # type: ignore[attr-defined]


async def test_who_gives_up_a_pull_costs_the_link_nothing(cluster: Cluster) -> None:
    alpha, answering = await pair(cluster)
    answering.answers = False
    with cluster.clock.move_on_after(0.1):
        await alpha.links.pull("beta", b"have")  # type: ignore[attr-defined]
    assert answering.pulled == [("alpha", 1, b"have")]
    assert await alpha.links.pull("beta", b"more") is None  # type: ignore[attr-defined]
    answering.links.answer_pull("alpha", 1, b"late")  # type: ignore[attr-defined]
    answering.answers = True
    await cluster.clock.sleep(0.1)
    assert await alpha.links.pull("beta", b"more") == b"moremore"  # type: ignore[attr-defined]
    assert not answering.lost


async def test_a_pull_is_lost_with_its_link_and_both_ends_hear_of_it(cluster: Cluster) -> None:
    alpha, answering = await pair(cluster)
    answering.answers = False
    cluster.nursery.start_soon(_break_when, cluster, answering)
    assert await alpha.links.pull("beta", b"have") is None  # type: ignore[attr-defined]
    await until(lambda: answering.lost == ["alpha"], cluster.clock)
    assert not answering.links.answer_pull("alpha", 1, b"late")  # type: ignore[attr-defined]


async def _break_when(cluster: Cluster, answering: Answering) -> None:
    await until(lambda: bool(answering.pulled), cluster.clock)
    await cluster.network.break_all()


async def test_without_a_link_there_is_no_page(cluster: Cluster) -> None:
    alpha = await cluster.start("alpha")
    assert await alpha.links.pull("beta", b"have") is None


async def test_a_second_pull_before_the_page_ends_the_link(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, answering = await pair(cluster)
    answering.answers = False
    beta = answering.links
    with monkeypatch.context() as patch:
        patch.setattr(Pulls, "next", lambda self: encode(Pull(7, b"x")))
        link: OutboundLink = alpha.links._outbound["beta"]  # type: ignore[attr-defined]
        assert link._session is not None
        link._session.wake()
        await until(lambda: beta.statistics()["rejects"]["limit"], cluster.clock)  # type: ignore[attr-defined]


async def test_a_page_that_nobody_asked_for_ends_the_link(cluster: Cluster) -> None:
    alpha, answering = await pair(cluster)
    inbound = answering.links._inbound["alpha"]  # type: ignore[attr-defined]
    inbound._page = encode(Page(1, b"x"))
    inbound._session.wake()
    await until(
        lambda: alpha.links.statistics()["rejects"]["frame"],  # type: ignore[attr-defined]
        cluster.clock,
    )


@pytest.mark.parametrize(("kind", "limit"), [(Pull, MAX_PULL_BYTES), (Page, MAX_PAGE_BYTES)])
def test_bodies_are_bounded(kind: type[Pull | Page], limit: int) -> None:
    frame = kind(1, bytes(limit))
    assert decode(encode(frame)[HEADER_BYTES:]) == frame
    with pytest.raises(PeerRejected):
        decode(encode(kind(1, bytes(limit + 1)))[HEADER_BYTES:])
    with pytest.raises(PeerRejected):
        decode(encode(kind(1, b""))[HEADER_BYTES:])
