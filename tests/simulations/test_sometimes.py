"""What is met sometimes is told when it has happened, and not when it has not."""

import pytest

from simulations.machines import SocketBuffer
from simulations.properties import Sometimes
from tests.simulations.scenarios import outcome, scenario

SIDES = {"sides": [{"first": 3}, "rest"]}
MEETING = {
    "crash": ({"crash": {"members": ["m001"], "at_s": 3}}, {"restart": {"members": ["m001"], "at_s": 9}}),
    "leave": ({"leave": {"members": ["m001"], "at_s": 3}},),
    "starve": ({"starve": {"members": ["m002"], "at_s": 2, "running_s": 0.5, "paused_s": [1.5, 2.1]}},),
    "partition": ({"partition": {"at_s": 3, "for_s": 12, **SIDES}},),
    "pairs": ({"partition": {"at_s": 3, "pairs": [["m001", "m002"]]}},),
    "bad links": ({"disturb": {"at_s": 1, "loss": 0.2, "corrupt": 0.1, "duplicate": 0.1}},),
    "narrow links": ({"disturb": {"at_s": 1, "for_s": 9, "capacity_bytes_s": 200, "queue_bytes": 100}},),
    "pause": ({"pause": {"members": ["m003"], "at_s": 3, "for_s": 2}},),
}
EXPECTED = {
    "crash": {"a_death_was_declared", "somebody_was_suspected", "a_member_came_back"},
    "leave": {"a_goodbye_was_heard", "somebody_was_reaped"},
    "starve": {
        "a_suspicion_was_refuted",
        "somebody_was_suspected",
        "a_late_timer_fired",
        "a_process_stood_still",
    },
    "partition": {"a_live_member_was_held_dead", "a_partition_healed"},
    "pairs": {"a_relay_saved_a_probe"},
    "bad links": {
        "a_packet_was_lost",
        "a_packet_came_twice",
        "corruption_was_dropped",
        "a_stream_sent_again",
    },
    "narrow links": {"a_link_was_full"},
    "pause": {"a_process_stood_still", "a_late_timer_fired", "a_socket_buffer_was_full"},
}


@pytest.mark.parametrize("what", MEETING)
def test_what_happens_is_told(what, monkeypatch):
    monkeypatch.setattr(SocketBuffer.__init__, "__defaults__", (2_000,))
    result = outcome(scenario(*MEETING[what], config={"reap_after_s": 5}), seed=2)
    assert {f"sometimes_{name}" for name in EXPECTED[what]} <= result.sometimes.keys()


def test_of_a_quiet_run_nothing_is_told():
    assert outcome(scenario()).sometimes == {}


def test_everything_that_may_be_met_is_met_here():
    assert {f"sometimes_{name}" for names in EXPECTED.values() for name in names} == {*Sometimes.NAMES}
