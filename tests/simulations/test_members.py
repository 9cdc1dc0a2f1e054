"""Members without Trio: what their driver does is done here, in virtual time."""

import random
import zlib

import pytest

from simulations import production
from simulations.links import Change, Link, Rule, separate
from simulations.machines import SOCKET_BYTES, SocketBuffer
from simulations.member_streams import MemberStream
from simulations.members import MemberCluster
from simulations.watcher import Watcher
from swim import identity
from swim.codec import encode_message, join_packet
from swim.events import MemberDied, MemberJoined, MemberUpdated
from swim.keyring import Channel, PlainEnvelope
from swim.messages import Who
from swim.protocol import Swim

KEY = bytes(range(32))
CONFIG = production.configuration("local", {})


class Log(Watcher):
    """Notes everything."""

    def __init__(self):
        self.events, self.changes, self.drops, self.kinds = [], [], [], []

    def told(self, member, event):
        self.events.append((member.name, type(event).__name__))

    def changed(self, what, member):
        self.changes.append((what, member.name))

    def corrupted(self, member, dropped):
        self.drops.append(dropped)

    def sent(self, member, data, kind):
        self.kinds.append(kind)


def cluster(count=4, seed=1, *, config=CONFIG, converged=True, **options):
    made = MemberCluster(seed, config, **options)
    log = Log()
    made.watch(log)
    names = [f"m{number}" for number in range(count)]
    if converged:
        made.start_converged(names)
    else:
        for name in names:
            made.start(name, seeds=["m0"])
    return made, log


def up(made, name):
    return sorted(member.name for member in made.running[name].swim.members() if member.is_up)


def all_up(made):
    return all(
        up(made, name) == sorted(other for other in made.running if other != name) for name in made.running
    )


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_members_find_each_other_through_a_seed_over_real_packets(keys):
    made, log = cluster(converged=False, gossip_keys=keys)
    made.run_for(2)
    assert all_up(made)
    assert {"ping", "ack"} <= set(log.kinds) or set(log.kinds) == {"sealed"}
    assert made.running["m0"].swim.statistics()["packets_received"] > 0


def test_acquainted_members_hold_what_they_would_hold_had_they_loaded_each_other():
    made, _ = cluster(5)
    others, _ = cluster(5, converged=False)
    words = [member.swim.words()[0] for member in made.running.values()]
    for name, member in made.running.items():
        fresh = production.build(
            CONFIG,
            made.identities,
            name,
            member.machine.address,
            random.Random(1),
            cryptography=production.Cryptography(made.identities.authority),
        )
        fresh.start(1.0)
        fresh.load(words, 1.0)
        acquainted = {other.name: (other.boot, other.public_key) for other in member.swim.members()}
        assert acquainted == {other.name: (other.boot, other.public_key) for other in fresh.members()}
        assert len(fresh.words()) == len(member.swim.words()) == 5
    roots = {member.swim.root() for member in made.running.values()}
    assert len(roots) == 1, "members that agree have the same root"
    assert others.running.keys() == made.running.keys()


def test_a_quiet_start_has_nothing_to_tell():
    made, log = cluster(8)
    made.run_for(3)
    assert log.events == []
    assert set(log.kinds) <= {"ping", "ack"}


def test_a_crash_is_noticed_by_all_and_the_dead_do_nothing():
    made, log = cluster()
    made.run_for(1)
    made.crash("m1")
    sent = made.machines["m1"].traffic.total()
    made.run_for(15)
    assert sorted(name for name, event in log.events if event == "MemberDied") == ["m0", "m2", "m3"]
    assert log.changes[-1] == ("crashed", "m1")
    assert made.machines["m1"].traffic.total() == sent


def test_no_timer_of_a_crashed_process_fires(monkeypatch):
    made, _ = cluster()
    dead, fired, handle_timer = made.running["m1"].swim, [], Swim.handle_timer
    monkeypatch.setattr(Swim, "handle_timer", lambda swim, now: (fired.append(swim), handle_timer(swim, now)))
    made.run_for(1)
    assert dead in fired
    fired.clear()
    made.crash("m1")
    made.run_for(5)
    assert dead not in fired
    assert made.running["m0"].swim in fired


