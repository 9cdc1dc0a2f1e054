from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from node.errors import Forbidden, ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.message import Message, Performative
from node.messaging import client_mailboxes
from node.messaging.client_mailboxes import MailboxNotFound, NameConflict
from node.messaging.delivery import Delivery, Draft
from node.messaging.mailboxes import Entry
from tests.node.messaging.rooms import Cluster, cluster, eventually, pause


async def send(
    nodes: Cluster, node: str, contents: range, to: str = "alice@a", **fields: Any
) -> list[Message]:
    messages = [
        nodes[node].message(
            performative=Performative.INFORM, receiver=to, content=n, **({"conversation_id": "talk"} | fields)
        )
        for n in contents
    ]
    for message in messages:
        await nodes[node].bus.accept(message)
    return messages


async def take(consumer: client_mailboxes.Consumer, count: int, most: int = 7) -> list[Entry]:
    found: list[Entry] = []
    while len(found) < count:
        found += await consumer.take(min(most, count - len(found)))
    return found


def contents(entries: list[Entry]) -> list[Any]:
    return [entry.message.content for entry in entries]


def given(entries: list[Entry]) -> list[tuple[int, str]]:
    return [(entry.seq, entry.message.id) for entry in entries]


def settled(nodes: Cluster, node: str) -> Callable[[], bool]:
    return lambda: nodes[node].bus.statistics()["outbox"]["open"] == 0


