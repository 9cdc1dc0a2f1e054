from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from node.environment import SystemClock
from node.errors import Forbidden, ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.message import Message
from node.messaging import client_mailboxes
from node.messaging.client_mailboxes import MailboxNotFound, NameConflict
from node.messaging.delivery import Delivery, Draft
from node.messaging.mailboxes import Entry
from node.vocabulary import Performative
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


async def test_no_more_is_given_than_the_window_until_some_is_acknowledged(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token")
        await send(nodes, "a", range(6))
        with mailboxes.consume("alice", window=3) as consumer:
            found = await take(consumer, 3)
            with SystemClock().move_on_after(60):
                raise AssertionError(await consumer.take(5))
            await mailboxes.acknowledge("alice", given(found[1:]))
            assert contents(await consumer.take(5)) == [3, 4]
            consumer.open_window(4)
            assert contents(await consumer.take(5)) == [5]


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


async def proposed(nodes: Cluster) -> tuple[str, list[Message]]:
    """A proposal that alice@a has made to boss@b, and what boss@b is told after that."""
    told: list[Message] = []

    async def note(delivery: Delivery) -> list[Draft]:
        await trio.lowlevel.checkpoint()
        told.append(delivery.message)
        return []

    nodes["b"].attach("boss", note, "lead")
    await nodes["a"].bus.mailboxes.put("alice", "token")
    proposal = nodes["a"].message(performative=Performative.PROPOSE, sender="alice@a", receiver="boss@b")
    await nodes["a"].bus.accept(proposal)
    await eventually(lambda: len(told) == 1)
    return proposal.reply_with or "", told


async def decide(
    nodes: Cluster, label: str, performative: Performative = Performative.ACCEPT_PROPOSAL
) -> Message:
    message = nodes["b"].message(
        performative=performative, sender="boss@b", receiver="alice@a", in_reply_to=label
    )
    await nodes["b"].bus.accept(message)
    return message


async def test_what_is_out_of_protocol_is_answered_and_not_given_to_the_client(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        label, told = await proposed(nodes)
        first = await decide(nodes, label)
        second = await decide(nodes, label)
        await decide(nodes, "no-such-label")
        await send(nodes, "b", range(1), sender="boss@b")
        await eventually(lambda: mailboxes.shown("alice")["held"] == 4)
        assert len(told) == 1  # nothing is judged before its turn
        with mailboxes.consume("alice", window=2) as consumer:
            found = await take(consumer, 2)
            assert [entry.message.id for entry in found][:1] == [first.id]
            assert found[1].message.content == 0
            await eventually(lambda: mailboxes.shown("alice")["held"] == 2)
        await eventually(lambda: len(told) == 3)
        assert {message.performative for message in told[1:]} == {Performative.NOT_UNDERSTOOD}
        assert {message.sender for message in told[1:]} == {"alice@a"}
        assert told[1].in_reply_to == second.reply_with
        assert mailboxes.statistics()["out_of_protocol"] == 2
        history = (await nodes["b"].bus.history(second.id)).as_json()
        assert history["outcome"] == "settled"


async def test_a_verdict_is_the_same_for_a_client_that_comes_back(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        label, told = await proposed(nodes)
        first = await decide(nodes, label)
        with mailboxes.consume("alice") as consumer:
            assert [entry.message.id for entry in await consumer.take(5)] == [first.id]
        await decide(nodes, label, Performative.REJECT_PROPOSAL)
        await nodes.crash("a")
        await nodes.start("a")
        mailboxes = nodes["a"].bus.mailboxes
        await eventually(lambda: mailboxes.shown("alice")["held"] == 2)
        for _ in range(2):
            with mailboxes.consume("alice") as consumer:
                assert [entry.message.id for entry in await consumer.take(5)] == [first.id]
        await eventually(lambda: len(told) == 2)
        assert told[1].performative is Performative.NOT_UNDERSTOOD
        await pause(10)
        assert (mailboxes.shown("alice")["held"], len(told)) == (1, 2)
        assert nodes["a"].bus.statistics()["inbox"]["held"] == 1  # each end is counted once


async def test_the_end_of_a_message_is_dated_and_told_as_one_step(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention must not believe a peer about an end that a slow disk has dated and not told yet."""
    async with cluster(tmp_path, "a") as nodes:
        mailboxes, inbox = nodes["a"].bus.mailboxes, nodes["a"].bus._inbox
        await mailboxes.put("alice", "token")
        await send(nodes, "a", range(1))
        wall = nodes["a"].environment.clock.wall
        verdicts: list[bool] = []
        write = nodes["a"].storage.write

        async def slow(job: Callable[..., Any]) -> Any:
            found = await write(job)
            await pause(5)
            asked = inbox.forgotten_by_origin({"a": wall() + 1_000})
            verdicts.append(asked("a", "x", "alice", wall()))
            return found

        with mailboxes.consume("alice") as consumer:
            found = await take(consumer, 1)
            monkeypatch.setattr(nodes["a"].storage, "write", slow)
            await mailboxes.acknowledge("alice", given(found))
        assert verdicts == [False]


async def test_what_a_stopped_agent_gave_back_reaches_the_mailbox_that_took_its_name(
    autojump_clock: object, tmp_path: Path
) -> None:
    async def never(delivery: Delivery) -> list[Draft]:
        await trio.sleep_forever()
        return []

    async with cluster(tmp_path, "a") as nodes:
        bus = nodes["a"].bus
        bus.attach("alice", never, capacity=10, concurrency=1)
        await send(
            nodes,
            "a",
            range(2),
        )
        await eventually(lambda: bus.statistics()["inbox"]["held"] == 2)
        await bus.detach("alice", drain_s=0)
        await bus.mailboxes.put("alice", "token")
        await send(nodes, "a", range(7, 8), conversation_id="another")
        with bus.mailboxes.consume("alice") as consumer:
            assert contents(await take(consumer, 1)) == [7]
            assert contents(await take(consumer, 2)) == [0, 1]
            with SystemClock().move_on_after(60):
                raise AssertionError(await consumer.take(1))


async def test_a_mailbox_takes_up_what_waits_for_its_name_and_counts_it(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await send(nodes, "a", range(3))  # just after a start any name may still come
        await eventually(lambda: nodes["a"].bus.statistics()["inbox"]["held"] == 3)
        await mailboxes.put("alice", "token")
        assert (mailboxes.shown("alice")["held"], mailboxes.statistics()["held"]) == (3, 3)
        with mailboxes.consume("alice") as consumer:
            assert await mailboxes.acknowledge("alice", given(await take(consumer, 3))) == 3
        assert (mailboxes.shown("alice")["held"], mailboxes.statistics()["held"]) == (0, 0)


async def test_a_name_is_free_again_when_the_senders_of_what_was_held_are_told(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes, inbox = nodes["a"].bus.mailboxes, nodes["a"].bus._inbox
        await mailboxes.put("alice", "token")
        [message] = await send(nodes, "a", range(1))
        await eventually(lambda: mailboxes.shown("alice")["held"] == 1)
        refuse = inbox.refuse_held

        async def slowly(target: str, reason: str) -> None:
            await pause(1)
            await refuse(target, reason)

        monkeypatch.setattr(inbox, "refuse_held", slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mailboxes.delete, "alice")
            while mailboxes.knows("alice"):
                await trio.lowlevel.checkpoint()
            with pytest.raises(NameConflict, match="is being removed"):
                await mailboxes.put("alice", "token")
        assert await mailboxes.put("alice", "token")
        assert (mailboxes.shown("alice")["held"], mailboxes.statistics()["held"]) == (0, 0)
        history = (await nodes["a"].bus.history(message.id)).as_json()
        assert history["outcome"] == "failed"


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


async def publish(nodes: Cluster, node: str, topic: str) -> tuple[str, ...]:
    receipt = await nodes[node].bus.accept(
        nodes[node].message(performative=Performative.INFORM, topic=topic, content=topic)
    )
    return tuple(receipt.routed_to)


async def test_a_mailbox_gets_what_its_topics_bring_until_it_subscribes_no_more(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token", topics=(("orders.*", ""), ("prices.#", "readers")))
        assert mailboxes.shown("alice")["topics"] == [
            {"topic": "orders.*", "group": None},
            {"topic": "prices.#", "group": "readers"},
        ]
        assert await publish(nodes, "b", "orders.eu") == ("alice@a",)
        await mailboxes.put("alice", "token", 50)  # says nothing of topics
        assert await publish(nodes, "b", "prices") == ("alice@a",)
        assert await publish(nodes, "b", "orders") == ()
        with mailboxes.consume("alice") as consumer:
            assert contents(await take(consumer, 2)) == ["orders.eu", "prices"]
        await mailboxes.put("alice", "token", topics=(("news", ""),))
        assert await publish(nodes, "a", "orders.eu") == ()
        assert await publish(nodes, "a", "news") == ("alice@a",)
        await mailboxes.delete("alice")
        assert await publish(nodes, "b", "news") == ()


async def test_the_topics_of_a_mailbox_outlive_its_node(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        await nodes["a"].bus.mailboxes.put("alice", "token", topics=(("orders.#", "g"),))
        await nodes.crash("a")
        nodes.withdraw("a", "alice")
        await nodes.start("a")
        assert nodes["a"].bus.mailboxes.statistics()["subscribed"] == 1
        assert await publish(nodes, "b", "orders") == ("alice@a",)


async def test_topics_that_could_not_be_stored_are_not_subscribed_to(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:
        mailboxes = nodes["a"].bus.mailboxes
        await mailboxes.put("alice", "token", topics=(("orders", ""),))

        async def refuse(job: object) -> None:
            raise StorageFailed("the disk is full")

        monkeypatch.setattr(nodes["a"].storage, "write", refuse)
        for name in ("alice", "bob"):
            with pytest.raises(StorageFailed):
                await mailboxes.put(name, "token", 5, topics=(("news", ""),))
        monkeypatch.undo()
        assert mailboxes.shown("alice")["topics"] == [{"topic": "orders", "group": None}]
        assert await publish(nodes, "a", "news") == ()
        assert await publish(nodes, "a", "orders") == ("alice@a",)