def test_a_goodbye_ends_the_process_when_it_has_been_said():
    made, log = cluster()
    made.leave("m2")
    assert "m2" in made.running
    assert [member.name for member in made.live()] == ["m0", "m1", "m3"]
    made.run_for(3)
    assert "m2" not in made.running
    assert sorted(name for name, event in log.events if event == "MemberLeft") == ["m0", "m1", "m3"]


def test_a_restarted_member_comes_back_by_its_disk_alone_and_at_another_address():
    made, log = cluster()
    made.crash("m1")
    made.run_for(1)
    before = made.machines["m1"].address
    made.move("m1")
    made.start("m1")
    made.run_for(5)
    assert made.machines["m1"].address != before
    assert all_up(made)
    assert {member.address for member in made.running["m0"].swim.members() if member.name == "m1"} == {
        made.machines["m1"].address
    }
    assert any(event == "MemberUpdated" for _, event in log.events)
    assert MemberUpdated is not MemberJoined


def test_without_disk_and_seeds_a_restarted_member_waits_to_be_found_by_those_who_remember_it():
    made, _ = cluster()
    made.crash("m1")
    made.run_for(0.5)
    made.start("m1", disk=False)
    assert made.running["m1"].introducers == ()
    assert up(made, "m1") == []
    made.run_for(20)
    assert all_up(made)


def test_a_paused_process_reads_what_has_arrived_first_and_its_timer_fires_late(monkeypatch):
    made, _ = cluster()
    member = made.running["m1"]
    seen = []
    for verb in ("receive", "handle_timer", "loop_lagged"):
        original = getattr(member.swim, verb)

        def noted(*args, verb=verb, original=original):
            seen.append((verb, made.timeline.now_us))
            return original(*args)

        monkeypatch.setattr(member.swim, verb, noted, raising=True)
    made.run_for(2)
    made.pause("m1")
    seen.clear()
    began_us = made.timeline.now_us
    made.run_for(2)
    assert seen == []
    waiting = len(member.machine.buffer)
    assert waiting > 3
    made.resume("m1")
    made.timeline.run_until(made.timeline.now_us)
    verbs = [verb for verb, _ in seen]
    assert verbs[: waiting + 2] == ["loop_lagged", *["receive"] * waiting, "handle_timer"]
    assert "receive" not in verbs[waiting + 1 :]
    assert {us for _, us in seen} == {began_us + 2_000_000}
    assert member.swim.statistics()["stalls"] == 1


def test_streams_wait_for_a_paused_process_behind_its_datagrams():
    made, _ = cluster(2, converged=False)
    made.run_for(1)
    made.pause("m0")
    made.start("m2", seeds=["m0"])
    made.run_for(1)
    assert up(made, "m2") == []
    made.resume("m0")
    made.run_for(2)
    assert all_up(made)


def test_a_socket_buffer_drops_what_does_not_fit():
    buffer = SocketBuffer(3_000)
    assert [buffer.put(bytes(1_000), ("", 1), False) for _ in range(3)] == [True, False, False]
    assert (len(buffer), buffer.dropped) == (1, 2)
    assert buffer.take() is not None
    assert buffer.put(bytes(1_000), ("", 1), False)
    buffer.clear()
    assert buffer.take() is None


def test_the_buffer_of_a_process_that_never_reads_is_bounded():
    made, _ = cluster(3)
    made.pause("m1")
    flood = made.machines["m0"]
    packet = PlainEnvelope(production.CLUSTER).seal(
        Channel.DATAGRAM, join_packet("m0", [encode_message(Who(1))])
    )
    for _ in range(500):
        made._flying += 1
        made._arrive(made.machines["m1"], made.machines["m1"].address, packet, flood.address, False)
    assert len(made.machines["m1"].buffer) == SOCKET_BYTES // (len(packet) + 576)
    assert made.fates["full"] == 500 - len(made.machines["m1"].buffer)
    full = [line for line in made.lines.tail() if line.split()[1:3] == ["m1", "full"]]
    assert len(full) == min(made.fates["full"], len(made.lines.tail())), "each is in the trace"


