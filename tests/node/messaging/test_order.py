"""A conversation stays together while it moves: no handler gets an earlier message after a later one."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest
import trio

from node.errors import CaxtonError
from node.message import Envelope
from node.messaging import fences
from node.messaging.breakers import NODE_LIMITS
from node.messaging.fences import FENCED_S, QUIET_S, Fences, Line
from node.transport.frames import DeliverItem, DeliveryKey, Outcome
from node.vocabulary import Performative
from tests.node.messaging.rooms import LATENCY_S, PROOF, cluster, echo, eventually, pause

ACCEPT = "_write"


def gated(storage, gate, *, after):
    """Keep what accepts messages from going on, before or after it is on disk, until the gate opens."""
    write = storage.write

    async def slow(job):
        is_acceptance = ACCEPT in getattr(job, "__qualname__", "")
        if is_acceptance and not after:
            await gate.wait()
        result = await write(job)
        if is_acceptance and after:
            await gate.wait()
        return result

    storage.write = slow


async def accept(node, numbers):
    messages = [node.message(capability="work", conversation_id="t", content=number) for number in numbers]
    for message in messages:
        await node.bus.accept(message)
    return messages


def stop_reaching(node, name):
    for _ in range(NODE_LIMITS.failures):
        node.bus.on_unreachable(name, "no answer")


async def never(delivery):
    await trio.sleep_forever()


def open_messages(node):
    outbox = node.bus.statistics()["outbox"]
    return outbox["open"] + outbox["backlog"]


def at_rest(c):
    return lambda: not open_messages(c["a"])


@pytest.mark.parametrize("after", [False, True], ids=["before it is written", "after it is written"])
async def test_what_was_being_written_follows_a_conversation_that_moved_meanwhile(
    tmp_path, autojump_clock, after
):
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", never, "work")
        await accept(c["a"], [1, 2, 3])
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"b": 3}
        gate = trio.Event()
        gated(c["a"].storage, gate, after=after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, c["a"], [4])
            await pause(1)
            c["a"].links.links["b"].scope.cancel()
            stop_reaching(c["a"], "b")
            await pause(1)
            gate.set()
        await accept(c["a"], [5])
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"c": 5}
        await c["b"].bus.detach("worker", drain_s=0)
        c["b"].attach("worker", echo("b", log), "work")
        await c.crash("c")
        c.bury("c")
        await eventually(at_rest(c))
        assert log == [1, 2, 3, 4, 5]


async def test_a_conversation_that_a_crash_has_left_apart_is_brought_together(tmp_path, autojump_clock):
    """The origin dies between the write of what was astray and the round that gives it to the others."""
    log = []
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        await accept(c["a"], [1, 2, 3])
        await pause(1)
        c.partition("a", "c")
        gate = trio.Event()
        gated(c["a"].storage, gate, after=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, c["a"], [4])
            await pause(1)
            c.partition("a", "b")
            stop_reaching(c["a"], "b")
            await pause(1)
            assert c["a"].bus.unsettled_by_node() == {"c": 3}
            await c.crash("a")  # what it was about to do with the fourth is not done
            nursery.cancel_scope.cancel()
        await c.start("a")
        assert c["a"].bus.unsettled_by_node() == {"b": 1, "c": 3}
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {"c": 4}
        c.heal()
        await eventually(at_rest(c))
        assert log == [1, 2, 3, 4]


@pytest.mark.parametrize("ends", ["it is handled", "its node dies"])
async def test_what_is_refused_waits_for_what_is_before_it_with_the_same_provider(
    tmp_path, autojump_clock, ends
):
    log, goes_on = [], trio.Event()

    async def handle(delivery):
        await goes_on.wait()
        return await echo("b", log)(delivery)

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", handle, "work", priority=90)
        c["c"].attach("worker", echo("c", log), "work")
        talk = await accept(c["a"], [1, 2, 3])
        await pause(1)
        told = Outcome(DeliveryKey(talk[1].id, "worker", 0), "refused", "the inbox is full")
        await c["a"].bus.on_settled("b", [told])
        await pause(1)
        shown = [(await c["a"].bus.history(message.id)).as_json()["routed_to"] for message in talk]
        assert shown == [["worker@b"], [], []]
        explained = (await c["a"].bus.investigation.explain(talk[1].id)).as_json()["decisions"]
        assert explained[-1]["reason"] == "what is before it is with worker@b, which refused it for now"
        if ends == "its node dies":
            await c.crash("b")
            c.bury("b")
        else:
            goes_on.set()
        await eventually(at_rest(c))
        assert list(dict.fromkeys(log)) == [1, 2, 3]


async def test_what_was_sent_behind_a_refused_message_does_not_overtake_it(tmp_path, autojump_clock):
    """An inbox is full, and has room again before the origin has heard of it."""
    log = []
    async with cluster(tmp_path, "a", "b", settings={"inbox_capacity": 1}) as c:
        c["b"].attach("worker", echo("b", log), "work")
        inbox = c["b"].bus._inbox
        first, second = await accept(c["a"], [1]), []
        receive, held_up = inbox.receive, trio.Event()

        async def full_at_first(origin, frames):
            if not held_up.is_set():
                held_up.set()
                inbox._core._held += 1
                await receive(origin, frames)
                inbox._core._held -= 1
                second.extend(await accept(c["a"], [2]))
                return
            await receive(origin, frames)

        inbox.receive = full_at_first
        await eventually(lambda: at_rest(c)() and second)
        assert [first[0].content, second[0].content] == log == [1, 2]


async def test_a_message_that_comes_again_with_what_was_sent_behind_it_opens_the_fence_for_good(
    tmp_path, autojump_clock
):
    """Both wait at the receiver, and are taken in one write."""
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b", log), "work")
        first, second, third = (
            c["a"].message(capability="work", content=n, conversation_id="talk", sender="x@a")
            for n in (1, 2, 3)
        )
        c["b"].bus._inbox._core._fences.refused(Line("a", "worker", "talk", "x@a"), first.id, 0)
        told = []
        c["b"].links.settle = lambda peer, outcomes: told.extend(
            (o.key.message_id, o.state) for o in outcomes
        )

        def frame(*messages):
            return [DeliverItem(Envelope("worker"), m.id, m.seal()) for m in messages], PROOF

        await c["b"].bus.on_deliver("a", [frame(third), frame(first)])
        assert told[0] == (third.id, "refused")
        again = DeliverItem(Envelope("worker", route_epoch=1), third.id, third.seal())
        await c["b"].bus.on_deliver("a", [frame(second), ([again], PROOF)])
        await eventually(lambda: len(log) == 3)
        assert log == [1, 2, 3]


async def test_what_is_sent_while_an_agent_gives_its_messages_back_does_not_overtake_them(
    tmp_path, autojump_clock
):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        await accept(c["a"], [1, 2])
        await pause(1)
        await accept(c["a"], [3])
        await pause(LATENCY_S / 2)  # it is on its way
        await c["b"].bus.detach("worker", drain_s=0)
        c["b"].attach("worker", echo("b", log), "work")
        await eventually(at_rest(c))
        assert log == [1, 2, 3]


async def test_what_is_given_back_comes_again_before_what_was_refused_behind_it(tmp_path, autojump_clock):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        await accept(c["a"], [1, 2])
        await pause(1)
        core = c["b"].bus._inbox._core
        core._held += 100_000  # it is full
        await accept(c["a"], [3, 4])
        await pause(1)
        core._held -= 100_000
        await c["b"].bus.detach("worker", drain_s=0)
        c["b"].attach("worker", echo("b", log), "work")
        await accept(c["a"], [5])
        await eventually(at_rest(c))
        assert log == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("why", ["the inbox is full", "the agent is stopped"])
async def test_what_was_given_back_is_refused_again_where_there_is_no_place_for_it(
    tmp_path, autojump_clock, why
):
    """It was before what has put up the fence, which makes no room and attaches no agent."""
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        await accept(c["a"], [1, 2])
        await pause(1)
        core = c["b"].bus._inbox._core
        core._held += 100_000
        await accept(c["a"], [3])
        await pause(1)
        await c["b"].bus.detach("worker", drain_s=0)
        if why == "the inbox is full":
            c["b"].attach("worker", echo("b", log), "work")
        else:
            core._held -= 100_000
        await pause(10)
        assert c["b"].bus.statistics()["inbox"]["held"] in {0, 100_000}
        assert log == []
        if why == "the inbox is full":
            core._held -= 100_000
        else:
            c["b"].attach("worker", echo("b", log), "work")
        await eventually(at_rest(c))
        assert log == [1, 2, 3]


async def test_what_a_provider_had_before_its_link_was_takes_its_place_in_the_window(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work", capacity=200)
        await accept(c["a"], range(100))
        await pause(1)
        await c.crash("a")
        await c.start("a")
        await pause(5)
        assert c["b"].bus.statistics()["inbox"]["held"] == 100
        assert c["a"].bus.statistics()["outbox"]["on_the_way"] == 100


def test_a_fence_is_opened_by_the_first_message_that_was_refused_or_by_time(monkeypatch):
    now, line = [0.0], Line("a", "worker", "t", "x@a")
    found, other = Fences(lambda: now[0]), line._replace(conversation_id="u")

    def let_in(line, message_id):
        return found.keeps_out(line, message_id) is None

    assert let_in(line, "1")
    found.refused(line, "1", 7)
    assert [found.keeps_out(line, message_id) for message_id in ("2", "3")] == [7, 7]
    found.refused(line, "2", 0)
    assert not let_in(line, "2")
    assert let_in(other, "1")
    assert let_in(line, "1")
    assert let_in(line, "2")
    found.refused(line, "2", 0)
    now[0] = FENCED_S / 2
    found.refused(line, "3", 0)  # which does not keep it up for longer
    now[0] = FENCED_S - QUIET_S / 2
    assert not let_in(line, "4")
    now[0] = FENCED_S
    assert not let_in(line, "5")  # which may be behind the fourth
    now[0] = FENCED_S + QUIET_S
    assert let_in(line, "4")
    assert len(found) == 0
    found.refused(line, "9", 0)
    found.refused(line, "8", 40)  # which is stored here, and so was before it
    found.refused(line, "7", 30)
    found.refused(line, "8", 40)
    assert [found.keeps_out(line, message_id) for message_id in ("9", "8")] == [30, 30]
    assert let_in(line, "7")
    monkeypatch.setattr(fences, "FENCES_LIMIT", 5)
    for number in range(9):
        found.refused(line._replace(conversation_id=str(number)), "1", 0)
    assert len(found) == 5
    assert not let_in(line._replace(conversation_id="8"), "2")


class Storm:
    """Clients that send batches, one conversation each, while nodes die and agents stop.

    Args:
        c: Three nodes.
        seed: Draws when and what.
        stops: Whether agents are stopped and attached again, too.
    """

    SHARE, BATCH, HARMS = 400, 25, 8

    def __init__(self, c, seed, *, stops):
        self.c, self.stops, self.chance = c, stops, random.Random(f"storm {seed}")
        self.names = list(c.nodes)
        self.lives, self.lines = defaultdict(int), defaultdict(list)
        self.service_s = self.chance.choice([0.002, 0.005, 0.02])

    def attach(self, name):
        life = self.lives[name]

        async def handle(delivery):
            self.lines[name, life, delivery.message.conversation_id].append(delivery.message.content)
            await pause(self.service_s)
            return []

        self.c[name].attach("witness", handle, "work", capacity=1_000, concurrency=4)

    async def client(self, number):
        name = self.names[number % len(self.names)]
        for first in range(0, self.SHARE, self.BATCH):
            batch = {f"{self.chance.getrandbits(128):032x}": first + n for n in range(self.BATCH)}
            while batch:
                batch = await self.send(name, f"c{number}", batch)
            await pause(self.chance.choice([0.001, 0.02, 0.1, 0.8]))

    async def send(self, name, conversation, batch):
        """Send; returns what has to be sent again."""
        node, results = self.c.nodes.get(name), None
        if node is not None:
            messages = [
                node.message(
                    id=identifier, performative=Performative.INFORM, capability="work",
                    conversation_id=conversation, content=number,
                )
                for identifier, number in batch.items()
            ]  # fmt: skip
            with trio.CancelScope() as scope:
                node.scopes[scope] = None
                results = await node.bus.accept_many(messages, ttl_s=900)
            node.scopes.pop(scope, None)
        if results is None:  # the node died
            await pause(0.2)
            return batch
        for place, result in enumerate(results):
            if isinstance(result, CaxtonError) and result.code != "DUPLICATE_MESSAGE":
                await pause(0.1)
                return dict(list(batch.items())[place:])
        return {}

    async def harm(self):
        for _ in range(self.HARMS):
            await pause(self.chance.uniform(0.05, 1.5))
            name = self.chance.choice(self.names)
            if self.stops and self.chance.random() < 0.5:
                await self.c[name].bus.detach("witness", drain_s=self.chance.choice([0, 0.1, 0.3]))
                await pause(self.chance.choice([0, 0.5, 3]))
            else:
                await self.kill(name, self.chance.choice([0.0, 0.3, 0.5, 2.0, 6.0]))
                self.lives[name] += 1
            self.attach(name)
            self.c.changed()

    async def kill(self, name, away_s):
        await self.c.crash(name)
        for _ in range(int(away_s / 0.1)):
            for node in self.c.nodes.values():
                node.bus.on_unreachable(name, "no answer")
            await pause(0.1)
        if away_s > 3:
            self.c.bury(name)
            await pause(1)
        await self.c.start(name)

    async def run(self):
        for name in self.names:
            self.attach(name)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(self.client, number)
            nursery.start_soon(self.harm)
        await eventually(lambda: not any(map(open_messages, self.c.nodes.values())), 300)


@pytest.mark.parametrize("settings", [{}, {"inbox_capacity": 100}], ids=["room", "full inboxes"])
@pytest.mark.parametrize("seed", range(4))
async def test_conversations_stay_in_order_whatever_dies_stops_or_is_full(
    tmp_path, autojump_clock, settings, seed
):
    async with cluster(tmp_path, "a", "b", "c", seed=seed, settings=settings) as c:
        storm = Storm(c, seed, stops=bool(settings))
        await storm.run()
        handled = defaultdict(set)
        for (name, life, conversation), numbers in storm.lines.items():
            handled[conversation].update(numbers)
            broken = [(one, two) for one, two in pairwise(numbers) if two < one]
            assert not broken, (name, life, conversation)
        assert {len(numbers) for numbers in handled.values()} == {Storm.SHARE}
