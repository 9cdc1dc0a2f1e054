"""Messages do not fill the disk: beyond a number of bytes the oldest that have ended go."""

from __future__ import annotations

import pytest

from node.config.model import MessagingConfig
from node.errors import MessageNotFound
from node.messaging import kept as kept_module
from node.messaging.kept import Kept
from node.messaging.settings import Timing
from node.storage.query import number
from node.storage.weight import ROW_BYTES
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, eventually, pause

MB = 1024**2
LIMIT = 16 * MB
SETTINGS = {"history_limit": "16MB"}
NEVER = Timing(retention_every_s=1e6)
"""Nothing is dropped because it was time to."""
SOON = Timing(retention_every_s=1.0)


def history(node):
    return node.bus.statistics()["history"]


async def file_bytes(node):
    pages = await node.storage.read(lambda connection: number(connection, "PRAGMA page_count"))
    return 4096 * pages


async def on_disk(node, table):
    query = f"SELECT coalesce(sum(length(sealed)), 0) + {ROW_BYTES} * count(*) FROM {table}"
    return await node.storage.read(lambda connection: number(connection, query))


async def quiet(delivery):
    return []


async def send(node, several, size, confirmed_by=None):
    sent = []
    for _ in range(several):
        message = node.message(capability="work", performative=Performative.INFORM, content="x" * size)
        await node.bus.accept(message)
        sent.append(message.id)
        await pause(0.5)
        if confirmed_by is not None:
            confirmed_by.links.confirmed_s[node.name] = confirmed_by.environment.clock.wall()
    return sent


async def test_the_oldest_go_before_the_file_has_grown_much_beyond_the_limit(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SETTINGS, timing=NEVER) as c:
        c["b"].attach("worker", quiet, "work")
        sent = await send(c["a"], 150, MB // 2, confirmed_by=c["b"])
        for node in (c["a"], c["b"]):
            assert await file_bytes(node) < LIMIT + LIMIT // kept_module.EARLY_SHARE + 6 * MB
        with pytest.raises(MessageNotFound):
            await c["a"].bus.history(sent[0])
        await c["a"].bus.history(sent[-20])
        for node, table, figure in ((c["a"], "outbox", "sent_bytes"), (c["b"], "inbox", "received_bytes")):
            assert LIMIT - 2 * MB < await on_disk(node, table) == history(node)[figure]


async def test_what_is_there_at_a_start_counts_and_a_node_shares_the_limit_between_both_sides(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", settings={"history_limit": "64MB"}, timing=NEVER) as c:
        c["a"].attach("worker", quiet, "work")
        await send(c["a"], 60, MB // 2)
        await c.crash("a")
        c.settings, c.timing = MessagingConfig(**SETTINGS), SOON
        await c.start("a")
        await pause(5)
        for figure, table in (("sent_bytes", "outbox"), ("received_bytes", "inbox")):
            assert await on_disk(c["a"], table) == history(c["a"])[figure]
        assert LIMIT // 2 - MB < history(c["a"])["sent_bytes"] <= LIMIT // 2


async def test_a_node_that_can_drop_nothing_refuses_what_comes_until_it_can(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings=SETTINGS, timing=SOON) as c:
        c["b"].attach("worker", quiet, "work")
        await send(c["a"], 80, MB // 2)  # nobody confirms that the ends have arrived
        full = 2 * LIMIT + MB
        assert 2 * LIMIT < history(c["b"])["received_bytes"] < full
        assert await file_bytes(c["b"]) < full + MB
        assert c["b"].bus.statistics()["inbox"]["refused"]
        c["b"].links.confirmed_s["a"] = c["b"].environment.clock.wall() + 100
        await eventually(lambda: c["a"].bus.statistics()["outbox"]["open"] == 0, 120)
        assert history(c["b"])["received_bytes"] < LIMIT + 2 * MB


async def test_replies_are_not_watched_when_what_waits_for_them_fills_the_disk(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings=SETTINGS, timing=NEVER) as c:
        c["a"].attach("worker", quiet, "work")
        c["a"].attach("boss", quiet)
        for _ in range(80):
            message = c["a"].message(
                capability="work",
                sender="boss@a",
                content="x" * (MB // 2),
                reply_by_s=c["a"].environment.clock.wall() + 1000,
            )
            await c["a"].bus.accept(message)
            await pause(0.5)
        assert history(c["a"])["sent_bytes"] < 2 * LIMIT + MB
        assert c["a"].bus.statistics()["expectations"]["unwatched"]


def test_each_side_has_half_and_what_the_other_leaves():
    kept = Kept(1000 * ROW_BYTES)
    kept.add_sent(900, 0)
    assert (kept.excess_sent, kept.excess_received) == (0, 0)
    kept.add_received(300, 0)
    assert (kept.excess_sent, kept.excess_received) == (200 * ROW_BYTES, 0)
    kept.add_received(500, 0)
    assert (kept.excess_sent, kept.excess_received) == (400 * ROW_BYTES, 300 * ROW_BYTES)
    kept.drop_sent(400, 400 * ROW_BYTES)
    assert (kept.excess_sent, kept.excess_received) == (0, 300 * ROW_BYTES)
