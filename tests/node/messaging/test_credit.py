"""Credit: origins know what an agent takes; no other agent is held up by it, and no mailbox is overrun."""

from collections import deque

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ResourceLimitExceeded
from node.message import Envelope
from node.messaging.credit import BEYOND, RESERVED_S, SLACK, Credits
from node.messaging.lanes import KEPT_S
from node.transport.frames import FREE_CREDIT, MAX_WINDOW, DeliverItem, DeliveryKey, Grant, Outcome
from node.vocabulary import Performative
from tests.node.messaging.rooms import PROOF, cluster, echo, eventually, pause

CAPACITY = 100


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def credits_of(capacity=CAPACITY, *, room=100_000, clock=None):
    return Credits(capacity=lambda _: capacity, free=1024, room=lambda: room, now=clock or Clock())


def keys(count, agent="worker"):
    return [DeliveryKey(f"m{number}", agent, 0) for number in range(count)]


def ends(count, agent="worker"):
    return [Outcome(key, "settled") for key in keys(count, agent)]


# The receiver's core


def test_whoever_is_alone_is_granted_all_and_whoever_comes_second_is_granted_what_the_first_gives_back():
    held = credits_of()
    for name in ("a", "b"):
        held.begins(name, knows=True)
    held.hold("a", "worker", 32)
    assert held.grants("a", keys(1), []) == (Grant("worker", CAPACITY),)
    held.hold("b", "worker", 10)
    assert held.grants("b", keys(1), []) == ()  # the first has it all
    assert held.grants("a", [], ends(20)) == (Grant("worker", 80),)  # no more than what it hears the end of
    assert held.grants("a", [], ends(80)) == (Grant("worker", 50),)
    assert held.grants("b", [], ends(1)) == (Grant("worker", 50),)


def test_who_does_not_know_of_credit_is_granted_nothing_and_refused_nothing():
    held = credits_of()
    held.hold("old", "worker", 500)
    assert held.grants("old", keys(1), ends(1)) == ()
    assert held.admit("old", "worker", 5_000)


def test_what_is_beyond_the_window_and_its_slack_is_not_admitted():
    held = credits_of()
    held.begins("a", knows=True)
    assert held.admit("a", "worker", FREE_CREDIT + SLACK)
    assert not held.admit("a", "worker", FREE_CREDIT + SLACK + 1)
    held.hold("a", "worker", FREE_CREDIT)
    held.grants("a", keys(1), [])
    assert held.admit("a", "worker", CAPACITY + SLACK - FREE_CREDIT)
    assert not held.admit("a", "worker", CAPACITY + SLACK - FREE_CREDIT + 1)


def test_a_window_is_told_again_to_whoever_may_have_forgotten_it():
    clock = Clock()
    held = credits_of(clock=clock)
    held.begins("a", knows=True)
    held.hold("a", "worker")
    assert held.grants("a", keys(1), []) == (Grant("worker", CAPACITY),)
    assert held.grants("a", [], ends(1)) == ()
    clock.now_s = 1.0
    assert held.grants("a", keys(1), []) == (Grant("worker", CAPACITY),)


def test_the_silent_give_their_windows_back_and_those_who_have_something_here_do_not():
    clock = Clock()
    held = credits_of(clock=clock)
    for name in ("a", "b", "c"):
        held.begins(name, knows=True)
        held.hold(name, "worker")
        held.grants(name, keys(1), [])
    held.release("b", "worker")
    held.release("c", "worker")
    clock.now_s = RESERVED_S
    held.hold("c", "worker")
    found = held.grants("c", keys(1), [])
    assert held.statistics()["windows"] == 2  # that of b is gone
    assert found == ()  # a has its 100 until it hears the end of something
    held.grants("a", [], ends(60))
    assert held.grants("c", keys(1), []) == (Grant("worker", 50),)


def test_a_full_inbox_grants_nothing_more_and_takes_back():
    held = credits_of(room=0)
    held.begins("a", knows=True)
    held.hold("a", "worker", FREE_CREDIT)
    assert held.grants("a", keys(1), []) == ()
    assert held.grants("a", [], ends(FREE_CREDIT)) == (Grant("worker", 1),)


