import pytest

from swim import units
from swim.propagation import MAX_SAMPLES, MAX_SAMPLES_PER_OWNER, Delays, Propagation, PropagationLog
from tests.swim.map_model import Peers, identity, push, three_with_a_roster

NOTHING = (0, None, None, None)


def deliver(peers: Peers, published: float, *, version: int = 1, owner: str = "b", target: str = "a") -> None:
    """Let a bucket of an owner arrive that it claims to have signed at a wall time."""
    author = identity(owner)
    bucket = units.Bucket(
        author.credential, (9, bytes(8)), version, 0, 0, {"x": b"%d" % version}, int(published * 1000)
    )
    frame = push(units.encode(bucket, author))
    peers[target].receive(owner, frame, peers.now, peers.wall_of(target))


def measured(peers: Peers, owner: str = "b") -> tuple[int, float | None, float | None, float | None]:
    found = peers["a"].propagation(peers.wall)[owner]
    return found.arrivals, found.last_s, found.p50_s, found.p99_s


def test_the_delay_from_publishing_to_arrival_is_measured() -> None:
    peers = Peers("a", "b")
    for version, delay_s in enumerate((0.25, 0.5, 8.0), start=1):
        peers.advance(10.0)
        deliver(peers, peers.wall - delay_s, version=version)
    assert measured(peers) == (3, 8.0, 0.5, 8.0)
    peers.advance(20.0)
    assert peers["a"].propagation(peers.wall)["b"].age_s == 28.0
    statistics = peers["a"].statistics()
    assert statistics["propagation_arrivals"] == 3
    assert (statistics["propagation_p50_ms"], statistics["propagation_p99_ms"]) == (500, 8000)


def test_owners_come_in_order_and_the_own_map_has_an_age_and_no_delays() -> None:
    peers = Peers("b", "a")
    peers["b"].put("x", b"1", peers.wall)
    peers.advance(3.0)
    found = peers["b"].propagation(peers.wall)
    assert list(found) == ["b"]
    assert found["b"] == Propagation(3.0, *NOTHING)
    peers.ping("a", "b")
    assert list(peers["a"].propagation(peers.wall)) == ["a", "b"]


def test_an_entry_carries_the_time_that_its_put_was_told() -> None:
    peers = Peers("a", "b")
    peers.settle(rounds=3)
    peers.advance(30.0)
    peers["b"].put("x", b"1", peers.wall - 2.0)
    peers.ping("b", "a")
    assert peers["a"].propagation(peers.wall)["b"].last_s == 2.0
    peers["b"].delete("x", peers.wall - 1.0)
    peers.ping("b", "a")
    assert peers["a"].propagation(peers.wall)["b"].last_s == 1.0
    peers["b"].put("x", b"2")  # told nothing: the time of the last packet
    assert peers["b"].propagation(peers.wall)["b"].age_s == 0.0


@pytest.mark.parametrize("ahead_s", [-40.0, 0.5, 40.0])
def test_the_owners_clock_is_corrected_where_its_offset_is_known(ahead_s: float) -> None:
    peers = Peers("a", "b", "c")
    peers.advance(100.0)
    for peer in "bc":
        peers["a"].observe_clock(peer, ahead_s if peer == "b" else 0.0)
    deliver(peers, peers.wall + ahead_s - 0.25)
    assert measured(peers)[:2] == (1, 0.25)
    assert peers["a"].propagation(peers.wall)["b"].age_s == 0.25


def test_the_median_serves_for_an_owner_whose_clock_was_not_observed() -> None:
    peers = Peers("a", "b")
    peers.advance(100.0)
    for number in range(5):
        peers["a"].observe_clock(f"peer-{number}", 30.0)
    deliver(peers, peers.wall + 30.0 - 1.5)
    assert measured(peers)[:2] == (1, 1.5)


def test_a_time_from_the_future_does_not_count_and_its_bucket_does() -> None:
    peers = Peers("a", "b")
    deliver(peers, peers.wall + 59.0, version=1)
    assert measured(peers)[:2] == (1, 0.0)
    deliver(peers, peers.wall + 61.0, version=2)
    assert peers["a"].get("b", "x") == b"2"
    assert measured(peers)[0] == 1
    assert peers["a"].statistics()["propagation_ignored"] == 1


