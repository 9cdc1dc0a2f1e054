"""Answers while they are made: who sees them, how they begin anew, and what they never hold up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.environment import SystemClock
from node.errors import ResourceLimitExceeded
from node.message import Message
from node.messaging import partial_watches
from node.messaging.delivery import Delivery, Draft
from node.messaging.partial_sources import (
    FLUSH_S,
    SPEECH_LIMIT,
    TEXT_LIMIT,
    WANTED_LIMIT,
    PartialSources,
)
from node.messaging.partial_watches import Piece, Watch
from node.transport.frames import MAX_PARTIAL_CHARS, Partial
from node.vocabulary import Performative
from tests.node.messaging.rooms import Cluster, cluster, echo, eventually, pause

A = ("writer", "b")


@pytest.fixture
async def nodes(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, "a", "b") as found:
        yield found


class Writer:
    """An agent that says one piece after the other, a second apart, and then answers."""

    def __init__(self, *pieces: str, again: int = 0) -> None:
        self.pieces, self.again = pieces, again
        self.runs = 0

    async def __call__(self, delivery: Delivery) -> Sequence[Draft]:
        self.runs += 1
        assert delivery.audience is not None
        with delivery.audience.speak("writer", delivery) as speech:
            speech.begin(1)
            for place, text in enumerate(self.pieces):
                await pause(1.0)
                if place == 1 and self.runs <= self.again:
                    raise RuntimeError("it broke")
                speech.hear(text)
            await pause(1.0)
        return [Draft(Performative.INFORM, "".join(self.pieces))]


async def ask(nodes: Cluster, origin: str = "a", **fields: Any) -> tuple[list[Piece], str]:
    """Ask the writer and watch; the pieces that were shown, and the reply."""
    bus, message = nodes[origin].bus, nodes[origin].message(**({"capability": "writing"} | fields))
    pieces: list[Piece] = []
    with bus.partials.watches.watch(message.id) as watch:
        wait = bus.expect(message)
        await bus.accept(message)
        bus.partials.watches.look()
        while not watch.ended:
            await watch.change()
            while (piece := watch.take()) is not None:
                pieces.append(piece)
        await wait.satisfied.wait()
        bus.expect_no_more(wait)
    return pieces, wait.replies[0].content


def texts(pieces: Sequence[Piece]) -> list[str]:
    return ["(anew)" if piece.event == "restart" else piece.text for piece in pieces]


@pytest.mark.parametrize("home", ["a", "b"])
async def test_pieces_are_seen_before_the_reply_here_and_on_another_node(
    autojump_clock: MockClock, nodes: Cluster, home: str
) -> None:
    nodes[home].attach("writer", Writer("Once ", "upon ", "a time"), "writing")
    pieces, reply = await ask(nodes)
    assert texts(pieces) == ["Once ", "upon ", "a time"]
    assert [(p.sequence, p.attempt, p.turn) for p in pieces] == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]
    assert reply == "Once upon a time"
    assert nodes["a"].bus.partials.statistics()["watches"] == 0
    counted = nodes[home].bus.partials.statistics()
    assert (counted["speeches"], counted["wanted"]) == (0, 0)


async def test_nothing_is_told_of_a_message_that_nobody_watches(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("Once ", "upon "), "writing")
    await nodes["a"].bus.request(nodes["a"].message(capability="writing"), timeout_s=60)
    counted = nodes["b"].bus.partials.statistics()
    assert (counted["speeches_made"], counted["pieces_told"]) == (1, 0)
    assert nodes["a"].bus.partials.statistics()["asked"] == 0


async def test_a_handler_that_is_run_again_begins_the_text_anew(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("Once ", "upon", again=1), "writing")
    pieces, _ = await ask(nodes)
    assert texts(pieces) == ["Once ", "(anew)", "Once ", "upon"]
    assert [p.attempt for p in pieces] == [1, 2, 2, 2]
    assert [p.sequence for p in pieces] == [0, 1, 2, 3]


async def test_a_message_that_moves_begins_anew_at_its_next_provider(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("Half ", *["never"] * 100), "writing", priority=9)
    await nodes.start("c")
    nodes["c"].attach("writer", Writer("Whole ", "text"), "writing", priority=1)

    async def die() -> None:
        await pause(1.5)
        await nodes.crash("b")
        nodes.bury("b")

    nodes.nursery.start_soon(die)
    pieces, reply = await ask(nodes)
    assert texts(pieces) == ["Half ", "(anew)", "Whole ", "text"]
    assert reply == "Whole text"


async def test_a_link_that_breaks_costs_no_text(autojump_clock: MockClock, nodes: Cluster) -> None:
    nodes["b"].attach("writer", Writer("one ", "two ", "three ", "four"), "writing")

    async def cut() -> None:
        await pause(2.5)
        nodes.cut("a", "b")

    nodes.nursery.start_soon(cut)
    pieces, reply = await ask(nodes)
    shown = texts(pieces)
    assert shown[:2] == ["one ", "two "]
    assert "(anew)" in shown  # what was on the link may be lost, so all is told again
    assert "".join(shown[shown.index("(anew)") + 1 :]) == reply


async def test_a_node_that_does_not_know_the_question_is_asked_once_and_answers_as_ever(
    autojump_clock: MockClock,
    nodes: Cluster,
) -> None:
    nodes["b"].attach("echo", echo(), "echo")
    await nodes["a"].bus.request(nodes["a"].message(capability="echo"), timeout_s=60)
    nodes["b"].links.old = True
    nodes["b"].attach("writer", Writer("Once ", "upon"), "writing")
    pieces, reply = await ask(nodes)
    assert (pieces, reply) == ([], "Once upon")
    counted = nodes["a"].bus.partials.statistics()
    assert (counted["asked"], counted["deaf"]) == (1, 1)


async def test_a_link_that_takes_no_pieces_holds_nothing_up_and_loses_no_text(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("one ", "two ", "three ", "four"), "writing")
    nodes["b"].links.refuse_partials = True

    async def relent() -> None:
        await pause(3.5)
        nodes["b"].links.refuse_partials = False

    nodes.nursery.start_soon(relent)
    pieces, reply = await ask(nodes)
    assert texts(pieces) == ["one two three ", "four"]
    assert reply == "one two three four"


async def test_a_node_tells_only_of_messages_that_are_on_their_way_to_it(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("true"), "writing")
    bus = nodes["a"].bus

    async def lie() -> None:
        await pause(0.5)
        [message_id] = bus.partials.watches._watches
        bus.on_partial("c", Partial(message_id, "writer", 1, 0, "a lie"))
        bus.on_partial("b", Partial(message_id, "another", 1, 0, "a lie"))
        bus.on_partial("b", Partial("unknown", "writer", 1, 0, "a lie"))
        bus.on_partial("b", Partial(message_id, "writer", 1, 5, "out of nowhere"))

    nodes.nursery.start_soon(lie)
    pieces, _ = await ask(nodes)
    assert texts(pieces) == ["true"]
    counted = bus.partials.statistics()
    assert (counted["refused"], counted["unwanted"], counted["broken"]) == (2, 1, 1)


async def test_who_asks_for_the_messages_of_others_is_told_nothing(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer("Once ", "upon"), "writing")
    message = nodes["a"].message(capability="writing")
    await nodes["b"].bus.on_ask("c", "partials", message.id)
    await nodes["a"].bus.request(message, timeout_s=60)
    assert nodes["b"].bus.partials.statistics()["pieces_told"] == 0


async def test_whoever_goes_away_leaves_nothing_behind(autojump_clock: MockClock, nodes: Cluster) -> None:
    nodes["a"].attach("writer", Writer("Once ", "upon"), "writing")
    bus, message = nodes["a"].bus, nodes["a"].message(capability="writing")
    with bus.partials.watches.watch(message.id):
        await bus.accept(message)
        await pause(1.5)
    counted = bus.partials.statistics()
    assert (counted["watches"], counted["wanted"], counted["pieces_told"]) == (0, 0, 1)
    await eventually(lambda: bus.partials.statistics()["speeches"] == 0)
    assert bus.partials.statistics()["pieces_told"] == 1


async def test_a_node_that_tells_is_told_when_nobody_watches_any_more(
    autojump_clock: MockClock, nodes: Cluster
) -> None:
    nodes["b"].attach("writer", Writer(*["word "] * 20), "writing")
    bus, message = nodes["a"].bus, nodes["a"].message(capability="writing")
    with bus.partials.watches.watch(message.id) as watch:
        await bus.accept(message)
        bus.partials.watches.look()
        while watch.take() is None:
            await watch.change()
    await pause(1.5)
    told = nodes["b"].bus.partials.statistics()
    assert (told["wanted"], told["speeches"]) == (0, 1)
    await pause(5)
    assert nodes["b"].bus.partials.statistics()["pieces_told"] == told["pieces_told"]
    assert bus.partials.statistics()["unwanted"] <= 1


async def test_watches_are_bounded_and_one_message_has_one(
    autojump_clock: MockClock, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = nodes["a"].bus.partials.watches
    monkeypatch.setattr(partial_watches, "WATCH_LIMIT", 2)
    with watches.watch("m1"), pytest.raises(ResourceLimitExceeded, match="already"), watches.watch("m1"):
        pass
    with (
        watches.watch("m1"),
        watches.watch("m2"),
        pytest.raises(ResourceLimitExceeded, match="too many"),
        watches.watch("m3"),
    ):
        pass
    with watches.watch("m1"):
        assert watches.statistics()["watches"] == 1


# One watch by itself


def test_a_reader_that_is_slow_gets_longer_pieces() -> None:
    watch = Watch("m1")
    for place, text in enumerate("abc"):
        assert watch.add(A, Partial("m1", "writer", 1, place, text))
    assert watch.take() == Piece("partial", "m1", 0, 1, 1, "abc")
    assert watch.take() is None


def test_a_text_that_begins_anew_before_it_was_read_needs_no_restart() -> None:
    watch = Watch("m1")
    watch.add(A, Partial("m1", "writer", 1, 0, "never read"))
    watch.add(A, Partial("m1", "writer", 2, 0, "read"))
    assert watch.take() == Piece("partial", "m1", 0, 1, 2, "read")
    watch.add(A, Partial("m1", "writer", 3, 0, ""))
    assert watch.take() == Piece("restart", "m1", 1, 2, 3)
    assert watch.take() is None


def test_no_two_texts_are_ever_joined() -> None:
    watch = Watch("m1")
    watch.add(A, Partial("m1", "writer", 1, 0, "one"))
    assert not watch.add(A, Partial("m1", "writer", 2, 3, "two"))
    assert not watch.add(("writer", "c"), Partial("m1", "writer", 1, 3, "two"))
    assert not watch.add(A, Partial("m1", "writer", 1, 4, "gap"))
    assert not watch.add(A, Partial("m1", "writer", 1, 2, "overlap"))
    assert watch.take() == Piece("partial", "m1", 0, 1, 1, "one")


def test_what_a_watch_holds_is_bounded_whatever_is_told() -> None:
    watch, text, most = Watch("m1"), "x" * MAX_PARTIAL_CHARS, TEXT_LIMIT // MAX_PARTIAL_CHARS
    told = [watch.add(A, Partial("m1", "writer", 1, n * len(text), text)) for n in range(most + 3)]
    assert told == [True] * most + [False] * 3
    piece = watch.take()
    assert piece is not None
    assert len(piece.text) == TEXT_LIMIT


# The handler's side by itself


class Told:
    """Takes pieces for origins, or refuses them."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, Partial]] = []
        self.refuses = False

    def __call__(self, origin: str, piece: Partial) -> bool:
        if not self.refuses:
            self.pieces.append((origin, piece))
        return not self.refuses

    def all(self) -> list[tuple[int, str, bool]]:
        return [(piece.position, piece.text, piece.last) for _, piece in self.pieces]


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def sources(told: Told, autojump_clock: MockClock) -> AsyncIterator[PartialSources]:
    found = PartialSources(SystemClock(), told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        yield found
        nursery.cancel_scope.cancel()


def delivered(message_id: str = "m1", origin: str = "a") -> Delivery:
    message = Message(
        id=message_id,
        performative=Performative.REQUEST,
        sender=f"client@{origin}",
        capability="writing",
        conversation_id="talk",
        reply_with=message_id,
    )
    return Delivery(message, origin, "", 1, 0, None)


async def test_pieces_are_gathered_for_a_moment(
    autojump_clock: MockClock, sources: PartialSources, told: Told
) -> None:
    sources.want("a", "m1")
    with sources.speak("writer", delivered()) as speech:
        for word in ("so ", "it ", "begins"):
            speech.hear(word)
        await pause(FLUSH_S * 1.5)
        assert told.all() == [(0, "so it begins", False)]
        speech.hear(" again")
        await pause(FLUSH_S * 1.5)
    assert told.all()[1:] == [(12, " again", False)]
    sources.want("a", "m1")
    with sources.speak("writer", delivered()) as speech:
        speech.hear("told ")
        await pause(FLUSH_S * 1.5)
        speech.hear("at last")
    assert told.all()[2:] == [(0, "told ", False), (5, "at last", False)]


async def test_whoever_asks_late_is_told_from_the_beginning(
    autojump_clock: MockClock, sources: PartialSources, told: Told
) -> None:
    with sources.speak("writer", delivered()) as speech:
        speech.hear("first ")
        await pause(1)
        assert told.pieces == []
        sources.want("a", "m1")
        await pause(1)
        assert told.all() == [(0, "first ", False)]


async def test_long_texts_come_in_frames_and_end_at_the_limit(
    autojump_clock: MockClock, sources: PartialSources, told: Told
) -> None:
    sources.want("a", "m1")
    with sources.speak("writer", delivered()) as speech:
        for _ in range(3):
            speech.hear("x" * TEXT_LIMIT)
            await pause(1)
        assert sum(len(text) for _, text, _ in told.all()) == TEXT_LIMIT
        assert max(len(text) for _, text, _ in told.all()) == MAX_PARTIAL_CHARS
        assert [last for _, _, last in told.all()].index(True) == len(told.pieces) - 1
        speech.begin(2)
        speech.hear("short")
        await pause(1)
        assert told.all()[-1] == (0, "short", False)


async def test_a_turn_that_begins_anew_is_told_before_it_has_any_text(
    autojump_clock: MockClock, sources: PartialSources, told: Told
) -> None:
    sources.want("a", "m1")
    with sources.speak("writer", delivered()) as speech:
        speech.begin(1)
        await pause(1)
        assert told.pieces == []
        speech.hear("let me see")
        await pause(1)
        speech.begin(2)
        await pause(1)
        assert told.all() == [(0, "let me see", False), (0, "", False)]
        assert told.pieces[-1][1].turn == 2


async def test_what_is_kept_and_wanted_is_bounded(
    autojump_clock: MockClock, sources: PartialSources, told: Told
) -> None:
    for number in range(WANTED_LIMIT + 10):
        sources.want("a", f"m{number}")
    counted = sources.statistics()
    assert counted["wanted"] == WANTED_LIMIT
    with sources.speak("writer", delivered("m3")) as speech:  # has given way
        speech.hear("unseen")
        await pause(1)
    assert told.pieces == []
    with ExitStack() as stack:
        for number in range(SPEECH_LIMIT):
            stack.enter_context(sources.speak("writer", delivered(f"n{number}")))
        sources.want("a", "last")
        with sources.speak("writer", delivered("last")) as speech:
            speech.hear("unseen")
            await pause(1)
        assert sources.statistics()["speeches_left_out"] == 1
    assert (told.pieces, sources.statistics()["speeches"]) == ([], 0)
    sources.want_no_more("a")
    assert sources.statistics()["wanted"] == 0
