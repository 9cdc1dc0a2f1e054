"""The protocol in virtual time: members in one process, a network in memory."""

import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim.broadcast import NothingReplicated
from swim.codec import encode_packet
from swim.config import SwimConfig
from swim.events import (
    DuplicateName,
    Joined,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefuted,
    MemberSuspected,
    MemberUpdated,
    SeedUnreachable,
)
from swim.keyring import Channel, PlainEnvelope
from swim.members import State
from swim.messages import Alive, Boot, Dead, MapFrame, Message, Packet, Ping, Suspect
from tests.swim.net import CLUSTER, WALL, Net, authority, cluster, identity_of


def inject(net: Net, to: str, *messages: Message, sender: str = "n1") -> None:
    """Let a host hear a packet that nobody sent."""
    data = PlainEnvelope(CLUSTER).seal(Channel.DATAGRAM, encode_packet(Packet(sender, messages)))
    net.hosts[to].swim.receive(data, ("elsewhere", 1), net.now)
    net.pump(to)


def count(net: Net, name: str, what: str) -> int:
    return net.hosts[name].swim.statistics().get(what, 0)


# Joining


def test_five_join_through_one_seed() -> None:
    net = Net()
    for number in range(5):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, meta=bytes([number]))
    assert net.run_for(5, until=net.all_up) < 2.0
    assert net.told("n3", Joined) == [Joined(("n0:7946",), net.told("n3", Joined)[0].members)]  # type: ignore[attr-defined]
    assert net.hosts["n4"].swim.member("n2").meta == b"\x02"  # type: ignore[union-attr]
    net.run_for(60)
    for name in net.hosts:
        assert len(net.told(name, MemberJoined)) == 4
        assert not net.told(name, MemberSuspected)
        assert count(net, name, "seeds_pending") == 0


def test_a_missing_seed_is_tried_until_it_appears_and_each_failure_says_why() -> None:
    net = Net()
    net.add("n0", seeds=["n1:7946"])
    net.run_for(60)
    failures = net.told("n0", SeedUnreachable)
    assert 20 < len(failures) < 60
    assert failures[0].reason == "connection refused"  # type: ignore[attr-defined]
    assert [f.attempt for f in failures] == list(range(1, len(failures) + 1))  # type: ignore[attr-defined]
    assert all(f.retry_in_s <= 2.0 * 1.25 for f in failures)  # type: ignore[attr-defined]
    net.add("n1")
    assert net.run_for(10, until=net.all_up) < 4.0


def test_one_good_seed_among_bad_ones_is_enough() -> None:
    net = Net()
    net.add("n0")
    net.add("n1", seeds=["nowhere:1", "n0:7946"])
    net.run_for(5)
    assert net.all_up()
    assert count(net, "n1", "seeds_pending") == 0


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
    assert "another" in net.told("n1", SeedUnreachable)[0].reason  # type: ignore[attr-defined]
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
    assert not any(net.told(name, MemberSuspected) for name in net.hosts)


# Failure detection


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_member_is_declared_dead_by_everybody_in_time(members: int, seed: int) -> None:
    net = cluster(members, seed=seed)
    net.run_for(3 + seed * 0.13)
    net.kill("n1")
    killed_at = net.now
    others = [name for name in net.hosts if name != "n1"]
    took = net.run_for(20, until=lambda: all(net.state(o, "n1") is State.DEAD for o in others))
    assert 2.0 < took < (6.5 if members == 2 else 5.0)
    died = net.told("n0", MemberDied)[0]
    assert isinstance(died, MemberDied)
    assert died.member.incarnation == 0
    assert abs(died.silent_for_s - (net.now - killed_at)) < 3.0
    if members > 2:
        assert len(died.accusers) >= 2


def test_nobody_dies_in_a_lossy_network() -> None:
    for seed in range(3):
        net = cluster(5, seed=seed)
        net.loss = 0.1
        net.run_for(120)
        assert not any(net.told(name, MemberDied) for name in net.hosts)


def test_relays_save_a_member_behind_a_one_way_loss() -> None:
    net = cluster(4)
    net.drop("n0", "n1")
    net.run_for(60)
    assert not any(net.told(name, MemberDied) for name in net.hosts)
    assert count(net, "n0", "probes_saved_by_relay") > 10
    assert not net.told("n0", MemberSuspected)


