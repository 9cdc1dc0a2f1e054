"""Links between nodes, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.errors import MessageTooLarge
from node.security.identity import NodeCredentials
from node.transport import frames
from node.transport.frames import (
    MAX_ITEMS,
    MAX_KEYS,
    DeliveryKey,
    Hello,
    KeyState,
    encode,
)
from tests.node.transport.peers import Cluster, Room, item, until


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery)
        nursery.cancel_scope.cancel()


def limit(cluster: Cluster, **changes: object) -> None:
    cluster.limits = type(cluster.limits)(**changes)  # type: ignore[arg-type]


async def test_what_is_settled_at_once_is_not_acknowledged_before_and_what_is_not_is_after_a_pause(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: alpha.settled, cluster.clock)
    assert alpha.received == []
    beta.auto_settle = False
    alpha.send("beta", *[item(n) for n in range(2, 1000)])
    await until(lambda: len(alpha.received) == 998, cluster.clock)
    assert alpha.received == [item(n).key for n in range(2, 1000)]
    assert len(alpha.settled) == 1


async def test_an_answered_ping_confirms_what_was_told_before_it(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: alpha.settled, cluster.clock)
    assert beta.links.confirmed() == {}
    await until(beta.links.confirmed, cluster.clock)
    told_s = cluster.clock.wall_s
    assert told_s - 1.0 < beta.links.confirmed()["alpha"] <= told_s
    alpha.hold = trio.Event()  # its reader is stuck in what it was told, and answers no ping
    alpha.send("beta", item(2))
    await cluster.clock.sleep(6)
    cluster.clock.wall_s += 100.0
    await cluster.clock.sleep(6)
    assert beta.links.confirmed()["alpha"] <= told_s
    alpha.hold.set()
    await cluster.clock.sleep(12)
    assert beta.links.confirmed()["alpha"] > told_s + 90.0


async def test_messages_arrive_once_in_order_and_are_settled(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    sent = [item(n) for n in range(1000)]
    assert not any(alpha.send("beta", *sent[:500]))  # no link yet: the opening exchanges them
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    assert all(alpha.send("beta", *sent[500:]))
    await until(lambda: not alpha.outbox, cluster.clock)
    expected = [i.key for i in sent]
    assert beta.arrivals == [o.key for o in alpha.settled] == expected
    assert list(beta.inbox.values()) == sent
    assert max(beta.batches) <= MAX_ITEMS
    assert len(beta.batches) < 20
    assert alpha.events == [("beta", True)]
    assert beta.events == []
    assert alpha.links.statistics()["outbound_window_bytes"] == 0


async def test_proofs_name_the_origin_and_every_message(cluster: Cluster, autojump_clock: MockClock) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1), item(2))
    await until(lambda: len(beta.arrivals) == 2, cluster.clock)
    authority = NodeCredentials.ephemeral("any", cluster.environment, secrets=cluster.secrets).authority
    assert {p.origin(authority, cluster.clock.wall()) for p in beta.proofs} == {"alpha"}
    assert sum(len(p.hashes) for p in beta.proofs) == 2


async def test_a_broken_connection_resumes_without_loss(cluster: Cluster, autojump_clock: MockClock) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    for round_ in range(5):
        alpha.send("beta", *(item(round_ * 100 + n) for n in range(100)))
        for _ in range(round_ * 3):
            await trio.lowlevel.checkpoint()
        await cluster.network.break_all()
        await until(lambda n=round_: alpha.events.count(("beta", True)) == n + 2, cluster.clock)  # type: ignore[misc]
    await until(lambda: not alpha.outbox, cluster.clock)
    assert set(beta.inbox) == {item(n).key for n in range(500)}
    assert alpha.events.count(("beta", True)) == alpha.events.count(("beta", False)) + 1 == 6


async def test_what_the_acceptor_holds_is_not_sent_again_and_what_it_lost_is(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    beta.auto_settle = False
    alpha.send("beta", item(1), item(2), item(3))
    await until(lambda: len(alpha.received) == 3, cluster.clock)
    del beta.inbox[item(2).key]  # an older disk
    beta.states[item(3).key] = KeyState(item(3).key, "failed", "no")
    await cluster.network.break_all()
    await until(lambda: len(beta.arrivals) == 4, cluster.clock)
    assert beta.arrivals[-1] == item(2).key
    storage_id, states = alpha.resumed[-1]
    assert storage_id == "disk-of-beta"
    assert [s.state for s in states] == ["held", "unknown", "failed"]
    assert item(3).key not in alpha.outbox


async def test_a_restarted_acceptor_is_found_again_at_its_new_address(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha = await cluster.start("alpha")
    await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    cluster.crash("beta")
    cluster.addresses["beta"] = None
    await until(lambda: not alpha.links.is_open("beta"), cluster.clock)
    assert alpha.send("beta", item(2)) == [False]
    await cluster.clock.sleep(30)
    again = await cluster.start("beta", Room("beta"))
    await until(lambda: not alpha.outbox, cluster.clock, 6)
    assert again.arrivals == [item(2).key]


async def test_many_unsettled_deliveries_are_exchanged_in_batches(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", *(item(n) for n in range(MAX_KEYS * 2 + 7)))
    await until(lambda: not alpha.outbox, cluster.clock)
    assert beta.arrivals == [item(n).key for n in range(MAX_KEYS * 2 + 7)]
    assert len(alpha.resumed) == 1


async def test_items_refused_while_the_link_opens_are_not_forgotten(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    release = trio.Event()
    original = beta.on_resume

    async def slow(peer: str, storage_id: str, keys: object) -> list[KeyState]:
        await release.wait()
        return await original(peer, storage_id, keys)  # type: ignore[arg-type]

    beta.on_resume = slow  # type: ignore[method-assign]
    alpha.send("beta", item(1))
    await cluster.clock.sleep(1)
    assert alpha.send("beta", item(2)) == [False]
    release.set()
    await until(lambda: not alpha.outbox, cluster.clock)
    assert beta.arrivals == [item(1).key, item(2).key]


async def test_a_full_window_refuses_and_says_when_it_has_room(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    limit(cluster, window_bytes=10_000, batch_bytes=2_000)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    gate = trio.Event()
    beta.on_arrival = gate.wait
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    answers = alpha.send("beta", *(item(n, 1000) for n in range(50)))
    assert answers.count(True) == 7
    assert answers == sorted(answers, reverse=True)
    await cluster.clock.sleep(100)  # a slow room is not a dead peer
    assert alpha.links.is_open("beta")
    assert alpha.links.statistics()["outbound_window_bytes"] <= 10_000
    assert beta.arrivals == []
    gate.set()
    await until(lambda: not alpha.outbox, cluster.clock)
    assert alpha.writable >= 5
    assert list(dict.fromkeys(beta.arrivals)) == [item(n, 1000).key for n in range(50)]


async def test_a_message_bigger_than_the_window_passes_alone(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    limit(cluster, window_bytes=10_000, batch_bytes=2_000)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1, 200_000), item(2))
    await until(lambda: not alpha.outbox, cluster.clock)
    assert set(beta.arrivals) == {item(1).key, item(2).key}
    with pytest.raises(MessageTooLarge):
        alpha.links.deliver("beta", [item(3, frames.MAX_SEALED_BYTES + 1)])


async def test_one_altered_byte_closes_the_link_and_nothing_is_handed_on(
    cluster: Cluster, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    body = item(7, 40).sealed

    def flip(data: bytes) -> bytes:
        return data.replace(body, b"X" + body[1:])

    cluster.network.tamper = flip
    with caplog.at_level(logging.WARNING):
        alpha.send("beta", item(7, 40))
        await until(lambda: ("beta", False) in alpha.events, cluster.clock)
    assert beta.arrivals == []
    assert beta.links.statistics()["rejects"]["signature"] >= 1
    assert "was altered" in alpha.reasons[1]  # the Goodbye
    assert "was altered" in caplog.text
    cluster.network.tamper = lambda data: data
    await until(lambda: not alpha.outbox, cluster.clock)
    assert beta.arrivals == [item(7).key]


async def test_another_version_is_told_so_and_counted(
    cluster: Cluster,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    monkeypatch.setattr(
        "node.transport.outbound.Hello", lambda _version, *rest: Hello(frames.PROTOCOL_VERSION + 1, *rest)
    )
    with caplog.at_level(logging.WARNING):
        alpha.send("beta", item(1))
        await cluster.clock.sleep(20)
    assert beta.links.statistics()["rejects"]["version"] >= 3
    assert alpha.events == []
    told = [r.getMessage() for r in caplog.records if "goodbye" in r.getMessage()]
    assert len(told) == 1  # said once, though it keeps trying
    assert f"version {frames.PROTOCOL_VERSION + 1}" in told[0]


async def test_a_silent_peer_is_given_up_after_the_limit_and_an_idle_one_is_not(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha = await cluster.start("alpha")
    await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    await cluster.clock.sleep(120)
    assert alpha.events == [("beta", True)]
    assert alpha.links.statistics()["rtt_max_s"] is not None
    cluster.network.silent = True
    began = cluster.clock.now()
    await until(lambda: ("beta", False) in alpha.events, cluster.clock)
    assert 9 <= cluster.clock.now() - began <= 15.1
    assert "silent" in alpha.reasons[-1]


async def test_an_idle_link_closes_and_the_next_message_opens_it_again(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    await cluster.clock.sleep(310)
    assert alpha.reasons == ["", "idle"]
    assert alpha.links.statistics()["outbound"] == beta.links.statistics()["inbound"] == 0
    dials = cluster.network.dials
    await cluster.clock.sleep(100)
    assert cluster.network.dials == dials
    alpha.send("beta", item(2))
    await until(lambda: not alpha.outbox, cluster.clock)
    assert len(beta.arrivals) == 2


async def test_a_link_with_unsettled_work_does_not_count_as_idle(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    beta.auto_settle = False
    alpha.send("beta", item(1))
    await cluster.clock.sleep(1000)
    assert alpha.events == [("beta", True)]
    beta.links.settle("alpha", [frames.Outcome(item(1).key, "failed", "too slow")])
    await until(lambda: not alpha.outbox, cluster.clock)
    assert alpha.settled[0].reason == "too slow"


async def test_redialling_backs_off_and_stops_when_the_peer_is_dropped(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha = await cluster.start("alpha")
    cluster.addresses["gone"] = ("gone", 1)
    alpha.links.ensure("gone")
    await cluster.clock.sleep(60)
    assert 12 <= cluster.network.dials <= 32
    assert len(alpha.unreachable) == cluster.network.dials
    assert {peer for peer, _ in alpha.unreachable} == {"gone"}
    alpha.links.drop("gone")
    before = cluster.network.dials
    await cluster.clock.sleep(60)
    assert cluster.network.dials == before
    assert alpha.links.statistics()["outbound"] == 0


async def test_dropping_closes_both_directions_and_a_new_demand_opens_again(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", item(1))
    beta.send("alpha", item(2))
    await until(lambda: not alpha.outbox and not beta.outbox, cluster.clock)
    beta.links.drop("alpha")
    await until(lambda: ("beta", False) in alpha.events and ("alpha", False) in beta.events, cluster.clock)
    beta.links.drop("alpha")
    beta.send("alpha", item(3))
    await until(lambda: not beta.outbox, cluster.clock)


async def test_a_newer_link_of_the_same_peer_supersedes_the_older(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    beta = await cluster.start("beta")
    first, second = await cluster.start("alpha"), Room("alpha")
    first.links.ensure("beta")
    await until(lambda: first.links.is_open("beta"), cluster.clock)
    cluster.limits = type(cluster.limits)(redial_initial_s=1000, redial_max_s=1000)
    await cluster.start("alpha", second)
    second.links.ensure("beta")
    await until(lambda: second.links.is_open("beta"), cluster.clock)
    await until(lambda: "superseded" in first.reasons[-1], cluster.clock)
    assert beta.links.statistics()["inbound"] == 1


async def test_a_failing_handler_closes_its_own_link_only(
    cluster: Cluster, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    alpha, beta, gamma = [await cluster.start(name) for name in ("alpha", "beta", "gamma")]
    gamma.send("beta", item(1))
    await until(lambda: not gamma.outbox, cluster.clock)

    async def fail() -> None:
        beta.on_arrival = None
        raise RuntimeError("planted")

    beta.on_arrival = fail
    alpha.send("beta", item(2))
    await until(lambda: not alpha.outbox, cluster.clock)  # the second attempt passes
    assert ("beta", False) in alpha.events
    assert gamma.events == [("beta", True)]
    assert beta.links.statistics()["rejects"]["handler"] == 1
    assert "planted" in caplog.text


async def test_whoever_is_not_of_the_cluster_or_lies_about_its_name_is_refused(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    beta = await cluster.start("beta")
    other = Cluster(cluster.nursery)
    liar = NodeCredentials.ephemeral("mallory", other.environment, secrets=cluster.secrets)
    mallory = await cluster.start("mallory", credentials=liar)
    cluster.addresses["gamma"] = cluster.addresses["mallory"]
    beta.links.ensure("gamma")  # the address leads to another node
    await cluster.clock.sleep(3)
    assert beta.events == []
    assert beta.links.statistics()["rejects"]["identity"] >= 1
    stream = await cluster.network.connect("beta", 7947)
    await cluster.network.secure_client(stream, liar)
    await stream.send_all(encode(Hello(1, "gamma", "s", "b")))
    await cluster.clock.sleep(1)
    assert beta.links.statistics()["rejects"]["identity"] >= 2
    assert mallory.arrivals == []


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 8, b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_is_a_counted_drop(cluster: Cluster, autojump_clock: MockClock, garbage: bytes) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    stream = await cluster.network.connect("beta", 7947)
    if garbage:
        await stream.send_all(garbage)
    stream = await cluster.network.connect("beta", 7947)
    await cluster.network.secure_client(
        stream, NodeCredentials.ephemeral("gamma", cluster.environment, secrets=cluster.secrets)
    )
    if garbage:
        await stream.send_all(garbage)
    await cluster.clock.sleep(10)
    statistics = beta.links.statistics()
    assert sum(statistics["rejects"].values()) == 2
    assert statistics["handshakes"] == statistics["inbound"] == 0
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)


async def test_strangers_who_say_nothing_cannot_fill_the_house(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    limit(cluster, handshakes=3)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    for _ in range(10):
        await cluster.network.connect("beta", 7947)
    await cluster.clock.sleep(1)
    assert beta.links.statistics()["handshakes"] == 3
    assert beta.links.statistics()["rejects"]["limit"] == 7
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock, 15)  # once the strangers have timed out
    assert beta.links.statistics()["rejects"]["timeout"] == 3


async def test_a_peer_that_never_reads_its_acknowledgements_is_closed(
    cluster: Cluster, autojump_clock: MockClock
) -> None:
    limit(cluster, acknowledgements=100)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    beta.links.acknowledge("alpha", [DeliveryKey(f"m{n}", "t", 0) for n in range(101)])
    await until(lambda: ("beta", False) in alpha.events, cluster.clock)
    assert beta.links.statistics()["rejects"]["limit"] == 1
    beta.links.acknowledge("nobody", [item(1).key])


async def test_demand_before_the_start_is_met_afterwards(cluster: Cluster, autojump_clock: MockClock) -> None:
    beta = await cluster.start("beta")
    alpha = Room("alpha")
    starting = cluster.start("alpha", alpha)
    alpha.outbox = {item(1).key: item(1)}
    await starting
    alpha.links.ensure("beta")
    await until(lambda: not alpha.outbox, cluster.clock)
    assert beta.arrivals == [item(1).key]