def test_agents_without_number_take_no_memory_without_bound(monkeypatch):
    monkeypatch.setattr("node.messaging.credit.ACCOUNTS_LIMIT", 3)
    clock = Clock()
    held = credits_of(clock=clock)
    held.begins("a", knows=True)
    for number in range(5):
        held.hold("a", f"agent{number}")
    assert held.statistics()["accounts"] == 3
    assert held.grants("a", keys(1, "agent4"), []) == ()
    for number in range(3):
        held.release("a", f"agent{number}")
    clock.now_s = 2 * RESERVED_S
    held.hold("a", "agent4")
    assert held.statistics()["accounts"] == 1


class Origin:
    """An origin as :mod:`node.messaging.lanes` is: sends as its window says, and forgets it when idle."""

    def __init__(self, clock):
        self.clock, self.idle_s = clock, 0.0
        self.window, self.unsettled = FREE_CREDIT, 0
        self.way, self.back = deque(), deque()

    def send(self, count):
        if not self.unsettled and self.clock() - self.idle_s >= KEPT_S:
            self.window = FREE_CREDIT
        for _ in range(min(count, self.window - self.unsettled)):
            self.unsettled += 1
            self.way.append(None)

    def hear(self):
        kind, value = self.back.popleft()
        if kind == "grant":
            self.window = value
            return
        self.unsettled -= value
        self.idle_s = self.clock()


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["send", "arrive", "end", "hear", "reset", "wait"]),
        st.integers(0, 3),
        st.integers(1, 200),
    ),
    max_size=150,
)


class Model:
    """Four origins, one agent, and what lies between them."""

    def __init__(self, capacity):
        self.clock = Clock()
        self.core = credits_of(capacity, clock=self.clock)
        self.origins = {f"n{number}": Origin(self.clock) for number in range(4)}
        self.held = dict.fromkeys(self.origins, 0)
        for name in self.origins:
            self.core.begins(name, knows=True)

    def send(self, name, count):
        self.origins[name].send(count)

    def arrive(self, name, count):
        way = self.origins[name].way
        count = min(count, len(way))
        if count:
            assert self.core.admit(name, "worker", count)
            for _ in range(count):
                way.popleft()
            self.core.hold(name, "worker", count)
            self.held[name] += count
            self._tell(name, count, 0)

    def end(self, name, count):
        count = min(count, self.held[name])
        for _ in range(count):
            self.core.release(name, "worker")
        self.held[name] -= count
        if count:
            self._tell(name, 0, count)

    def hear(self, name, count):
        for _ in range(min(count, len(self.origins[name].back))):
            self.origins[name].hear()

    def reset(self, name, count):
        """The link breaks: what was on it is lost both ways, and sent, or asked for, again."""
        origin = self.origins[name]
        lost_ends = sum(value for kind, value in origin.back if kind == "ends")
        origin.unsettled -= len(origin.way) + lost_ends  # the opening tells of the ends
        origin.way.clear()
        origin.back.clear()
        origin.window = FREE_CREDIT
        self.core.begins(name, knows=True)

    def wait(self, name, count):
        self.clock.now_s += 0.02 * count

    def deliver_all(self, name, wanted):
        """What is wanted gets through, all of it, in a bounded number of rounds."""
        origin = self.origins[name]
        for _ in range(2_000):
            before = origin.unsettled
            self.send(name, wanted)
            wanted -= origin.unsettled - before
            for step in (self.arrive, self.end, self.hear):
                step(name, 200)
            if not wanted and not origin.unsettled:
                return
        raise AssertionError(f"{wanted} of {name} wait for ever")

    def _tell(self, name, received, ended):
        back = self.origins[name].back
        for grant in self.core.grants(name, keys(received), ends(ended)):
            back.append(("grant", grant.window))
        if ended:
            back.append(("ends", ended))


@settings(max_examples=150, deadline=None)
@given(capacity=st.integers(1, 150), moves=MOVES)
def test_no_mailbox_is_overrun_nobody_honest_is_refused_and_credit_always_returns(capacity, moves):
    model = Model(capacity)
    for verb, number, count in moves:
        getattr(model, verb)(f"n{number}", count)
        assert sum(model.held.values()) <= capacity + len(model.origins) * FREE_CREDIT
    for name in model.origins:
        model.deliver_all(name, 300)


