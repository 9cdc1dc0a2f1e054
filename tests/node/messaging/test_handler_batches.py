"""A handler of several messages is given what is ready: one of each lane, bounded, each with its own end."""

import pytest
import trio

from node.errors import CaxtonError
from node.message import Attachment, Message
from node.messaging.delivery import BatchHandler, Draft
from node.messaging.mailboxes import Entry
from node.messaging.runs import goes_along
from node.vocabulary import DeliveryClass, Performative
from tests.node.messaging.rooms import cluster, eventually, pause
from tests.node.messaging.test_crashes import FINISH, STORE, crash_at, quiet, replies_of


class Several:
    """Handles several messages at once, and remembers which came together and which alone."""

    def __init__(self, answer=None, *, most=64, seconds=0.0, limit=64, runs=1):
        self.batches, self.alone = [], []
        self.answer = answer or (lambda delivery: [Draft(Performative.INFORM, delivery.message.content)])
        self.most, self.seconds = most, seconds
        self.running = self.most_running = 0
        self.handler = BatchHandler(self.many, self.one, limit=limit, runs=runs)

    async def many(self, deliveries):
        self.batches.append([delivery.message.content for delivery in deliveries])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await pause(self.seconds)
        self.running -= 1
        return [self.answer(delivery) for delivery in deliveries[: self.most]]

    async def one(self, delivery):
        await trio.lowlevel.checkpoint()
        self.alone.append((delivery.message.content, delivery.attempt))
        answer = self.answer(delivery)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def sent(node, *contents, **fields):
    messages = [node.message(capability="work", content=content, **fields) for content in contents]
    for receipt in await node.bus.accept_many(messages):
        assert not isinstance(receipt, Exception)
    return messages


async def test_what_is_ready_goes_together_and_never_more_than_the_limit(tmp_path, autojump_clock):
    worker = Several(limit=4, seconds=0.1)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work", concurrency=8)
        messages = await sent(c["a"], *range(10))
        await eventually(quiet(c))
        assert worker.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        for message in messages:
            assert await replies_of(c["a"], message) == ("settled", [("worker@a", "settled")])
        assert worker.alone == []
        statistics = c["a"].bus.statistics()["handlers"]
        assert (statistics["batches"], statistics["batched"], statistics["handled"]) == (3, 10, 10)
        assert (statistics["running"], statistics["mailboxes"]) == (0, 0)


async def test_the_ends_of_a_batch_are_one_commit(tmp_path, autojump_clock):
    worker = Several(lambda _: [], seconds=1.0)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], *range(20), performative=Performative.INFORM)
        await pause(0.5)
        before = c["a"].storage.statistics()["commits"]
        await pause(0.55)
        assert len(worker.batches[0]) == 20
        assert c["a"].bus.statistics()["handlers"]["handled"] == 20
        assert c["a"].storage.statistics()["commits"] <= before + 2  # the ends here, and at the origin


async def test_a_conversation_stays_in_order(tmp_path, autojump_clock):
    worker = Several()
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], *range(5), conversation_id="talk")
        await sent(c["a"], *"xyz")
        await eventually(quiet(c))
    order = [content for batch in worker.batches for content in batch]
    assert [n for n in order if isinstance(n, int)] == [0, 1, 2, 3, 4]
    assert all(sum(isinstance(content, int) for content in batch) <= 1 for batch in worker.batches)


async def test_what_a_handler_leaves_is_given_again_first(tmp_path, autojump_clock):
    worker = Several(most=2)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], *range(5))
        await eventually(quiet(c))
    assert worker.batches == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]
    assert worker.alone == []


async def test_one_that_raises_is_tried_again_alone_and_the_others_have_ended(tmp_path, autojump_clock):
    def answer(delivery):
        if delivery.message.content == "bad":
            return ZeroDivisionError("oh")
        if delivery.message.content == "refused":
            return CaxtonError("no", why="so")
        return [Draft(Performative.INFORM, "done")]

    worker = Several(answer)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        good, bad, refused, other = await sent(c["a"], "good", "bad", "refused", "other")
        follows = c["a"].message(capability="work", content="follows", conversation_id=bad.conversation_id)
        await c["a"].bus.accept(follows)
        await eventually(quiet(c))
        assert worker.batches[0][:4] == ["good", "bad", "refused", "other"]
        assert worker.alone == [("bad", 2), ("bad", 3)]
        assert worker.batches[-1] == ["follows"]
        for message in (good, other, follows, refused):
            assert (await replies_of(c["a"], message))[0] == "settled"
        shown = (await c["a"].bus.history(bad.id)).as_json()
        assert (shown["outcome"], "raised 3 times" in shown["reason"]) == ("failed", True)