def test_without_a_relay_the_same_loss_is_fatal() -> None:
    net = cluster(2)
    net.drop("n0", "n1")
    net.run_for(20)
    assert net.told("n0", MemberSuspected)


def test_a_suspicion_is_refuted_by_a_higher_incarnation() -> None:
    net = cluster(3)
    own = net.hosts["n1"].swim.own
    inject(net, "n0", Suspect("n1", own.boot, own.incarnation, "n2"), sender="n2")
    assert net.state("n0", "n1") is State.SUSPECT
    net.run_for(2)
    assert net.state("n0", "n1") is State.ALIVE
    assert net.told("n0", MemberRefuted)
    assert net.hosts["n1"].swim.own.incarnation == 1
    assert not net.told("n0", MemberDied)


def test_a_short_pause_is_survived_on_both_sides() -> None:
    net = cluster(3)
    net.run_for(3)
    net.pause("n1", 1.5)
    net.run_for(20)
    assert net.all_up()
    assert not any(net.told(name, MemberDied) for name in net.hosts)
    assert count(net, "n1", "stalls") >= 1


def test_a_long_pause_ends_in_a_death_that_is_taken_back() -> None:
    net = cluster(3)
    net.run_for(3)
    net.pause("n1", 30)
    assert net.state("n0", "n1") is State.DEAD
    net.run_for(10, until=net.all_up)
    assert net.all_up()
    assert net.told("n0", MemberAlive)
    assert not net.told("n1", MemberDied)


# Restart, leave, reap


def test_a_restarted_member_is_back_at_once_without_remembering_anything() -> None:
    net = cluster(3)
    net.hosts["n1"].swim.update_meta(b"raised incarnation", net.now)
    net.run_for(3)
    net.kill("n1")
    net.run_for(20)
    assert net.state("n0", "n1") is State.DEAD
    net.add("n1", seeds=["n0:7946"])
    assert net.run_for(5, until=net.all_up) < 1.0
    back = net.told("n0", MemberAlive)[-1]
    assert isinstance(back, MemberAlive)
    assert back.restarted
    net.run_for(30)
    assert net.all_up()


def test_a_restart_that_nobody_noticed_is_told_as_an_update() -> None:
    net = cluster(3)
    net.run_for(1)
    net.kill("n1")
    net.add("n1", seeds=["n0:7946"], meta=b"second life")
    net.run_for(3)
    assert [e.restarted for e in net.told("n0", MemberUpdated)] == [True]  # type: ignore[attr-defined]
    assert net.hosts["n2"].swim.member("n1").meta == b"second life"  # type: ignore[union-attr]
    net.run_for(20)
    assert not net.told("n0", MemberDied)


def test_a_restart_with_a_clock_set_back_rebases_on_what_the_peers_hold() -> None:
    net = cluster(3)
    net.kill("n1")
    net.run_for(10)
    net.add("n1", seeds=["n0:7946"], wall=WALL - 86_400)
    assert net.run_for(10, until=net.all_up) < 2.0
    assert count(net, "n1", "rebases") == 1


def test_a_restart_with_a_clock_set_back_that_is_alone_for_long_is_not_taken_for_a_double() -> None:
    net = cluster(3)
    net.kill("n2")
    net.partition(["n0", "n1"], ["n2"])
    net.add("n2", seeds=["n0:7946"], wall=WALL - 5000.0)
    net.run_for(60)
    net.heal()
    net.run_for(30)
    assert net.all_up()
    assert not net.told("n2", DuplicateName)
    assert count(net, "n2", "rebases") == 1


def test_leaving_is_not_dying() -> None:
    net = cluster(4)
    net.hosts["n1"].swim.leave(net.now)
    net.pump("n1")
    net.run_for(5)
    assert net.hosts["n1"].swim.has_left
    for name in ("n0", "n2", "n3"):
        assert net.state(name, "n1") is State.LEFT
        assert len(net.told(name, MemberLeft)) == 1
        assert not net.told(name, MemberSuspected)
    net.add("n1", seeds=["n0:7946"])
    net.hosts["n1"].running = True
    net.run_for(5, until=net.all_up)
    assert net.all_up()


def test_the_last_member_leaves_at_once() -> None:
    net = Net()
    swim = net.add("n0")
    swim.leave(net.now)
    assert swim.has_left
    assert swim.next_timer() is None


