"""What gossip lost is found by the roots on probes and repaired in small packets; news is left alone."""

import pytest

from swim.codec import encode_message
from swim.events import MemberDied, MemberLeft, MemberSuspected
from swim.members import State
from swim.messages import Ack, Dead, Left, Ping, RollFrame, Suspect
from swim.repair import IMPATIENT_S, MAX_ANSWERS_PER_S, OPENING_GAP_S, SETTLE_S
from tests.swim.net import Net, Sent, settled

FAR = {"seed_refresh_s": 100_000.0}


def change_in_silence(net: Net, name: str, meta: bytes = b"new") -> None:
    """Let a member change its metadata, and lose every rumour of it."""
    swim = net.hosts[name].swim
    swim.update_meta(meta, net.now)
    swim._rumours.discard(name)


def knows(net: Net, subject: str, meta: bytes = b"new") -> bool:
    """Say whether everybody has heard of the change."""
    others = [host.swim for name, host in net.hosts.items() if name != subject and host.running]
    return all(swim._table.get(subject).alive.meta == meta for swim in others)  # type: ignore[union-attr]


def roll_frames(net: Net) -> int:
    return sum(isinstance(m, RollFrame) for s in net.sent for m in s.messages)


@pytest.mark.parametrize("members", [3, 5, 12])
def test_an_alive_that_all_gossip_missed_is_repaired_without_any_stream(members: int) -> None:
    net = settled(members, **FAR)
    before = net.total("stream_bytes_sent")
    change_in_silence(net, "n1")
    took = net.run_for(30, until=lambda: knows(net, "n1"))
    # The first that sees a foreign root repairs itself, and what it learns is news that it passes on.
    assert took < SETTLE_S + 3 * net.config.probe_interval_s
    net.run_for(5)
    assert len({host.swim.root() for host in net.hosts.values()}) == 1
    assert net.total("stream_bytes_sent") == before
    assert net.total("repair_streams") == 0


@pytest.mark.parametrize("members", [20, 40])
def test_a_repair_costs_a_few_packets_however_many_members_there_are(members: int) -> None:
    net = settled(members, profile="lan", **FAR)
    change_in_silence(net, "n1")
    net.forget()
    net.run_for(30, until=lambda: knows(net, "n1"))
    net.run_for(5)
    assert knows(net, "n1")
    assert roll_frames(net) <= 60
    assert all(len(s.data) <= 1_400 for s in net.sent)


def test_a_goodbye_that_one_member_missed_is_repaired() -> None:
    net = settled(6, **FAR)
    net.censor = lambda sent: sent.to == "n0" and any(isinstance(m, Left) for m in sent.messages)
    net.hosts["n1"].swim.leave(net.now)
    net.pump("n1")
    net.run_for(1, until=lambda: net.hosts["n1"].swim.has_left)
    net.kill("n1")
    net.hosts["n0"].swim._prober.stop()  # it shall not find out by itself
    net.run_for(20, until=lambda: net.total("rumours_waiting") == 0)
    assert net.state("n0", "n1") is State.ALIVE
    net.heal()
    assert net.run_for(20, until=lambda: net.state("n0", "n1") is State.LEFT) < SETTLE_S + 3
    assert net.told("n0", MemberLeft)
    assert not net.all_told(MemberSuspected)


def test_a_death_that_one_member_missed_is_repaired_after_its_own_suspicion_or_the_word_of_two() -> None:
    net = settled(6, **FAR)

    def is_accusation(sent: Sent) -> bool:
        return sent.to == "n0" and any(isinstance(m, (Suspect, Dead)) for m in sent.messages)

    net.hosts["n0"].swim._prober.stop()  # it shall not find out by itself
    net.censor = is_accusation
    net.kill("n1")
    others = [f"n{number}" for number in range(2, 6)]
    net.run_for(30, until=lambda: all(net.state(name, "n1") is State.DEAD for name in others))
    net.run_for(30, until=lambda: net.total("rumours_waiting") == 0)
    assert net.state("n0", "n1") is State.ALIVE
    net.heal()
    took = net.run_for(60, until=lambda: net.state("n0", "n1") is State.DEAD)
    config = net.config
    assert config.doubt_margin_s < took < config.suspicion_min_s + config.doubt_margin_s + SETTLE_S + 3
    assert len({net.hosts[name].swim.root() for name in net.running()}) == 1
    assert [event.member.name for event in net.told("n0", MemberDied)] == ["n1"]


