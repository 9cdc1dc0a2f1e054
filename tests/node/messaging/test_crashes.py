"""What was acknowledged survives a crash at any instant, and is handled and answered once."""

import pytest
import trio

from node.cluster.provider import Provider
from node.errors import MessageNotFound
from node.message import Envelope
from node.messaging.delivery import Draft
from node.messaging.settings import Timing
from node.transport.frames import DeliverItem, DeliveryKey, Outcome
from node.vocabulary import Performative
from tests.node.messaging.rooms import PROOF, cluster, echo, eventually, pause

ACCEPT, STORE, FINISH, END = (
    *("Acceptance._write", "Inbox.receive"),
    *("Settlement._end", "Ledger.job"),
)


def quiet(c):
    return lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values())


async def replies_of(node, message):
    shown = (await node.bus.history(message.id)).as_json()
    return shown["outcome"], [(reply["from"], reply["state"]) for reply in shown["replies"]]


async def crash_at(c, name, point, when):
    """Crash the node when it comes to a write, before or after it."""
    storage = c[name].storage
    setattr(storage, f"crash_{when}", point)
    with trio.CancelScope() as scope:
        scope.deadline = trio.lowlevel.current_clock().current_time() + 60
        await storage.frozen.wait()
    assert not scope.cancelled_caught, f"{name} never came to {point}"
    await c.crash(name)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [STORE, FINISH])
async def test_the_receiver_crashes_at_each_transition(tmp_path, autojump_clock, point, when):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w", log), "work")
        message = c["a"].message(capability="work", content="x")
        c.nursery.start_soon(crash_at, c, "b", point, when)
        await pause(0.1)
        await c["a"].bus.accept(message)
        await eventually(lambda: "b" not in c.nodes)
        await pause(1)
        await c.start("b")
        c["b"].attach("worker", echo("w", log))
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])
        assert log == (["x", "x"] if (point, when) == (FINISH, "before") else ["x"])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [ACCEPT, STORE, END])
async def test_the_origin_crashes_at_each_transition(tmp_path, autojump_clock, point, when):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w", log), "work")
        message = c["a"].message(capability="work", content="x")
        c.nursery.start_soon(crash_at, c, "a", point, when)
        await pause(0.1)
        c["a"].nursery.start_soon(c["a"].bus.accept, message)
        await eventually(lambda: "a" not in c.nodes)
        await pause(1)
        await c.start("a")
        await eventually(quiet(c))
        if (point, when) == (ACCEPT, "before"):  # it was never accepted
            with pytest.raises(MessageNotFound):
                await c["a"].bus.history(message.id)
            assert log == []
        else:
            assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])
            assert log == ["x"]


