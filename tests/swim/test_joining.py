"""Joining through seeds, being refused, and meeting everybody at once."""

import pytest

from swim.config import SwimConfig
from swim.events import (
    Joined,
    MemberDied,
    MemberJoined,
    MemberSuspected,
    SeedUnreachable,
)
from swim.members import State
from swim.protocol import SEED_VISITORS
from tests.swim.net import CLUSTER, Net, settled


def test_five_join_through_one_seed() -> None:
    net = Net()
    for number in range(5):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, meta=bytes([number]))
    assert net.run_for(5, until=net.all_up) < 0.5
    assert [event.seeds for event in net.told("n3", Joined)] == [("n0:7946",)]
    assert net.hosts["n4"].swim.member("n2").meta == b"\x02"  # type: ignore[union-attr]
    net.run_for(30)
    for name in net.hosts:
        assert len(net.told(name, MemberJoined)) == 4
        assert not net.told(name, MemberSuspected)
        assert net.count(name, "seeds_pending") == 0


def test_a_missing_seed_is_tried_until_it_appears_and_each_failure_says_why() -> None:
    net = Net()
    net.add("n0", seeds=["n1:7946"])
    net.run_for(60)
    failures = net.told("n0", SeedUnreachable)
    retry_s = net.config.join_retry_max_s
    assert 60 / retry_s * 0.75 < len(failures) < 60 / retry_s * 2
    assert failures[0].reason == "connection refused"
    assert [failure.attempt for failure in failures] == list(range(1, len(failures) + 1))
    assert all(failure.retry_in_s <= retry_s * 1.25 for failure in failures)
    net.add("n1")
    assert net.run_for(10, until=net.all_up) < 2 * retry_s


def test_one_good_seed_among_bad_ones_is_enough() -> None:
    net = Net()
    net.add("n0")
    net.add("n1", seeds=["nowhere:1", "n0:7946"])
    net.run_for(5)
    assert net.all_up()
    assert net.count("n1", "seeds_pending") == 0


def test_a_seed_that_is_oneself_ends_the_search() -> None:
    net = Net()
    net.add("n0", seeds=["n0:7946"])
    net.run_for(1)
    assert net.told("n0", Joined) == [Joined((), 1)]
    assert not net.told("n0", SeedUnreachable)


@pytest.mark.parametrize("seed", ["nonsense", "host:", ":7946", "host:0", "host:70000", "::1:7946", "host:x"])
def test_a_malformed_seed_is_an_error_that_names_it(seed: str) -> None:
    net = Net()
    swim = net.add("n0")
    with pytest.raises(ValueError, match="seed"):
        swim.join([seed], net.now)


@pytest.mark.parametrize(
    "stranger",
    [{"label": "other"}, {"keys": [b"x" * 32]}],
    ids=["another label", "another key"],
)
def test_another_cluster_is_refused_and_the_seed_event_says_so(stranger: dict[str, object]) -> None:
    net = Net()
    net.add("n0", keys=[b"k" * 32] if "keys" in stranger else None)
    net.add("n1", seeds=["n0:7946"], **stranger)  # type: ignore[arg-type]
    net.run_for(10)
    assert net.up("n0") == net.up("n1") == []
    assert "another" in net.told("n1", SeedUnreachable)[0].reason
    assert sum(v for k, v in net.hosts["n0"].swim.statistics().items() if k.startswith("dropped_stream")) > 0


def test_members_with_a_keyring_work_and_survive_a_rotation() -> None:
    net = Net()
    for number in range(3):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, keys=[b"k" * 32])
    net.run_for(5, until=net.all_up)
    for step in ("add", "use"):
        for host in net.hosts.values():
            assert host.swim.keyring is not None
            getattr(host.swim.keyring, step)(b"n" * 32)
        net.run_for(2)
    for host in net.hosts.values():
        assert host.swim.keyring is not None
        host.swim.keyring.remove(b"k" * 32)
    net.run_for(10)
    assert net.all_up()
    assert not net.all_told(MemberSuspected)


def test_a_newcomer_does_not_hear_of_those_who_died_before_it_came() -> None:
    net = settled(4)
    net.kill("n1")
    net.run_for(20, until=net.all_up)
    net.add("n4", seeds=["n0:7946"])
    net.run_for(20)
    assert net.all_up()
    assert net.state("n4", "n1") is None


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_members_that_join_at_once_through_one_seed_agree_within_two_seconds(seed: int) -> None:
    net = Net(seed=seed, config=SwimConfig.profile("lan", label=CLUSTER), delay_s=0.002)
    net.loss = 0.01
    for number in range(100):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None)
    assert net.run_for(5, until=net.all_up) < 2.0
    assert not net.all_told(MemberSuspected, MemberDied)


def test_streams_that_say_nothing_do_not_keep_a_newcomer_out() -> None:
    net = settled(2, max_streams=4)
    for stream in (100, 102, 104):
        net.hosts["n0"].swim.stream_accepted(stream, ("elsewhere", 1), net.now)
    net.run_for(1.1)
    net.add("n2", seeds=["n0:7946"])
    assert net.run_for(5, until=net.all_up) < 0.5
    assert net.count("n0", "dropped_stream_silent") == 1


def test_seeds_are_visited_again_for_ever_and_lead_to_whoever_is_there_by_then() -> None:
    net = Net()
    net.add("n0")
    net.add("n1", seeds=["n0:7946"])
    net.run_for(2)
    assert net.all_up()
    net.kill("n0")
    net.run_for(20)
    assert net.state("n1", "n0") is State.DEAD
    net.add("other", address=("n0", 7946))  # another member listens where the seed was
    assert net.run_for(200, until=lambda: net.up("n1") == ["other"]) < 2 * net.config.seed_refresh_s


def test_the_more_members_there_are_the_rarer_each_visits_a_seed() -> None:
    net = settled(40)
    before = net.total("push_pulls")
    net.run_for(4 * net.config.seed_refresh_s)
    assert SEED_VISITORS <= net.total("push_pulls") - before <= 7 * SEED_VISITORS  # each would make 140


def test_a_member_starts_once() -> None:
    net = Net()
    swim = net.add("n0")
    with pytest.raises(RuntimeError, match="starts once"):
        swim.start(net.now)
