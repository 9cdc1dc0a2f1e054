import random

from hypothesis import given
from hypothesis import strategies as st

from node.message import Message
from node.messaging.mailboxes import HEAD_START, Entry, Mailbox
from node.vocabulary import Performative


def entry(seq, lane="c", priority=5):
    message = Message(
        id=f"m{seq}", performative=Performative.INFORM, sender="s@n", receiver="a@n",
        conversation_id=lane, reply_with=f"m{seq}", priority=priority,
    )  # fmt: skip
    return Entry(seq, "n", message, 0, 0, 0, 1e9, "")


def mailbox(capacity=100):
    found = Mailbox(capacity)
    found.refill([], exhausted=True)
    return found


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40),
    st.integers(1, 4),
    st.integers(),
)
def test_order_holds_within_a_lane_and_one_lane_is_worked_on_once(arrivals, workers, seed):
    chance = random.Random(seed)
    box, running, finished = mailbox(), [], []
    waiting = [entry(seq, lane, priority) for seq, (lane, priority) in enumerate(arrivals)]
    while waiting or len(box) or running:
        if waiting and chance.random() < 0.5:
            assert box.offer(waiting.pop(0))
        elif len(running) < workers and (taken := box.take()) is not None:
            assert taken.lane not in [other.lane for other in running]
            running.append(taken)
        elif running:
            done = running.pop(chance.randrange(len(running)))
            box.done(done)
            finished.append(done)
    assert len(finished) == len(arrivals)
    for lane in "abc":
        seqs = [e.seq for e in finished if e.message.conversation_id == lane]
        assert seqs == sorted(seqs)


def test_priority_chooses_between_conversations():
    box = mailbox()
    for seq, (lane, priority) in enumerate([("low", 0), ("high", 9), ("middle", 5), ("low", 9)]):
        box.offer(entry(seq, lane, priority))
    taken = [box.take() for _ in range(3)]
    assert [e.message.conversation_id for e in taken] == ["high", "middle", "low"]
    assert box.take() is None
    box.done(taken[2])
    assert box.take().seq == 3


def test_a_low_priority_is_overtaken_a_bounded_number_of_times():
    box = mailbox(10_000)
    box.offer(entry(0, "low", 0))
    overtaken = 0
    for seq in range(1, 20 * HEAD_START):
        box.offer(entry(seq, f"high{seq}", 9))
        taken = box.take()
        box.done(taken)
        if taken.seq == 0:
            break
        overtaken += 1
    assert overtaken <= 9 * HEAD_START


def test_what_does_not_fit_is_left_in_the_table_until_it_is_refilled_in_order():
    box = mailbox(2)
    assert [box.offer(entry(seq)) for seq in range(4)] == [True, True, False, False]
    box.done(box.take())
    assert not box.offer(entry(4))  # it must not overtake those in the table
    box.refill([entry(2)], exhausted=False)
    assert not box.offer(entry(4))
    for expected in (1, 2):
        taken = box.take()
        assert taken.seq == expected
        box.done(taken)
    box.refill([entry(3), entry(4)], exhausted=True)
    assert [box.take().seq, box.take(), len(box)] == [3, None, 1]
    assert box.offer(entry(3))  # known already: not taken twice
    assert len(box) == 1


def test_a_higher_epoch_is_remembered():
    box = mailbox()
    box.offer(entry(1))
    box.raise_epoch(1, 3)
    box.raise_epoch(1, 2)
    box.raise_epoch(99, 5)
    assert box.take().epoch == 3