def test_dead_members_are_reaped_and_a_newcomer_never_hears_of_them() -> None:
    net = cluster(3, reap_after_s=60.0)
    net.kill("n1")
    net.run_for(30)
    net.add("n3", seeds=["n0:7946"])
    net.run_for(20)
    assert net.state("n3", "n1") is State.DEAD
    assert not [e for e in net.told("n3", MemberJoined) if e.member.name == "n1"]  # type: ignore[attr-defined]
    net.run_for(40)
    for name in ("n0", "n2", "n3"):
        assert net.state(name, "n1") is None
        assert len(net.told(name, MemberReaped)) == 1
        assert count(net, name, "remembered_addresses") == 1


# Partitions


def test_a_partition_of_twenty_minutes_heals_without_seeds_and_without_new_deaths() -> None:
    net = cluster(5, reap_after_s=300.0)
    left, right = ["n0", "n1"], ["n2", "n3", "n4"]
    net.partition(left, right)
    net.run_for(20 * 60)
    assert net.up("n0") == ["n1"]
    assert net.up("n2") == ["n3", "n4"]
    assert net.state("n0", "n2") is None  # reaped: only the address is remembered
    deaths = {name: len(net.told(name, MemberDied)) for name in net.hosts}
    net.heal()
    assert net.run_for(60, until=net.all_up) < 15
    net.run_for(30)
    assert net.all_up()
    assert deaths == {name: len(net.told(name, MemberDied)) for name in net.hosts}


def test_a_short_partition_heals_with_every_death_taken_back_once() -> None:
    for seed in range(3):
        net = cluster(5, seed=seed)
        net.partition(["n0", "n1"], ["n2", "n3", "n4"])
        net.run_for(40)
        deaths = {name: len(net.told(name, MemberDied)) for name in net.hosts}
        assert deaths["n0"] == 3
        net.heal()
        assert net.run_for(60, until=net.all_up) < 15
        net.run_for(30)
        assert net.all_up()
        assert deaths == {name: len(net.told(name, MemberDied)) for name in net.hosts}


def test_the_dead_are_not_raised_by_old_rumours() -> None:
    net = cluster(3)
    rumour = net.hosts["n1"].swim.own
    net.kill("n1")
    net.run_for(10)
    for name in ("n0", "n2"):
        inject(net, name, rumour, sender="n1")
        inject(net, name, Suspect("n1", rumour.boot, rumour.incarnation, "n0"), sender="n2")
        assert net.state(name, "n1") is State.DEAD
    net.run_for(60)
    assert not net.told("n0", MemberAlive)


# Lies and garbage


def test_nobody_can_accuse_with_an_invented_incarnation_boot_or_author() -> None:
    net = cluster(3)
    own = net.hosts["n1"].swim.own
    for accusation in (
        Dead("n1", own.boot, own.incarnation + 1, "n2"),
        Dead("n1", Boot(own.boot.time_ms + 1, own.boot.id), 0, "n2"),
        Suspect("n1", own.boot, own.incarnation, "nobody"),
        Suspect("n9", own.boot, own.incarnation, "n2"),
    ):
        inject(net, "n0", accusation, sender="n2")
        if accusation.name == "n1" and accusation.author == "n2":
            inject(net, "n1", accusation, sender="n2")
    assert net.state("n0", "n1") is State.ALIVE
    assert count(net, "n0", "dropped_accusation_of_unseen_incarnation") == 2
    assert count(net, "n1", "dropped_accusation_of_unseen_incarnation") == 2
    assert count(net, "n0", "dropped_accusation_by_stranger") == 1
    assert count(net, "n0", "dropped_accusation_of_stranger") == 1
    net.run_for(5)
    assert net.hosts["n1"].swim.own.incarnation == 0


def signed(alive: Alive, name: str, ca: Ed25519PrivateKey | None = None) -> Alive:
    """Sign an Alive with the key of `name`, certified by our authority or by another one."""
    identity = identity_of(name) if ca is None else identity_of(name, ca)
    alive = replace(alive, credential=identity.credential)
    return replace(alive, signature=identity.sign(alive.signed_bytes()))


