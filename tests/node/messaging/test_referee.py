"""Over real buses: what is out of protocol is answered and never handled, whatever crashes in between."""

from __future__ import annotations

import pytest

from node.messaging import referee
from node.messaging.delivery import Draft
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, eventually, pause

P = Performative


class Scribe:
    """An agent that notes what it is handed, and answers as it is told."""

    def __init__(self, **answers):
        self.seen = []
        self.answers = answers

    async def __call__(self, delivery):
        message = delivery.message
        self.seen.append((message.performative.value, message.content))
        drafts = self.answers.get(message.performative.value, ())
        return [drafts] if isinstance(drafts, Draft) else list(drafts)


def counts(node):
    return node.bus.statistics()["handlers"]["protocol"]


async def send(node, performative, to="worker@b", **fields):
    message = node.message(**({"performative": P(performative), "receiver": to, "sender": "boss@a"} | fields))
    await node.bus.accept(message)
    return message


async def history(node, message):
    return (await node.bus.history(message.id)).as_json()


async def proposal_of(c, **draft):
    """A proposal that worker@b has made to boss@a, and the two of them."""
    worker = Scribe(request=Draft(P.PROPOSE, "for 5", **draft))
    boss = Scribe()
    c["a"].attach("boss", boss, "lead")
    c["b"].attach("worker", worker, "work")
    await send(c["a"], "request")
    await eventually(lambda: boss.seen)
    talk = await c["b"].storage.read(
        lambda connection: connection.execute("SELECT message_id FROM outbox").fetchall()
    )
    return talk[0][0], boss, worker