def test_altered_datagrams_are_counted_drops():
    made, log = cluster()
    made.links.add([Rule(None, None, Change(corrupt=1.0))])
    made.run_for(3)
    assert len(log.drops) > 5
    assert set(log.drops) == {1}


def test_where_only_streams_pass_nobody_is_declared_dead():
    made, log = cluster()
    made.links.add(separate([["m0"], ["m1", "m2", "m3"]], Change(cut_datagrams=True)))
    made.run_for(30)
    assert ("m1", MemberDied.__name__) not in log.events
    assert all_up(made)


def test_drifting_clocks_change_how_often_a_member_acts():
    made, _ = cluster()
    made.set_clock("m0", rate=1.5)
    made.set_clock("m1", rate=0.75)
    before = {name: member.swim.statistics().get("probes", 0) for name, member in made.running.items()}
    made.run_for(40)
    probes = {name: m.swim.statistics()["probes"] - before[name] for name, m in made.running.items()}
    assert 1.4 < probes["m0"] / probes["m2"] < 1.6
    assert 0.65 < probes["m1"] / probes["m2"] < 0.85
    assert all_up(made)


def test_machines_do_not_share_a_monotonic_clock():
    made, _ = cluster()
    assert len({made.local_now(member) for member in made.running.values()}) == 4


def test_traffic_is_counted_by_kind_and_member():
    made, _ = cluster()
    made.run_for(10)
    for machine in made.machines.values():
        packets, size = machine.traffic.total()
        assert packets == sum(machine.traffic.packets.values()) >= 20
        assert size == sum(machine.traffic.payload_bytes.values())
        assert machine.traffic.packets["ping"] >= 10


def test_the_same_seed_is_the_same_run_and_another_is_not():
    digests = []
    for seed in (1, 1, 2):
        made, _ = cluster(seed=seed, link=Link(0.001, 0.002, loss=0.1), converged=False)
        made.run_for(10)
        digests.append(made.lines.digest())
    assert digests[0] == digests[1] != digests[2]


def test_members_that_compute_alone_leave_the_trace_of_those_that_share_answers():
    digests, asked = [], []
    for shared in (True, False):
        made = MemberCluster(
            3, CONFIG, link=Link(0.001, 0.002, loss=0.1), gossip_keys=[KEY], shared_cryptography=shared
        )
        made.start_converged(["m0", "m1", "m2", "m3", "m4"])
        made.crash("m1")
        made.start("m5", seeds=["m0"])
        made.run_for(20)
        assert [member.swim.member("m1").is_up for member in made.running.values()] == [False] * 5
        digests.append(made.lines.digest())
        asked.append(made.statistics()["signatures_asked"])
    assert digests[0] == digests[1]
    assert asked[0] == asked[1] > 20


def test_members_that_compute_alone_share_no_answer(monkeypatch):
    checked = []

    def check(public_key, signature, data):
        checked.append((public_key, signature, data))
        return identity.verify(public_key, signature, data)

    monkeypatch.setattr(production, "verify", check)
    counts = []
    for shared in (True, False):
        checked.clear()
        made = MemberCluster(3, CONFIG, shared_cryptography=shared)
        made.start_converged(["m0", "m1", "m2", "m3", "m4"])
        made.crash("m1")
        made.run_for(20)
        counts.append((len(checked), len(set(checked))))
    (once, different), (often, as_different) = counts
    assert once == different == as_different, "what is shared is checked once"
    assert often >= once + 9, "and what is not, by each of the members that hear it"


def test_a_name_runs_once():
    made, _ = cluster()
    with pytest.raises(ValueError, match="m1 runs already"):
        made.start("m1")