async def test_messages_are_held_until_the_client_acknowledges_them_and_come_in_order(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        assert await mailboxes.put("alice", "token") is True
        await send(nodes, "b", range(30))
        await pause(30)
        assert nodes["b"].bus.statistics()["outbox"]["open"] == 30
        assert mailboxes.shown("alice")["held"] == 30
        with mailboxes.consume("alice") as consumer:
            found = await take(consumer, 30)
            assert contents(found) == list(range(30))
            await mailboxes.acknowledge("alice", given(found[:10]))
            assert mailboxes.shown("alice")["held"] == 20
            assert await mailboxes.acknowledge("alice", given(found)) == 20
        await eventually(settled(nodes, "b"))
        assert mailboxes.statistics()["held"] == 0


async def test_a_client_that_comes_back_is_given_what_it_did_not_acknowledge(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        await send(nodes, "a", range(10))
        with mailboxes.consume("alice") as consumer:
            found = await take(consumer, 10)
            await mailboxes.acknowledge("alice", given([found[0], found[4]]))
        with mailboxes.consume("alice") as consumer:
            found = await take(consumer, 8)
            assert contents(found) == [1, 2, 3, 5, 6, 7, 8, 9]
            last = found[-1]
            await send(nodes, "a", range(10, 12))
            assert await mailboxes.acknowledge_through("alice", last.seq, last.message.id) == 8
            assert contents(await take(consumer, 2)) == [10, 11]


async def test_nothing_is_lost_over_a_crash_of_the_node(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        await nodes["a"].bus.mailboxes.put("alice", "token", 5_000)
        await send(nodes, "b", range(20))
        with nodes["a"].bus.mailboxes.consume("alice") as consumer:
            found = await take(consumer, 20)
            await nodes["a"].bus.mailboxes.acknowledge("alice", given(found[:5]))
            await nodes.crash("a")
        await pause(5)
        await nodes.start("a")
        await pause(60)  # far beyond the time after which what no agent claims is given back
        shown = nodes["a"].bus.mailboxes.shown("alice")
        assert (shown["owner"], shown["held"], shown["idle_s"]) == ("token", 15, 5_000)
        with nodes["a"].bus.mailboxes.consume("alice") as consumer:
            found = await take(consumer, 15)
            assert contents(found) == list(range(5, 20))
            await nodes["a"].bus.mailboxes.acknowledge("alice", given(found))
        await eventually(settled(nodes, "b"))


async def test_a_reply_comes_to_the_mailbox_that_asked(autojump_clock: object, tmp_path: Path) -> None:
    async def answer(delivery: Delivery) -> list[Draft]:
        await trio.lowlevel.checkpoint()
        return [Draft(Performative.INFORM, {"echo": delivery.message.content})]

    async with cluster(tmp_path, "a", "b") as nodes:
        nodes["b"].attach("worker", answer, "work")
        await nodes["a"].bus.mailboxes.put("alice", "token")
        question = nodes["a"].message(sender="alice@a", capability="work", content=7)
        await nodes["a"].bus.accept(question)
        with nodes["a"].bus.mailboxes.consume("alice") as consumer:
            [reply] = await consumer.take(5)
        assert (reply.message.content, reply.message.in_reply_to) == ({"echo": 7}, question.reply_with)


async def test_time_ends_a_held_message_and_its_sender_is_told(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        message = nodes["a"].message(receiver="alice@a", content="late")
        await nodes["a"].bus.accept(message, ttl_s=20)
        await send(nodes, "a", range(1), conversation_id="other")
        await pause(19)
        assert mailboxes.shown("alice")["held"] == 2
        await pause(10)
        assert (mailboxes.shown("alice")["held"], mailboxes.statistics()["expired"]) == (1, 1)
        with mailboxes.consume("alice") as consumer:
            assert contents(await consumer.take(5)) == [0]
        history = (await nodes["a"].bus.history(message.id)).as_json()
        assert history["outcome"] == "expired"
        assert [reply["from"] for reply in history["replies"]] == ["system@a"]


async def test_a_client_that_comes_anew_takes_over(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        with mailboxes.consume("alice") as old:
            with mailboxes.consume("alice") as new:
                assert await old.take(5) == []
                assert "another client" in old.reason
                await send(nodes, "a", range(2))
                assert contents(await take(new, 2)) == [0, 1]
            assert mailboxes.shown("alice")["connected"] is False


async def test_a_full_mailbox_holds_its_senders_back_and_no_other(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b", settings={"inbox_capacity": 40}) as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        for name in ("alice", "bob"):
            await mailboxes.put(name, "token")
        for n in range(12):
            await send(nodes, "b", range(n, n + 1))
            await pause(0.1)
        await send(nodes, "b", range(3), to="bob@a", conversation_id="other")
        await pause(10)
        assert mailboxes.shown("alice")["held"] == mailboxes.shown("alice")["held_limit"] == 4
        assert mailboxes.shown("bob")["held"] == 3
        found: list[Entry] = []
        with mailboxes.consume("alice") as consumer:
            while len(found) < 12:
                found += await consumer.take(1)
                await mailboxes.acknowledge("alice", given(found[-1:]))
        assert contents(found) == list(range(12))
        await eventually(lambda: nodes["b"].bus.statistics()["outbox"]["open"] == 3)


async def test_all_mailboxes_together_leave_half_of_the_inbox_to_agents(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", settings={"inbox_capacity": 20}) as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        for n in range(12):
            await mailboxes.put(f"box-{n}", "token")
            await send(nodes, "a", range(1), to=f"box-{n}@a", conversation_id=f"talk-{n}")
            await pause(0.1)
        statistics = mailboxes.statistics()
        assert statistics["held"] == statistics["held_limit"] == 10


async def test_a_mailbox_that_nobody_uses_goes_and_its_senders_are_told(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", settings={"default_ttl": 86_400}) as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token", 100)
        await mailboxes.put("bob", "token", 100)
        [message] = await send(nodes, "a", range(1))
        with mailboxes.consume("bob"):
            await pause(90)
            await mailboxes.put("alice", "token")
            await pause(90)
            assert mailboxes.knows("alice")
            await pause(20)
            assert not mailboxes.knows("alice")
            await pause(500)
            assert mailboxes.knows("bob")  # somebody reads it
        history = (await nodes["a"].bus.history(message.id)).as_json()
        assert (history["outcome"], history["reason"]) == ("failed", "there is no such agent alice@a")
        await nodes.crash("a")
        await nodes.start("a")
        assert [box["name"] for box in nodes["a"].bus.mailboxes.as_json()] == ["bob"]


async def test_a_mailbox_that_is_deleted_ends_its_reader_and_what_it_holds(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        await send(nodes, "a", range(3))
        with mailboxes.consume("alice") as consumer:
            await take(consumer, 3)
            await mailboxes.delete("alice")
            assert await consumer.take(1) == []
        await eventually(settled(nodes, "a"))
        assert mailboxes.statistics()["held"] == 0
        with pytest.raises(MailboxNotFound):
            await mailboxes.delete("alice")
        with pytest.raises(MailboxNotFound), mailboxes.consume("alice"):
            pass


async def test_no_number_that_a_client_knows_is_ever_given_to_another_message(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", settings={"retention": 5}) as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        await send(nodes, "a", range(5))
        with mailboxes.consume("alice") as consumer:
            found = await take(consumer, 5)
            last = found[-1]
            await mailboxes.acknowledge_through("alice", last.seq, last.message.id)
            await pause(60)  # the rows are forgotten
            assert nodes["a"].bus.statistics()["inbox"]["rows"] == 1
            await send(nodes, "a", range(7, 8))
            [later] = await consumer.take(1)
            assert (later.seq > last.seq, later.message.content) == (True, 7)
            # of another database, or a slip: what is not this message acknowledges nothing
            assert await mailboxes.acknowledge_through("alice", later.seq, last.message.id) == 0
            assert mailboxes.shown("alice")["held"] == 1


async def test_names_owners_and_times_are_checked(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        assert await mailboxes.put("alice", "token")
        assert not await mailboxes.put("alice", "token", 50)
        assert mailboxes.shown("alice")["idle_s"] == 50
        with pytest.raises(Forbidden):
            await mailboxes.put("alice", "another")
        with pytest.raises(NameConflict):
            await mailboxes.put("client", "token")
        for idle_s in (0.5, 31 * 86_400.0, float("nan")):
            with pytest.raises(ValidationFailed):
                await mailboxes.put("bob", "token", idle_s)
        monkeypatch.setattr(client_mailboxes, "MAILBOX_LIMIT", 1)
        with pytest.raises(ResourceLimitExceeded):
            await mailboxes.put("bob", "token")


async def test_a_mailbox_that_could_not_be_stored_is_not_there(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:

        async def refuse(job: object) -> None:
            raise StorageFailed("the disk is full")

        monkeypatch.setattr(nodes["a"].storage, "write", refuse)
        with pytest.raises(StorageFailed):
            await nodes["a"].bus.mailboxes.put("alice", "token")
        monkeypatch.undo()
        assert not nodes["a"].bus.mailboxes.knows("alice")
