"""Who is asked for what, and when who is told: decisions without any I/O."""

from __future__ import annotations

import itertools

import pytest

from node.memory.replication import exchange as exchange_module
from node.memory.replication.exchange import (
    IDLE_PAGES,
    NEWS_S,
    PARTNERS,
    REFUSED_S,
    REPAIR_EVERY_S,
    SECOND_HAND_S,
    STALLED_S,
    WAIT_S,
    Exchange,
    partners,
)
from node.memory.replication.head import LOGS_LIMIT, STALLED_LIMIT, Head
from node.memory.replication.wire import (
    EVERYTHING,
    Have,
    Heading,
    Page,
    Request,
    Stretch,
    decode_request,
    encode,
)
from node.transport.frames import MAX_PULL_BYTES
from swim.identity import MAX_NAME_CHARACTERS

LOG = b"log-of-n"
OWN, THEIRS = ("n1", LOG), ("n2", LOG)


def head(name: str, seen: int, digest: bytes = bytes(16)) -> Head:
    return Head(name, LOG, seen, digest)


def page(*heads: Head, stretches: tuple[Stretch, ...] = ()) -> Page:
    return Page(tuple(Heading(*each) for each in heads), stretches)


def stretch(node: str, first: int, count: int) -> Stretch:
    return Stretch(node, LOG, first, 0, b"c", bytes(64), bytes(32 * count), ())


def seen(request: Request) -> dict[str, int]:
    return {have.node: have.seen for have in request.have}


@pytest.fixture
def exchange() -> Exchange:
    made = Exchange("n1")
    made.know([head("n1", 5), head("n2", 7)], 0.0)
    return made


def test_a_request_says_how_much_of_each_log_is_held(exchange):
    assert seen(exchange.request("n2", 0.0, wait=False)) == {"n1": 5, "n2": 7}


def test_what_a_partner_has_more_of_is_missing(exchange):
    exchange.told("n2", page(head("n1", 5), head("n2", 8)), 0.0)
    assert exchange.is_missing("n2", 0.0)
    assert exchange.statistics(0.0)["peers"]["n2"]["behind"] == 1
    exchange.know([head("n1", 5), head("n2", 8)], 1.0)
    assert not exchange.is_missing("n2", 1.0)
    assert exchange.statistics(1.0)["peers"]["n2"]["in_step"]


def test_a_stalled_log_is_not_asked_for_until_its_time_is_up(exchange):
    exchange.told("n2", page(head("n2", 9)), 0.0)
    exchange.stall(THEIRS, "clock", 0.0)
    assert seen(exchange.request("n2", 1.0, wait=True)) == {"n1": 5, "n2": EVERYTHING}
    assert not exchange.is_missing("n2", 1.0)
    assert exchange.statistics(1.0)["stalled"] == {"n2": "clock"}
    assert exchange.is_missing("n2", STALLED_S)
    assert seen(exchange.request("n2", STALLED_S, wait=True)) == {"n1": 5, "n2": 7}


def test_who_waits_is_told_of_own_words_soon_and_of_others_later(exchange):
    exchange.wait("n2", 1, Request((Have("n1", LOG, 5), Have("n2", LOG, 7)), wait=True), 0.0)
    assert exchange.next_due() == WAIT_S
    exchange.know([head("n1", 6), head("n2", 7)], 10.0)
    assert exchange.next_due() == 10.0 + NEWS_S
    assert exchange.due(10.0) == []
    assert exchange.due(10.0 + NEWS_S) == [("n2", 1)]
    assert exchange.due(99.0) == []  # once
    exchange.wait("n3", 2, Request((Have("n1", LOG, 6), Have("n2", LOG, 7)), wait=True), 19.0)
    exchange.know([head("n1", 6), head("n2", 8)], 20.0)
    assert exchange.next_due() == 20.0 + SECOND_HAND_S


def test_who_lacks_something_already_does_not_wait(exchange):
    exchange.wait("n2", 1, Request((), wait=True), 0.0)
    assert exchange.due(SECOND_HAND_S) == [("n2", 1)]


def test_a_request_is_gone_with_its_link(exchange):
    exchange.wait("n2", 1, Request((), wait=True), 0.0)
    exchange.lost("n2")
    assert exchange.due(99.0) == []


def test_who_is_no_partner_any_more_is_still_told(exchange):
    exchange.told("n2", page(head("n1", 5), head("n2", 8)), 0.0)
    exchange.wait("n2", 1, Request((), wait=True), 0.0)
    exchange.leave("n2")
    assert not exchange.is_missing("n2", 0.0)
    assert exchange.due(SECOND_HAND_S) == [("n2", 1)]
    exchange.leave("n2")
    assert exchange.statistics(0.0)["peers"] == {}


