"""Dead letters: kept whole, sent again once, and dropped."""

import pytest

from node.errors import ResourceLimitExceeded, ValidationFailed
from node.messaging import letterbox
from node.messaging.letterbox import DeadLetterNotFound, DeadLetterRetried, Redirection
from node.storage.dead_letters import Choice
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, echo, eventually, pause


async def given_up(node, *contents, capability="nobody-has-it", **fields):
    """Messages that nobody takes; returns their ids when their letters are there."""
    ids = []
    for content in contents:
        message = node.message(capability=capability, content=content, **fields)
        await node.bus.accept(message, ttl_s=1)
        ids.append(message.id)
    await eventually(lambda: node.bus.statistics()["dead_letters"]["count"] >= len(ids))
    return ids


async def test_a_letter_that_is_sent_again_is_a_new_message_that_names_the_old_one(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        [old] = await given_up(c["a"], {"x": 1})
        c["b"].attach("worker", echo("b", log), "nobody-has-it")
        receipt = await c["a"].bus.letters.retry(old)
        assert receipt.message_id != old
        assert receipt.routed_to == ("worker@b",)
        await eventually(lambda: log == [{"x": 1}])
        await eventually(lambda: not c["a"].bus.statistics()["outbox"]["open"])
        letter = (await c["a"].bus.letters.get(old)).as_json()
        assert letter["retried_as"] == receipt.message_id
        assert letter["retried_at"] is not None
        new = (await c["a"].bus.history(receipt.message_id)).as_json()
        assert (new["retry_of"], new["cause"], new["outcome"]) == (old, old, "settled")
        assert [reply["from"] for reply in new["replies"]] == ["worker@b"]
        earlier = (await c["a"].bus.history(old)).as_json()
        assert [e["detail"] for e in earlier["events"] if e["event"] == "retried"] == [
            f"as {receipt.message_id}"
        ]


async def test_a_letter_is_not_sent_twice_by_accident(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        [old] = await given_up(c["a"], 1)
        first = await c["a"].bus.letters.retry(old)
        with pytest.raises(DeadLetterRetried) as refused:
            await c["a"].bus.letters.retry(old)
        assert refused.value.details == {"retried_as": first.message_id}
        found = await c["a"].bus.letters.retry_all(Choice(before=2), 10)
        assert found.receipts == ()
        second = await c["a"].bus.letters.retry(old, force=True)
        assert (await c["a"].bus.letters.get(old)).retried_as == second.message_id
        assert c["a"].bus.statistics()["dead_letters"]["retried"] == 2


async def test_of_two_retries_at_once_one_is_accepted(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        [old] = await given_up(c["a"], 1)
        letters, outcomes = c["a"].bus.letters, []

        async def retry():
            try:
                outcomes.append((await letters.retry(old)).message_id)
            except DeadLetterRetried:
                outcomes.append("refused")

        read = letters._row

        async def read_then_wait(message_id):
            row = await read(message_id)
            await pause(0.1)  # both have read it before either writes
            return row

        letters._row = read_then_wait
        c.nursery.start_soon(retry)
        c.nursery.start_soon(retry)
        await eventually(lambda: len(outcomes) == 2)
        assert outcomes.count("refused") == 1
        [accepted] = [outcome for outcome in outcomes if outcome != "refused"]
        assert (await c["a"].bus.history(accepted)).as_json()["retry_of"] == old
        assert c["a"].bus.statistics()["outbox"]["accepted"] == 3  # the first, its FAILURE, and one retry


@pytest.mark.parametrize("moment", ["crash_before", "crash_after"])
async def test_a_crash_leaves_both_the_new_message_and_the_mark_or_neither(tmp_path, autojump_clock, moment):
    async with cluster(tmp_path, "a") as c:
        [old] = await given_up(c["a"], 1)
        setattr(c["a"].storage, moment, "Acceptance")
        c.nursery.start_soon(c["a"].bus.letters.retry, old)
        await c["a"].storage.frozen.wait()
        await c.crash("a")
        node = await c.start("a")
        letter = await node.bus.letters.get(old)
        if moment == "crash_before":
            assert letter.retried_as is None
            assert node.bus.statistics()["outbox"]["open"] == 0
        else:
            shown = (await node.bus.history(letter.retried_as)).as_json()
            assert (shown["retry_of"], shown["message"]["content"]) == (old, 1)


async def test_a_retry_may_go_elsewhere_and_live_longer(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w"), "work")
        [old] = await given_up(c["a"], "x")
        receipt = await c["a"].bus.letters.retry(old, Redirection(capability="work", ttl_s=77))
        row = (await c["a"].bus.history(receipt.message_id)).row
        assert row.expires_s - row.accepted_s == pytest.approx(77)
        assert receipt.routed_to == ("worker@a",)
        again = await c["a"].bus.letters.retry(old, Redirection(receiver="worker@a"), force=True)
        message = (await c["a"].bus.history(again.message_id)).message
        assert (message.receiver, message.capability, message.content) == ("worker@a", None, "x")
        with pytest.raises(ValidationFailed):
            await c["a"].bus.letters.retry(old, Redirection("worker", "work"), force=True)


async def test_the_senders_deadline_does_not_end_a_retry_at_once(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        soon = c["a"].environment.clock.wall() + 1
        [old] = await given_up(c["a"], 1, reply_by_s=soon)
        receipt = await c["a"].bus.letters.retry(old)
        await pause(1)
        assert (await c["a"].bus.history(receipt.message_id)).as_json()["status"] == "waiting"


async def test_many_are_sent_again_oldest_first_a_bounded_number_at_once(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        ids = await given_up(c["a"], *range(5), conversation_id="t")
        await given_up(c["a"], "other", capability="another")
        c["b"].attach("worker", echo("b", log), "nobody-has-it")
        letters = c["a"].bus.letters
        first = await letters.retry_all(Choice(capability="nobody-has-it"), 3)
        assert [old for old, _ in first.receipts] == ids[:3]
        assert first.more
        second = await letters.retry_all(Choice(capability="nobody-has-it", after=first.last_seq), 3)
        assert [old for old, _ in second.receipts] == ids[3:]
        assert not second.more
        await eventually(lambda: len(log) == 5)
        assert log == [0, 1, 2, 3, 4]


async def test_what_cannot_be_sent_is_named_and_keeps_no_other_from_being_sent(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        first, second, third = await given_up(c["a"], 1, 2, 3)

        def spoil(connection):
            connection.execute("UPDATE dead_letters SET hops = 99 WHERE message_id = ?", (second,))

        await c["a"].storage.write(spoil)
        found = await c["a"].bus.letters.retry_all(Choice(), 10)
        assert [old for old, _ in found.receipts] == [first, third]
        assert [(r.message_id, r.error.code) for r in found.refusals] == [(second, "RESOURCE_LIMIT_EXCEEDED")]
        assert (found.refused, found.stopped_by) == (1, None)


async def test_a_full_outbox_stops_the_retries_and_says_so(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", settings={"outbox_capacity": 2}) as c:
        for number in range(3):
            await given_up(c["a"], number)
            await eventually(lambda: not c["a"].bus.statistics()["outbox"]["open"])
        found = await c["a"].bus.letters.retry_all(Choice(), 10)
        assert len(found.receipts) == 2
        assert found.more
        assert isinstance(found.stopped_by, ResourceLimitExceeded)
        assert found.refused == 0


async def test_letters_are_paged_and_chosen(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        ids = await given_up(c["a"], *range(4))
        letters = c["a"].bus.letters
        newest = await letters.page(2)
        assert [letter.message_id for letter in newest] == ids[:1:-1]
        older = await letters.page(2, Choice(before=newest[-1].seq))
        assert [letter.message_id for letter in older] == ids[1::-1]
        assert await letters.page(9, Choice(capability="other")) == []
        assert await letters.page(9, Choice(reason="handler raised")) == []
        assert len(await letters.page(9, Choice(reason="time was", since_s=newest[-1].at_s))) >= 2
        await letters.retry(ids[0])
        assert [x.message_id for x in await letters.page(9, Choice(retried=True))] == ids[:1]
        assert [x.message_id for x in await letters.page(9, Choice(retried=False))] == ids[:0:-1]


async def test_dropped_letters_are_gone_and_their_weight_with_them(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        ids = await given_up(c["a"], *range(5))
        letters = c["a"].bus.letters
        before = letters.statistics()
        assert (before["count"], before["bytes"] > 1_000) == (5, True)
        await letters.drop(ids[0])
        with pytest.raises(DeadLetterNotFound):
            await letters.get(ids[0])
        for attempt in (letters.drop, letters.retry, letters.message):
            with pytest.raises(DeadLetterNotFound):
                await attempt(ids[0])
        assert await letters.drop_all(Choice(reason="its time was up"), 3) == (3, True)
        assert [letter.message_id for letter in await letters.page(9)] == ids[4:]
        assert await letters.drop_all(Choice(), 3) == (1, False)
        after = letters.statistics()
        assert (after["count"], after["bytes"], after["dropped"]) == (0, 0, 5)


async def test_a_letter_tells_how_often_its_handler_raised_and_what(tmp_path, autojump_clock):
    async def handle(delivery):
        raise ZeroDivisionError("division by " + "x" * 1_000)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", handle, "work")
        reply = await c["a"].bus.request(c["a"].message(capability="work"), timeout_s=30)
        assert reply.performative is Performative.FAILURE
        [letter] = await c["a"].bus.letters.page(9)
        assert letter.reason.startswith(
            "its handler raised 3 times, at last ZeroDivisionError: division by xx"
        )
        assert len(letter.reason) < 400
        copy = (await c["b"].bus.history(letter.message_id)).as_json()["received"][0]
        assert (copy["state"], copy["failed_attempts"]) == ("failed", 3)


async def test_counts_are_right_after_a_restart(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        await given_up(c["a"], 1, 2)
        held = c["a"].bus.letters.statistics()
        await c.crash("a")
        node = await c.start("a")
        assert {k: v for k, v in node.bus.letters.statistics().items() if k in ("count", "bytes")} == {
            "count": 2,
            "bytes": held["bytes"],
        }


async def test_a_call_takes_a_bounded_number_of_letters_whatever_is_asked(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(letterbox, "BULK_LIMIT", 2)
    async with cluster(tmp_path, "a") as c:
        await given_up(c["a"], 1, 2, 3)
        found = await c["a"].bus.letters.retry_all(Choice(), 1_000_000)
        assert (len(found.receipts), found.more) == (2, True)
        assert (await c["a"].bus.letters.drop_all(Choice(), 1_000_000))[0] == 2
