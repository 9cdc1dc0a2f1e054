"""Large content: named by messages, fetched in chunks where they are handled, dropped when it is unused."""

import hashlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.blobs.tables import CHUNK_BYTES
from node.errors import BlobNotFound, ResourceLimitExceeded, ValidationFailed
from node.message import BLOB_LIMIT_BYTES, Attachment, Message
from node.messaging import blobs as limits
from node.messaging.delivery import Draft
from node.storage.query import rows
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause
from tests.node.messaging.test_crashes import quiet

LARGE = bytes(range(256)) * 256 * 20 + b"end"  # twenty chunks and a short one


def sha256(data):
    return hashlib.sha256(data).hexdigest()


async def keep(node, data):
    """Have a blob on a node, as a client sends it."""
    store = node.bus.blobs.store
    row = await store.begin(sha256(data), len(data))
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    await store.append(row, 0, chunks)
    await store.finish(row)
    return row.digest


def slowly(node):
    """Have a node think about each chunk for half a second."""
    answer = node.bus.blobs.answer

    async def slow(about):
        await pause(0.5)
        return await answer(about)

    node.bus.blobs.answer = slow


def named(*digests):
    return tuple(Attachment(f"file{n}", "text/plain", blob=each) for n, each in enumerate(digests))


def reading(log):
    async def handle(delivery):
        await trio.lowlevel.checkpoint()
        log.extend(bytes(each.data) for each in delivery.message.attachments)
        return [Draft(Performative.INFORM, len(log))]

    return handle


