"""What is for somebody who is away waits on disk: in order, without memory, and without loss."""

import pytest

from node.cluster.provider import Provider
from node.errors import DuplicateMessage, ResourceLimitExceeded, StorageFailed
from node.messaging import backlog as limits
from node.messaging.backlog import Backlog
from node.messaging.conversation_cursor import ConversationCursor
from node.storage import backlog as table
from node.storage import conversations as conversation_table
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause

SMALL = {"outbox_capacity": 80}  # a share of ten


async def away(c, node="b"):
    """A node that offered work is dead, and expected back."""
    c.publish(Provider("worker", node, "1.0.0", ("work",)))
    c.world.lost[node] = None
    if node in c.nodes:
        await c.crash(node)
    c.bury(node)


async def back(c, log, node="b"):
    c.world.lost.pop(node, None)
    await c.start(node)
    c[node].attach("worker", echo(log=log), "work")


async def tell(c, count, first=0, **fields):
    to = {"capability": "work"} if "receiver" not in fields else {}
    sent = []
    for number in range(first, first + count):
        given = {"performative": Performative.INFORM, "content": number, "conversation_id": "one"}
        message = c["a"].message(**(given | to | fields))
        sent.append(message)
        await c["a"].bus.accept(message)
    return sent


def outbox(c, name="a"):
    return c[name].bus.statistics()["outbox"]


def nothing_left(c):
    return lambda: not outbox(c)["open"] and not outbox(c)["backlog"] and not outbox(c)["backlog_targets"]


@pytest.mark.parametrize("to", [{}, {"receiver": "worker@b"}, {"receiver": "worker"}])
async def test_memory_holds_a_share_and_the_rest_follows_in_order(tmp_path, autojump_clock, to):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        sent = await tell(c, 500, **to)
        assert outbox(c)["open"] < 50
        assert outbox(c)["backlog"] > 450
        assert outbox(c)["accepted"] == 500
        last = (await c["a"].bus.history(sent[-1].id)).as_json()
        assert (last["status"], last["routed_to"]) == ("waiting", [])
        log = []
        await back(c, log)
        await eventually(lambda: len(log) > 100)
        assert outbox(c)["backlog"]
        await tell(c, 3, first=500, **to)  # must not overtake
        await eventually(nothing_left(c))
        assert log == list(range(503))
        assert (await c["a"].bus.history(sent[-1].id)).as_json()["outcome"] == "settled"