async def test_a_full_outbox_and_a_full_inbox_survive_the_crash_of_both(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        messages = [c["a"].message(capability="work", content=n, conversation_id="t") for n in range(20)]
        for message in messages[:10]:
            await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("b")
        for message in messages[10:]:
            await c["a"].bus.accept(message)
        await c.crash("a")
        await c.start("a")
        await c.start("b")
        await pause(1)
        c["b"].attach("worker", echo("w", log))
        await eventually(quiet(c))
        assert log == list(range(20))


async def never(delivery):
    await pause(1e6)
    return []


async def test_what_waits_for_an_agent_that_does_not_come_back_goes_to_another(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        for number in range(5):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(1)
        await c.crash("b")
        await c.start("b")  # faster than anybody noticed, and without its agent
        c.withdraw("b", "worker")
        c["c"].attach("worker", echo("c", log), "work")
        await eventually(quiet(c))
        assert log == list(range(5))


async def test_duplicates_are_known_and_answered_with_the_present_state(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        release = trio.Event()

        async def handle(delivery):
            await release.wait()
            return await echo("w", log)(delivery)

        c["b"].attach("worker", handle, "work")
        message = c["a"].message(capability="work", content="x", sender="client@a")
        told = {"received": [], "settled": []}
        c["b"].links.acknowledge = lambda peer, keys: told["received"].extend(keys)
        c["b"].links.settle = lambda peer, outcomes: told["settled"].extend(outcomes)

        async def deliver(epoch):
            item = DeliverItem(Envelope("worker", route_epoch=epoch), message.id, message.seal())
            await c["b"].bus.on_deliver("a", [([item, item], PROOF)])

        keys = [DeliveryKey(message.id, "worker", epoch) for epoch in (0, 1, 2)]
        await deliver(1)
        await deliver(1)
        await deliver(2)
        assert told == {"received": [keys[1]] * 4 + [keys[2]] * 2, "settled": []}
        assert [s.state for s in await c["b"].bus.on_resume("a", "?", keys)] == ["held"] * 3
        assert [s.state for s in await c["b"].bus.on_resume("z", "?", keys)] == ["unknown"] * 3
        release.set()
        await eventually(lambda: told["settled"])
        assert told["settled"] == [Outcome(keys[2], "settled", "")]  # under the highest epoch
        await deliver(0)
        assert told["settled"][1:] == [Outcome(keys[0], "settled", "")] * 2
        assert log == ["x"]
        assert [s.state for s in await c["b"].bus.on_resume("a", "?", keys)] == ["settled"] * 3


async def test_lost_acknowledgements_are_asked_for_again(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", timing=Timing(probe_s=5)) as c:
        c["b"].attach("worker", echo("w", log), "work")
        c["b"].links.lose_acknowledgements = c["b"].links.lose_outcomes = True
        message = c["a"].message(capability="work", content="x")
        reply = await c["a"].bus.request(message, timeout_s=30)
        assert reply.content["echo"] == "x"
        await pause(20)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        c["b"].links.lose_acknowledgements = c["b"].links.lose_outcomes = False
        await eventually(quiet(c))
        assert log == ["x"]
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])


async def test_a_link_that_breaks_again_and_again_loses_and_doubles_nothing(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w", log), "work")
        c["a"].links.window = 3
        for number in range(60):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
            if number % 7 == 6:
                await pause(0.0005 * number)  # the link is cut at every stage of its opening and work
                c.cut("a", "b")
        await eventually(quiet(c))
        assert log == list(range(60))


async def test_a_receiver_that_lost_its_disk_gets_everything_again(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        for number in range(5):
            await c["a"].bus.accept(c["a"].message(capability="work", content=number, conversation_id="t"))
        await pause(1)
        first = c["b"].bus.storage_id
        await c.crash("b")
        c.lose_disk("b")
        await c.start("b")
        assert c["b"].bus.storage_id != first
        c["b"].attach("worker", echo("w", log))
        await eventually(quiet(c), 5)  # told by the opening of the link, not by a timeout
        assert log == list(range(5))


@pytest.mark.parametrize("how", ["died", "left"])
async def test_a_lost_providers_work_goes_to_another_in_order_under_a_new_epoch(
    tmp_path, autojump_clock, how
):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        messages = [c["a"].message(capability="work", content=n, conversation_id="t") for n in range(30)]
        for message in messages:
            await c["a"].bus.accept(message)
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 30}
        await c.crash("b")
        if how == "died":
            c.bury("b")
        else:
            c.world.alive.pop("b")
            c["a"].bus.node_left("b")
        await eventually(quiet(c))
        assert log == list(range(30))
        assert await c["a"].bus.letters.page(5) == []
        shown = (await c["a"].bus.history(messages[3].id)).as_json()
        assert [(r["to"], r["epoch"], r["state"]) for r in shown["routes"]] == [
            ("worker@b", 0, "moved"),
            ("worker@c", 1, "settled"),
        ]
        assert [r["from"] for r in shown["replies"]] == ["worker@c"]
        moved = [event["detail"] for event in shown["events"] if event["event"] == "moved"]
        assert moved == [f"from worker@b: its node {how}"]
        names = [state["state"] for state in shown["states"]]
        assert names[0] == "accepted"
        assert names[-1] == "settled"


async def test_only_the_lost_providers_conversations_move(tmp_path, autojump_clock):
    logs = {name: [] for name in "bc"}
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        await c["a"].bus.accept(c["a"].message(capability="work", content="1", conversation_id="b's"))
        await pause(1)
        c["c"].attach("worker", echo("c", logs["c"]), "work", priority=99)
        await c["a"].bus.accept(c["a"].message(capability="work", content="2", conversation_id="b's"))
        await c["a"].bus.accept(c["a"].message(capability="work", content="3", conversation_id="c's"))
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 2}
        assert logs["c"] == ["3"]
        await c.crash("b")
        c.bury("b")
        await eventually(quiet(c))
        assert logs["c"] == ["3", "1", "2"]


async def test_the_first_answer_wins_when_a_provider_was_not_dead_after_all(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:

        async def slow(delivery):
            await pause(5)
            return [Draft(Performative.INFORM, "from b")]

        c["b"].attach("worker", slow, "work", priority=90)
        c["c"].attach("worker", echo("c"), "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        c.partition("a", "b")
        c.bury("b")
        await pause(3)
        assert await replies_of(c["a"], message) == ("settled", [("worker@c", "settled")])
        await pause(10)
        c.world.alive["b"] = None
        c.heal()
        c["a"].bus.node_alive("b")
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == (
            "settled",
            [("worker@c", "settled"), ("worker@b", "late")],
        )
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert "late_reply" in [event["event"] for event in shown["events"]]
        assert shown["answered_by"] == "worker@c"


async def test_the_first_provider_counts_when_it_finishes_before_the_second(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:

        async def slow(delivery):
            await pause(5)
            return [Draft(Performative.INFORM, "from b")]

        async def slower(delivery):
            await pause(30)
            return await echo("c", log)(delivery)

        c["b"].attach("worker", slow, "work", priority=90)
        c["c"].attach("worker", slower, "work")
        message = c["a"].message(capability="work")
        replies = []

        async def request():
            replies.append(await c["a"].bus.request(message, timeout_s=100))

        c.nursery.start_soon(request)
        await pause(1)
        c.bury("b")  # a false alarm: its link goes on
        await eventually(lambda: replies)
        assert replies[0].content == "from b"
        await pause(60)
        assert await replies_of(c["a"], message) == (
            "settled",
            [("worker@b", "settled"), ("worker@c", "late")],
        )


async def test_a_provider_that_dies_with_its_reply_is_replaced(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b", log), "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        message = c["a"].message(capability="work", content="x")
        c["b"].links.ensure = lambda peer: None  # its own messages never leave
        await c["a"].bus.accept(message)
        await eventually(lambda: log)
        await pause(1)
        item = DeliverItem(Envelope("worker"), message.id, message.seal())
        await c["b"].bus.on_deliver("a", [([item], PROOF)])
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        c.cut("a", "b")
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}  # whoever asks, it is not settled yet
        await c.crash("b")
        c.bury("b")
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@c", "settled")])


async def test_an_addressed_message_waits_for_its_node(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w"), "work")
        await c.crash("b")
        c.bury("b")
        message = c["a"].message(receiver="worker@b")
        await c["a"].bus.accept(message)
        await pause(100)
        await c.start("b")
        c["b"].attach("worker", echo("w"))
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])


def refused(message, epoch=0):
    return [Outcome(DeliveryKey(message.id, "worker", epoch), "refused", "the inbox is full")]


async def test_a_refusal_moves_what_follows_in_the_conversation_and_nothing_else(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", never, "work")
        talk = [c["a"].message(capability="work", conversation_id="t") for _ in range(3)]
        other = c["a"].message(capability="work")
        for message in (*talk, other):
            await c["a"].bus.accept(message)
        await pause(1)
        await c["a"].bus.on_settled("b", refused(talk[0]))
        await pause(1)
        shown = [(await c["a"].bus.history(message.id)).as_json()["routed_to"] for message in (*talk, other)]
        assert shown == [["worker@c"], ["worker@c"], ["worker@c"], ["worker@b"]]
        await c["a"].bus.on_settled("c", refused(talk[0], epoch=0))  # an answer to an earlier visit
        await pause(1)
        assert (await c["a"].bus.history(talk[0].id)).as_json()["routed_to"] == ["worker@c"]


async def test_a_later_message_waits_behind_one_that_was_refused(tmp_path, autojump_clock):
    log, closed = [], [True]
    async with cluster(tmp_path, "a", "b") as c:

        async def handle(delivery):
            while closed[0]:
                await pause(0.1)
            return await echo("b", log)(delivery)

        c["b"].attach("worker", handle, "work")
        first, second = (
            c["a"].message(capability="work", conversation_id="t", content=number) for number in (1, 2)
        )
        c["a"].links.window = 0  # nothing leaves yet
        await c["a"].bus.accept(first)
        await c["a"].bus.on_settled("b", refused(first))
        await c["a"].bus.accept(second)
        c["a"].links.window = 100
        closed[0] = False
        await eventually(quiet(c))
        assert log == [1, 2]


async def test_a_message_waits_for_a_provider_that_may_come_back(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("b")
        c.bury("b")
        c.world.lost["b"] = None
        await pause(100)  # far beyond the grace for what nobody has ever offered
        assert (await c["a"].bus.history(message.id)).as_json()["status"] == "waiting"
        await c.start("b")
        c.world.lost.clear()
        c["b"].attach("worker", echo("w"))
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])


async def test_a_provider_that_dies_while_a_message_is_being_written_does_not_keep_it(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=100)
        c["c"].attach("worker", echo("c"), "work", priority=1)
        message = c["a"].message(capability="work")
        write = c["a"].storage.write

        async def slow(job):
            result = await write(job)
            if ACCEPT in job.__qualname__:
                await c.crash("b")
                c.bury("b")
                await pause(1)  # membership has told; the message was not there to be moved
            return result

        c["a"].storage.write = slow
        await c["a"].bus.accept(message)
        await eventually(quiet(c), 10)
        assert await replies_of(c["a"], message) == ("settled", [("worker@c", "settled")])


async def test_an_end_that_is_heard_on_a_link_that_is_being_closed_is_written_all_the_same(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        failed = Outcome(DeliveryKey(message.id, "worker", 0), "failed", "it cannot")
        with trio.CancelScope() as link:
            link.cancel()
            await c["a"].bus.on_settled("b", [failed])
        assert link.cancelled_caught
        await pause(1)
        outcome, replies = await replies_of(c["a"], message)
        assert (outcome, replies) == ("failed", [("system@a", "settled")])
        assert [letter.message_id for letter in await c["a"].bus.letters.page(10)] == [message.id]


@pytest.mark.parametrize("away_s", [5, 60])
async def test_after_a_restart_a_provider_that_is_not_back_yet_has_not_withdrawn(
    tmp_path, autojump_clock, away_s
):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("b")
        await c.crash("a")
        del c.world.alive["b"]
        c.world.lost["b"] = None  # known of the last life
        await c.start("a")
        c["a"].attach("other", never, "other-work")  # the registry changes, the provider is not there
        await pause(away_s)
        shown = (await c["a"].bus.history(message.id)).as_json()
        assert shown["status"] == ("queued" if away_s == 5 else "waiting")
        await c.start("b")
        c["b"].attach("worker", echo("w"))
        await eventually(quiet(c))
        assert await replies_of(c["a"], message) == ("settled", [("worker@b", "settled")])


async def test_after_a_restart_the_work_of_a_provider_that_does_not_come_back_goes_to_another(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=100)
        c["c"].attach("worker", echo("c"), "work", priority=1)
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("b")
        await c.crash("a")
        del c.world.alive["b"]  # nobody tells of its death: it was long ago
        await c.start("a")
        await eventually(quiet(c), 30)
        assert await replies_of(c["a"], message) == ("settled", [("worker@c", "settled")])


async def test_a_restarted_origin_knows_the_providers_of_conversations_with_open_messages(
    tmp_path, autojump_clock
):
    log = []

    async def slow(delivery):
        await pause(20)
        return await echo("b", log)(delivery)

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", slow, "work", priority=60)
        c["c"].attach("worker", echo("c", log), "work", priority=50)
        await c["a"].bus.accept(c["a"].message(capability="work", content=1, conversation_id="talk"))
        await pause(1)
        await c.crash("a")
        c.publish(Provider("worker", "b", "1.0.0", ("work",), priority=40))
        await c.start("a")
        follows = c["a"].message(capability="work", content=2, conversation_id="talk")
        assert (await c["a"].bus.accept(follows)).routed_to == ("worker@b",)
        begins = c["a"].message(capability="work", content=3)
        assert (await c["a"].bus.accept(begins)).routed_to == ("worker@c",)


async def test_a_duplicate_at_a_full_inbox_is_answered_with_how_it_stands(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b", settings={"inbox_capacity": 1}) as c:
        release = trio.Event()

        async def handle(delivery):
            if delivery.message.content == "held":
                await release.wait()
            return await echo("w", log)(delivery)

        c["b"].attach("worker", handle, "work")
        told = {"received": [], "settled": []}
        c["b"].links.acknowledge = lambda peer, keys: told["received"].extend(keys)
        c["b"].links.settle = lambda peer, outcomes: told["settled"].extend(outcomes)

        async def deliver(message):
            told["received"], told["settled"] = [], []
            item = DeliverItem(Envelope("worker"), message.id, message.seal())
            await c["b"].bus.on_deliver("a", [([item], PROOF)])
            await pause(0.1)
            return told

        done, held, new = (
            c["a"].message(
                performative=Performative.INFORM, capability="work", content=content, sender="client@a"
            )
            for content in ("done", "held", "new")
        )
        await deliver(done)
        await eventually(lambda: told["settled"])
        await deliver(held)
        key = DeliveryKey(new.id, "worker", 0)
        assert await deliver(new) == {
            "received": [],
            "settled": [Outcome(key, "refused", "the inbox is full")],
        }
        key = DeliveryKey(done.id, "worker", 0)
        assert await deliver(done) == {"received": [], "settled": [Outcome(key, "settled", "")]}
        assert await deliver(held) == {"received": [DeliveryKey(held.id, "worker", 0)], "settled": []}
        release.set()
        await eventually(lambda: told["settled"])
        assert log == ["done", "held"]


async def test_a_duplicate_for_an_agent_that_has_gone_is_answered_with_how_it_ended(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w", log), "work")
        settled = []
        c["b"].links.settle = lambda peer, outcomes: settled.extend(outcomes)
        message = c["a"].message(
            performative=Performative.INFORM, capability="work", content="x", sender="client@a"
        )
        item = DeliverItem(Envelope("worker"), message.id, message.seal())
        await c["b"].bus.on_deliver("a", [([item], PROOF)])
        await eventually(lambda: settled)
        await c["b"].bus.detach("worker", drain_s=1)
        settled.clear()
        await c["b"].bus.on_deliver("a", [([item], PROOF)])
        assert settled == [Outcome(item.key, "settled", "")]  # and nobody else is given it
        assert log == ["x"]