def test_logs_that_differ_are_asked_for_from_the_beginning_and_not_too_often(exchange):
    differs = page(head("n1", 5), head("n2", 7, bytes([1]) * 16))
    exchange.told("n2", differs, 0.0)
    assert exchange.is_repairing("n2")
    assert seen(exchange.request("n2", 0.0, wait=False)) == {"n1": 5, "n2": 0}
    exchange.told("n2", page(*(), stretches=(stretch("n2", 1, 4),)), 0.0)
    assert seen(exchange.request("n2", 0.0, wait=False)) == {"n1": 5, "n2": 4}
    exchange.told("n2", differs, 0.0)
    assert not exchange.is_repairing("n2")
    exchange.told("n2", differs, REPAIR_EVERY_S - 1)
    assert not exchange.is_repairing("n2")
    exchange.told("n2", differs, REPAIR_EVERY_S)
    assert exchange.is_repairing("n2")


@pytest.mark.parametrize("is_ours", [False, True])
def test_a_log_of_which_nothing_is_told_yet_keeps_no_others_from_being_compared(exchange, is_ours):
    begun = Head("n1", b"a-new-on", 0, bytes(16))
    exchange.know([head("n1", 5), head("n2", 7), *([begun] if is_ours else [])], 1.0)
    differs = head("n2", 7, bytes([1]) * 16)
    exchange.told("n2", page(head("n1", 5), differs, *([] if is_ours else [begun])), 1.0)
    assert exchange.is_repairing("n2")


def test_a_log_that_is_left_alone_keeps_no_others_from_being_compared(exchange):
    """Else a member that signs something of tomorrow would keep everybody from finding out who lies."""
    exchange.stall(THEIRS, "clock", 0.0)
    exchange.told("n3", page(head("n1", 5), head("n2", 7, bytes([1]) * 16)), 1.0)
    assert not exchange.is_repairing("n3")
    exchange.told("n3", page(head("n1", 5, bytes([1]) * 16), head("n2", 7)), 2.0)
    assert exchange.is_repairing("n3")


def test_a_log_that_is_left_alone_is_not_repaired_on(exchange):
    exchange.repair("n2", [OWN, THEIRS])
    exchange.stall(THEIRS, "room", 0.0)
    assert seen(exchange.request("n2", 1.0, wait=False)) == {"n1": 0, "n2": EVERYTHING}
    exchange.stall(OWN, "room", 1.0)
    assert not exchange.is_repairing("n2")


def test_a_repair_goes_on_with_what_lies_beyond_what_it_had(exchange):
    exchange.repair("n2", [THEIRS])
    assert exchange.told("n2", page(stretches=(stretch("n2", 1, 4),)), 0.0)
    assert not exchange.told("n2", page(stretches=(stretch("n2", 1, 4),)), 0.0)
    assert not exchange.told("n2", page(stretches=(stretch("n1", 6, 4),)), 0.0)
    assert exchange.told("n2", page(stretches=(stretch("n2", 1, 5),)), 0.0)


def test_who_brings_nothing_again_and_again_is_asked_less_often(exchange):
    for _ in range(2):
        assert all(exchange.gained("n2", anything=False) for _ in range(IDLE_PAGES))
        assert not exchange.gained("n2", anything=False)
        assert exchange.gained("n3", anything=False)
        assert exchange.gained("n2", anything=True)


def test_as_many_logs_as_there_can_be_fit_into_a_request_beside_those_that_are_left_alone(exchange):
    def name(number: int) -> str:
        return f"{number:x<{MAX_NAME_CHARACTERS}}"

    exchange.know([Head(name(number), LOG, EVERYTHING, bytes(16)) for number in range(LOGS_LIMIT)], 0.0)
    for number in range(STALLED_LIMIT + 10):
        exchange.stall((name(LOGS_LIMIT + number), LOG), "room", 0.0)
    body = encode(exchange.request("n2", 0.0, wait=False))
    assert len(body) <= MAX_PULL_BYTES
    asked = {have.node for have in decode_request(body).have}
    assert len(asked) == LOGS_LIMIT + STALLED_LIMIT
    assert name(LOGS_LIMIT + STALLED_LIMIT + 9) in asked


def test_logs_that_are_not_held_alike_are_not_compared(exchange):
    exchange.told("n2", page(head("n1", 4), head("n2", 7, bytes([1]) * 16)), 0.0)
    assert not exchange.is_repairing("n2")


def test_who_is_not_believed_is_left_alone_for_a_while(exchange):
    exchange.refuse("n2", 5.0)
    assert exchange.paused_until("n2") == 5.0 + REFUSED_S
    assert exchange.paused_until("n3") == 0.0
    assert exchange.statistics(5.0)["peers"]["n2"]["refused"] == 1


def test_what_is_noted_of_peers_is_bounded(exchange, monkeypatch):
    monkeypatch.setattr(exchange_module, "PEERS_LIMIT", 3)
    for number in range(10):
        exchange.refuse(f"p{number}", 0.0)
    assert len(exchange.statistics(0.0)["peers"]) == 3


@pytest.mark.parametrize("count", [2, 3, 5, 6, 20, 100])
def test_everybody_hears_of_everything_whoever_is_asked(count):
    names = [f"n{number:03}" for number in range(count)]
    asks = {name: partners(name, [other for other in names if other != name]) for name in names}
    assert max(map(len, asks.values())) <= PARTNERS
    assert not any(name in asked for name, asked in asks.items())
    for name in names:
        reached = {name}
        for _ in range(count):
            reached |= set(itertools.chain.from_iterable(asks[each] for each in reached))
        assert reached == set(names)
