from hypothesis import given
from hypothesis import strategies as st

from node.messaging.origin import ACTIVE, TABLE, RouteAction, RouteEvent, RouteState, step
from node.messaging.receiver import (
    ARRIVALS,
    Arrival,
    ArrivalAction,
    Handling,
    ItemState,
    arrive,
    end,
    reported,
)

EVENTS = st.lists(st.sampled_from(RouteEvent), max_size=40)
ENDED = (RouteState.SETTLED, RouteState.FAILED, RouteState.ABANDONED)


@given(EVENTS)
def test_a_route_that_has_ended_never_comes_back(events):
    state = RouteState.QUEUED
    for event in events:
        before, (state, _) = state, step(state, event)
        if before in ENDED:
            assert state is before


@given(EVENTS)
def test_a_route_is_put_in_line_exactly_when_it_becomes_queued(events):
    state = RouteState.QUEUED
    for event in events:
        before, (state, action) = state, step(state, event)
        became_queued = state is RouteState.QUEUED and before is not RouteState.QUEUED
        assert (action is RouteAction.QUEUE) == became_queued


def test_an_active_route_always_hears_how_it_ended_and_can_always_be_given_up():
    for state in ACTIVE:
        assert step(state, RouteEvent.SETTLED) == (RouteState.SETTLED, RouteAction.END)
        assert step(state, RouteEvent.FAILED) == (RouteState.FAILED, RouteAction.END)
        assert step(state, RouteEvent.REFUSED) == (RouteState.REFUSED, RouteAction.REPLACE)
        assert step(state, RouteEvent.MOVE)[0] is RouteState.MOVED
        assert step(state, RouteEvent.GIVE_UP)[0] is RouteState.ABANDONED


def test_work_that_was_moved_counts_when_the_first_provider_did_it_after_all():
    assert step(RouteState.MOVED, RouteEvent.SETTLED) == (RouteState.SETTLED, RouteAction.END)
    assert step(RouteState.MOVED, RouteEvent.FAILED) == (RouteState.MOVED, RouteAction.RECORD_LATE)
    assert step(RouteState.MOVED, RouteEvent.REFUSED) == (RouteState.MOVED, RouteAction.NONE)


def test_a_broken_link_never_takes_back_what_was_received():
    assert step(RouteState.RECEIVED, RouteEvent.LINK_LOST) == (RouteState.RECEIVED, RouteAction.NONE)
    assert step(RouteState.SENT, RouteEvent.LINK_LOST) == (RouteState.QUEUED, RouteAction.QUEUE)


def test_every_state_is_reached_by_some_transition():
    reached = {state for state, _ in TABLE.values()}
    assert reached == set(RouteState)


@given(st.lists(st.one_of(st.integers(0, 4), st.sampled_from(Handling)), max_size=40))
def test_a_message_is_handled_at_most_once_unless_it_was_refused(history):
    """Integers are deliveries under that epoch, the rest is what happens to the held message."""
    state, known_epoch, handled = ItemState.UNKNOWN, -1, 0
    for happening in history:
        if isinstance(happening, Handling):
            if state is ItemState.UNKNOWN:
                continue
            before, state = state, end(state, happening)
            handled += before is ItemState.HELD and happening is Handling.SUCCEEDED
            if before not in (ItemState.HELD, ItemState.UNKNOWN):
                assert state is before
            continue
        action = arrive(state, known_epoch, happening)
        if action in (ArrivalAction.STORE, ArrivalAction.HOLD_AGAIN):
            assert state in (ItemState.UNKNOWN, ItemState.REFUSED)
            state = ItemState.HELD
        elif action is ArrivalAction.ANSWER:
            assert reported(state) in ("settled", "failed", "refused")
        else:
            assert state is ItemState.HELD
        known_epoch = max(known_epoch, happening)
    assert handled <= 1


def test_every_arrival_is_provided_for():
    assert set(ARRIVALS) == {(state, arrival) for state in ItemState for arrival in Arrival}
