"""Random faults from a seed: nothing accepted is lost; a request has one answer or one dead letter."""

import random

import pytest
import trio

from node.errors import StorageFailed
from node.message import Envelope
from node.messaging.delivery import Draft
from node.messaging.settings import TTL_LIMIT_S, Timing
from node.transport.frames import DeliverItem, DeliveryKey, KeyState, Outcome
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import PROOF, cluster, echo, eventually, pause

NODES = ("a", "b", "c")
MESSAGES = 80


class Trial:
    """A cluster under fire: clients on every node, providers on b and c."""

    def __init__(self, c, seed):
        self.c = c
        self.chance = random.Random(seed)
        self.accepted = {}  # message id -> its origin
        self.handled = {}

    def handler(self, name):
        chance = self.chance

        async def handle(delivery):
            await pause(chance.random() * 0.05)
            if chance.random() < 0.1:
                raise ZeroDivisionError
            order = self.handled.setdefault((name, delivery.message.conversation_id), [])
            order.append(delivery.message.content)
            return [Draft(Performative.INFORM, delivery.message.content)]

        return handle

    async def start(self, name):
        await self.c.start(name)
        if name != "a":
            self.c[name].attach("worker", self.handler(name), "work", concurrency=3, capacity=4)

    async def send(self, number):
        name = self.chance.choice([n for n in NODES if n in self.c.nodes] or [None])
        if name is None:
            return
        node = self.c[name]
        message = node.message(
            capability="work",
            content=number,
            conversation_id=self.chance.choice(["one", "two", f"own{number}"]),
            routing_strategy=self.chance.choice([RoutingStrategy.BEST_MATCH, RoutingStrategy.LOAD_BALANCED]),
        )

        async def accept():
            await node.bus.accept(message)
            self.accepted[message.id] = name

        node.nursery.start_soon(accept)

    def heal(self):
        self.c.heal()
        for name in [name for name in self.c.nodes if name not in self.c.world.alive]:
            self.c.world.alive[name] = None
            for node in self.c.nodes.values():
                node.bus.node_alive(name)

    async def fault(self):
        kind = self.chance.choice(
            ["cut", "cut", "crash", "freeze", "partition", "bury", "suspect", "heal", *["restart"] * 5]
        )
        one, other = self.chance.sample(NODES, 2)
        down = [name for name in NODES if name not in self.c.nodes]
        if kind == "cut":
            self.c.cut(one, other)
        elif kind == "crash" and one in self.c.nodes:
            await self.c.crash(one)
        elif kind == "freeze" and one in self.c.nodes:
            storage = self.c[one].storage
            setattr(
                storage,
                self.chance.choice(["crash_before", "crash_after"]),
                self.chance.choice(["Acceptance._write", "Inbox.receive", "Settlement._end", "Ledger.job"]),
            )
            with trio.CancelScope() as scope:
                scope.deadline = trio.lowlevel.current_clock().current_time() + 2
                await storage.frozen.wait()
            await self.c.crash(one)
        elif kind == "partition":
            self.c.partition(one, other)
        elif kind == "bury" and one not in self.c.nodes:
            self.c.bury(one)
        elif kind == "suspect" and one in self.c.nodes:
            self.c.partition(one, other)
            self.c.bury(one)  # a false alarm: it goes on working
        elif kind == "heal":
            self.heal()
        elif kind == "restart" and down:
            await self.start(down[0])


@pytest.mark.parametrize("seed", range(12))
async def test_every_accepted_message_has_one_end(tmp_path, autojump_clock, seed):
    settings = {"peer_window": 5, "delivery_timeout": "3s"}
    async with cluster(tmp_path, seed=seed, settings=settings) as c:
        trial = Trial(c, seed)
        for name in NODES:
            await trial.start(name)
        for number in range(MESSAGES):
            await trial.send(number)
            await pause(trial.chance.random() * 0.2)
            if trial.chance.random() < 0.35:
                await trial.fault()
        for name in NODES:
            if name not in c.nodes:
                await trial.start(name)
        trial.heal()
        await eventually(
            lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values()), 900
        )
        await pause(1)
        assert len(trial.accepted) > MESSAGES // 3
        settled = 0
        for message_id, name in trial.accepted.items():
            shown = (await c[name].bus.history(message_id)).as_json()
            taken = [reply for reply in shown["replies"] if reply["state"] == "settled"]
            assert len(taken) == 1, (seed, shown)
            if shown["outcome"] == "settled":
                settled += 1
                assert taken[0]["from"].startswith("worker@")
            else:
                dead = [letter.message_id for letter in await c[name].bus.letters.page(1000)]
                assert dead.count(message_id) == 1
        assert settled > len(trial.accepted) // 3


