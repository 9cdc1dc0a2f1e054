"""Traces and explanations: every node's side of a message, and why it went where it went."""

import random
from dataclasses import replace

import pytest

from node.errors import MessageNotFound
from node.messaging import investigation, sides
from node.messaging.delivery import Draft
from node.messaging.explanation import Decision, decision
from node.messaging.sides import Side
from node.transport.frames import MAX_ANSWER_BYTES, Answer
from node.vocabulary import Performative, RoutingStrategy
from tests.node.messaging.rooms import cluster, echo, eventually, pause


def settled(c):
    return lambda: all(not node.bus.statistics()["outbox"]["open"] for node in c.nodes.values())


async def traced(node, message_id):
    return (await node.bus.investigation.trace(message_id)).as_json()


def events(told, node=None):
    return [step["event"] for step in told["steps"] if node in (None, step["node"])]


async def chain(c):
    """client@a asks ranker@b, which asks counter@c in the middle of its work; the request, settled."""

    async def rank(delivery):
        question = c["b"].message(sender="ranker@b", capability="count", content=delivery.message.content)
        reply = await c["b"].bus.request(
            question, timeout_s=20, hops=delivery.hops + 1, cause=delivery.message.id
        )
        return [Draft(Performative.INFORM, reply.content)]

    c["b"].attach("ranker", rank, "rank")
    c["c"].attach("counter", echo("c"), "count")
    message = c["a"].message(capability="rank", content="secret")
    await c["a"].bus.request(message, timeout_s=30)
    await eventually(settled(c))
    return message