async def test_conversations_have_what_waits_on_disk(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        for number in range(60):
            await tell(c, 1, first=number, conversation_id=f"talk-{number % 30}")
            await pause(0.1)
        assert outbox(c)["backlog"] > 30
        talks = c["a"].bus.conversations
        ids, place = [], None
        while place is not None or not ids:
            page = await talks.page(7, before=place)
            ids += [each.conversation_id for each in page.conversations]
            place = page.next
        assert ids == [f"talk-{number}" for number in reversed(range(30))]
        cursor = ConversationCursor("talk-29")
        followed = await talks.follow(cursor)
        assert [message.content for message, _ in followed] == [29, 59]
        span = await c["a"].storage.read(lambda connection: conversation_table.span(connection, "talk-29"))
        assert span.created_s < span.last_s
        await back(c, [])
        await eventually(nothing_left(c))
        assert await talks.follow(cursor) == []  # in another table, and known


async def test_others_are_served_while_many_wait_for_one(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        c["a"].attach("other", echo("other"), "chat")
        await tell(c, 1_000)
        for _ in range(100):
            reply = await c["a"].bus.request(c["a"].message(capability="chat", content=1), timeout_s=5)
            assert reply.content["by"] == "other"


async def test_a_slow_provider_is_no_reason_to_fill_the_disk(tmp_path, autojump_clock):
    async def never(delivery):
        await pause(1e6)

    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        c["b"].attach("worker", never, "work", capacity=1)
        with pytest.raises(ResourceLimitExceeded):
            await tell(c, 1_000)
        assert outbox(c)["backlog"] == 0


async def test_what_nobody_will_come_for_is_not_kept(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings=SMALL) as c:
        with pytest.raises(ResourceLimitExceeded):
            await tell(c, 100)
        assert outbox(c)["backlog"] == 0


@pytest.mark.parametrize("bound", [{"backlog_capacity": 30}, {"backlog_bytes": 6_000}])
async def test_a_full_backlog_refuses_what_is_for_whom_is_away(tmp_path, autojump_clock, bound):
    async with cluster(tmp_path, "a", "b", settings=SMALL | bound) as c:
        await away(c)
        with pytest.raises(ResourceLimitExceeded) as caught:
            await tell(c, 1_000)
        assert caught.value.details["wanted"] == "work"
        assert caught.value.details["retry_after_s"] > 0
        figures = outbox(c)
        assert figures["backlog"] <= figures["backlog_limit"]
        assert figures["backlog_bytes"] <= figures["backlog_bytes_limit"]
        log = []
        await back(c, log)
        await eventually(nothing_left(c))
        assert log == list(range(figures["accepted"]))


async def test_it_outlives_restarts_of_both(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        await tell(c, 300)
        before = outbox(c)["backlog"]
        await c.crash("a")
        await c.start("a")
        assert outbox(c)["backlog"] == before
        await tell(c, 50, first=300)
        log = []
        await back(c, log)
        await eventually(lambda: len(log) > 100)
        await c.crash("a")
        await c.start("a")
        await eventually(nothing_left(c))
        assert log == list(range(350))


@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
@pytest.mark.parametrize("job", ["Acceptance._write", "Ledger.job"])
async def test_a_crash_at_a_move_loses_nothing(tmp_path, autojump_clock, when, job):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        await tell(c, 200)
        log = []
        if job == "Ledger.job":
            setattr(c["a"].storage, when, job)
            await back(c, log)
            await eventually(c["a"].storage.frozen.is_set)
            await c.crash("a")
            await c.start("a")
            accepted = 200
        else:
            setattr(c["a"].storage, when, job)
            c.nursery.start_soon(tell, c, 1, 200)
            await eventually(c["a"].storage.frozen.is_set)
            await c.crash("a")
            await c.start("a")
            accepted = 200 + (when == "crash_after")
            await back(c, log)
        await eventually(nothing_left(c))
        assert log == list(range(accepted))


async def test_what_waits_on_disk_expires_in_time(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL | {"default_ttl_s": 30.0}) as c:
        await away(c)
        sent = await tell(c, 300)
        await pause(35)
        assert nothing_left(c)()
        assert outbox(c)["expired"] == 300
        history = (await c["a"].bus.history(sent[-1].id)).as_json()
        assert history["outcome"] == "expired"
        assert (await c["a"].bus.letters.page(1))[0].reason.startswith("its time was up")
        log = []
        await back(c, log)
        await pause(10)
        assert log == []


async def test_requests_of_agents_are_answered_from_disk_or_told_their_end(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        await tell(c, 100)
        reply = None

        async def ask():
            nonlocal reply
            message = c["a"].message(capability="work", content="last")
            reply = await c["a"].bus.request(message, timeout_s=1_000)

        c.nursery.start_soon(ask)
        await pause(20)
        assert reply is None
        await back(c, [])
        await eventually(lambda: reply is not None)
        assert reply.content["echo"] == "last"


async def test_an_id_is_accepted_once_wherever_it_waits(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        c["a"].attach("here", echo(), "chat")
        sent = await tell(c, 100)
        before = outbox(c)
        for message in (sent[0], sent[-1]):
            for to in ({"capability": "work"}, {"capability": "chat"}):
                with pytest.raises(DuplicateMessage):
                    await c["a"].bus.accept(c["a"].message(id=message.id, **to))
        assert outbox(c)["backlog"] == before["backlog"]
        assert outbox(c)["backlog_bytes"] == before["backlog_bytes"]


async def test_a_refusing_disk_counts_nothing(tmp_path, autojump_clock, monkeypatch):
    async with cluster(tmp_path, "a", "b", settings=SMALL) as c:
        await away(c)
        await tell(c, 100)
        before = outbox(c)

        def refuse(*_):
            raise StorageFailed("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(table, "insert", refuse)
            with pytest.raises(StorageFailed):
                await tell(c, 1, first=100)
        assert outbox(c) == before
        log = []
        await back(c, log)
        await eventually(nothing_left(c))
        assert log == list(range(100))


async def test_a_death_between_reading_and_writing_moves_it_on(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "d", settings=SMALL) as c:
        await away(c)
        await tell(c, 200)
        log = []
        await back(c, log)
        await eventually(lambda: len(log) > 20)
        await c.crash("b")
        c.world.lost["b"] = None
        c.bury("b")
        c["d"].attach("worker", echo(log=log), "work")
        await eventually(nothing_left(c))
        assert sorted(set(log)) == list(range(200))


def test_the_number_of_targets_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TARGETS_LIMIT", 2)
    found = Backlog(capacity=100, size=1_000)
    for wanted in "ab":
        assert found.has_room(wanted, 1)
        found.prepare(wanted, 1)
        found.wrote(wanted)
    assert not found.has_room("c", 1)
    assert found.has_room("a", 1)
    assert found.statistics()["backlog_targets"] == 2
