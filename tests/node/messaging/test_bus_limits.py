"""What the bus refuses, lets wait, gives up and gives away: full rooms, expiry, loops, bad input."""

import json
from dataclasses import replace

import cbor2
import pytest

from node.errors import (
    MessageNotFound,
    MessageTooLarge,
    NoReply,
    ResourceLimitExceeded,
    StorageFailed,
    ValidationFailed,
)
from node.message import Envelope
from node.messaging.delivery import Draft
from node.messaging.settings import HOP_LIMIT
from node.transport.frames import DeliverItem
from node.vocabulary import Performative
from tests.node.messaging.asking import ask, never, settled
from tests.node.messaging.rooms import PROOF, cluster, echo, eventually, pause


async def test_messages_wait_on_disk_when_the_mailbox_is_full(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(0.05)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work", capacity=3)
        for number in range(40):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(0.5)
        assert c["b"].bus.statistics()["handlers"]["mailboxes"] <= 3
        assert c["b"].bus.statistics()["inbox"]["held"] > 20
        await eventually(settled(c))
        assert log == list(range(40))


async def test_a_full_inbox_refuses_and_the_origin_tries_again(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(0.5)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b", settings={"inbox_capacity": 5}) as c:
        c["b"].attach("worker", slow, "work")
        for number in range(15):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await eventually(settled(c), 600)
        assert sorted(set(log)) == list(range(15))
        assert c["b"].bus.statistics()["inbox"]["refused"] > 0
        assert await c["a"].bus.letters.page(10) == []


async def test_a_full_outbox_refuses_clients(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings={"outbox_capacity": 3}) as c:
        for _ in range(3):
            await c["a"].bus.accept(c["a"].message(capability="work"))
        with pytest.raises(ResourceLimitExceeded) as caught:
            await c["a"].bus.accept(c["a"].message(capability="work"))
        assert caught.value.details["capacity"] == 3


async def test_an_unsettled_message_expires_with_a_failure(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        reply = await c["a"].bus.request(message, timeout_s=100, ttl_s=20)
        assert reply.performative is Performative.FAILURE
        assert (await c["a"].bus.history(message.id)).as_json()["outcome"] == "expired"
        by = c["a"].message(capability="work", reply_by_s=c["a"].environment.clock.wall() + 5)
        started = c["a"].environment.clock.now()
        assert (await c["a"].bus.request(by, timeout_s=100)).performative is Performative.FAILURE
        assert c["a"].environment.clock.now() - started < 6


async def test_what_expired_in_the_mailbox_is_not_handled(tmp_path, autojump_clock):
    log = []

    async def slow(delivery):
        await pause(10)
        return await echo("w", log)(delivery)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work")
        await c["a"].bus.accept(c["a"].message(capability="work", content="first"))
        await pause(1)
        await c["a"].bus.accept(c["a"].message(capability="work", content="second"), ttl_s=3)
        await pause(60)
        assert log == ["first"]
        assert c["b"].bus.statistics()["inbox"]["failed"] == 1


async def test_no_reply_within_the_time_leaves_the_message_on_its_way(tmp_path, autojump_clock):
    async def slow(delivery):
        await pause(10)
        return [Draft(Performative.INFORM, "late")]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", slow, "work")
        message = c["a"].message(capability="work")
        with pytest.raises(NoReply) as caught:
            await c["a"].bus.request(message, timeout_s=2)
        assert caught.value.details["message_id"] == message.id
        assert f"`caxton trace {message.id}`" in caught.value.fix
        await eventually(settled(c))
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert [reply["from"] for reply in shown["replies"]] == ["worker@b"]
        talk = (await c["a"].bus.conversations.get(message.conversation_id)).as_json()
        assert [m["performative"] for m in talk["messages"]] == ["request", "inform"]
        assert talk["participants"] == ["client@a", "worker@b"]


async def test_detaching_gives_the_work_to_another_provider_in_order(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        for number in range(10):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(1)
        c["c"].attach("worker", echo("c", log), "work")
        c.withdraw("b", "worker")
        await c["b"].bus.detach("worker", drain_s=0.5)
        await eventually(settled(c))
        assert log == list(range(10))


async def test_detaching_waits_for_what_is_being_handled(tmp_path, autojump_clock):
    done = []

    async def slow(delivery):
        await pause(2)
        done.append(delivery.message.content)
        return []

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", slow, "work")
        for number in range(3):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number))
        await pause(0.1)
        await c["a"].bus.detach("worker", drain_s=60)
        assert sorted(done) == [0, 1, 2]
        c["a"].attach("worker", slow, "work")  # it may come back
        await c["a"].bus.accept(c["a"].message(capability="work", content=3))
        await eventually(lambda: 3 in done)


async def test_an_agent_that_loops_is_stopped_by_the_hop_limit(tmp_path, autojump_clock):
    hops = []

    async def again(delivery):
        hops.append(delivery.hops)
        return [Draft(Performative.REQUEST, capability="work")]

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", again, "work")
        await c["a"].bus.accept(c["a"].message(capability="work"))
        await pause(10)
        assert hops == list(range(HOP_LIMIT + 1))
        [letter] = await c["a"].bus.letters.page(10)
        assert "in one chain" in letter.reason
        with pytest.raises(ResourceLimitExceeded):
            await c["a"].bus.accept(c["a"].message(capability="work"), hops=HOP_LIMIT + 1)


async def test_bad_messages_are_refused_at_the_edge(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        node = c["a"]
        with pytest.raises(MessageTooLarge) as caught:
            await node.bus.accept(node.message(capability="work", content="x" * 2**21))
        assert caught.value.details["limit"] == 2**20
        with pytest.raises(ValidationFailed):
            await node.bus.accept(node.message(capability="Not A Capability"))
        with pytest.raises(ValidationFailed, match="not of this node"):
            await node.bus.accept(node.message(capability="work", sender="client@b"))
        message = node.message(capability="work")
        await node.bus.accept(message)
        with pytest.raises(ValidationFailed, match="accepted before"):
            await node.bus.accept(message)
        with pytest.raises(MessageNotFound):
            await node.bus.history("unknown")
        assert (await node.bus.conversations.get("unknown")).as_json()["message_count"] == 0


async def test_a_full_disk_refuses_the_client_and_nothing_is_routed(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        log = []
        c["a"].attach("worker", echo("w", log), "work")
        pages = await c["a"].storage.read(lambda k: k.execute("PRAGMA page_count").fetchall()[0][0])
        await c["a"].storage.write(lambda k: k.execute(f"PRAGMA max_page_count = {pages}").fetchall())
        with pytest.raises(StorageFailed):
            await c["a"].bus.accept(c["a"].message(capability="work", content="x" * 100_000))
        await c["a"].storage.write(lambda k: k.execute("PRAGMA max_page_count = 1000000").fetchall())
        assert (await ask(c["a"], content="now")).content["echo"] == "now"
        assert log == ["now"]


async def test_poison_is_answered_and_harms_nobody(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        log = []
        c["b"].attach("worker", echo("w", log), "work")
        good, stranger, elsewhere = (
            c["a"].message(capability="work", content="good"),
            c["a"].message(capability="work", sender="client@c"),
            c["a"].message(receiver="worker@z"),
        )
        items = [
            DeliverItem(Envelope("worker"), "m1", b"\xff garbage"),
            DeliverItem(Envelope("worker"), "another id", good.seal()),
            DeliverItem(Envelope("worker"), stranger.id, stranger.seal()),
            DeliverItem(Envelope("worker"), elsewhere.id, elsewhere.seal()),
            DeliverItem(Envelope("worker"), good.id, good.seal()),
        ]
        told = []
        c["b"].links.settle = lambda peer, outcomes: told.extend((peer, o.state) for o in outcomes)
        await c["b"].bus.on_deliver("a", [(items, PROOF)])
        await eventually(lambda: log == ["good"])
        assert told[:4] == [("a", "failed")] * 4
        assert c["b"].bus.statistics()["inbox"]["poison"] == 4


async def test_frames_that_come_together_are_one_write_and_each_message_keeps_the_proof_of_its_own(
    tmp_path, autojump_clock
):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w", log), "work")
        messages = [c["a"].message(capability="work", content=n) for n in range(5)]
        items = [DeliverItem(Envelope("worker"), m.id, m.seal()) for m in messages]
        poison = DeliverItem(Envelope("worker"), "m", b"\xff garbage")
        proofs = [replace(PROOF, signature=bytes([n])) for n in range(3)]
        again = replace(PROOF, signature=b"again")
        commits = c["b"].storage.statistics()["commits"]
        written = []
        c["b"].links.acknowledge = lambda peer, keys: written.append(
            (len(keys), c["b"].storage.statistics()["commits"] - commits)
        )
        frames = [([items[0], poison, items[1]], proofs[0]), ([poison], proofs[1]), (items[2:], proofs[2])]
        await c["b"].bus.on_deliver("a", [*frames, ([items[0]], again)])
        assert written[0] == (6, 1)  # the last frame brings one again, which is told again
        await eventually(lambda: sorted(log) == list(range(5)))

        def query(connection):
            rows = connection.execute("SELECT message_id, proof FROM inbox JOIN proofs USING (proof_id)")
            stored = {name: cbor2.loads(proof)[-1] for name, proof in rows}
            return stored, [cbor2.loads(p)[-1] for (p,) in connection.execute("SELECT proof FROM proofs")]

        stored, kept = await c["b"].storage.read(query)
        assert stored == {m.id: bytes([0 if n < 2 else 2]) for n, m in enumerate(messages)}
        assert sorted(kept) == [b"\x00", b"\x02"]  # what proves nothing that is stored is not kept


async def test_statistics_name_their_bounds_and_are_json(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo(), "work")
        await ask(c["a"])
        found = c["a"].bus.statistics()
        assert json.loads(json.dumps(found)) == found
        assert {"open_limit", "sticky_limit"} <= set(found["outbox"])
        assert c["a"].bus.load() == 0.0


async def test_what_was_handled_at_the_hop_limit_is_still_answered(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo(), "work")
        message = c["a"].message(capability="work", content="far")
        reply = await c["a"].bus.request(message, timeout_s=30, hops=HOP_LIMIT)
        assert reply.performative is Performative.INFORM
        assert await c["b"].bus.letters.page(10) == []
