from pathlib import Path

import pytest

from node.cluster.provider import Provider
from node.errors import (
    DuplicateMessage,
    MessageTooLarge,
    ResourceLimitExceeded,
    StorageFailed,
    ValidationFailed,
)
from node.messaging.acceptance import BATCH_LIMIT
from node.messaging.receipt import Receipt
from node.vocabulary import RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually


async def test_a_batch_is_accepted_in_one_write_and_in_order(autojump_clock: object, tmp_path: Path) -> None:
    log: list[object] = []
    async with cluster(tmp_path, "a") as nodes:
        nodes["a"].attach("worker", echo(log=log), "work")
        messages = [
            nodes["a"].message(capability="work", content=n, conversation_id="talk") for n in range(20)
        ]
        before = nodes["a"].storage.statistics()["commits"]
        found = await nodes["a"].bus.accept_many(messages)
        assert nodes["a"].storage.statistics()["commits"] == before + 1
        assert [(r.message_id, r.status) for r in found if isinstance(r, Receipt)] == [
            (message.id, "routed") for message in messages
        ]
        await eventually(lambda: len(log) == 20)
    assert log == list(range(20))


async def test_what_is_wrong_with_one_message_spoils_no_other(autojump_clock: object, tmp_path: Path) -> None:
    log: list[object] = []
    async with cluster(tmp_path, "a") as nodes:
        nodes["a"].attach("worker", echo(log=log), "work")
        known = nodes["a"].message(capability="work", content="known")
        await nodes["a"].bus.accept(known)
        good = [nodes["a"].message(capability="work", content=n) for n in range(3)]
        batch = [
            good[0],
            nodes["a"].message(content="to nobody"),
            known,
            good[1],
            good[0],
            nodes["a"].message(capability="work", sender="client@b"),
            nodes["a"].message(capability="work", content="x" * 2_000_000),
            good[2],
        ]
        found = await nodes["a"].bus.accept_many(batch)
        assert [type(each) for each in found] == [
            Receipt, ValidationFailed, DuplicateMessage, Receipt, DuplicateMessage, ValidationFailed,
            MessageTooLarge, Receipt,
        ]  # fmt: skip
        await eventually(lambda: len(log) == 4)
        again = await nodes["a"].bus.accept_many(good)
        assert [type(each) for each in again] == [DuplicateMessage] * 3
        await eventually(lambda: nodes["a"].bus.statistics()["outbox"]["open"] == 0)
    assert sorted(map(str, log)) == ["0", "1", "2", "known"]


async def test_a_batch_takes_no_more_room_than_there_is(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", settings={"outbox_capacity": 3}) as nodes:
        messages = [nodes["a"].message(capability="nobody-offers-it") for _ in range(5)]
        found = await nodes["a"].bus.accept_many(messages)
        assert [type(each) for each in found] == [Receipt] * 3 + [ResourceLimitExceeded] * 2
        assert nodes["a"].bus.statistics()["outbox"]["open"] == 3


async def test_more_than_a_batch_is_refused_as_a_whole(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        messages = [nodes["a"].message(capability="work") for _ in range(BATCH_LIMIT + 1)]
        with pytest.raises(ResourceLimitExceeded, match="too many"):
            await nodes["a"].bus.accept_many(messages)
        assert nodes["a"].bus.statistics()["outbox"]["open"] == 0


async def test_each_message_of_a_batch_has_its_own_life(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        messages = [nodes["a"].message(receiver="nobody") for _ in range(2)]
        await nodes["a"].bus.accept_many(messages, ttl_s=[5.0, None])
        shown = [(await nodes["a"].bus.history(message.id)).row for message in messages]
        assert [round(row.expires_s - row.accepted_s) for row in shown if row is not None] == [5, 3600]


async def test_a_batch_that_the_disk_refuses_is_not_accepted_at_all(
    autojump_clock: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, "a") as nodes:

        async def refuse(job: object) -> None:
            raise StorageFailed("the disk is full")

        monkeypatch.setattr(nodes["a"].storage, "write", refuse)
        with pytest.raises(StorageFailed):
            await nodes["a"].bus.accept_many([nodes["a"].message(capability="work")])
        monkeypatch.undo()
        assert nodes["a"].bus.statistics()["outbox"]["open"] == 0


async def test_a_preview_says_who_would_get_a_message_and_changes_nothing(
    autojump_clock: object, tmp_path: Path
) -> None:
    async with cluster(tmp_path, "a", "b") as nodes:
        nodes["a"].attach("slow", echo(), "work", priority=1)
        nodes["b"].attach("quick", echo(), "work", priority=9)
        bus = nodes["a"].bus
        message = nodes["a"].message(capability="work", conversation_id="talk")
        before = bus.statistics()
        assert bus.preview(message).targets == (("quick", "b"),)
        assert bus.statistics() == before
        assert bus.preview(nodes["a"].message(receiver="slow")).targets == (("slow", "a"),)
        assert bus.preview(nodes["a"].message(receiver="x@b")).targets == (("x", "b"),)
        assert bus.preview(nodes["a"].message(capability="other")).targets == ()
        drawn = bus.preview(
            nodes["a"].message(capability="work", routing_strategy=RoutingStrategy.LOAD_BALANCED)
        )
        assert (drawn.targets, len(drawn.candidates)) == ((), 2)
        nodes.withdraw("b", "quick")
        await bus.accept(message)
        nodes.publish(Provider("quick", "b", "1.0.0", ("work",), priority=9))
        follows = nodes["a"].message(capability="work", conversation_id="talk")
        assert bus.preview(follows).strategy == "sticky"
        with pytest.raises(ValidationFailed):
            bus.preview(nodes["a"].message(capability="work", priority=10))
