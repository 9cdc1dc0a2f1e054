"""An origin does not forget a request whose reply it does not have."""

from node.messaging.owed import Owed
from node.transport.frames import DeliveryKey, Outcome
from tests.node.messaging.rooms import cluster, echo, pause

KEY = DeliveryKey("m", "worker", 0)


def test_the_end_is_told_when_the_last_reply_has_arrived():
    told = []
    owed = Owed(lambda origin, outcomes: told.append((origin, list(outcomes))))
    outcome = Outcome(KEY, "settled")
    owed.owe("a", outcome, ["r1", "r2"])
    assert owed.holds("a", "m", "worker")
    assert not owed.holds("b", "m", "worker")
    owed.arrived("something else")
    owed.arrived("r2")
    owed.arrived("r2")
    assert told == []
    assert len(owed) == 1
    owed.arrived("r1")
    assert told == [("a", [outcome])]
    assert len(owed) == 0
    assert not owed.holds("a", "m", "worker")


async def test_a_request_whose_reply_died_with_its_provider_is_answered_by_another(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=100)
        c["c"].attach("worker", echo("c"), "work", priority=1)
        c["b"].links.deliver = lambda peer, item: False  # its replies never leave; its settled marks would
        message = c["a"].message(capability="work", content="hello")
        await c["a"].bus.accept(message)
        await pause(5)
        assert c["b"].bus.statistics()["handlers"]["handled"] == 1
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        await c.crash("b")
        c.bury("b")
        await pause(5)
        history = (await c["a"].bus.history(message.id)).as_json()
        assert history["answered_by"] == "worker@c"
        assert history["outcome"] == "settled"


async def test_a_link_that_opens_again_does_not_tell_of_an_end_whose_reply_is_still_here(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        whole, c["b"].links.deliver = c["b"].links.deliver, lambda peer, item: False
        message = c["a"].message(capability="work", content="hello")
        await c["a"].bus.accept(message)
        await pause(5)
        c.cut("a", "b")
        await pause(5)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        c["b"].links.deliver = whole
        await pause(40)
        history = (await c["a"].bus.history(message.id)).as_json()
        assert (history["answered_by"], history["outcome"]) == ("worker@b", "settled")
        assert c["b"].bus.statistics()["inbox"]["owed"] == 0


async def test_after_a_restart_of_the_provider_the_end_still_waits_for_the_reply(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=100)
        c["c"].attach("worker", echo("c"), "work", priority=1)
        c["b"].links.deliver = lambda peer, item: False
        message = c["a"].message(capability="work", content="hello", reply_with="a label of its own")
        await c["a"].bus.accept(message)
        await pause(5)
        await c.crash("b")
        b = await c.start("b")  # before anybody noticed
        b.links.deliver = lambda peer, item: False
        await pause(5)
        assert b.bus.statistics()["inbox"]["owed"] == 1
        assert c["a"].bus.unsettled_by_node() == {"b": 1}, "the end was not told when the link opened again"
        await c.crash("b")
        c.bury("b")
        await pause(5)
        history = (await c["a"].bus.history(message.id)).as_json()
        assert (history["answered_by"], history["outcome"]) == ("worker@c", "settled")


async def test_a_request_whose_reply_is_here_is_not_done_again_when_its_provider_dies(
    tmp_path, autojump_clock
):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=100)
        c["c"].attach("worker", echo("c", log), "work", priority=1)
        c["b"].links.lose_outcomes = True
        message = c["a"].message(capability="work", content="hello")
        await c["a"].bus.accept(message)
        await pause(5)
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        await c.crash("b")
        c.bury("b")
        await pause(5)
        history = (await c["a"].bus.history(message.id)).as_json()
        assert (history["answered_by"], history["outcome"]) == ("worker@b", "settled")
        assert log == []


async def test_a_reply_that_was_refused_has_not_arrived(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        c["a"].attach("asker", echo("a"))
        await c["a"].bus.detach("asker", drain_s=0)
        message = c["a"].message(capability="work", content="hello", sender="asker@a")
        await c["a"].bus.accept(message)
        await pause(5)
        assert c["b"].bus.statistics()["inbox"]["owed"] == 1
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        c["a"].attach("asker", echo("a"))
        await pause(60)
        assert c["b"].bus.statistics()["inbox"]["owed"] == 0
        assert c["a"].bus.unsettled_by_node() == {}
