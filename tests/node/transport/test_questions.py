"""Questions between nodes beside the messages: answered, bounded, and lost with their link."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.errors import PeerRejected
from node.transport import questions as questions_module
from node.transport.frames import HEADER_BYTES, MAX_ANSWER_BYTES, Answer, Ask, decode, encode
from node.transport.questions import ASKS_BURST, ASKS_PER_S, OPEN_LIMIT, Allowance, Questions
from tests.node.transport.peers import Cluster, item, until


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        yield Cluster(nursery)
        nursery.cancel_scope.cancel()


async def test_a_question_opens_a_link_and_is_answered(cluster: Cluster) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    answer = await alpha.links.ask("beta", "trace", "m1", timeout_s=5)
    assert answer == Answer(1, "known", b"alpha m1")
    assert beta.asked == [("alpha", "trace", "m1")]
    assert await alpha.links.ask("beta", "nothing", "m1", timeout_s=5) == Answer(2, "unknown")


async def test_questions_and_messages_share_a_link(cluster: Cluster) -> None:
    alpha, _ = await cluster.start("alpha"), await cluster.start("beta")
    alpha.send("beta", *[item(n) for n in range(300)])
    answers: list[object] = []

    async def ask(about: str) -> None:
        answers.append(await alpha.links.ask("beta", "trace", about, timeout_s=5))

    async with trio.open_nursery() as nursery:
        for number in range(OPEN_LIMIT):
            nursery.start_soon(ask, str(number))
    await until(lambda: not alpha.outbox, cluster.clock)
    assert sorted(answer.body for answer in answers if isinstance(answer, Answer)) == sorted(
        f"alpha {n}".encode() for n in range(OPEN_LIMIT)
    )


async def test_a_node_that_is_not_there_is_waited_for_as_long_as_was_said(cluster: Cluster) -> None:
    alpha = await cluster.start("alpha")
    started = cluster.clock.now()
    assert await alpha.links.ask("beta", "trace", "m1", timeout_s=3) is None
    assert cluster.clock.now() - started == pytest.approx(3, abs=0.2)


async def test_a_question_is_lost_with_its_link_and_the_messages_are_not(cluster: Cluster) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)

    async def never() -> None:
        await trio.sleep_forever()

    beta.on_question = never
    cluster.nursery.start_soon(_break_when, cluster, lambda: bool(beta.asked))
    started = cluster.clock.now()
    assert await alpha.links.ask("beta", "trace", "m1", timeout_s=100) is None
    assert cluster.clock.now() - started < 1
    beta.on_question = None
    alpha.send("beta", item(1))
    await until(lambda: not alpha.outbox, cluster.clock)
    assert await alpha.links.ask("beta", "trace", "m2", timeout_s=5) is not None


async def _break_when(cluster: Cluster, condition: object) -> None:
    await until(condition, cluster.clock)  # type: ignore[arg-type]
    await cluster.network.break_all()


async def test_more_questions_than_may_be_open_are_refused_here(cluster: Cluster) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    gate = trio.Event()
    beta.on_question = gate.wait
    answers: list[Answer | None] = []

    async def ask(about: str) -> None:
        answers.append(await alpha.links.ask("beta", "trace", about, timeout_s=50))

    async with trio.open_nursery() as nursery:
        for number in range(OPEN_LIMIT + 3):
            nursery.start_soon(ask, str(number))
        await until(lambda: len(answers) == 3, cluster.clock)
        assert answers == [None] * 3
        gate.set()
    assert sum(answer is not None for answer in answers) == OPEN_LIMIT
    assert alpha.links.statistics()["rejects"]["limit"] == 3


async def test_a_peer_that_asks_too_often_is_refused_and_keeps_its_link(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions_module, "ASKS_PER_S", 0.0)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    states = []
    for number in range(int(ASKS_BURST) + 5):
        answer = await alpha.links.ask("beta", "trace", str(number), timeout_s=5)
        assert answer is not None
        states.append(answer.state)
    assert states == ["known"] * int(ASKS_BURST) + ["refused"] * 5
    assert len(beta.asked) == ASKS_BURST
    monkeypatch.setattr(questions_module, "ASKS_PER_S", ASKS_PER_S)
    await cluster.clock.sleep(1)
    answer = await alpha.links.ask("beta", "trace", "again", timeout_s=5)
    assert answer is not None
    assert answer.state == "known"
    assert alpha.links.is_open("beta")


async def test_an_answer_that_was_not_asked_for_ends_the_link(cluster: Cluster) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    [inbound] = beta.links._inbound.values()
    inbound._told.append(Answer(77, "known", b"x"))
    inbound._session.wake()
    await until(lambda: ("beta", False) in alpha.events, cluster.clock)
    assert alpha.links.statistics()["rejects"]["frame"] == 1


async def test_the_acceptor_of_a_link_asks_nothing_on_it(cluster: Cluster) -> None:
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    alpha.links.ensure("beta")
    await until(lambda: alpha.links.is_open("beta"), cluster.clock)
    [inbound] = beta.links._inbound.values()
    inbound._answers.append(encode(Ask(1, "trace", "m")))
    inbound._session.wake()
    await until(lambda: ("beta", False) in alpha.events, cluster.clock)


def test_an_abandoned_question_is_never_sent_and_makes_room() -> None:
    questions = Questions()
    for number in range(OPEN_LIMIT):
        asked = questions.ask("trace", str(number))
        assert asked is not None
        asked.abandon()
    assert questions.next() is None
    assert questions.ask("trace", "m") is not None
    sent = questions.next()
    assert sent is not None
    frame = decode(sent[HEADER_BYTES:])
    assert isinstance(frame, Ask)
    assert frame.about == "m"


def test_an_answer_that_is_too_large_is_no_frame() -> None:
    with contextlib.suppress(PeerRejected):
        decode(encode(Answer(1, "known", bytes(MAX_ANSWER_BYTES + 1)))[HEADER_BYTES:])
        raise AssertionError("it was taken")
    assert decode(encode(Answer(1, "known", bytes(MAX_ANSWER_BYTES)))[HEADER_BYTES:])


def test_an_allowance_is_spent_and_comes_back() -> None:
    allowance = Allowance(0.0)
    assert sum(allowance.spend(0.0) for _ in range(1_000)) == ASKS_BURST
    assert sum(allowance.spend(0.1) for _ in range(1_000)) == ASKS_PER_S * 0.1
    assert sum(allowance.spend(1_000.0) for _ in range(1_000)) == ASKS_BURST