async def test_a_trace_follows_a_message_and_all_it_caused_across_the_nodes(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        message = await chain(c)
        found = await traced(c["a"], message.id)
        assert (found["complete"], found["away"], found["node"]) == (True, [], "a")
        top = found["trace"]
        assert events(top) == [
            "accepted", "routed", "sent", "received", "started", "handled", "acknowledged", "settled",
        ]  # fmt: skip
        assert events(top, "b") == ["received", "started", "handled"]
        question, reply = top["caused"]
        assert (question["sender"], question["to"], question["cause"]) == ("ranker@b", "count", message.id)
        assert events(question, "c") == ["received", "started", "handled"]
        [answer] = question["caused"]
        assert (answer["sender"], answer["to"]) == ("counter@c", "ranker@b")
        assert (reply["sender"], reply["to"], reply["status"]) == ("ranker@b", "client@a", "settled")
        assert events(reply, "a") == ["received", "kept"]
        assert "secret" not in str(found)
        assert all(step["ms"] >= 0 for step in top["steps"])


async def test_every_node_that_knows_the_message_tells_the_same_tree(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        message = await chain(c)
        trees = [(await traced(c[name], message.id))["trace"] for name in "ab"]
        assert trees[0] == trees[1]
        with pytest.raises(MessageNotFound):
            await traced(c["c"], message.id)


async def test_a_node_that_is_away_is_named_and_what_others_know_is_shown(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        message = await chain(c)
        await c.crash("b")
        started = c["a"].environment.clock.now()
        found = await traced(c["a"], message.id)  # membership has not noticed yet: it is waited for, once
        assert c["a"].environment.clock.now() - started == pytest.approx(investigation.ANSWER_S, abs=0.1)
        assert (found["complete"], found["away"], found["trace"]["away"]) == (False, ["b"], ["b"])
        assert events(found["trace"]) == ["accepted", "routed", "sent", "acknowledged", "settled"]
        c.bury("b")
        started = c["a"].environment.clock.now()
        assert (await traced(c["a"], message.id))["away"] == ["b"]
        assert c["a"].environment.clock.now() == started  # the dead are not asked


async def test_a_message_whose_origin_is_away_is_told_by_who_received_it(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.request(message, timeout_s=10)
        await eventually(settled(c))
        await c.crash("a")
        c.bury("a")
        found = await traced(c["b"], message.id)
        assert (found["away"], found["trace"]["origin"]) == (["a"], "a")
        assert events(found["trace"]) == ["received", "started", "handled"]


async def test_a_message_that_is_being_handled_shows_since_when(tmp_path, autojump_clock):
    async def never(delivery):
        await pause(1_000)

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", never, "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        await pause(5)
        told = (await traced(c["a"], message.id))["trace"]
        assert (told["status"], told["ms"]) == ("open", None)
        assert events(told, "b") == ["received", "started"]


async def test_moves_and_failed_attempts_are_told_in_order(tmp_path, autojump_clock):
    async def shaky(delivery):
        if delivery.attempt < 3:
            raise ZeroDivisionError
        return []

    async def never(delivery):
        await pause(1_000)

    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", never, "work", priority=90)
        c["c"].attach("worker", shaky, "work")
        message = c["a"].message(capability="work", performative=Performative.INFORM)
        await c["a"].bus.accept(message)
        await pause(1)
        await c.crash("b")
        c.bury("b")
        await eventually(settled(c))
        found = await traced(c["a"], message.id)
        assert found["away"] == ["b"]
        told = found["trace"]
        assert [e for e in events(told, "a") if e in ("routed", "moved")] == ["routed", "moved", "routed"]
        [started] = [step for step in told["steps"] if step["event"] == "started"]
        assert (started["node"], started["detail"]) == ("c", "worker, attempt 3")


async def test_a_lost_message_shows_the_failure_it_caused_and_its_retry(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        message = c["a"].message(capability="nobody-has-it")
        await c["a"].bus.request(message, timeout_s=30)
        c["a"].attach("worker", echo("a"), "nobody-has-it")
        receipt = await c["a"].bus.letters.retry(message.id)
        await eventually(settled(c))
        told = (await traced(c["a"], message.id))["trace"]
        assert (told["status"], told["reason"]) == ("failed", "no provider")
        failure, again = told["caused"]
        assert (failure["performative"], failure["cause"]) == ("failure", message.id)
        assert (again["message_id"], again["status"]) == (receipt.message_id, "settled")
        assert "retry_of" in events(again)


async def test_a_trace_is_bounded_and_says_when_it_is_cut(tmp_path, autojump_clock, monkeypatch):
    async def many(delivery):
        return [Draft(Performative.INFORM, n, receiver="client@a") for n in range(40)]

    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", many, "work")
        message = c["a"].message(capability="work", performative=Performative.INFORM)
        await c["a"].bus.accept(message)
        await eventually(settled(c))
        await pause(1)
        found = await traced(c["a"], message.id)
        assert len(found["trace"]["caused"]) == sides.CAUSED_LIMIT
        assert not found["complete"]
        monkeypatch.setattr(investigation, "TRACED_LIMIT", 5)
        assert len((await traced(c["a"], message.id))["trace"]["caused"]) == 4
        monkeypatch.setattr(investigation, "QUESTION_LIMIT", 0)
        cut = await traced(c["a"], message.id)
        assert (cut["complete"], cut["questions"], cut["trace"]["caused"]) == (False, 0, [])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(1, "refused"),
        Answer(1, "known", b""),
        Answer(1, "known", b"\xff" * 50),
        Answer(1, "known", b"\x80"),
        Answer(1, "known", b"\x91" * 1_000),
    ],
)
async def test_a_peer_that_answers_nonsense_is_named_as_one_that_has_not(tmp_path, autojump_clock, answer):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("b"), "work")
        message = c["a"].message(capability="work")
        await c["a"].bus.request(message, timeout_s=10)

        async def ask(peer, question, about, *, timeout_s):
            await pause(0.01)
            return answer

        c["a"].links.ask = ask
        found = await traced(c["a"], message.id)
        assert found["away"] == ["b"]
        assert c["a"].bus.investigation.statistics()["unanswered"] == 1


async def test_questions_of_peers_about_what_is_not_known_are_answered_with_nothing(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        message = c["a"].message(receiver="client@a")
        await c["a"].bus.accept(message)
        assert await c["a"].bus.on_ask("b", "trace", "none") is None
        assert await c["a"].bus.on_ask("b", "the time", message.id) is None
        encoded = await c["a"].bus.on_ask("b", "trace", message.id)
        assert Side.decode(encoded).message.message_id == message.id
        counts = c["a"].bus.investigation.statistics()
        assert (counts["not_known"], counts["answered"]) == (2, 1)


async def test_an_answer_fits_its_frame_whatever_there_is_to_tell(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        message = c["a"].message(receiver="client@a", conversation_id="x" * 512)
        await c["a"].bus.accept(message)
        side = Side.decode(await c["a"].bus.on_ask("b", "trace", message.id))
        long = "y" * 512
        way = sides.Way(long, long, 0, long, 1, long, long, 0.0, None, None, None)
        accepted = sides.Accepted(side.message, None, 0.0, 0.0, None, "open", long, (way,) * 32, ())
        big = Side(side.message, accepted, side.copies, (accepted,) * 32, more=False)
        encoded = big.encode()
        assert len(encoded) <= MAX_ANSWER_BYTES
        read = Side.decode(encoded)
        assert read.more
        assert read.message == side.message


async def test_an_explanation_shows_candidates_figures_reasons_and_the_view(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=90, health=0.5)
        c["c"].attach("worker", echo("c"), "work", priority=50)
        message = c["a"].message(capability="work")
        await c["a"].bus.request(message, timeout_s=10)
        found = (await c["a"].bus.investigation.explain(message.id)).as_json()
        [decided] = found["decisions"]
        assert decided["targets"] == ["worker@c"]
        same = {"agent": "worker", "load": 0.0, "in_flight": 0, "offer": "work", "nearness": 1.0}
        assert decided["candidates"] == [
            same | {"node": "c", "score": 50.0, "priority": 50, "health": 1.0},
            same | {"node": "b", "score": 45.0, "priority": 90, "health": 0.5},
        ]
        assert decided["view"] == {"up": 3, "remembered": 3, "side": "majority", "registry_age_s": 1.5}
        with pytest.raises(MessageNotFound) as elsewhere:
            await c["c"].bus.investigation.explain(message.id)
        assert elsewhere.value.details == {"origin": "a"}


async def test_every_epoch_keeps_its_decision_also_when_a_provider_is_chosen_again(tmp_path, autojump_clock):
    refusing = []

    def may_refuse(accepts):
        return lambda agent: "full" if refusing else accepts(agent)

    async with cluster(tmp_path, "a", "b", "c") as c:
        for name, priority in (("b", 60), ("c", 50)):
            c[name].attach("worker", echo(name), "work", priority=priority)
            core = c[name].bus._inbox._core
            core._around = replace(core._around, accepts=may_refuse(core._around.accepts))
        refusing.append(True)
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message, ttl_s=60)
        await pause(5)
        refusing.clear()
        await eventually(settled(c))
        decisions = (await c["a"].bus.investigation.explain(message.id)).as_json()["decisions"]
        assert [d["epoch"] for d in decisions] == list(range(len(decisions)))
        assert [d["targets"] for d in decisions[:3]] == [["worker@b"], ["worker@c"], ["worker@b"]]
        assert decisions[1]["excluded"][0]["node"] == "b"
        assert "left out for" in decisions[1]["excluded"][0]["reason"]


async def test_a_message_that_waits_or_found_nobody_is_explained(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        message = c["a"].message(capability="work")
        await c["a"].bus.accept(message)
        [waits] = (await c["a"].bus.investigation.explain(message.id)).as_json()["decisions"]
        assert (waits["epoch"], waits["targets"], waits["reason"]) == (0, [], "nobody offers it")
        c["b"].attach("worker", echo("b"), "work", health=0.0)
        behind = c["a"].message(capability="work", conversation_id=message.conversation_id)
        await c["a"].bus.accept(behind)
        [waits] = (await c["a"].bus.investigation.explain(behind.id)).as_json()["decisions"]
        assert waits["reason"] == "an earlier message waits too"
        c["b"].cluster.withdraw("b", "worker")
        await c["b"].bus.detach("worker", drain_s=0)
        c["b"].attach("other", echo("b"), "work")
        await eventually(settled(c))
        [chosen] = (await c["a"].bus.investigation.explain(message.id)).as_json()["decisions"]
        assert chosen["targets"] == ["other@b"]  # in place of the wait for it


async def test_a_conversation_that_stays_and_a_broadcast_are_explained(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b", "c") as c:
        c["b"].attach("worker", echo("b"), "work", priority=90)
        first = c["a"].message(capability="work", conversation_id="t")
        await c["a"].bus.request(first, timeout_s=10)
        c["c"].attach("worker", echo("c"), "work", priority=99)
        second = c["a"].message(capability="work", conversation_id="t")
        await c["a"].bus.request(second, timeout_s=10)
        [decided] = (await c["a"].bus.investigation.explain(second.id)).as_json()["decisions"]
        assert (decided["strategy"], decided["sticky"], decided["targets"]) == (
            "sticky", "worker@b", ["worker@b"],
        )  # fmt: skip
        third = c["a"].message(capability="work", routing_strategy=RoutingStrategy.BROADCAST)
        await c["a"].bus.gather(third, timeout_s=10)
        [decided] = (await c["a"].bus.investigation.explain(third.id)).as_json()["decisions"]
        assert sorted(decided["targets"]) == ["worker@b", "worker@c"]


def test_a_decision_of_another_version_is_told_as_such():
    known = Decision((("a", "n"),), "best_match", "why")
    assert decision(known.encode()) == known
    noise = random.Random(1)
    for encoded in (b"", b"\x93\xa1a", b"\x81\xa1v\x63", *(noise.randbytes(40) for _ in range(100))):
        assert decision(encoded).strategy == "unknown"
