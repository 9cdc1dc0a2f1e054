"""Subscriptions outlive restarts, end when they are cancelled, and when nobody is there to be informed."""

from __future__ import annotations

import pytest

from node.errors import StorageFailed
from node.messaging import subscriptions
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, eventually, pause

P = Performative


def offers(c, name="b"):
    """An agent that offers a subscription on a node."""
    bus = c[name].bus

    async def handle(delivery):
        message = delivery.message
        if message.performative is P.SUBSCRIBE:
            return [await bus.subscriptions.take("ticker", message)]
        if message.performative is P.CANCEL:
            return [await bus.subscriptions.cancel("ticker", message)]
        return []

    bus.attach("ticker", handle, capacity=100, concurrency=1)


def listens(c, name="a", agent="reader"):
    seen = []

    async def handle(delivery):
        seen.append(
            (delivery.message.performative.value, delivery.message.content, delivery.message.in_reply_to)
        )
        return []

    c[name].bus.attach(agent, handle, capacity=100, concurrency=1)
    return seen


async def send(c, performative, sender="reader", node="a", **fields):
    message = c[node].message(
        performative=performative, sender=f"{sender}@{node}", receiver="ticker@b",
        protocol=None if performative is P.CANCEL else "fipa-subscribe", **fields,
    )  # fmt: skip
    await c[node].bus.accept(message)
    await pause(1)
    return message


def counts(c, name="b"):
    return c[name].bus.statistics()["subscriptions"]


async def test_every_subscriber_is_informed_until_it_cancels(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        one, other = listens(c), listens(c, agent="other")
        first = await send(c, P.SUBSCRIBE)
        second = await send(c, P.SUBSCRIBE, "other")
        assert await c["b"].bus.subscriptions.publish("ticker", 1) == 2
        await pause(1)
        assert one == [("agree", None, first.id), ("inform", 1, first.id)]
        assert other == [("agree", None, second.id), ("inform", 1, second.id)]
        await send(c, P.CANCEL, conversation_id=first.conversation_id)
        assert await c["b"].bus.subscriptions.publish("ticker", 2) == 1
        await pause(1)
        assert [each[:2] for each in one[2:]] == [("inform", {"ended": 1})]
        assert other[-1][:2] == ("inform", 2)
        assert await c["b"].bus.subscriptions.publish("nobody", 3) == 0


async def test_a_cancel_ends_what_it_names_and_nobody_elses(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        listens(c)
        for sender in ("reader", "reader", "other"):
            await send(c, P.SUBSCRIBE, sender, conversation_id="talk")
        labels = [row.label for row in c["b"].bus.subscriptions.of("ticker")]
        await send(c, P.CANCEL, conversation_id="talk", in_reply_to=labels[0])
        assert [row.label for row in c["b"].bus.subscriptions.of("ticker")] == labels[1:]
        await send(c, P.CANCEL, conversation_id="talk")
        assert [row.label for row in c["b"].bus.subscriptions.of("ticker")] == labels[2:]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_subscription_survives_a_crash_and_is_kept_once(tmp_path, autojump_clock, when):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        seen = listens(c)
        setattr(c["b"].storage, f"crash_{when}", "Subscriptions.take")
        await send(c, P.SUBSCRIBE)
        await eventually(c["b"].storage.frozen.is_set)
        await c.crash("b")
        await c.start("b")
        assert len(c["b"].bus.subscriptions.of("ticker")) == (when == "after")
        offers(c)
        await eventually(lambda: seen)
        assert await c["b"].bus.subscriptions.publish("ticker", 1) == 1
        await pause(1)
        assert [each[:2] for each in seen] == [("agree", None), ("inform", 1)]


async def test_an_event_with_a_key_informs_nobody_twice(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        seen = listens(c)
        await send(c, P.SUBSCRIBE)
        assert [await c["b"].bus.subscriptions.publish("ticker", 1, key="k") for _ in range(2)] == [1, 0]
        assert await c["b"].bus.subscriptions.publish("ticker", 2, key="l") == 1
        await pause(1)
        assert [each[1] for each in seen[1:]] == [1, 2]


async def test_a_subscriber_that_is_gone_is_dropped_after_a_bounded_number_of_failures(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        listens(c)
        await send(c, P.SUBSCRIBE)
        await c["a"].bus.detach("reader", drain_s=0)
        await pause(30)
        await c.crash("a")
        for number in range(subscriptions.FAILURES_LIMIT):
            assert await c["b"].bus.subscriptions.publish("ticker", number) == 1
            await pause(subscriptions.INFORM_TTL_S + 5)
        assert (counts(c)["subscribers"], counts(c)["dropped"]) == (0, 1)
        await c.crash("b")
        await c.start("b")
        assert counts(c)["subscribers"] == 0
        await c.start("a")
        seen = listens(c)
        await eventually(lambda: seen)
        assert [each[0] for each in seen] == ["failure"]


async def test_failures_count_in_a_row_and_across_restarts(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        seen = listens(c)
        await send(c, P.SUBSCRIBE)
        await c.crash("a")
        await c["b"].bus.subscriptions.publish("ticker", 1)
        await pause(subscriptions.INFORM_TTL_S + 5)
        await c.crash("b")
        await c.start("b")
        offers(c)
        assert [row.failures for row in c["b"].bus.subscriptions.of("ticker")] == [1]
        await c.start("a")
        seen = listens(c)
        await c["b"].bus.subscriptions.publish("ticker", 2)
        await eventually(lambda: [each for each in seen if each[1] == 2])
        await pause(1)
        assert [row.failures for row in c["b"].bus.subscriptions.of("ticker")] == [0]


async def test_a_closed_conversation_ends_its_subscription_and_no_other(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        seen = listens(c)
        first = await send(c, P.SUBSCRIBE)
        await send(c, P.SUBSCRIBE)
        await c["b"].bus.conversations.archive_these([first.conversation_id])
        assert await c["b"].bus.subscriptions.publish("ticker", 1) == 1
        await pause(1)
        assert (counts(c)["subscribers"], counts(c)["dropped"]) == (1, 1)
        assert [each[0] for each in seen] == ["agree", "agree", "inform"]


async def test_subscribers_are_bounded_and_the_next_is_refused(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(subscriptions, "SUBSCRIBERS_LIMIT", 1)
    async with cluster(tmp_path, "a", "b") as c:
        offers(c)
        seen = listens(c)
        await send(c, P.SUBSCRIBE)
        await send(c, P.SUBSCRIBE)
        assert [each[0] for each in seen] == ["agree", "refuse"]
        assert seen[1][1]["code"] == "RESOURCE_LIMIT_EXCEEDED"


async def test_a_disk_that_refuses_keeps_nothing(tmp_path, autojump_clock, monkeypatch):
    async with cluster(tmp_path, "b") as c:

        async def full(job):
            raise StorageFailed("the disk is full")

        monkeypatch.setattr(c["b"].storage, "write", full)
        with pytest.raises(StorageFailed):
            await c["b"].bus.subscriptions.take(
                "ticker", c["b"].message(performative=P.SUBSCRIBE, receiver="ticker")
            )
        assert c["b"].bus.subscriptions.of("ticker") == []
