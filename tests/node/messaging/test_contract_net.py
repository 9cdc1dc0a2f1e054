"""Over real buses: a call ends with a result or a reason, and no bid stays undecided, whatever crashes."""

from __future__ import annotations

import pytest
import trio

from node.cluster.provider import Provider
from node.errors import CaxtonError, ResourceLimitExceeded, ValidationFailed
from node.messaging import contract_net
from node.messaging.delivery import Draft
from node.messaging.tender import Award, Prefer
from node.vocabulary import Performative
from tests.node.messaging.rooms import cluster, eventually, pause

P = Performative
CHEAP = Award(by="content.cost", prefer=Prefer.LOWEST)


class Bidder:
    """A provider that bids a cost after a while, and answers its acceptance."""

    def __init__(self, cost, *answers, after_s=0.0, works_s=0.0):
        self.cost, self.after_s, self.works_s = cost, after_s, works_s
        self.answers = answers or (Draft(P.INFORM, {"done": cost}),)
        self.seen = []

    async def __call__(self, delivery):
        message = delivery.message
        self.seen.append(message.performative.value)
        if message.performative is P.CFP:
            await pause(self.after_s)
            return [Draft(P.REFUSE) if self.cost is None else Draft(P.PROPOSE, {"cost": self.cost})]
        if message.performative is P.ACCEPT_PROPOSAL:
            assert message.content == "task"
            await pause(self.works_s)
            return list(self.answers)
        return []

    @property
    def decisions(self):
        return [each for each in self.seen if each.endswith("_proposal")]


def providers(c, /, **bidders):
    for name, bidder in bidders.items():
        c[name].attach("worker", bidder, "work")


async def call(node, award=CHEAP, *, deadline_s=5.0, result_s=20.0, sender="client", **fields):
    message = node.message(capability="work", content="task", sender=f"{sender}@{node.name}", **fields)
    return await node.bus.call_for_proposals(message, deadline_s=deadline_s, result_s=result_s, award=award)


def counts(node):
    return node.bus.statistics()["contracts"]


REJECTED, ACCEPTED = ["reject_proposal"], ["accept_proposal"]