def test_nothing_is_compared_while_news_is_spreading() -> None:
    net = settled(8, **FAR)
    for step in range(20):
        net.hosts[f"n{step % 8}"].swim.update_meta(bytes([step]), net.now)
        net.run_for(0.2)
    assert net.total("roll_comparisons") == 0
    assert roll_frames(net) == 0
    net.run_for(5)
    assert len({host.swim.root() for host in net.hosts.values()}) == 1


@pytest.mark.parametrize("knowing", [["n1"], ["n1", "n2", "n3"]], ids=["by itself", "by half of them"])
def test_in_a_cluster_that_never_settles_what_is_known_only_in_part_is_repaired_too(
    knowing: list[str],
) -> None:
    net = settled(6, **FAR)
    change_in_silence(net, "n1")
    for name in knowing[1:]:
        net.inject(name, net.hosts["n1"].swim.own, sender="n1")
        net.hosts[name].swim._rumours.discard("n1")
    start = net.now
    while net.now < start + 60 and not knows(net, "n1"):
        net.hosts["n0"].swim.update_meta(net.rng.randbytes(4), net.now)
        net.run_for(0.2)
    rounds_s = 2 * 5 * 2 * net.config.probe_interval_s  # in which each has probed each other one twice
    assert net.now - start < IMPATIENT_S + rounds_s


def test_comparisons_are_opened_with_a_pause_between_them() -> None:
    net = settled(10, **FAR)
    change_in_silence(net, "n1")
    net.censor = lambda sent: sent.to == "n0" and any(isinstance(m, RollFrame) for m in sent.messages)
    net.hosts["n0"].swim._learning.learn = lambda *args, **kwargs: None  # type: ignore[method-assign]
    net.forget()
    start = net.now
    net.run_for(net.config.repair_stream_after_s - 1)
    opened = net.count("n0", "roll_comparisons")
    assert 2 <= opened <= (net.now - start) / OPENING_GAP_S + 1


def test_members_that_stay_out_of_step_open_a_stream() -> None:
    net = settled(4, **FAR)
    net.censor = lambda sent: any(isinstance(m, RollFrame) for m in sent.messages)
    change_in_silence(net, "n1")
    took = net.run_for(60, until=lambda: knows(net, "n1"))
    repair_s = net.config.repair_stream_after_s
    assert repair_s - 1 < took < repair_s + 2 * net.config.probe_interval_s + 1
    assert net.total("repair_streams") >= 1


def test_who_agrees_exchanges_nothing_but_pings_and_acks() -> None:
    net = settled(5, **FAR)
    net.run_for(20)
    assert {type(m) for s in net.sent for m in s.messages} == {Ping, Ack}
    assert net.total("out_of_step") == 0


def test_answers_to_rolls_are_bounded_per_second() -> None:
    net = settled(3)
    opening = net.hosts["n1"].swim._roll.opening()
    net.hosts["n0"].swim.update_meta(b"so that there is something to say", net.now)
    net.forget()
    frames = [encode_message(RollFrame(frame)) for frame in opening]
    for _ in range(4 * MAX_ANSWERS_PER_S):
        net.inject("n0", *frames)
    assert roll_frames(net) == MAX_ANSWERS_PER_S
    net.run_for(1.1)
    net.inject("n0", *frames)
    assert roll_frames(net) > MAX_ANSWERS_PER_S


def test_a_forged_word_in_a_comparison_ends_it_and_changes_nothing() -> None:
    net = settled(3)
    word = net.hosts["n1"].swim.own
    forged = encode_message(word)[:-1] + b"?"
    (push,) = net.hosts["n1"].swim._roll.push([forged])
    net.inject("n0", RollFrame(push))
    assert net.count("n0", "dropped_bad_signature") in {0, 1}
    later = bytearray(forged)
    at = later.index(bytes([0x19]) + (7946).to_bytes(2, "big")) + 2
    later[at] ^= 1  # another port, another word, the old signature
    (push,) = net.hosts["n1"].swim._roll.push([bytes(later)])
    net.inject("n0", RollFrame(push))
    assert net.hosts["n0"].swim.member("n1").address == ("n1", 7946)  # type: ignore[union-attr]