async def test_a_proposal_is_decided_once(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        label, boss, worker = await proposal_of(c)
        for performative in ("accept_proposal", "accept_proposal", "reject_proposal"):
            await send(c["a"], performative, in_reply_to=label)
            await pause(1)
        assert worker.seen[1:] == [("accept_proposal", None)]
        refusals = [content for performative, content in boss.seen if performative == "not_understood"]
        assert [content["code"] for content in refusals] == ["OUT_OF_PROTOCOL"] * 2
        assert "answered before" in refusals[0]["why"]
        assert counts(c["b"])["not_understood"] == 2


@pytest.mark.parametrize("performative", ["accept_proposal", "reject_proposal"])
@pytest.mark.parametrize("wrong", ["nothing", "unknown", "another", "stranger"])
async def test_a_decision_about_no_proposal_of_the_agent_is_not_handled(
    tmp_path, autojump_clock, performative, wrong
):
    async with cluster(tmp_path, "a", "b") as c:
        label, boss, worker = await proposal_of(c)
        other, stranger = Scribe(), Scribe()
        c["b"].attach("other", other)
        c["a"].attach("stranger", stranger)
        fields = {
            "nothing": {},
            "unknown": {"in_reply_to": "unknown"},
            "another": {"in_reply_to": label, "to": "other@b"},
            "stranger": {"in_reply_to": label, "sender": "stranger@a"},
        }[wrong]
        message = await send(c["a"], performative, **fields)
        teller = stranger if wrong == "stranger" else boss
        await eventually(lambda: any(each[0] == "not_understood" for each in teller.seen))
        assert (worker.seen[1:], other.seen) == ([], [])
        shown = await history(c["a"], message)
        assert shown["status"] == "settled"
        assert shown["reason"].startswith(referee.PREFIX)


async def test_a_proposal_stands_until_its_reply_by(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        wall = c["b"].environment.clock.wall()
        label, boss, worker = await proposal_of(c, reply_by_s=wall + 20)
        await pause(30)
        await send(c["a"], "accept_proposal", in_reply_to=label)
        await pause(1)
        assert [performative for performative, _ in worker.seen[1:]] == ["failure"]  # nobody has decided
        assert "reply_by" in boss.seen[-1][1]["why"]


async def test_an_answer_ends_a_request_and_another_does_not(tmp_path, autojump_clock):
    answers = [Draft(P.AGREE), Draft(P.INFORM, 1), Draft(P.INFORM, 2), Draft(P.FAILURE, 3)]
    everything = [draft.performative.value for draft in answers]
    for protocol, seen in (("fipa-request", everything[:2]), (None, everything)):
        async with cluster(tmp_path / str(protocol), "a", "b") as c:
            boss, worker = Scribe(), Scribe(request=answers)
            c["a"].attach("boss", boss)
            c["b"].attach("worker", worker)
            await send(c["a"], "request", protocol=protocol)
            await pause(5)
            assert [performative for performative, _ in boss.seen] == seen
            understood = protocol is None
            assert (worker.seen[-1][0] == "not_understood") is not understood
            assert counts(c["a"])["dropped"] == (not understood)  # a FAILURE is not answered


async def test_each_provider_of_a_broadcast_answers_for_itself(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        boss = Scribe()
        c["a"].attach("boss", boss)
        for name in "bc":
            c[name].attach("worker", Scribe(cfp=[Draft(P.PROPOSE, name), Draft(P.PROPOSE, "more")]), "work")
        await send(
            c["a"], "cfp", None, capability="work", protocol="fipa-contract-net",
            routing_strategy=RoutingStrategy.BROADCAST,
        )  # fmt: skip
        await pause(5)
        assert sorted(content for _, content in boss.seen) == ["b", "c"]


async def test_a_bid_after_the_deadline_is_rejected(tmp_path, autojump_clock):
    async def slow(delivery):
        if delivery.message.performative is P.CFP:
            await pause(29)
            return [Draft(P.PROPOSE, 5)]
        told.append(delivery.message.performative)
        return []

    told = []
    async with cluster(tmp_path, "a", "b") as c:
        boss = Scribe()
        c["a"].attach("boss", boss)
        c["b"].attach("worker", slow, "work")
        by = c["a"].environment.clock.wall() + 30
        await send(c["a"], "cfp", reply_by_s=by)
        await pause(20)
        c.partition("a", "b")  # the bid is made in time, and arrives too late
        await pause(20)
        c.heal()
        await eventually(lambda: told)
        assert told == [P.REJECT_PROPOSAL]
        assert ("propose", 5) not in boss.seen
        assert counts(c["a"])["rejected"] == 1


async def test_a_cancel_takes_back_what_its_sender_asked_for_in_the_conversation(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss, other, worker = Scribe(), Scribe(), Scribe()
        c["a"].attach("boss", boss)
        c["a"].attach("other", other)
        c["b"].attach("worker", worker)
        await send(c["a"], "cancel", conversation_id="talk")
        await pause(1)
        await send(c["a"], "subscribe", conversation_id="talk")
        await pause(1)
        await send(c["a"], "cancel", conversation_id="talk")
        await send(c["a"], "cancel", conversation_id="elsewhere")
        await send(c["a"], "cancel", conversation_id="talk", sender="other@a")
        await pause(1)
        assert worker.seen == [("subscribe", None), ("cancel", None)]
        assert [len(each.seen) for each in (boss, other)] == [2, 1]


async def test_two_who_do_not_understand_each_other_fall_silent(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        boss, worker = (Scribe(not_understood=Draft(P.NOT_UNDERSTOOD, "neither")) for _ in "ab")
        c["a"].attach("boss", boss)
        c["b"].attach("worker", worker)
        await send(c["a"], "not_understood", protocol="fipa-request")
        await send(c["a"], "failure", protocol="fipa-request")
        await pause(60)
        assert (len(boss.seen), len(worker.seen)) == (0, 1)
        assert [counts(c[name])["dropped"] for name in "ab"] == [1, 1]
        assert sum(c[name].bus.statistics()["outbox"]["accepted"] for name in "ab") == 3


@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
async def test_the_verdict_is_the_same_after_a_crash(tmp_path, autojump_clock, when):
    async with cluster(tmp_path, "a", "b") as c:
        label, boss, worker = await proposal_of(c)
        setattr(c["b"].storage, when, "Settlement._end")
        for content in ("first", "second"):
            await send(c["a"], "accept_proposal", in_reply_to=label, content=content)
            await pause(0.5)
        await eventually(c["b"].storage.frozen.is_set)
        await c.crash("b")
        again = Scribe()
        await c.start("b")
        c["b"].attach("worker", again, "work")
        await pause(30)
        seen = [each for each in worker.seen + again.seen if each[0] != "request"]
        assert set(seen) == {("accept_proposal", "first")}
        refused = [performative for performative, _ in boss.seen if performative == "not_understood"]
        assert refused == ["not_understood"]


async def test_how_far_exchanges_have_come_is_remembered_for_a_bounded_number(
    tmp_path, autojump_clock, monkeypatch
):
    monkeypatch.setattr(referee, "EXCHANGE_LIMIT", 3)
    async with cluster(tmp_path, "a", "b") as c:
        boss = Scribe()
        c["a"].attach("boss", boss)
        c["b"].attach("worker", Scribe(request=Draft(P.INFORM, 1)))
        sent = [await send(c["a"], "request", protocol="fipa-request") for _ in range(8)]
        await pause(5)
        assert counts(c["a"])["exchanges"] == 3
        for message in sent:  # also those that are not remembered are known from the tables
            await send(c["b"], "inform", "boss@a", sender="worker@b", in_reply_to=message.id)
        await pause(5)
        assert len(boss.seen) == 8


async def test_what_needs_no_look_costs_none(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", Scribe(request=Draft(P.INFORM), query=Draft(P.INFORM)), "work")
        for performative in ("request", "query", "inform"):
            await send(c["a"], performative, sender="client@a")
        await pause(5)
        for name in "ab":
            assert counts(c[name])["looked_up"] == 0