async def test_an_agent_elsewhere_gets_the_content_with_its_message(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", reading(log), "work")
        digest = await keep(c["a"], LARGE)
        small = Attachment("small", "text/plain", b"small")
        message = c["a"].message(capability="work", attachments=(*named(digest), small))
        reply = await c["a"].bus.request(message, timeout_s=60)
        assert reply.content == 2
        assert log == [LARGE, b"small"]
        shown = (await c["b"].bus.history(message.id)).as_json()["message"]["attachments"]
        assert shown[0] == {
            "name": "file0",
            "media_type": "text/plain",
            "size_bytes": len(LARGE),
            "blob": digest,
        }
        assert c["b"].bus.blobs.statistics()["held_bytes"] == 0
        await c["a"].bus.request(c["a"].message(capability="work", attachments=named(digest)), timeout_s=60)
        assert c["b"].bus.blobs.statistics()["fetched"] == 1  # it was here


async def test_a_message_whose_blob_is_not_here_is_not_accepted(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        missing = c["a"].message(capability="work", attachments=named(sha256(b"never sent")))
        with pytest.raises(BlobNotFound):
            await c["a"].bus.accept(missing)
        started = await c["a"].bus.blobs.store.begin(sha256(LARGE), len(LARGE))
        with pytest.raises(BlobNotFound):
            await c["a"].bus.accept(c["a"].message(capability="work", attachments=named(started.digest)))


async def test_a_crash_in_the_middle_goes_on_where_the_chunks_end(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(limits, "AT_ONCE", 2)
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        slowly(c["a"])
        c["b"].attach("worker", reading(log), "work")
        digest = await keep(c["a"], LARGE)
        await c["a"].bus.accept(c["a"].message(capability="work", attachments=named(digest)))
        await eventually(lambda: c["b"].bus.blobs.statistics()["chunks_fetched"] >= 6)
        await c.crash("b")
        assert log == []
        await c.start("b")
        c["b"].attach("worker", reading(log))
        await eventually(quiet(c))
        assert log == [LARGE]
        assert c["b"].bus.blobs.statistics()["chunks_fetched"] <= 15


async def test_a_broken_link_delays_the_content_and_no_more(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", reading(log), "work")
        slowly(c["a"])
        digest = await keep(c["a"], LARGE)
        await c["a"].bus.accept(c["a"].message(capability="work", attachments=named(digest)))
        await eventually(lambda: c["b"].bus.statistics()["inbox"]["held"])
        c.partition("a", "b")
        await pause(60)
        assert log == []
        c.heal()
        await eventually(quiet(c))
        assert log == [LARGE]


async def about_what_is_lost(c):
    """A message from "a" for "b" that names a blob which "a" has no more."""
    c["b"].attach("worker", reading([]), "work")
    digest = await keep(c["a"], LARGE)

    async def nothing(about):
        await trio.lowlevel.checkpoint()

    c["a"].bus.blobs.answer = nothing
    return c["a"].message(capability="work", attachments=named(digest)), digest


async def test_an_origin_that_lost_it_ends_the_message_with_a_reason(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        message, _ = await about_what_is_lost(c)
        reply = await c["a"].bus.request(message, timeout_s=60)
        assert reply.performative is Performative.FAILURE
        assert reply.content["code"] == "BLOB_NOT_FOUND"


async def test_a_peer_that_sends_something_else_is_not_believed(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", reading([]), "work")
        digest = await keep(c["a"], LARGE)
        honest = c["a"].bus.blobs.answer

        async def lying(about):
            return bytes(len(await honest(about)))

        c["a"].bus.blobs.answer = lying
        message = c["a"].message(capability="work", attachments=named(digest))
        reply = await c["a"].bus.request(message, timeout_s=60)
        assert reply.performative is Performative.FAILURE
        assert "SHA-256" in reply.content["reason"]
        assert await c["b"].bus.blobs.store.find(digest) is None


async def test_content_that_does_not_come_in_time_is_told(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", reading([]), "work")
        digest = await keep(c["a"], LARGE)
        slowly(c["a"])
        message = c["a"].message(capability="work", attachments=named(digest))
        await c["a"].bus.accept(message, ttl_s=30)
        await eventually(lambda: c["b"].bus.statistics()["inbox"]["held"])
        c.partition("a", "b")
        await pause(40)
        c.heal()
        await eventually(quiet(c))
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert shown["outcome"] in ("expired", "failed")


async def test_large_files_of_an_answer_become_blobs_and_may_be_passed_on(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        seen = []

        async def maker(delivery):
            await trio.lowlevel.checkpoint()
            return [Draft(Performative.INFORM, "made", attachments=(Attachment("out", "text/plain", LARGE),))]

        async def passing(delivery):
            await trio.lowlevel.checkpoint()
            files = delivery.message.attachments
            return [Draft(Performative.INFORM, "passed", capability="read", attachments=files)]

        c["b"].attach("maker", maker, "make")
        c["c"].attach("passer", passing, "pass")
        c["b"].attach("reader", reading(seen), "read")
        made = await c["a"].bus.request(c["a"].message(capability="make"), timeout_s=60)
        (file,) = made.attachments
        assert (file.data, file.blob, file.size) == (b"", sha256(LARGE), len(LARGE))
        await keep(c["a"], LARGE)
        await c["a"].bus.accept(c["a"].message(capability="pass", attachments=(file,)))
        await eventually(lambda: seen)
        assert seen == [LARGE]


async def test_what_nobody_needs_goes_and_what_waits_stays(tmp_path, autojump_clock):
    log = []
    settings = {"blobs_unused": "1m", "outbox_capacity": 8}
    async with cluster(tmp_path, "a", "b", settings=settings) as c:
        digest = await keep(c["a"], LARGE)
        receiver = {"receiver": "worker@b", "performative": Performative.INFORM}
        await c.crash("b")
        for _ in range(3):  # in the outbox, and in its backlog
            await c["a"].bus.accept(c["a"].message(attachments=named(digest), **receiver), ttl_s=86_400)
        other = await keep(c["a"], LARGE[1:])
        await pause(200)
        store = c["a"].bus.blobs.store
        assert await store.find(other) is None
        assert (await store.find(digest)).complete
        await c.start("b")
        c["b"].attach("worker", reading(log), "work")
        await eventually(quiet(c))
        assert log == [LARGE] * 3
        await pause(200)
        assert await store.find(digest) is None
        assert store.statistics()["blob_bytes"] == 0
        assert await c["a"].storage.read(lambda c: rows(c, "SELECT * FROM message_blobs")) == []
        c["a"].blobs.close()
        assert (tmp_path / "a" / "blobs.db").stat().st_size < len(LARGE)  # the space is given back


async def test_more_than_there_is_room_for_is_refused(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings={"blobs_limit": BLOB_LIMIT_BYTES}) as c:
        store = c["a"].bus.blobs.store
        await store.begin(sha256(b"1"), BLOB_LIMIT_BYTES - 10)
        await store.begin(sha256(b"2"), 10)
        with pytest.raises(ResourceLimitExceeded, match="no room"):
            await store.begin(sha256(b"3"), 1)
        await store.begin(sha256(b"1"), BLOB_LIMIT_BYTES - 10)  # it has its room
        with pytest.raises(ValidationFailed, match="announced"):
            await store.begin(sha256(b"1"), 7)
        for size in (0, BLOB_LIMIT_BYTES + 1):
            with pytest.raises(ValidationFailed, match="1 to"):
                await store.begin(sha256(b"4"), size)


async def test_a_wrong_size_keeps_the_right_one_out_for_a_minute_only(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        store = c["a"].bus.blobs.store
        row = await store.begin(sha256(LARGE), len(LARGE) + 1)
        await store.append(row, 0, [LARGE[:CHUNK_BYTES]])
        await pause(50)
        await store.append(row, 1, [LARGE[CHUNK_BYTES : 2 * CHUNK_BYTES]])
        await pause(50)
        with pytest.raises(ValidationFailed, match="announced"):
            await store.begin(sha256(LARGE), len(LARGE))
        await pause(20)
        digest = await keep(c["a"], LARGE)
        assert await c["a"].bus.blobs.content(digest) == LARGE
        assert store.statistics()["blob_bytes"] == len(LARGE)
        await pause(100)
        with pytest.raises(ValidationFailed, match="announced"):
            await store.begin(digest, 7)  # it is here as a whole


async def test_names_of_what_there_is_not_take_no_room_of_whoever_asks_for_it(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        message, digest = await about_what_is_lost(c)
        assert (await c["a"].bus.request(message, timeout_s=60)).performative is Performative.FAILURE
        assert await c["b"].bus.blobs.store.find(digest) is None
        assert c["b"].bus.blobs.store.statistics()["blob_bytes"] == 0


async def test_no_more_is_held_in_memory_than_the_limit(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(limits, "HELD_LIMIT_BYTES", len(LARGE) + 10)
    most, running = [], []

    async def handle(delivery):
        running.append(None)
        most.append(len(running))
        await pause(5)
        running.pop()
        return []

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", handle, "work", concurrency=4)
        digest = await keep(c["a"], LARGE)
        for _ in range(4):
            await c["a"].bus.accept(c["a"].message(capability="work", attachments=named(digest)))
        await eventually(quiet(c))
        assert most == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "about", ["", "x", ":", "0" * 64 + ":99999999999", "0" * 64 + ":-1", "0" * 64 + ":²"]
)
async def test_a_question_that_is_none_has_no_answer(tmp_path, autojump_clock, about):
    async with cluster(tmp_path, "a") as c:
        assert await c["a"].bus.on_ask("b", "blob", about) is None


@pytest.mark.parametrize(
    "attachment",
    [
        Attachment("x", "text/plain", b"x", size=1),
        Attachment("x", "text/plain", blob="0" * 63),
        Attachment("x", "text/plain", blob="0" * 64, size=BLOB_LIMIT_BYTES + 1),
    ],
)
async def test_a_name_of_a_blob_that_is_none_is_refused(tmp_path, autojump_clock, attachment):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo(), "work")
        with pytest.raises((ValidationFailed, BlobNotFound)):
            await c["a"].bus.accept(c["a"].message(capability="work", attachments=(attachment,)))


@given(st.binary(max_size=64), st.integers(0, 30))
def test_sealed_blobs_are_read_back(data, size):
    attachment = Attachment("x", "text/plain", blob=sha256(data), size=size)
    message = Message(
        id="1",
        performative=Performative.INFORM,
        sender="a@b",
        receiver="c@d",
        conversation_id="1",
        reply_with="1",
        attachments=(attachment,),
    )
    assert Message.unseal(message.seal()) == message
