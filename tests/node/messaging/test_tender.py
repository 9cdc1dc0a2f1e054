"""Bids are compared by one rule, awarded in its order, and each is decided once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ValidationFailed
from node.message import Message
from node.messaging import tender as bounds
from node.messaging.tender import Award, BidState, Prefer, Tender, decision_id
from node.vocabulary import Performative

P = Performative


def bid(name, content=None, performative=P.PROPOSE, **fields):
    return Message(
        id=fields.pop("id", f"bid-{name}"), performative=performative, sender=f"{name}@n", receiver="boss@a",
        content=content, conversation_id="c", reply_with=f"bid-{name}", in_reply_to="call", **fields,
    )  # fmt: skip


def cost(name, value):
    return bid(name, {"cost": value})


def award(prefer="lowest", **options):
    by = None if prefer == "first" else "content.cost"
    return Award(**({"by": by, "prefer": Prefer(prefer)} | options))


def compared(rule, bids, asked=None):
    found = Tender(rule)
    found.compare(bids, asked or [each.sender for each in bids])
    return found


def order(found):
    return [each.message.sender.partition("@")[0] for each in found.bids]


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("lowest", ["b", "c", "a"]), ("highest", ["a", "b", "c"]), ("first", ["a", "b", "c"])],
)
def test_the_rule_puts_bids_in_order_and_equal_ones_by_arrival(prefer, expected):
    assert order(compared(award(prefer), [cost("a", 3), cost("b", 1), cost("c", 1.0)])) == expected


@pytest.mark.parametrize("value", ["1", None, True, [1], {"cost": 1}, math.inf, math.nan])
def test_what_is_no_number_cannot_win(value):
    found = Tender(award())
    rejected = found.compare([cost("a", value), cost("b", 5)], ["a@n", "b@n"])
    assert [each.message.sender for each in rejected] == ["a@n"]
    assert found.next(0.0).message.sender == "b@n"
    assert found.next(0.0) is None


def test_a_path_leads_through_objects_and_lists():
    rule = Award(by="content.offers.1.cost", prefer=Prefer.LOWEST)
    assert rule.value(bid("a", {"offers": [{}, {"cost": 7}]})) == 7
    for content in ({"offers": [{}]}, {"offers": {"1": 7}}, {"offers": "x"}, [], None, 7):
        assert rule.value(bid("a", content)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"by": "cost", "prefer": Prefer.LOWEST},
        {"by": "content..cost", "prefer": Prefer.LOWEST},
        {"by": "content.a b", "prefer": Prefer.LOWEST},
        {"by": ".".join(["content"] + ["x"] * bounds.PATH_LIMIT), "prefer": Prefer.LOWEST},
        {"by": "content.cost", "prefer": Prefer.FIRST},
        {"prefer": Prefer.HIGHEST},
        {"winners": 0},
        {"winners": bounds.WINNERS_LIMIT + 1},
        {"reserves": -1},
        {"reserves": bounds.RESERVES_LIMIT + 1},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValidationFailed) as caught:
        Award(**options)
    assert caught.value.details["field"].startswith("award.")


def test_others_are_kept_in_reserve_and_the_rest_is_rejected_at_once():
    found = Tender(award(reserves=1))
    rejected = found.compare([cost(name, value) for name, value in zip("abcd", (4, 3, 2, 1), strict=True)],
                             ["a@n", "b@n", "c@n", "d@n"])  # fmt: skip
    assert [each.message.sender for each in rejected] == ["b@n", "a@n"]
    first = found.next(0.0)
    assert found.answer(first, bid("d", performative=P.FAILURE)) is False
    second = found.next(0.0)
    assert (first.message.sender, second.message.sender) == ("d@n", "c@n")
    assert found.answer(second, None, "its node is gone") is False
    assert found.next(0.0) is None
    assert (found.status, [each.state.value for each in found.bids]) == (
        "failed", ["failed", "failed", "rejected", "rejected"],
    )  # fmt: skip


def test_the_reserves_are_rejected_when_the_result_is_here():
    found = compared(award(), [cost("a", 1), cost("b", 2)])
    assert found.answer(found.next(0.0), bid("a", performative=P.INFORM))
    assert [each.message.sender for each in found.close("")] == ["b@n"]
    assert found.close("") == []
    assert found.status == "done"


def test_a_bid_that_has_lapsed_is_passed_over():
    early = bid("a", {"cost": 1}, reply_by_s=10.0)
    found = compared(award(), [early, cost("b", 2)])
    assert found.next(10.0).message.sender == "b@n"
    assert found.bids[0].state is BidState.LAPSED


def test_only_those_who_were_asked_may_bid_and_once():
    found = Tender(award())
    replies = [
        cost("a", 5),
        bid("a", {"cost": 1}, id="again"),
        cost("stranger", 0),
        bid("b", performative=P.REFUSE),
    ]
    rejected = found.compare(replies, ["a@n", "b@n", "c@n"])
    assert [each.reason for each in rejected] == ["it has bid before", "it was not called to bid"]
    assert (order(found), found.declined, found.silent) == (["a"], {"b@n": "refuse"}, ["c@n"])


def test_bids_are_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "BID_LIMIT", 2)
    found = Tender(award())
    names = ["a", "b", "c"]
    rejected = found.compare([cost(name, 1) for name in names], [f"{name}@n" for name in names])
    assert (len(found.bids), [each.message.sender for each in rejected]) == (2, ["c@n"])


def test_a_function_of_the_callers_own_may_rank():
    rule = Award(rank=lambda bids: [b for b in reversed(bids) if b.content["cost"] < 5])
    assert not rule.hurries
    found = Tender(rule)
    rejected = found.compare([cost("a", 1), cost("b", 9), cost("c", 3)], ["a@n", "b@n", "c@n"])
    assert [each.message.sender for each in rejected] == ["b@n"]
    assert order(found)[:2] == ["c", "a"]


@given(
    st.lists(st.one_of(st.integers(-9, 9), st.floats(), st.text(max_size=1), st.none()), max_size=8),
    st.sampled_from(["lowest", "highest", "first"]),
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.booleans(), max_size=8),
)
def test_every_bid_is_decided_once_whatever_happens(values, prefer, winners, reserves, results):
    found = Tender(award(prefer, winners=winners, reserves=reserves))
    bids = [cost(f"w{at}", value) for at, value in enumerate(values)]
    decided = [each.message.id for each in found.compare(bids, [each.sender for each in bids])]
    for good in results:
        chosen = found.next(0.0)
        if chosen is not None:
            decided.append(chosen.message.id)
            found.answer(chosen, bid("x", performative=P.INFORM if good else P.FAILURE))
    decided += [each.message.id for each in found.close("")]
    assert sorted(decided) == sorted(each.id for each in bids)
    assert sum(each.state in ("done", "failed") for each in found.bids) <= winners + reserves


def test_the_id_of_a_decision_is_that_of_the_bid_and_its_maker():
    assert decision_id(cost("a", 1)) == decision_id(bid("a", "else"))
    assert decision_id(cost("a", 1)) != decision_id(bid("b", id="bid-a"))