def test_an_alive_that_is_not_its_subjects_own_word_is_counted_and_dropped() -> None:
    net = cluster(2)
    own = net.hosts["n1"].swim.own
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
    later = replace(own, incarnation=7)
    far = replace(own, boot=Boot(int((WALL + 2 * 86_400 + 1000) * 1000), own.boot.id))
    for alive, reason in (
        (later, "bad_signature"),
        (replace(signed(later, "n1"), host="evil"), "bad_signature"),
        (signed(later, "n7"), "credential_of_another"),
        (signed(later, "n1", stranger), "credential_refused"),
        (replace(later, credential=b"nonsense"), "credential_refused"),
        (signed(far, "n1"), "boot_time_ahead"),
    ):
        before = count(net, "n0", f"dropped_{reason}")
        inject(net, "n0", alive)
        assert count(net, "n0", f"dropped_{reason}") == before + 1
    assert net.hosts["n0"].swim.member("n1").incarnation == 0  # type: ignore[union-attr]
    inject(net, "n0", signed(later, "n1"))
    assert net.hosts["n0"].swim.member("n1").incarnation == 7  # type: ignore[union-attr]


def test_a_living_double_makes_the_older_process_stop() -> None:
    net = cluster(3)
    net.run_for(30)
    net.add("n1", seeds=["n0:7946"], address=("double", 7946))
    net.run_for(5)
    told = net.told("n1", DuplicateName)
    assert told == [DuplicateName("n1", ("double", 7946))]
    assert not net.told("double", DuplicateName)
    assert net.hosts["n0"].swim.member("n1").address == ("double", 7946)  # type: ignore[union-attr]


def test_garbage_is_counted_by_reason_and_changes_nothing() -> None:
    net = cluster(2)
    swim = net.hosts["n0"].swim
    rng = random.Random(5)
    for size in range(0, 1500, 7):
        swim.receive(rng.randbytes(size), ("elsewhere", 1), net.now)
    inject(net, "n0", Ping(1, "n9", bytes(8)))
    inject(net, "n0", MapFrame(b"x"), sender="n9")
    swim.receive(b"", ("elsewhere", 1), net.now)
    for stream, data in ((100, b"\xff" * 50), (102, b"\0\0\0\x20" + b"x" * 40), (104, b"\0\0")):
        swim.stream_accepted(stream, ("elsewhere", 1), net.now)
        swim.stream_received(stream, data, net.now)
        swim.stream_closed(stream, net.now)
    counts = swim.statistics()
    for what in ("truncated", "oversized", "unknown_version", "wrong_target", "map_frame_of_stranger",
                 "stream_frame_too_large", "stream_unknown_version", "stream_truncated"):  # fmt: skip
        assert counts[f"dropped_{what}"] >= 1, what
    net.pump("n0")
    net.run_for(5)
    assert net.all_up()


def test_streams_are_bounded_in_number_time_and_size() -> None:
    net = cluster(2, max_streams=3, max_state_bytes=1000)
    net.run_for(1)
    swim = net.hosts["n0"].swim
    for stream in (100, 102, 104):  # a third of its streams is kept for this member's own
        swim.stream_accepted(stream, ("elsewhere", 1), net.now)
    assert count(net, "n0", "streams_over_limit") == 1
    swim.stream_received(100, b"\0\0\xff\xff" + bytes(2000), net.now)
    assert count(net, "n0", "dropped_stream_state_too_large") == 1
    net.run_for(6)
    assert count(net, "n0", "streams_timed_out") == 1
    assert count(net, "n0", "streams_open") == 0


def test_streams_that_say_nothing_do_not_keep_a_newcomer_out() -> None:
    net = cluster(2, max_streams=4, push_pull_interval_s=1000.0)
    net.run_for(1)
    for stream in (100, 102, 104):
        net.hosts["n0"].swim.stream_accepted(stream, ("elsewhere", 1), net.now)
    net.run_for(1.1)
    net.add("n2", seeds=["n0:7946"])
    assert net.run_for(5, until=net.all_up) < 0.5
    assert count(net, "n0", "dropped_stream_silent") == 1


def test_a_hundred_members_that_join_at_once_through_one_seed_agree_within_five_seconds() -> None:
    shared = authority()  # remembers each credential for all, where a hundred processes check each once
    net = Net(config=SwimConfig.profile("local", label=CLUSTER))
    for number in range(100):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, trusts=shared)
    while net.now < 1005.0 and not net.all_up():
        net.run_for(0.25)
    assert net.all_up()
    assert not any(net.told(name, MemberSuspected) for name in net.hosts)


def test_a_full_table_refuses_further_names() -> None:
    net = cluster(3, max_members=2)
    net.add("n3", seeds=["n0:7946"])
    net.run_for(5)
    assert net.state("n0", "n3") is None
    assert count(net, "n0", "dropped_member_table_full") > 0


