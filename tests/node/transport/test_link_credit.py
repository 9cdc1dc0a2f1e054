"""Windows that an acceptor grants: when they are told, and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.transport.frames import (
    Answer,
    Grant,
    Outcome,
)
from tests.node.transport.peers import Cluster, item, until


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery)
        nursery.cancel_scope.cancel()


async def test_windows_are_told_before_the_ends_that_they_go_with(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    beta.auto_receive = beta.auto_settle = False
    alpha.send("beta", item(1))
    await until(lambda: beta.arrivals, cluster.clock)
    assert beta.accepted == [("alpha", False), ("alpha", True)]
    assert alpha.granted == []
    several = [Grant(f"agent{number}", number + 1) for number in range(600)]  # more than one frame has
    beta.links.grant("alpha", several)
    beta.links.grant("alpha", [Grant("agent0", 77)])
    await cluster.clock.sleep(1.0)
    assert alpha.granted == []  # nothing is sent for them alone
    keys = [item(number).key for number in range(1, 700)]
    told: list[int] = []
    alpha.hold = trio.Event()
    beta.links.settle("alpha", [Outcome(key, "settled") for key in keys])
    await until(lambda: alpha.granted, cluster.clock)
    told.append(len(alpha.settled))
    alpha.hold.set()
    await until(lambda: len(alpha.settled) == len(keys), cluster.clock)
    assert told == [0]
    heard = [grant for grants in alpha.granted for grant in grants or ()]
    assert heard == [Grant("agent0", 77), *several[1:]]


async def test_a_peer_that_does_not_know_of_credit_is_told_none_and_one_that_grants_none_is_known(
    cluster: Cluster, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    # An old acceptor takes the question for one that it has no answer to.
    monkeypatch.setattr("node.transport.inbound.CREDIT_QUESTION", "what is not asked")

    async def nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    beta.on_ask = nothing  # type: ignore[assignment, method-assign]
    alpha.send("beta", item(1))
    await until(lambda: alpha.settled, cluster.clock)
    assert alpha.granted == [None]
    assert beta.accepted == [("alpha", False)]
    beta.links.grant("alpha", [Grant("agent", 5)])
    alpha.send("beta", item(2))
    await until(lambda: len(alpha.settled) == 2, cluster.clock)
    assert alpha.granted == [None]


async def test_windows_from_a_peer_that_said_it_grants_none_close_the_link(
    cluster: Cluster, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    monkeypatch.setattr("node.transport.inbound.Answer", lambda number, state, *_: Answer(number, "unknown"))
    alpha.send("beta", item(1))
    await until(lambda: alpha.settled, cluster.clock)
    beta.links.grant("alpha", [Grant("agent", 5)])
    alpha.send("beta", item(2))
    await until(lambda: alpha.links.statistics()["rejects"]["frame"], cluster.clock)
    assert alpha.granted[0] is None


async def test_a_window_that_changes_while_a_peer_asks_for_windows_is_told_after_the_answer(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    accepted = beta.on_accepted

    def tell_at_once(peer: str, *, knows_credit: bool) -> None:
        accepted(peer, knows_credit=knows_credit)
        if knows_credit:  # an earlier delivery ends at this very moment
            beta.links.grant(peer, [Grant("agent", 5)])
            beta.links.settle(peer, [Outcome(item(7).key, "settled")])

    beta.on_accepted = tell_at_once  # type: ignore[method-assign]
    alpha.send("beta", item(1))
    await until(lambda: len(alpha.settled) == 2, cluster.clock)
    assert alpha.granted == [(Grant("agent", 5),)]
    assert alpha.events == [("beta", True)]
    assert alpha.links.statistics()["rejects"]["frame"] == 0