async def test_a_reply_that_is_kept_is_acknowledged_by_its_end_alone(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        told = {"received": [], "settled": []}
        acknowledge, settle = c["a"].links.acknowledge, c["a"].links.settle

        def on_acknowledge(peer, keys):
            told["received"] += keys
            acknowledge(peer, keys)

        def on_settle(peer, outcomes):
            told["settled"] += outcomes
            settle(peer, outcomes)

        c["a"].links.acknowledge, c["a"].links.settle = on_acknowledge, on_settle
        await c["a"].bus.accept(c["a"].message(capability="work"))
        await eventually(lambda: not c["a"].bus.unsettled_by_node())
        assert told["received"] == []
        assert [outcome.state for outcome in told["settled"]] == ["settled"]
        assert c["b"].bus.statistics()["inbox"]["owed"] == 0


async def test_no_peer_makes_a_message_live_longer_than_a_day(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        seen = []

        async def handle(delivery):
            await pause(0)
            seen.append(delivery.deadline)
            return []

        c["b"].attach("worker", handle, "work")
        message = c["a"].message(receiver="worker@b")
        envelope = Envelope("worker", remaining_s=1e9, hops=3)
        now = c["b"].environment.clock.now()
        await c["b"].bus.on_deliver("a", [([DeliverItem(envelope, message.id, message.seal())], PROOF)])
        await eventually(lambda: seen)
        assert seen[0] - now <= TTL_LIMIT_S + 1


async def test_what_a_peer_says_of_deliveries_that_are_not_its_own_changes_nothing(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(1)
        bus = c["a"].bus
        for target in ("worker", "client", "nobody"):
            key = DeliveryKey(message.id, target, 2**31 - 1)
            await bus.on_received("c", [key])
            await bus.on_settled("c", [Outcome(key, "settled"), Outcome(key, "failed", "a lie")])
            await bus.on_resumed("c", "x", [KeyState(key, state) for state in ("held", "unknown", "refused")])
        assert bus.unsettled_by_node() == {"b": 1}
        shown = (await bus.history(message.id)).as_json()
        assert (shown["outcome"], shown["replies"]) == (None, [])


async def never(delivery):
    await pause(1e6)


class FullDisk:
    """Makes every write of a node's storage fail while :attr:`full`."""

    def __init__(self, storage):
        self.full = False
        self.refused = 0
        write = storage.write

        async def refuse(job):
            if self.full:
                await trio.lowlevel.checkpoint()
                self.refused += 1
                raise StorageFailed("the disk is full")
            return await write(job)

        storage.write = refuse


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_full_disk_at_either_end_loses_nothing_and_the_node_goes_on(tmp_path, autojump_clock, name):
    log = []
    async with cluster(tmp_path, "a", "b") as c:
        release = trio.Event()

        async def handle(delivery):
            await release.wait()
            return await echo("b", log)(delivery)

        c["b"].attach("worker", handle, "work")
        before = c["a"].message(capability="work", content="before", conversation_id="t")
        await c["a"].bus.accept(before)
        await pause(1)
        disk = FullDisk(c[name].storage)
        disk.full = True
        during = c["a"].message(capability="work", content="during", conversation_id="t")
        if name == "a":
            with pytest.raises(StorageFailed):
                await c["a"].bus.accept(during)
        release.set()
        await pause(20)  # what was handled cannot be written here, or its end cannot be taken there
        assert disk.refused > 1
        assert c["a"].bus.statistics()["outbox"]["open"] <= 1
        disk.full = False
        await eventually(lambda: not c["a"].bus.unsettled_by_node())
        await c["a"].bus.accept(during)  # it was not accepted before, so it is no duplicate
        await eventually(lambda: not c["a"].bus.unsettled_by_node())
        for message in (before, during):
            shown = (await c["a"].bus.history(message.id)).as_json()
            assert shown["outcome"] == "settled"
            assert [reply["state"] for reply in shown["replies"]] == ["settled"]
        assert log == ["before", "during"]


async def test_what_comes_after_a_restart_does_not_overtake_what_a_provider_still_has(
    tmp_path, autojump_clock
):
    async def never(delivery):
        await pause(1e6)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        for number in range(5):
            await tell_in_turn(c, number)
        await pause(1)
        await c.crash("b")
        await c.crash("a")
        c.world.alive.clear()
        log = []
        await c.start("a")  # which has not heard of the other node yet
        c["a"].attach("worker", echo(log=log), "work")
        for number in range(5, 8):
            await tell_in_turn(c, number)
        await eventually(lambda: len(log) == 8)
        assert log == list(range(8))


async def tell_in_turn(c, number):
    message = c["a"].message(
        capability="work", performative=Performative.INFORM, content=number, conversation_id="one"
    )
    await c["a"].bus.accept(message)


async def test_what_a_provider_held_before_its_link_was_is_asked_for_when_its_end_is_not_told(
    tmp_path, autojump_clock
):
    goes_on = trio.Event()

    async def handle(delivery):
        await goes_on.wait()
        return []

    async with cluster(tmp_path, "a", "b", timing=Timing(probe_s=5)) as c:
        c["b"].attach("worker", handle, "work")
        await c["a"].bus.accept(c["a"].message(capability="work"))
        await pause(1)
        await c.crash("a")
        await c.start("a")
        await pause(1)
        assert c["a"].bus.statistics()["outbox"]["resent"] == 0
        c["b"].links.lose_outcomes = True
        goes_on.set()
        await pause(1)
        c["b"].links.lose_outcomes = False
        assert c["a"].bus.unsettled_by_node() == {"b": 1}
        await eventually(lambda: not c["a"].bus.unsettled_by_node(), 10)