# Dissemination


def test_metadata_reaches_everybody_quickly() -> None:
    net = cluster(5)
    net.run_for(5)
    net.hosts["n2"].swim.update_meta(b"new", net.now)
    others = [host.swim for name, host in net.hosts.items() if name != "n2"]
    assert net.run_for(5, until=lambda: all(o.member("n2").meta == b"new" for o in others)) < 1.0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="meta"):
        net.hosts["n2"].swim.update_meta(b"x" * 513, net.now)


def test_an_idle_cluster_only_probes() -> None:
    net = cluster(5)
    net.run_for(30)
    net.sent.clear()
    net.run_for(20)
    pings_and_acks = 5 * 20 / net.config.probe_interval_s * 2
    assert len(net.sent) <= pings_and_acks * 1.05


def test_two_hundred_members_with_long_metadata_keep_packets_small() -> None:
    net = cluster(2)
    for number in range(200):
        name = f"far-{number}"
        boot = Boot(int(WALL * 1000), b"f" * 16)
        inject(net, "n0", signed(Alive(name, name, 7946, boot, 0, b"m" * 512, b""), name))
    net.add("n2", seeds=["n0:7946"], meta=b"m" * 512)
    net.run_for(1)
    assert len(net.up("n2")) == 202
    net.run_for(10)  # all 200 turn out to be silent, so rumours abound
    sizes = [len(data) for _, data in net.sent]
    assert 1000 < max(sizes) <= 1400
    assert net.state("n0", "n2") is State.ALIVE


class Chatty(NothingReplicated):
    """A map that always has more to say than fits."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.received: list[bytes] = []
        self.forgotten: list[str] = []

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        return [b"f" * min(limit_bytes, 1150)] * max(1, limit_bytes // 1150)

    def queued(self) -> int:
        return 1_000

    def receive(self, peer: str, frame: bytes, now: float, wall: float) -> list[bytes]:
        self.received.append(frame)
        return []

    def forget(self, owner: str) -> None:
        self.forgotten.append(owner)


def test_a_busy_map_and_busy_rumours_do_not_starve_each_other() -> None:
    net = Net()
    maps = [Chatty() for _ in range(3)]
    for number, chatty in enumerate(maps):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None, replicated=chatty, meta=b"m" * 500)
    net.run_for(5)
    assert net.all_up()
    for _ in range(20):
        net.hosts["n1"].swim.update_meta(net.rng.randbytes(500), net.now)
        before = len(maps[0].received)
        net.run_for(1)
        assert net.hosts["n0"].swim.member("n1").meta == net.hosts["n1"].swim.own.meta  # type: ignore[union-attr]
        assert len(maps[0].received) > before


class Bulk(Chatty):
    """A map of opaque units, compared by a digest that lists them."""

    def __init__(self, units: set[bytes]) -> None:
        super().__init__()
        self.units = units

    def queued(self) -> int:
        return 0

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        return []

    def bulk_digest(self) -> bytes:
        return b"".join(sorted(self.units))

    def bulk_units(self, digest: bytes) -> list[bytes]:
        held = {digest[at : at + 4] for at in range(0, len(digest), 4)}
        return sorted(self.units - held)

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        return self.bulk_units(digest), self.bulk_digest()

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> None:
        assert wall > WALL
        self.units.add(unit)


def test_a_push_pull_carries_large_maps_both_ways() -> None:
    net = Net()
    left = Bulk({n.to_bytes(4, "big") for n in range(40_000)})
    right = Bulk({n.to_bytes(4, "big") for n in range(20_000, 60_000)})
    net.add("n0", replicated=left)
    net.add("n1", replicated=right, seeds=["n0:7946"])
    net.run_for(1)
    assert left.units == right.units
    assert len(left.units) == 60_000


def test_a_reaped_member_is_forgotten_by_the_map() -> None:
    net = Net(config=SwimConfig.profile("local", label=CLUSTER, reap_after_s=20.0))
    bulk = Bulk(set())
    net.add("n0", replicated=bulk)
    net.add("n1", seeds=["n0:7946"])
    net.run_for(2)
    net.kill("n1")
    net.run_for(40)
    assert bulk.forgotten == ["n1"]


def test_one_seed_one_history() -> None:
    def history() -> list[tuple[str, bytes]]:
        net = cluster(4, seed=9)
        net.kill("n2")
        net.run_for(10)
        return net.sent

    assert history() == history()