def test_greedy_origins_that_come_one_after_the_other_do_not_overrun_a_mailbox_that_is_full():
    model = Model(1_000)
    for _ in range(3):
        for name in model.origins:
            for _ in range(5):
                for step in (model.send, model.arrive, model.hear):
                    step(name, 2_000)
            model.end("n0", 1)  # which has used all that it was granted
            model.hear("n0", 2_000)
        assert sum(model.held.values()) <= 1_000 + len(model.origins) * FREE_CREDIT


# In a cluster


def gate(log):
    """A handler that handles nothing before it is opened."""
    opened = trio.Event()

    async def handle(delivery):
        log.append(delivery.message.content)
        await opened.wait()
        return []

    return handle, opened


async def tell(node, count, capability="work", **fields):
    for number in range(count):
        await node.bus.accept(
            node.message(
                **{"performative": Performative.INFORM, "capability": capability, "content": number} | fields
            )
        )


def inbox(c, name):
    return c[name].bus.statistics()["inbox"]


def outbox(c, name="a"):
    return c[name].bus.statistics()["outbox"]


async def test_a_slow_agent_holds_up_its_own_lane_and_no_other_on_the_same_link(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        handle, opened = gate([])
        log = []
        c["b"].attach("slow", handle, "slow-work", capacity=CAPACITY)
        c["b"].attach("fast", echo(log=log), "fast-work", capacity=CAPACITY)
        await tell(c["a"], 500, "slow-work")
        await eventually(lambda: inbox(c, "b")["held"] == CAPACITY)
        await tell(c["a"], 500, "fast-work")
        await eventually(lambda: len(log) == 500)
        assert (
            inbox(c, "b")["held"] == CAPACITY
        )  # the others wait at their origin, which is told nothing else
        assert outbox(c)["lanes_out_of_credit"] == 1
        assert outbox(c)["in_line"] == 400
        assert inbox(c, "b")["refused"] == outbox(c)["refused"] == 0
        opened.set()
        await eventually(lambda: not outbox(c)["open"])
        assert inbox(c, "b")["refused"] == 0


async def test_many_origins_together_do_not_overrun_a_mailbox(tmp_path, autojump_clock):
    origins = ("a", "c", "d")
    async with cluster(tmp_path, "b", *origins) as c:
        log = []

        async def slow(delivery):
            log.append(delivery.message.content)
            await pause(0.01)
            return []

        c["b"].attach("worker", slow, "work", capacity=CAPACITY)
        most = 0
        async with trio.open_nursery() as nursery:
            for name in origins:
                nursery.start_soon(tell, c[name], 150)
            while len(log) < 450:
                await pause(0.05)
                most = max(most, inbox(c, "b")["held"])
        assert CAPACITY // 2 < most <= CAPACITY + len(origins) * FREE_CREDIT
        assert inbox(c, "b")["refused"] == 0
        await eventually(lambda: not any(outbox(c, name)["open"] for name in origins))


async def test_credit_that_is_lost_with_a_link_comes_back_with_the_next(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        handle, opened = gate([])
        c["b"].attach("worker", handle, "work", capacity=CAPACITY)
        await tell(c["a"], 300)
        await eventually(lambda: inbox(c, "b")["held"] == CAPACITY)
        c.cut("a", "b")
        await pause(2.0)
        assert inbox(c, "b")["held"] <= CAPACITY + FREE_CREDIT
        opened.set()
        await eventually(lambda: not outbox(c)["open"])
        assert inbox(c, "b")["refused"] == 0
        assert inbox(c, "b")["settled"] == 300


async def test_a_receiver_that_restarts_counts_what_it_holds_and_grants_anew(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        handle, _ = gate([])
        c["b"].attach("worker", handle, "work", capacity=CAPACITY)
        await tell(c["a"], 300, receiver="worker@b", capability=None)
        await eventually(lambda: inbox(c, "b")["held"] == CAPACITY)
        await c.crash("b")
        await c.start("b")
        log = []
        c["b"].attach("worker", echo(log=log), "work", capacity=CAPACITY)
        assert c["b"].bus.statistics()["credit"]["held_max"] <= CAPACITY
        await eventually(lambda: not outbox(c)["open"])
        assert sorted(log) == list(range(300))
        assert c["b"].bus.statistics()["credit"]["held_max"] == 0


async def test_an_old_peer_is_sent_what_the_configuration_says(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings={"peer_window": 150}) as c:
        c["a"].links.knows_credit = c["b"].links.knows_credit = False
        handle, _ = gate([])
        c["b"].attach("worker", handle, "work", capacity=CAPACITY)
        await tell(c["a"], 300)
        await eventually(lambda: inbox(c, "b")["held"] == 150)
        await pause(5.0)
        assert inbox(c, "b")["held"] == 150
        assert inbox(c, "b")["refused"] == 0


async def test_what_a_peer_sends_beyond_its_credit_is_refused_and_counted(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        handle, _ = gate([])
        c["b"].attach("worker", handle, "work", capacity=CAPACITY)
        bus, told = c["b"].bus, []
        bus.on_accepted("liar", knows_credit=True)
        c["b"].links.settle = lambda peer, outcomes: told.extend(outcomes)
        messages = [
            c["a"].message(sender="x@liar", receiver="worker@b", performative=Performative.INFORM, content=n)
            for n in range(5 * CAPACITY)
        ]
        items = [DeliverItem(Envelope("worker", 1, 0, 0, 60.0, ""), m.id, m.seal()) for m in messages]
        for first in range(0, len(items), 20):
            await bus.on_deliver("liar", [(items[first : first + 20], PROOF)])
        held = inbox(c, "b")["held"]
        assert CAPACITY <= held <= CAPACITY + SLACK
        assert {(each.state, each.reason) for each in told} == {("refused", BEYOND)}
        assert bus.statistics()["credit"]["beyond"] == inbox(c, "b")["refused"] == len(told) == 500 - held
        # What is here already is acknowledged as ever, whatever the credit: nobody else may be given it.
        await bus.on_deliver("liar", [(items[:20], PROOF)])
        assert len(told) == 500 - held


async def test_an_absurd_grant_counts_for_no_more_than_the_configuration_allows(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", settings={"peer_window": 64}) as c:
        handle, _ = gate([])
        c["b"].attach("worker", handle, "work", capacity=5_000)
        await tell(c["a"], 40)
        await eventually(lambda: inbox(c, "b")["held"] == 40)
        c["a"].bus.on_granted("b", [Grant("worker", MAX_WINDOW), Grant("nobody", MAX_WINDOW)])
        await tell(c["a"], 200)
        await pause(5.0)
        assert inbox(c, "b")["held"] == 64
        assert outbox(c)["grants_curbed"] >= 2


async def test_who_has_credit_is_preferred(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        handle, _ = gate([])
        log = []
        c["b"].attach("worker", handle, "work", capacity=40, priority=90)
        c["c"].attach("worker", echo(log=log), "work", capacity=40, priority=50)
        for _ in range(8):
            await tell(c["a"], 25)
            await pause(0.5)
        assert inbox(c, "b")["held"] <= 40
        assert outbox(c)["in_line"] == 0
        assert len(log) >= 160
        sent = c["a"].message(capability="work", content=0)
        decision = c["a"].bus.preview(sent)
        assert decision.targets == (("worker", "c"),)
        assert decision.reason == "has credit, which worker@b has not"


async def test_clients_are_told_to_come_again_when_all_of_a_capability_are_out_of_credit(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b", settings={"outbox_capacity": 400}) as c:
        handle, opened = gate([])
        log = []
        c["b"].attach("slow", handle, "slow-work", capacity=40)
        c["b"].attach("fast", echo(log=log), "fast-work", capacity=40)
        with pytest.raises(ResourceLimitExceeded) as refusal:
            await tell(c["a"], 500, "slow-work")
        assert refusal.value.details["wanted"] == "slow-work"
        assert refusal.value.details["open"] == 200  # half of the outbox is left to others
        assert refusal.value.details["retry_after_s"] >= 1
        await tell(c["a"], 100, "fast-work")
        await eventually(lambda: len(log) == 100)
        opened.set()
        await eventually(lambda: not outbox(c)["open"])
        await tell(c["a"], 1, "slow-work")