async def test_the_best_bid_wins_and_all_others_are_rejected(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        workers = {"b": Bidder(3), "c": Bidder(1), "d": Bidder(None)}
        providers(c, **workers)
        outcome = await call(c["a"])
        await pause(1)
        assert [worker.decisions for worker in workers.values()] == [REJECTED, ACCEPTED, []]
        shown = outcome.as_json()
        assert (shown["status"], shown["awarded"]) == ("done", ["worker@c"])
        assert [result["content"] for result in shown["results"]] == [{"done": 1}]
        assert shown["declined"] == [{"from": "worker@d", "performative": "refuse"}]
        assert sorted(shown["asked"]) == ["worker@b", "worker@c", "worker@d"]
        assert [bid["state"] for bid in shown["bids"]] == ["done", "rejected"]


async def test_nobody_waits_for_the_deadline_once_all_have_answered(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        providers(c, b=Bidder(3), c=Bidder(1))
        began = c["a"].environment.clock.now()
        await call(c["a"], deadline_s=50)
        assert c["a"].environment.clock.now() - began < 5


async def test_the_first_bid_wins_at_once_where_that_is_the_rule(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        workers = {"b": Bidder(None), "c": Bidder(3, after_s=1), "d": Bidder(1, after_s=40)}
        providers(c, **workers)
        began = c["a"].environment.clock.now()
        outcome = await call(c["a"], Award(), deadline_s=50)
        assert [result.sender for result in outcome.results] == ["worker@c"]
        assert c["a"].environment.clock.now() - began < 5
        await pause(60)
        assert workers["d"].decisions == REJECTED


async def test_a_bid_after_the_deadline_is_rejected(tmp_path, autojump_clock):
    for sender in ("client", "boss"):
        async with cluster(tmp_path / sender, "a", "b", "c") as c:
            boss = Bidder(None)
            c["a"].attach("boss", boss)
            slow = Bidder(0, after_s=4.9)
            providers(c, b=Bidder(3), c=slow)
            c.nursery.start_soon(cut_for_a_while, c)
            outcome = await call(c["a"], sender=sender)
            assert outcome.as_json()["silent"] == ["worker@c"]
            await pause(30)
            assert (slow.decisions, counts(c["a"])["late_bids"]) == (REJECTED, 1)
            assert boss.seen == []


async def cut_for_a_while(c):
    await pause(1)
    c.partition("a", "c")  # the bid is made in time, and arrives too late
    await pause(20)
    c.heal()


@pytest.mark.parametrize("answer", [P.FAILURE, P.NOT_UNDERSTOOD, None])
async def test_a_winner_that_fails_is_followed_by_the_next_best(tmp_path, autojump_clock, answer):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        best = Bidder(1, Draft(answer)) if answer else Bidder(1, works_s=100)
        workers = {"b": Bidder(3), "c": best, "d": Bidder(2)}
        providers(c, **workers)
        shown = (await call(c["a"])).as_json()
        await pause(1)
        assert shown["awarded"] == ["worker@c", "worker@d"]
        assert [result["content"] for result in shown["results"]] == [{"done": 2}]
        assert [workers[name].decisions for name in "bcd"] == [REJECTED, ACCEPTED, ACCEPTED]


async def test_a_winner_that_dies_is_followed_by_the_next_best_at_once(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        providers(c, b=Bidder(3), c=Bidder(1, works_s=100))
        began = c["a"].environment.clock.now()

        async def die():
            await pause(5)
            await c.crash("c")
            c.bury("c")

        c.nursery.start_soon(die)
        shown = (await call(c["a"], result_s=200)).as_json()
        assert shown["awarded"] == ["worker@c", "worker@b"]
        assert shown["bids"][0]["reason"] == "its node is gone"
        assert c["a"].environment.clock.now() - began < 10


async def test_how_many_are_tried_is_bounded(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        workers = {name: Bidder(cost, Draft(P.FAILURE)) for cost, name in enumerate("bcd")}
        providers(c, **workers)
        rule = Award(by="content.cost", prefer=Prefer.LOWEST, reserves=1)
        assert (await call(c["a"], rule)).as_json()["status"] == "failed"
        await pause(1)
        assert [workers[name].decisions for name in "bcd"] == [ACCEPTED, ACCEPTED, REJECTED]


async def test_several_winners(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        workers = {name: Bidder(cost) for cost, name in enumerate("bcd")}
        providers(c, **workers)
        outcome = await call(c["a"], Award(by="content.cost", prefer=Prefer.HIGHEST, winners=2))
        await pause(1)
        assert [result.sender for result in outcome.results] == ["worker@d", "worker@c"]
        assert [workers[name].decisions for name in "bcd"] == [REJECTED, ACCEPTED, ACCEPTED]


async def test_nobody_offers_it_or_nobody_bids(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        shown = (await call(c["a"], deadline_s=30)).as_json()
        assert (shown["status"], shown["asked"], shown["bids"]) == ("no_bids", [], [])
        providers(c, b=Bidder(None))
        shown = (await call(c["a"])).as_json()
        assert (shown["status"], shown["asked"], shown["awarded"]) == ("no_bids", ["worker@b"], [])


async def test_providers_that_come_while_the_call_waits_are_all_heard(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        workers = {"b": Bidder(3), "c": Bidder(1, after_s=1)}

        async def come():
            await pause(2)
            for name, worker in workers.items():
                c[name].bus.attach("worker", worker, capacity=10, concurrency=1)
            for name in workers:
                c.world.providers_[name, "worker"] = Provider("worker", name, "1.0.0", ("work",))
            c.changed()

        c.nursery.start_soon(come)
        shown = (await call(c["a"], deadline_s=30)).as_json()
        assert shown["awarded"] == ["worker@c"]


@pytest.mark.parametrize("sender", ["client", "boss"])
@pytest.mark.parametrize("at_s", [1.0, 3.0])
async def test_what_a_stopped_node_has_left_undecided_is_rejected_at_its_next_start(
    tmp_path, autojump_clock, sender, at_s
):
    async with cluster(tmp_path, "a", "b", "c", "d") as c:
        boss = Bidder(None)
        c["a"].attach("boss", boss)
        # at 1 s one bid is here and others are to come; at 3 s the best works, and one is in reserve
        workers = {
            "b": Bidder(3, after_s=0.5),
            "c": Bidder(1, after_s=2, works_s=10),
            "d": Bidder(2, after_s=2),
        }
        providers(c, **workers)
        c["a"].nursery.start_soon(lambda: call(c["a"], deadline_s=4, sender=sender))
        await pause(at_s)
        await c.crash("a")
        await pause(0.2)
        await c.start("a")
        c["a"].attach("boss", boss)
        await pause(30)
        decided = [worker.decisions for worker in workers.values()]
        awarded = ACCEPTED if at_s == 3.0 else REJECTED
        assert decided == [REJECTED, awarded, REJECTED]
        assert "propose" not in boss.seen


async def test_a_call_that_is_broken_off_rejects_what_has_come(tmp_path, autojump_clock):
    def rank(bids):
        raise CaxtonError("cannot choose")

    async with cluster(tmp_path, "a", "b", "c") as c:
        workers = {"b": Bidder(3), "c": Bidder(1, after_s=60)}
        providers(c, **workers)
        with trio.CancelScope() as scope:
            scope.deadline = trio.lowlevel.current_clock().current_time() + 2
            await call(c["a"], deadline_s=50)
        assert scope.cancelled_caught
        await pause(1)
        assert workers["b"].decisions == REJECTED
        with pytest.raises(CaxtonError, match="cannot choose"):
            await call(c["a"], Award(rank=rank))
        await pause(70)
        assert workers["b"].decisions == REJECTED * 2
        assert workers["c"].decisions[:1] == REJECTED


async def test_bad_calls_are_refused(tmp_path, autojump_clock, monkeypatch):
    async with cluster(tmp_path, "a") as c:
        for times in ({"deadline_s": 0}, {"deadline_s": 61}, {"result_s": 0}, {"result_s": float("nan")}):
            with pytest.raises(ValidationFailed):
                await call(c["a"], **times)
        with pytest.raises(ValidationFailed):
            await c["a"].bus.call_for_proposals(
                c["a"].message(receiver="worker"), deadline_s=1, result_s=1, award=CHEAP
            )
        monkeypatch.setattr(contract_net, "CALL_LIMIT", 0)
        with pytest.raises(ResourceLimitExceeded):
            await call(c["a"])


async def test_calls_are_remembered_for_a_bounded_number_and_time(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(contract_net, "CALLS_REMEMBERED", 2)
    async with cluster(tmp_path, "a", "b") as c:
        providers(c, b=Bidder(1))
        for _ in range(4):
            await call(c["a"])
        assert counts(c["a"])["remembered"] == 2
        stored = await c["a"].storage.read(lambda db: db.execute("SELECT count(*) FROM calls").fetchall())
        assert stored == [(2,)]
        await pause(contract_net.CALL_MEMORY_S)
        await call(c["a"])
        assert counts(c["a"])["remembered"] == 1
        assert (
            await c["a"].storage.read(lambda db: db.execute("SELECT count(*) FROM calls").fetchall())
        ) == [(1,)]


async def test_a_rejection_waits_for_room_in_the_outbox(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        workers = {"b": Bidder(3), "c": Bidder(1)}
        providers(c, **workers)
        net, refused = c["a"].bus.contracts, []
        accept = net._accept

        async def full(message, **options):
            if message.performative is P.REJECT_PROPOSAL and len(refused) < 3:
                refused.append(message)
                raise ResourceLimitExceeded("the outbox is full")
            return await accept(message, **options)

        net._accept = full
        await call(c["a"])
        await eventually(lambda: workers["b"].decisions)
        assert (workers["b"].decisions, len(refused)) == (REJECTED, 3)


async def test_a_bid_whose_acceptance_cannot_be_sent_is_rejected_and_the_next_one_taken(
    tmp_path, autojump_clock
):
    async with cluster(tmp_path, "a", "b", "c") as c:
        workers = {"b": Bidder(3), "c": Bidder(1)}
        providers(c, **workers)
        net = c["a"].bus.contracts
        accept = net._accept

        async def full(message, **options):
            if message.performative is P.ACCEPT_PROPOSAL and message.receiver == "worker@c":
                raise ResourceLimitExceeded("the outbox is full")
            return await accept(message, **options)

        net._accept = full
        shown = (await call(c["a"])).as_json()
        await pause(1)
        assert shown["status"] == "done"
        assert [workers[name].decisions for name in "bc"] == [ACCEPTED, REJECTED]