def test_what_was_published_before_this_node_was_up_does_not_count() -> None:
    peers = Peers("b")
    peers["b"].put("x", b"1", peers.wall)
    peers.advance(100.0)
    peers.boot("a")
    peers["b"].admit_owner("a", peers.wall)
    peers.settle()
    assert peers["a"].get("b", "x") == b"1"
    assert peers["a"].propagation(peers.wall)["b"].arrivals == 0
    assert peers["a"].propagation(peers.wall)["b"].age_s == pytest.approx(103.0, abs=3.0)
    peers["b"].put("x", b"2", peers.wall)
    peers.ping("a", "b")
    assert peers["a"].propagation(peers.wall)["b"].arrivals == 1


def test_an_owner_that_tells_no_time_has_no_age() -> None:
    peers = Peers("a", "b")
    deliver(peers, 0.0)
    assert peers["a"].propagation(peers.wall)["b"] == Propagation(None, *NOTHING)


def test_what_was_measured_of_an_owner_goes_with_it() -> None:
    peers = Peers("a", "b")
    deliver(peers, peers.wall)
    peers["a"].forget("b")
    assert list(peers["a"].propagation(peers.wall)) == ["a"]
    peers["a"].admit_owner("b", peers.wall)
    deliver(peers, peers.wall, version=2)
    assert measured(peers)[0] == 1


def test_delays_are_a_ring_of_the_last_ones() -> None:
    delays = Delays(4)
    assert delays.last_s() is None
    assert delays.percentiles_s((0.5, 1.0)) == [None, None]
    for delay in range(10):
        delays.add(float(delay))
    assert delays.arrivals == 10
    assert delays.last_s() == 9.0
    assert delays.percentiles_s((0.0, 0.5, 1.0)) == [6.0, 8.0, 9.0]


def test_the_log_is_bounded() -> None:
    log = PropagationLog()
    for number in range(2 * MAX_SAMPLES):
        log.arrived("a", number / 1000)
    found = log.of("a", None)
    assert found.arrivals == 2 * MAX_SAMPLES
    first = 2 * MAX_SAMPLES - MAX_SAMPLES_PER_OWNER
    assert found.p50_s == pytest.approx((first + MAX_SAMPLES_PER_OWNER // 2) / 1000)
    assert log.statistics()["propagation_p50_ms"] == pytest.approx(MAX_SAMPLES * 1.5, abs=1)


# Divergence


def test_each_node_says_who_is_in_step_with_it() -> None:
    peers = Peers("a", "b", "c")
    peers.settle()
    peers.settle(rounds=2)
    divergence = peers["a"].divergence(peers.now)
    assert divergence.root == peers["a"].root()
    assert (divergence.in_step, divergence.differing) == (2, 0)
    assert [step.peer for step in divergence.peers] == ["b", "c"]
    began = peers.now
    peers.partition("c")
    peers["b"].put("x", b"1", peers.wall)
    for _ in range(3):
        peers.settle(rounds=1)
    peers.heal()
    peers["c"].put("y", b"1", peers.wall)
    while peers["c"].queued():
        peers["c"].broadcasts(1200, 3)  # nobody hears it
    peers.ping("a", "c", gossip=False)
    divergence = peers["a"].divergence(peers.now)
    assert (divergence.in_step, divergence.differing) == (1, 1)
    assert [step.peer for step in divergence.peers if step.differs_since is not None] == ["c"]
    peers.settle()
    peers.settle(rounds=1)
    assert peers["a"].divergence(peers.now).differing == 0
    assert 0.0 < peers["a"].divergence(peers.now).longest_ever_s <= peers.now - began
    assert peers["a"].statistics()["peers_differing"] == 0


def test_a_node_behind_the_horizon_is_in_step_with_nobody_that_is_not() -> None:
    peers = three_with_a_roster()
    peers["a"].cluster_put("x", b"1", peers.wall)
    peers.settle()
    old_disk = peers["c"].export()
    peers["b"].cluster_delete("x", peers.wall)
    for _ in range(20):
        peers.settle(rounds=1)
    peers.boot("c", counter=1, stored=old_disk)
    peers.deliver("a", "c", [push(peers["a"].export()[0])])
    assert peers["c"].statistics()["behind_horizon"] == 1
    peers["a"].peer_root("c", peers["c"].root(), peers.now)
    assert [step.peer for step in peers["a"].divergence(peers.now).peers if step.differs_since] == ["c"]