@pytest.mark.parametrize("power", [True, False], ids=["power", "crash"])
def test_a_stream_to_one_that_dies_after_it_has_answered_fails_in_time_or_at_once(power):
    made, _ = cluster(2, link=Link(0.1, 0.0))
    member, to = made.running["m0"], made.machine("m1").address
    failed = {}
    member.swim.stream_failed = lambda number, reason, _: failed.setdefault(
        number, (reason, made.timeline.now())
    )
    stream = member.streams[101] = MemberStream(made, member, 101)
    stream.open(to)
    made.run_for(0.15)  # the answer is on its way
    made.crash("m1", power=power)
    made.run_for(60)
    timeout_s = CONFIG.stream_timeout_s
    told = f"no connection within {timeout_s:g} s", timeout_s
    assert failed[101] == (told if power else ("connection refused", 0.2))


def test_a_host_without_power_answers_nothing():
    made, _ = cluster()
    made.crash("m1", power=True)
    made.crash("m2")
    made.start("new", seeds=["m1", "m2"])
    made.run_for(0.5)
    lines = [line for line in made.lines.tail() if " new " in line and "broken" in line]
    assert lines
    assert all("m2" in line for line in lines), "only the machine that still runs refuses"


def test_the_trace_tells_of_each_datagram_what_it_was_and_when_it_arrives():
    sent = []

    class Sums(Watcher):
        def sent(self, member, data, kind):
            sent.append([member.name, str(len(data)), kind, f"{zlib.crc32(data):08x}"])

    made, _ = cluster(3, link=Link(0.01, 0.0))
    made.watch(Sums())
    made.run_for(3)
    lines = [line.split() for line in made.lines.tail() if " send " in line]
    assert [[who, *rest[1:-1]] for _, who, _, *rest in lines] == sent != []
    assert all(int(line[-1]) == int(line[0]) + 10_000 for line in lines)


@pytest.mark.parametrize(
    ("link", "fate"),
    [
        (Link(cut=True), "cut"),
        (Link(loss=1.0), "lost"),
        (Link(capacity_bytes_s=1, queue_bytes=0), "overflow"),
    ],
    ids=["cut", "lost", "overflow"],
)
def test_the_trace_tells_why_a_datagram_does_not_arrive(link, fate):
    made, _ = cluster(3, link=link)
    made.run_for(1)
    fates = [line.split()[-1] for line in made.lines.tail() if " send " in line]
    assert fates.count(fate) == made.fates[fate] > 0


def test_the_trace_tells_what_is_written_on_streams(monkeypatch):
    written, send = [], MemberStream.send

    def noted(stream, data):
        written.append([stream.peer, str(len(data)), f"{zlib.crc32(data):08x}", f"#{stream.number}"])
        send(stream, data)

    monkeypatch.setattr(MemberStream, "send", noted)
    made, _ = cluster(3, converged=False)
    made.run_for(1)
    assert [line.split()[3:] for line in made.lines.tail() if " write " in line] == written != []


def test_a_datagram_that_comes_twice_is_received_twice_and_the_trace_says_when():
    made, _ = cluster(2, link=Link(0.001, 0.001, duplicate=1.0))
    made.run_for(5)
    made.links.default.cut = True
    made.run_for(0.1)  # what was on its way has arrived
    sent = [line.split() for line in made.lines.tail() if " send " in line and not line.endswith("cut")]
    assert all(int(line[-2]) < int(line[-1]) for line in sent), "both arrivals, in their order"
    counts = [member.swim.statistics() for member in made.running.values()]
    arrived = sum(count["packets_received"] + count.get("dropped_replay", 0) for count in counts)
    assert arrived == 2 * len(sent) == 2 * made.fates["duplicate"] > 0


def test_an_unknown_kind_of_packet_is_named_so():
    assert production.kind_of(b"") == "sealed"
    assert production.kind_of(bytes([1, 0x11, 0, 0, 0, 0, 1, 97, 0, 2, 0x82, 99])) == "other"
    assert production.kind_of(bytes([1, 0x11, 0, 0, 0, 0, 9])) == "other"