@pytest.mark.parametrize("wrong", ["raises", "too few", "too many"])
async def test_a_handler_that_fails_as_a_whole_is_called_for_each_alone(tmp_path, autojump_clock, wrong):
    worker = Several()

    async def many(deliveries):
        await trio.lowlevel.checkpoint()
        if wrong == "raises":
            raise ZeroDivisionError
        return [] if wrong == "too few" else [[]] * (len(deliveries) + 1)

    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", BatchHandler(many, worker.one), "work")
        messages = await sent(c["a"], *range(3))
        await eventually(quiet(c))
        assert sorted(worker.alone) == [(0, 2), (1, 2), (2, 2)]
        for message in messages:
            assert (await replies_of(c["a"], message))[0] == "settled"


async def test_what_is_delivered_once_at_most_goes_alone_beside_a_batch(tmp_path, autojump_clock):
    worker = Several(seconds=5.0)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], "slow")
        await pause(0.1)
        await sent(c["a"], "next")
        [once] = await sent(c["a"], "once", delivery=DeliveryClass.AT_MOST_ONCE)
        await pause(1.0)  # the only run of batches is busy, and nobody waits beside it
        assert (worker.batches, worker.alone) == ([["slow"]], [])
        await pause(5.0)
        assert worker.alone == [("once", 1)]
        await eventually(quiet(c))
        assert (await replies_of(c["a"], once))[0] == "settled"
    assert worker.batches == [["slow"], ["next"]]


async def test_several_runs_take_what_is_ready_at_once(tmp_path, autojump_clock):
    worker = Several(seconds=1.0, limit=2, runs=3)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], *range(7))
        await eventually(quiet(c))
    assert worker.most_running == 3
    assert sorted(content for batch in worker.batches for content in batch) == list(range(7))


async def test_a_message_whose_time_is_up_is_not_given_again(tmp_path, autojump_clock):
    worker = Several(seconds=10.0, limit=1)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        await sent(c["a"], "first")
        late = c["a"].message(capability="work", content="late")
        await c["a"].bus.accept(late, ttl_s=5.0)
        await eventually(quiet(c))
        assert worker.batches == [["first"]]
        assert (await c["a"].bus.history(late.id)).as_json()["outcome"] == "expired"


async def test_detaching_drains_a_batch_and_gives_back_what_was_not_begun(tmp_path, autojump_clock):
    worker = Several(seconds=3.0, limit=2)
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", worker.handler, "work")
        messages = await sent(c["a"], *range(6))
        await pause(1.0)
        await c["a"].bus.detach("worker", drain_s=4.0)
        ran = [content for batch in worker.batches for content in batch]
        assert ran == [0, 1, 2, 3]
        other = Several()
        c["a"].attach("worker", other.handler, "work")
        await eventually(quiet(c))
        for message in messages:
            assert (await c["a"].bus.history(message.id)).as_json()["outcome"] == "settled"
        assert [content for batch in other.batches for content in batch] == [2, 3, 4, 5]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [STORE, FINISH])
async def test_a_crash_loses_nothing_of_a_batch(tmp_path, autojump_clock, point, when):
    worker, again = Several(seconds=0.1), Several()
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", worker.handler, "work")
        c.nursery.start_soon(crash_at, c, "b", point, when)
        await pause(0.1)
        messages = await sent(c["a"], *range(20))
        await eventually(lambda: "b" not in c.nodes)
        await pause(1)
        await c.start("b")
        c["b"].attach("worker", again.handler)
        await eventually(quiet(c))
        for message in messages:
            assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])
        ran = [content for each in (worker, again) for batch in each.batches for content in batch]
        assert set(ran) == set(range(20))
        if (point, when) != (
            FINISH,
            "before",
        ):  # the node died after the handler had ended, and had not said so
            assert len(ran) == 20


def entry_of(attempts=0, **fields):
    message = Message(
        **{
            "id": "1",
            "performative": Performative.REQUEST,
            "sender": "client@a",
            "capability": "work",
            "conversation_id": "talk",
            "reply_with": "1",
            "timestamp_s": 0.0,
            **fields,
        }
    )
    return Entry(1, "a", message, 1, attempts, 0, 10.0, "")


def test_what_something_has_to_be_awaited_for_does_not_go_along():
    large = Attachment("f", "text/plain", b"", blob="0" * 64, size=1)
    assert goes_along(entry_of())
    assert goes_along(entry_of(attachments=(Attachment("f", "text/plain", b"x"),)))
    assert not goes_along(entry_of(attachments=(large,)))
    assert not goes_along(entry_of(attempts=1))
    assert not goes_along(entry_of(delivery=DeliveryClass.AT_MOST_ONCE))
    assert not goes_along(entry_of(performative=Performative.CANCEL))
    assert not goes_along(entry_of(performative=Performative.INFORM, in_reply_to="x"))
