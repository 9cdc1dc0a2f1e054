"""News reaches everybody fast, within small packets, and an idle cluster says nothing but probes."""

from swim.broadcast import NothingReplicated
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.events import MemberReaped
from swim.members import State
from swim.messages import Ack, Ping
from tests.swim.net import CLUSTER, WALL, Net, cluster, settled
from tests.swim.statements import stranger


def test_metadata_reaches_everybody_quickly() -> None:
    net = settled(5)
    net.hosts["n2"].swim.update_meta(b"new", net.now)
    others = [host.swim for name, host in net.hosts.items() if name != "n2"]
    took = net.run_for(5, until=lambda: all(o.member("n2").meta == b"new" for o in others))  # type: ignore[union-attr]
    assert took < 2 * net.config.gossip_interval_s


def test_an_update_reaches_a_hundred_members_within_two_seconds() -> None:
    net = settled(100, profile="lan")
    net.loss = 0.01
    net.hosts["n2"].swim.update_meta(b"new", net.now)
    tables = [host.swim._table for name, host in net.hosts.items() if name != "n2"]
    took = net.run_for(5, until=lambda: all(t.get("n2").alive.meta == b"new" for t in tables))  # type: ignore[union-attr]
    assert took < 1.84


def test_an_idle_cluster_says_nothing_but_probes() -> None:
    net = settled(5)
    net.run_for(20)
    expected = 5 * 20 / net.config.probe_interval_s
    assert abs(len(net.sent) - 2 * expected) <= 0.05 * expected
    assert all(len(s.messages) == 1 and isinstance(s.messages[0], (Ping, Ack)) for s in net.sent)
    assert max(len(s.data) for s in net.sent) < 100
    assert net.total("stream_bytes_sent") == sum(net.count(name, "stream_bytes_sent") for name in net.hosts)


def test_an_idle_cluster_opens_no_streams_but_to_visit_seeds() -> None:
    net = settled(5)
    before = net.total("push_pulls")
    net.run_for(2 * net.config.seed_refresh_s)
    assert 4 <= net.total("push_pulls") - before <= 4 * 2 * 3  # both ends count


def test_two_hundred_members_with_long_metadata_keep_packets_small() -> None:
    net = cluster(2)
    for number in range(200):
        net.inject("n0", stranger(f"far-{number}", b"m" * 512))
    net.add("n2", seeds=["n0:7946"], meta=b"m" * 512)
    net.run_for(1)
    assert len(net.up("n2")) == 202
    net.run_for(10)  # all 200 turn out to be silent, so rumours abound
    sizes = [len(s.data) for s in net.sent]
    assert 1000 < max(sizes) <= MAX_PACKET_BYTES
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


def test_rumours_that_everybody_has_heard_end_early() -> None:
    net = settled(10)
    net.hosts["n2"].swim.update_meta(b"new", net.now)
    net.run_for(20)
    told = sum(s.messages.count(net.hosts["n2"].swim.own) for s in net.sent)
    assert told < 10 * net.config.retransmissions(10)
    assert net.total("rumours_waiting") == 0


class Bulk(Chatty):
    """A map of opaque units, compared by a digest that lists them."""

    def __init__(self, units: set[bytes]) -> None:
        super().__init__()
        self.units = units

    def queued(self) -> int:
        return 0

    def root(self) -> bytes:
        return len(self.units).to_bytes(8, "big")

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        return []

    def bulk_digest(self) -> bytes:
        return b"".join(sorted(self.units))

    def bulk_units(self, digest: bytes) -> list[bytes]:
        held = {digest[at : at + 4] for at in range(0, len(digest), 4)}
        return sorted(self.units - held)

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> int:
        assert wall > WALL
        self.units.add(unit)
        return 1


def test_a_push_pull_carries_large_maps_both_ways() -> None:
    net = Net()
    left = Bulk({n.to_bytes(4, "big") for n in range(40_000)})
    right = Bulk({n.to_bytes(4, "big") for n in range(20_000, 60_000)})
    net.add("n0", replicated=left)
    net.add("n1", replicated=right, seeds=["n0:7946"])
    net.run_for(1)
    assert left.units == right.units
    assert len(left.units) == 60_000


def test_a_member_is_forgotten_by_the_map_when_it_is_reaped_and_not_before() -> None:
    net = Net(config=SwimConfig.profile("local", label=CLUSTER, reap_after_s=20.0))
    bulk = Bulk(set())
    net.add("n0", replicated=bulk)
    net.add("n1", seeds=["n0:7946"])
    net.run_for(2)
    net.kill("n1")
    net.run_for(20, until=lambda: net.state("n0", "n1") is State.DEAD)
    net.run_for(15)
    assert bulk.forgotten == []
    net.run_for(60, until=lambda: bool(net.told("n0", MemberReaped)))
    assert bulk.forgotten == ["n1"]


def test_a_member_that_was_declared_dead_is_told_news_for_a_while_so_that_it_may_refute() -> None:
    net = settled(4, gossip_to_dead_s=10.0, reconnect_interval_s=1000.0)
    net.kill("n1")
    net.run_for(20, until=lambda: all(net.state(name, "n1") is State.DEAD for name in net.running()))

    def told_news() -> bool:
        net.forget()
        swim = net.hosts["n2"].swim
        swim.update_meta(str(net.now).encode(), net.now)
        net.pump("n2")
        net.run_for(3)
        return any(s.to == "n1" and swim.own in s.messages for s in net.sent)

    assert told_news()
    net.run_for(10)
    assert not told_news()
