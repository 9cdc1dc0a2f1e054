"""The five verbs: one seed gives one history, garbage changes nothing, and time may jump."""

import random

import pytest

from swim.events import MemberDied
from swim.messages import MapFrame, Nack, Ping, PingRequest, RollFrame, Who
from tests.swim.net import Net, Sent, cluster, settled


def test_one_seed_one_history() -> None:
    def history(seed: int) -> list[Sent]:
        net = cluster(6, seed=seed)
        net.loss = 0.05
        net.run_for(2)
        net.kill("n2")
        net.run_for(10)
        net.hosts["n3"].swim.update_meta(b"new", net.now)
        net.run_for(5)
        return net.sent

    assert history(9) == history(9)
    assert history(9) != history(10)


def test_garbage_is_counted_by_reason_and_changes_nothing() -> None:
    net = cluster(2)
    swim = net.hosts["n0"].swim
    rng = random.Random(5)
    for size in range(0, 1500, 7):
        net.hear("n0", rng.randbytes(size))
    for message, sender in (
        (Ping(1, "n9", bytes(8), bytes(8)), "n1"),
        (Ping(1, "n0", bytes(8), bytes(8)), "n9"),
        (Ping(1, "n0", bytes(8), bytes(8)), "n1"),
        (PingRequest(1, "n1", 100, bytes(8)), "n9"),
        (Nack(1, b"", bytes(8)), "n1"),
        (Who(1), "n9"),
        (Who(1), "n1"),
        (MapFrame(b"x"), "n9"),
        (RollFrame(b"x"), "n9"),
        (RollFrame(b"x"), "n1"),
        (b"\x81\x18\x63", "n1"),
        (b"\x81\x0b", "n1"),
        (b"\xff", "n1"),
        (b"\x82\x0e\x20", "n1"),
        (Who(1), "n0"),
    ):
        net.inject("n0", message, sender=sender)
    for stream, data in (
        (100, b"\xff" * 50),
        (102, b"\0\0\0\x20" + b"x" * 40),
        (104, b"\0\0"),
        (106, b""),
    ):
        swim.stream_accepted(stream, ("elsewhere", 1), net.now)
        swim.stream_received(stream, data, net.now)
        swim.stream_closed(stream, net.now)
    swim.stream_received(999, b"never opened", net.now)
    swim.stream_closed(999, net.now)
    swim.stream_failed(999, "never opened", net.now)
    swim.stream_opened(999, net.now)
    counts = swim.statistics()
    for what in ("truncated", "oversized", "unknown_version", "wrong_target", "probe_of_stranger", "bad_tag",
                 "frame_of_stranger", "bad_roll_frame", "unknown_message", "bad_message", "bad_cbor",
                 "bad_field", "own_packet", "stream_frame_too_large", "stream_unknown_version",
                 "stream_truncated"):  # fmt: skip
        assert counts[f"dropped_{what}"] >= 1, what
    net.pump("n0")
    net.run_for(5)
    assert net.all_up()
    assert swim.own.incarnation == 0


@pytest.mark.parametrize("members", [2, 5])
def test_a_core_that_is_asked_long_after_its_timers_were_due_does_what_is_due_once(members: int) -> None:
    net = settled(members, reap_after_s=40.0)
    net.pause("n0", 100)
    assert all(net.state(name, "n0") is None for name in net.hosts if name != "n0")
    net.run_for(60, until=net.all_up)
    assert net.all_up()
    net.run_for(5)
    assert not net.told("n0", MemberDied)  # the stall was its own


def test_timers_that_are_not_due_do_nothing_and_those_that_are_make_progress() -> None:
    net = settled(3)
    swim = net.hosts["n0"].swim
    for _ in range(200):
        due = swim.next_timer()
        assert due is not None
        assert due >= net.now or net.now - due < 1e-6
        swim.handle_timer(due - 1e-6)
        assert swim.effects() == []
        swim.handle_timer(due)
        if swim.next_timer() == due:  # a probe of somebody who has died meanwhile ends in a second step
            swim.handle_timer(due)
        after = swim.next_timer()
        assert after is not None
        assert after > due
        net.now = due
        net.pump("n0")


def test_what_is_counted_has_one_name_each_and_whole_numbers() -> None:
    net = settled(3)
    swim = net.hosts["n0"].swim
    statistics = swim.statistics()
    assert all(type(value) is int for value in statistics.values())
    parts = [part for part in vars(swim).values() if hasattr(part, "statistics")]
    names = [name for part in parts for name in part.statistics()]
    assert len(names) == len(set(names))
    assert set(names) <= statistics.keys()
    assert statistics["members_alive"] == 2
    assert statistics["incarnation"] == 0


def test_network_coordinates_tell_the_round_trip_between_any_two() -> None:
    net = Net(delay_s=0.01)
    for number in range(4):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None)
    net.run_for(60)
    swim = net.hosts["n0"].swim
    for pair in (("n0", "n1"), ("n2", "n3"), ("n1", "n0")):
        rtt_s = swim.rtt(*pair)
        assert rtt_s is not None
        assert 0.01 < rtt_s < 0.04
    assert swim.rtt("n0", "nobody") is None
