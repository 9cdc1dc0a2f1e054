"""Who is probed when, by which paths a silent member is tried, and how local health and lag stretch it."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import identity as identities
from swim.config import SwimConfig
from swim.coordinates import Coordinate
from swim.events import MemberDied, MemberSuspected, PathLost, PathRestored
from swim.health import Health
from swim.members import State
from swim.messages import Ack, Nack, Ping, PingRequest, doubt_bytes
from swim.probe import MAX_QUESTIONS, MAX_RELAYED, MAX_RELAYED_PER_ORIGIN, STREAM_PATIENCE_S, ProbeRing
from tests.swim.net import CLUSTER, Net, Sent, cluster, identity_of, settled
from tests.swim.statements import stranger


def verdict_s(config: SwimConfig) -> float:
    """Return how long one probe may take."""
    return config.probe_timeout_s * config.probe_verdict_mult


def pings(net: Net, source: str) -> list[tuple[float, str]]:
    """Return when a host has pinged whom."""
    return [
        (s.at, m.target) for s in net.sent if s.source == source for m in s.messages if isinstance(m, Ping)
    ]


# Order


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_every_member_is_in_each_round_once(members: int, rng: random.Random) -> None:
    ring = ProbeRing(rng)
    for number in range(members):
        ring.add(f"n{number}")
    ring.add("n0")
    for _ in range(members):
        ring.next()
    for _ in range(3):
        assert sorted(str(ring.next()) for _ in range(members)) == sorted(f"n{n}" for n in range(members))
    ring.discard("n0")
    assert "n0" not in [ring.next() for _ in range(2 * members)]


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_a_newcomer_is_in_the_round_that_runs(members: int, rng: random.Random) -> None:
    ring = ProbeRing(rng)
    for number in range(members):
        ring.add(f"n{number}")
    for _ in range(members // 2):
        ring.next()
    ring.add("new")
    assert "new" in [ring.next() for _ in range(members - members // 2 + 1)]


def test_an_empty_ring_has_nobody() -> None:
    assert ProbeRing(random.Random(1)).next() is None


def test_each_member_is_probed_by_its_predecessor_in_every_second_slot_and_by_all_in_the_others() -> None:
    net = settled(6)
    net.run_for(40)
    interval_s = net.config.probe_interval_s
    for number in range(6):
        times = pings(net, f"n{number}")
        assert all(after - before == pytest.approx(interval_s) for (before, _), (after, _) in pairwise(times))
        successor = f"n{(number + 1) % 6}"
        slots = [target for _, target in times]
        ring, others = (slots[::2], slots[1::2]) if slots[0] == slots[2] else (slots[1::2], slots[::2])
        assert set(ring) == {successor}
        assert {others.count(f"n{n}") for n in range(6) if n != number} <= {
            len(others) // 5,
            len(others) // 5 + 1,
        }


@pytest.mark.parametrize("seed", range(3))
def test_a_crashed_member_fails_its_first_probe_within_two_intervals(seed: int) -> None:
    net = settled(12, seed=seed)
    net.run_for(seed * 0.17)
    net.kill("n3")
    bound_s = 2 * net.config.probe_interval_s + verdict_s(net.config)
    assert net.run_for(10, until=lambda: net.total("probes_failed") > 0) <= bound_s + 0.02


# Paths


def test_relays_save_a_member_behind_a_one_way_loss_and_the_path_is_reported_once() -> None:
    net = settled(4, stream_probes=False)
    net.drop("n0", "n1")
    net.run_for(60)
    assert not net.all_told(MemberSuspected, MemberDied)
    assert net.told("n0", PathLost) == [PathLost("n1", "relay")]
    assert net.count("n0", "probes_saved_by_relay") > 10
    assert [path.peer for path in net.hosts["n0"].swim.lost_paths()] == ["n1"]
    assert net.count("n0", "paths_lost") == 1
    assert all(net.told(name, PathLost) == [] for name in ("n2", "n3"))
    net.heal()
    net.run_for(4 * net.config.probe_interval_s)
    assert net.told("n0", PathRestored) == [PathRestored("n1")]
    assert net.hosts["n0"].swim.lost_paths() == []


def without_datagrams(net: Net, name: str) -> None:
    for other in net.hosts:
        net.drop(other, name)
        net.drop(name, other)


def test_a_stream_saves_a_member_that_no_datagram_reaches() -> None:
    net = settled(4)
    without_datagrams(net, "n1")
    net.run_for(60)
    assert not net.all_told(MemberSuspected, MemberDied)
    for name in ("n0", "n2", "n3"):
        assert net.told(name, PathLost) == [PathLost("n1", "stream")]
        assert net.count(name, "probes_saved_by_stream") > 0
    assert {event.peer for event in net.told("n1", PathLost)} == {"n0", "n2", "n3"}


def test_with_stream_probes_switched_off_for_all_it_dies() -> None:
    net = settled(4, stream_probes=False)
    without_datagrams(net, "n1")
    net.run_for(20)
    assert all(net.told(name, MemberDied)[0].member.name == "n1" for name in ("n0", "n2", "n3"))


def test_stream_probes_may_be_switched_off_for_one_member_and_on_again() -> None:
    net = settled(4)
    swim = net.hosts["n0"].swim
    swim.set_stream_probes("n1", enabled=False)
    for name in ("n1", "n2"):
        without_datagrams(net, name)
    net.run_for(20)
    assert net.count("n0", "probes_saved_by_stream") > 0
    assert net.told("n0", PathLost) == [PathLost("n2", "stream")]
    assert any(finding.what == "probe_failed" for finding in swim.why("n1"))
    assert "stream" not in swim.why("n1")[0].detail
    swim.set_stream_probes("n1", enabled=True)
    net.run_for(20)
    assert PathLost("n1", "stream") in net.told("n0", PathLost)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_probe_over_a_lost_path_waits_for_a_stream_only_if_one_may_be_opened(enabled: bool) -> None:
    net = settled(4)
    swim = net.hosts["n0"].swim
    net.drop("n0", "n1")
    net.run_for(20, until=lambda: bool(net.told("n0", PathLost)))
    assert [lost.peer for lost in net.told("n0", PathLost)] == ["n1"]
    swim.set_stream_probes("n1", enabled=enabled)
    net.mute.add("n1")
    net.streams_refused.add("n1")

    def waits() -> bool:
        probe = swim._prober._probe
        return probe is not None and probe.target == "n1" and probe.indirect_at is None and not probe.answered

    assert net.run_for(20, until=waits) < 20
    probe = swim._prober._probe
    assert probe is not None
    waits_s = probe.verdict_at - probe.sent_at
    assert waits_s >= STREAM_PATIENCE_S if enabled else waits_s < net.config.probe_interval_s


def test_a_member_that_was_reaped_and_is_back_is_still_not_asked_over_streams() -> None:
    net = settled(4, reap_after_s=5.0)
    net.hosts["n0"].swim.set_stream_probes("n1", enabled=False)
    net.kill("n1")
    net.run_for(30, until=lambda: net.state("n0", "n1") is None)
    assert net.state("n0", "n1") is None
    net.add("n1", seeds=["n0:7946"])
    net.run_for(10, until=net.all_up)
    without_datagrams(net, "n1")
    net.run_for(10)
    assert "stream" not in net.hosts["n0"].swim.why("n1")[-1].detail
    assert PathLost("n1", "stream") not in net.told("n0", PathLost)


def test_the_names_that_are_not_asked_over_streams_are_bounded() -> None:
    net = Net()
    swim = net.add("n0", max_members=2)
    for name in ("n1", "n2", "n1"):
        swim.set_stream_probes(name, enabled=False)
    with pytest.raises(ValueError, match="2 members already"):
        swim.set_stream_probes("n3", enabled=False)
    swim.set_stream_probes("n1", enabled=True)
    swim.set_stream_probes("n3", enabled=False)


def test_a_relay_of_a_silent_member_answers_with_its_own_signed_doubt_in_time_for_the_verdict() -> None:
    net = settled(5)
    net.kill("n1")
    net.run_for(3)
    requests = [(s, m) for s in net.sent for m in s.messages if isinstance(m, PingRequest)]
    nacks = [(s, m) for s in net.sent for m in s.messages if isinstance(m, Nack)]
    assert requests
    for sent, request in requests:
        if request.target != "n1" or sent.at + 1 > net.now:
            continue
        answer = next(s for s, m in nacks if m.sequence == request.sequence and s.to == sent.source)
        assert answer.at - sent.at < (verdict_s(net.config) - net.config.probe_timeout_min_s)
        nack = next(m for m in answer.messages if isinstance(m, Nack))
        about = net.hosts["n1"].swim.own
        signed_by_relay = doubt_bytes("n1", about.boot, about.incarnation, answer.source)
        public_key = net.hosts[sent.source].swim.member(answer.source).public_key  # type: ignore[union-attr]
        assert identities.verify(public_key, nack.doubt, signed_by_relay)


def test_a_relay_asks_twice_before_it_doubts_so_that_one_lost_packet_makes_nobody_suspect() -> None:
    net = settled(4)
    net.run_for(2)
    net.forget()
    lost = []

    def loses_the_first(sent: Sent) -> bool:
        is_first = not lost and sent.to == "n1" and any(isinstance(m, Ping) for m in sent.messages)
        lost.extend([sent] * (is_first and sent.source == "n0"))
        return bool(is_first and sent.source == "n0")

    net.hosts["n0"].swim._prober.stop()  # what it sends to n1 is for others
    net.censor = loses_the_first
    net.inject("n0", net.tagged(PingRequest(7, "n1", 200), "n2", "n0"), sender="n2")
    net.run_for(0.3)
    assert lost
    asked = [
        s
        for s in net.sent
        if (s.source, s.to) == ("n0", "n1") and any(isinstance(m, Ping) for m in s.messages)
    ]
    assert [round(s.at - asked[0].at, 2) for s in asked] == [0.0, 0.1]
    told = [m for s in net.sent if (s.source, s.to) == ("n0", "n2") for m in s.messages]
    assert [type(m) for m in told if isinstance(m, (Ack, Nack)) and m.sequence == 7] == [Ack]


def test_a_relay_that_has_buried_and_forgotten_the_target_says_so_at_once_with_its_doubt() -> None:
    net = settled(4, reap_after_s=5.0, reconnect_interval_s=1000.0)
    about = net.hosts["n1"].swim.own
    net.kill("n1")
    net.run_for(60, until=lambda: net.state("n0", "n1") is None and net.state("n2", "n1") is None)
    net.forget()
    net.inject("n0", net.tagged(PingRequest(7, "n1", 1_000), "n2", "n0"), sender="n2")
    (nack,) = [m for s in net.sent if s.to == "n2" for m in s.messages if isinstance(m, Nack)]
    public_key = net.hosts["n2"].swim.member("n0").public_key  # type: ignore[union-attr]
    assert nack.sequence == 7
    assert identities.verify(public_key, nack.doubt, doubt_bytes("n1", about.boot, about.incarnation, "n0"))


@pytest.mark.parametrize("profile", ["lan", "wan", "edge"])
def test_nacks_of_relays_come_in_time_however_long_they_travel(profile: str) -> None:
    net = settled(6, profile=profile)
    net.delay_s = 0.4 * net.config.probe_timeout_min_s  # round trips that just need no relay
    net.run_for(60 * net.config.probe_interval_s)
    net.forget()
    net.kill("n1")
    net.run_for(10 * net.config.probe_interval_s, until=lambda: net.total("probes_failed") > 0)
    (prober,) = (name for name in net.running() if net.count(name, "probes_failed"))
    failed = net.hosts[prober].swim.why("n1")[0]
    assert failed.what == "probe_failed"
    assert failed.detail.count("not answered either") == net.config.indirect_probes
    assert net.state(prober, "n1") is State.SUSPECT
    assert net.count(prober, "health_penalty") == 0


def test_only_the_target_and_the_relays_that_were_asked_answer_for_it() -> None:
    net = settled(6, indirect_probes=1, stream_probes=False)
    swim = net.hosts["n0"].swim
    net.mute.add("n1")

    def asks_relays() -> bool:
        probe = swim._prober._probe
        return probe is not None and probe.target == "n1" and bool(probe.relays)

    assert net.run_for(20, until=asks_relays) < 20
    probe, about = swim._prober._probe, net.hosts["n1"].swim.own
    assert probe is not None
    [relay] = probe.relays
    [other, *_] = [name for name in net.hosts if name not in {"n0", "n1", relay}]
    for name in (other, relay):
        assert not probe.answered
        doubt = identity_of(name).sign(doubt_bytes(about.name, about.boot, about.incarnation, name))
        net.inject("n0", net.tagged(Nack(probe.sequence, doubt), name, "n0"), sender=name)
        assert list(probe.doubts) == ([relay] if name == relay else [])
        net.inject("n0", net.tagged(Ack(probe.sequence, "n1", b""), name, "n0"), sender=name)
    assert probe.answered == "relay"


def test_what_relays_do_for_others_is_bounded() -> None:
    origins = MAX_RELAYED // MAX_RELAYED_PER_ORIGIN + 1
    net = settled(2 + origins)
    net.mute.add("n1")
    for origin in range(2, 2 + origins):
        for number in range(MAX_RELAYED_PER_ORIGIN + 20):
            request = net.tagged(PingRequest(number, "n1", 60_000), f"n{origin}", "n0")
            net.inject("n0", request, sender=f"n{origin}")
        assert net.count("n0", "relayed_probes") == min(MAX_RELAYED, MAX_RELAYED_PER_ORIGIN * (origin - 1))
    assert net.count("n0", "dropped_relay_refused") == 20 * origins + MAX_RELAYED_PER_ORIGIN
    net.mute.clear()
    net.hosts["n0"].swim.handle_timer(net.now)
    net.run_for(31)  # after half of the patience, the target is asked once more
    assert net.count("n0", "relayed_probes") == 0


def test_one_member_does_not_take_the_relays_away_from_the_others() -> None:
    net = settled(4)
    net.kill("n3")
    for number in range(MAX_RELAYED):
        net.inject("n0", net.tagged(PingRequest(number, "n3", 60_000), "n1", "n0"))
    net.sent.clear()
    net.inject("n0", net.tagged(PingRequest(7, "n3", 200), "n2", "n0"), sender="n2")
    assert [s.to for s in net.sent if any(isinstance(m, Ping) for m in s.messages)] == ["n3"]


@pytest.mark.parametrize("delay_s", [0.002, 0.06])
def test_no_impatience_makes_a_relay_doubt_somebody_who_lives(delay_s: float) -> None:
    net = settled(6)
    net.delay_s = delay_s
    net.run_for(60)
    net.forget()
    net.sent.clear()
    for number in range(20):
        for relay in ("n0", "n2", "n3"):
            net.inject(relay, net.tagged(PingRequest(number, "n1", 1), "n5", relay), sender="n5")
        net.run_for(0.2)
    answers = [m for s in net.sent if s.to == "n5" for m in s.messages if isinstance(m, (Ack, Nack))]
    assert sum(isinstance(m, Ack) and m.subject == "n1" for m in answers) >= 60
    assert not any(isinstance(m, Nack) and m.doubt for m in answers)


def test_questions_outside_the_turn_are_bounded() -> None:
    net = settled(3, max_members=5_000)
    swim = net.hosts["n0"].swim
    record = swim._table.get("n1")
    assert record is not None
    for _ in range(MAX_QUESTIONS + 20):
        swim.check(record, net.now)
    assert net.count("n0", "questions_open") == MAX_QUESTIONS


# Time


@pytest.mark.parametrize("profile", ["lan", "wan"])
def test_the_wait_for_an_answer_follows_the_members_own_round_trips_within_bounds(profile: str) -> None:
    net = cluster(3, profile=profile)
    config = net.config
    swim = net.hosts["n0"].swim
    record = swim._table.get("n1")
    assert record is not None
    before_any = swim._prober.direct_timeout_s(stranger_record(net))
    assert before_any == config.probe_timeout_s
    net.run_for(40 * config.probe_interval_s)
    assert swim._prober.direct_timeout_s(record) == config.probe_timeout_min_s
    net.delay_s = config.probe_timeout_min_s * 0.6  # a round trip of 1.2 times the shortest wait
    net.run_for(80 * config.probe_interval_s)
    followed_s = swim._prober.direct_timeout_s(record)
    assert config.probe_timeout_min_s * 1.2 < followed_s <= config.probe_timeout_s
    net.delay_s = config.probe_timeout_s * 0.6
    net.run_for(80 * config.probe_interval_s)
    assert swim._prober.direct_timeout_s(record) == config.probe_timeout_s
    assert {event.member.name for event in net.all_told(MemberDied)} <= {"far"}


def stranger_record(net: Net):  # type: ignore[no-untyped-def]
    net.inject("n0", stranger("far"), sender="far")
    return net.hosts["n0"].swim._table.get("far")


def test_before_the_first_round_trip_coordinates_say_how_long_to_wait() -> None:
    net = Net(config=SwimConfig.profile("wan", label=CLUSTER))
    net.add("n0")
    swim, record = net.hosts["n0"].swim, stranger_record(net)
    shortest_s, longest_s = net.config.probe_timeout_min_s, net.config.probe_timeout_s
    for away_s, wait_s in ((0.2, 0.6), (0.001, shortest_s), (9.0, longest_s)):
        record.coordinate = Coordinate((away_s, *(0.0,) * 7))
        assert swim.rtt("n0", "far") == pytest.approx(away_s, rel=0.1)
        assert swim._prober.direct_timeout_s(record) == pytest.approx(wait_s, rel=0.01)
    record.rtt.observe(0.15)
    assert swim._prober.direct_timeout_s(record) == pytest.approx(0.15 + 4 * 0.075)


def test_local_health_stretches_interval_and_wait_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    net = settled(3)
    monkeypatch.setattr(Health, "probe_answered", lambda health: None)  # it stays as ill as it is
    swim = net.hosts["n0"].swim
    for _ in range(2):
        swim._health.refuted()
    net.forget()
    net.run_for(30)
    gaps = [after - before for (before, _), (after, _) in pairwise(pings(net, "n0"))]
    assert gaps[1:] == pytest.approx([3 * net.config.probe_interval_s] * (len(gaps) - 1))
    net.kill("n1")
    at = net.now
    net.run_for(20, until=lambda: net.count("n0", "probes_failed") > 0)
    found = next(f for f in swim.why("n1") if f.what == "probe_failed" and f.by == "n0")
    assert f"within {3 * net.config.probe_timeout_min_s * 1000:.0f} ms" in found.detail
    assert net.now - at >= 3 * net.config.probe_timeout_min_s * net.config.probe_verdict_mult


def test_a_loop_that_lags_stretches_probes_before_any_of_them_has_failed() -> None:
    net = settled(3)
    net.hosts["n0"].swim.loop_lagged(2.2 * net.config.lag_warning_s, net.now)
    net.run_for(8)
    assert net.count("n0", "health_penalty") == 2
    assert net.count("n0", "probes_failed") == 0
    gaps = [after - before for (before, _), (after, _) in pairwise(pings(net, "n0"))]
    assert gaps[1:] == pytest.approx([3 * net.config.probe_interval_s] * (len(gaps) - 1))
    net.run_for(20)
    gaps = [after - before for (before, _), (after, _) in pairwise(pings(net, "n0"))]
    assert gaps[-1] == pytest.approx(net.config.probe_interval_s)


def test_relays_and_streams_keep_their_full_time_when_the_timer_that_asks_them_came_late() -> None:
    net = settled(4, stream_probes=False)
    net.drop("n0", "n1")
    net.run_for(10, until=lambda: pings(net, "n0")[-1:] != [] and pings(net, "n0")[-1][1] == "n1")
    net.pause("n0", 1.0)  # the direct answer is overdue, and so is the verdict
    failed = net.count("n0", "probes_failed")
    net.run_for(1)
    assert net.count("n0", "probes_failed") == failed
    assert net.count("n0", "probes_saved_by_relay") >= 1
    assert not net.told("n0", MemberSuspected)


def test_a_member_that_left_something_open_is_probed_again_soon() -> None:
    net = settled(20, stream_probes=False)
    net.drop("n0", "n7")
    net.run_for(60, until=lambda: net.count("n0", "probes_saved_by_relay") > 0)
    took = net.run_for(60, until=lambda: bool(net.told("n0", PathLost)))
    assert took <= 4 * net.config.probe_interval_s + verdict_s(net.config)
