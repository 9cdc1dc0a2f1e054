"""Connections: in order, complete, slow over bad links, broken when an end is gone."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from simulations.links import Change, Link, Links, separate
from simulations.tcp import MAX_CONNECT_RETRIES, SEGMENT_BYTES, WINDOW_BYTES, Connection, Dial
from simulations.timeline import Timeline

SECOND = 1_000_000


@dataclass(eq=False)
class Process:
    name: str
    paused: bool = False
    fenced: bool = False


@dataclass(eq=False)
class End:
    """One end of a connection, which notes what it is told."""

    timeline: Timeline
    process: Process
    is_closed: bool = False
    is_off: bool = False
    has_vanished: bool = False
    got: bytes = b""
    told: list[tuple[str, int]] = field(default_factory=list)

    @property
    def host(self):
        return self.process.name

    def take(self, data):
        self.got += data
        self.told.append(("bytes", self.timeline.now_us))

    def end(self):
        self.told.append(("end", self.timeline.now_us))

    def break_(self, reason):
        self.told.append((reason, self.timeline.now_us))


class Pair:
    """Two ends over one link."""

    def __init__(self, link=None, seed=1):
        self.timeline, self.counts = Timeline(seed), Counter()
        self.links = Links(link or Link(0.001, 0.0))
        self.near, self.far = (End(self.timeline, Process(name)) for name in ("near", "far"))
        self.connection = Connection(
            self.timeline, self.links.of, random.Random(seed), self.near, self.far, counts=self.counts
        )

    def send(self, data):
        self.connection.pipe(self.near).send(data)

    def run(self, seconds):
        self.timeline.run_until(self.timeline.now_us + int(seconds * SECOND))


def test_bytes_arrive_in_order_after_one_delay_and_the_end_after_them():
    pair = Pair()
    pair.send(b"abc")
    pair.send(b"def")
    pair.connection.pipe(pair.near).finish()
    pair.run(1)
    assert pair.far.got == b"abcdef"
    assert [what for what, _ in pair.far.told] == ["bytes", "bytes", "end"]
    assert pair.far.told[0][1] == 1_000


def test_everything_arrives_over_a_lossy_link_with_jitter_and_in_order():
    pair = Pair(Link(0.001, 0.05, loss=0.3))
    data = random.Random(1).randbytes(30 * SEGMENT_BYTES)
    for start in range(0, len(data), 1_000):
        pair.send(data[start : start + 1_000])
    pair.run(600)
    assert pair.far.got == data
    assert pair.counts["retransmitted"] > 5


def test_a_single_lost_segment_waits_for_the_timeout_which_doubles():
    pair = Pair(Link(0.001, 0.0, loss=1.0))
    pair.send(b"x")
    pair.run(3.1)  # tried at 0, 0.2, 0.6, 1.4 and 3.0 s
    assert pair.counts["retransmitted"] == 5
    pair.links.default.loss = 0.0
    pair.run(10)
    assert pair.far.told == [("bytes", int(6.2 * SECOND) + 1_000)]


def test_a_gap_in_a_burst_is_mended_after_one_round_trip():
    pair = Pair(Link(0.01, 0.0, loss=0.02), seed=3)
    pair.send(bytes(40 * SEGMENT_BYTES))
    pair.run(10)
    assert pair.counts["retransmitted"] >= 1
    assert pair.far.told[-1][1] < 150_000


def took(loss, seed):
    pair = Pair(Link(0.001, 0.001, loss=loss), seed)
    pair.send(bytes(8 * SEGMENT_BYTES))
    pair.connection.pipe(pair.near).finish()
    pair.run(7_200)
    return pair.far.told[-1][1] / SECOND


def test_a_stream_over_a_link_that_loses_four_of_five_packets_is_very_slow():
    fast = [took(0.01, seed) for seed in range(20)]
    slow = [took(0.8, seed) for seed in range(20)]
    assert sorted(fast)[10] < 0.01
    assert sorted(slow)[10] > 10


def test_a_stream_stalls_at_a_cut_and_goes_on_when_it_is_sent_again():
    pair = Pair()
    rules = separate([["near"], ["far"]], Change(cut=True))
    pair.links.add(rules)
    pair.send(b"x")
    pair.run(10)
    assert pair.far.told == []
    pair.links.remove(rules)
    pair.run(10)
    assert pair.far.told == [("bytes", int(12.6 * SECOND) + 1_000)]  # 0.2 + 0.4 + ... + 6.4 s


def test_a_firewall_for_datagrams_lets_streams_pass():
    pair = Pair()
    pair.links.add(separate([["near"], ["far"]], Change(cut_datagrams=True)))
    pair.send(b"x")
    pair.run(1)
    assert pair.far.got == b"x"


def test_only_a_window_gets_through_where_no_acknowledgement_comes_back():
    pair = Pair()
    pair.links.add(separate([["far"], ["near"]], Change(cut=True), one_way=True))
    for _ in range(50):
        pair.send(bytes(SEGMENT_BYTES))
    pair.run(60)
    assert len(pair.far.got) == WINDOW_BYTES


def test_a_connection_without_progress_breaks_in_the_end():
    pair = Pair(Link(cut=True))
    pair.send(b"x")
    pair.run(3_600)
    assert [what for what, _ in pair.near.told] == ["connection timed out"]
    assert 600 < pair.near.told[0][1] / SECOND < 1_200


def test_what_arrives_at_a_closed_end_is_answered_with_a_reset():
    pair = Pair()
    pair.far.is_closed = True
    pair.send(b"x")
    pair.run(1)
    assert [what for what, _ in pair.near.told] == ["connection reset"]
    assert pair.far.got == b""


def test_an_end_that_dies_resets_the_other_and_one_without_power_does_not():
    pair = Pair()
    pair.connection.reset(pair.far)
    pair.run(1)
    assert pair.near.told == [("connection reset", 1_000)]
    pair = Pair()
    goes_off(pair)
    pair.send(b"x")
    pair.run(60)
    assert pair.near.told == []


def goes_off(pair):
    """The far host loses its power."""
    pair.far.process.fenced = pair.far.is_closed = pair.far.is_off = pair.far.has_vanished = True
    pair.connection.vanish(pair.far)


def test_the_first_segment_that_meets_a_host_with_power_again_is_answered_with_a_reset():
    pair = Pair()
    goes_off(pair)
    pair.run(10)
    pair.far.is_off = False
    pair.run(10)
    assert pair.near.told == []  # which nobody asked for
    pair.send(b"x")
    pair.run(1)
    assert pair.near.told == [("connection reset", 20 * SECOND + 2_000)]
    assert pair.far.got == b""


@pytest.mark.parametrize("ends", [False, True], ids=["bytes", "end"])
def test_what_was_on_the_way_to_a_host_that_went_off_is_sent_again_until_it_is_back(ends):
    pair = Pair()
    pair.send(b"x")
    if ends:
        pair.run(1)
        pair.connection.pipe(pair.near).finish()
    goes_off(pair)
    began_us = pair.timeline.now_us
    pair.run(5)
    assert pair.near.told == []
    pair.far.is_off = False
    pair.run(10)  # sent again after 0.2, 0.6, 1.4, 3.0 and 6.2 s
    assert pair.near.told == [("connection reset", began_us + int(6.2 * SECOND) + 2_000)]


def test_a_host_that_goes_off_again_before_it_has_answered_is_silent():
    pair = Pair()
    goes_off(pair)
    pair.far.is_off = False
    pair.send(b"x")
    pair.far.is_off = True  # with the segment on its way
    pair.run(60)
    assert pair.near.told == []
    pair.far.is_off = False
    pair.run(60)
    assert [what for what, _ in pair.near.told] == ["connection reset"]


def test_what_a_host_has_sent_before_it_went_off_still_arrives():
    pair = Pair()
    pair.connection.pipe(pair.far).send(b"last words")
    goes_off(pair)
    pair.run(1)
    assert (pair.near.got, [what for what, _ in pair.near.told]) == (b"last words", ["bytes"])


def test_a_reset_that_was_lost_comes_again_when_the_network_has_healed():
    pair = Pair()
    rules = separate([["far"], ["near"]], Change(cut=True), one_way=True)
    pair.links.add(rules)
    pair.send(b"x")  # on its way when the process dies
    pair.far.process.fenced = pair.far.is_closed = True
    pair.connection.reset(pair.far)
    pair.run(10)
    assert pair.near.told == []
    pair.links.remove(rules)
    pair.run(10)
    assert [what for what, _ in pair.near.told] == ["connection reset"]
    assert pair.near.told[0][1] > 10 * SECOND


def test_an_end_that_nobody_answers_for_is_given_up_like_any_other():
    pair = Pair()
    pair.links.add(separate([["far"], ["near"]], Change(cut=True), one_way=True))
    pair.far.process.fenced = pair.far.is_closed = True
    pair.send(b"x")
    pair.run(3_600)
    assert [what for what, _ in pair.near.told] == ["connection timed out"]
    assert pair.counts["retransmitted"] <= 20  # less and less often


def test_what_arrives_at_a_paused_process_waits():
    pair = Pair()
    pair.far.process.paused = True
    pair.send(b"x")
    pair.run(5)
    assert pair.far.told == []
    pair.timeline.resume(pair.far.process)
    pair.run(1)
    assert pair.far.told == [("bytes", 5 * SECOND)]


def dial(answer, link=None):
    timeline, ended = Timeline(1), []
    attempt = Dial(
        timeline,
        Links(link or Link(0.001, 0.0)).of,
        random.Random(1),
        source="near",
        target="far",
        answer=lambda: answer,
        done=lambda how, us: ended.append((how, timeline.now_us, us)),
        process=Process("near"),
    )
    return timeline, ended, attempt


def test_connecting_takes_a_round_trip_and_the_other_end_accepts_later():
    timeline, ended, _ = dial(True)
    timeline.run_until(SECOND)
    assert ended == [("accepted", 2_000, 3_000)]


def test_nobody_listens_is_told_after_a_round_trip_and_a_host_without_power_says_nothing():
    timeline, ended, _ = dial(False)
    timeline.run_until(SECOND)
    assert [(how, us) for how, us, _ in ended] == [("refused", 2_000)]
    timeline, ended, attempt = dial(None)
    timeline.run_until(300 * SECOND)
    assert [(how, us) for how, us, _ in ended] == [("timed out", 127 * SECOND)]
    assert attempt.tries == MAX_CONNECT_RETRIES + 1


def test_requests_to_connect_are_repeated_after_one_two_and_four_seconds():
    timeline, ended, attempt = dial(True, Link(cut=True))
    timeline.run_until(int(7.5 * SECOND))
    assert attempt.tries == 4
    attempt.cancel()
    timeline.run_until(300 * SECOND)
    assert (ended, attempt.tries) == ([], 4)
