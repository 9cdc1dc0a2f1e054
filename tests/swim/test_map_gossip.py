"""What gossip of the maps costs in large clusters, and that it reaches everybody.

Simulated on a virtual clock (`tests/swim/map_gossip.py`); the seeds are fixed, so the figures are too.
"""

import pytest

from swim import comparisons, unit_queue
from swim.map_events import EntryChanged
from swim.unit_queue import MIN_TRANSMISSIONS, max_transmissions
from tests.swim.map_gossip import GossipCluster
from tests.swim.map_model import MAX_FRAME_BYTES


class Updates:
    """One update after the other, each by another owner, and what became of it."""

    def __init__(self, cluster: GossipCluster) -> None:
        self.cluster = cluster
        self.reached: list[int] = []
        self.took_s: list[float] = []

    def spread(self, count: int, *, seconds: float = 4.0) -> None:
        for number in range(count):
            owner = self.cluster.random.randrange(len(self.cluster.names))
            value = b"update %d" % number
            began = self.cluster.now
            self.cluster.on_change = lambda _member, _event, began=began: self.took_s.append(
                self.cluster.now - began
            )
            self.cluster.put(owner, "key", value)
            self.cluster.run_until(began + seconds)
            self.reached.append(self.cluster.holders(owner, "key", value))

    @property
    def coverage(self) -> float:
        return sum(self.reached) / len(self.reached) / len(self.cluster.names)


@pytest.mark.parametrize(
    ("members", "updates", "loss", "sent_at_most"),
    [(100, 20, 0.01, 10.3), (100, 20, 0.2, 10.5), (1000, 1, 0.01, 11.0), (1000, 1, 0.2, 11.5)],
)
def test_feedback_spares_transmissions_and_gossip_alone_still_reaches_nearly_everybody(
    members: int, updates: int, loss: float, sent_at_most: float
) -> None:
    cluster = GossipCluster(members, seed=5, loss=loss, repair=False)
    before = cluster.total("units_sent")
    spread = Updates(cluster)
    spread.spread(updates, seconds=3.0)
    assert spread.coverage >= 0.999
    sent = (cluster.total("units_sent") - before) / members / updates
    assert MIN_TRANSMISSIONS <= sent <= sent_at_most < max_transmissions(members)
    assert cluster.largest_frame <= MAX_FRAME_BYTES


def test_without_feedback_every_member_sends_as_often_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison to the test above, and the proof that it would notice."""
    monkeypatch.setattr(unit_queue, "MIN_TRANSMISSIONS", max_transmissions(100))
    cluster = GossipCluster(100, seed=5, loss=0.01, repair=False)
    before = cluster.total("units_sent")
    Updates(cluster).spread(3, seconds=3.0)
    assert (cluster.total("units_sent") - before) / 100 / 3 == max_transmissions(100)


def comparisons_opened(cluster: GossipCluster, updates: int) -> int:
    before = cluster.total("comparisons_opened")
    Updates(cluster).spread(updates)
    assert cluster.are_in_step()
    return cluster.total("comparisons_opened") - before


def test_while_news_is_spreading_hardly_anybody_compares() -> None:
    assert comparisons_opened(GossipCluster(100, seed=5, loss=0.01), updates=10) <= 3


def test_comparing_at_once_would_be_wasted_on_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was like before roots had to settle, and the proof that the test above would notice."""
    monkeypatch.setattr(comparisons, "SETTLE_S", 0.0)
    monkeypatch.setattr(comparisons, "YIELD_S", 0.0)
    assert comparisons_opened(GossipCluster(100, seed=5, loss=0.01), updates=10) >= 40


@pytest.mark.parametrize("members", [5, 100])
def test_what_gossip_lost_is_repaired_within_seconds(members: int) -> None:
    cluster = GossipCluster(members, seed=7, loss=0.05)
    cluster.run_until(3.0)
    cluster.put(0, "key", b"lost")
    while cluster.nodes[0].queued():
        cluster.nodes[0].broadcasts(1150, members)  # nobody hears it
    cluster.run_until(12.0)
    assert cluster.holders(0, "key", b"lost") == members
    assert cluster.are_in_step()


@pytest.mark.parametrize(("members", "pause_s", "seconds"), [(5, 0.1, 12.0), (100, 0.4, 20.0)])
def test_what_gossip_lost_is_repaired_under_constant_change(
    members: int, pause_s: float, seconds: float
) -> None:
    """Something changes again before the last change has reached everybody."""
    cluster = GossipCluster(members, seed=7, loss=0.05)
    cluster.run_until(3.0)
    cluster.put(0, "key", b"lost")
    while cluster.nodes[0].queued():
        cluster.nodes[0].broadcasts(1150, members)
    looks = int(seconds / pause_s)
    in_step = 0
    for number in range(looks):
        cluster.put(1 + number % (members - 1), "key", b"change %d" % number)
        cluster.run_until(cluster.now + pause_s)
        in_step += cluster.are_in_step()
    assert in_step < looks / 20
    assert cluster.holders(0, "key", b"lost") >= members - 1


def test_owners_and_delays_are_reported() -> None:
    cluster = GossipCluster(20, seed=3, loss=0.01)
    arrivals = []
    cluster.on_change = lambda member, event: arrivals.append((member, event, cluster.now))
    Updates(cluster).spread(0)
    began = cluster.now
    cluster.put(4, "key", b"news")
    cluster.run_until(began + 5.0)
    member, event, arrived = arrivals[-1]
    assert event == EntryChanged("n4", "key", b"news")
    found = cluster.nodes[member].propagation(cluster.wall)["n4"]
    assert found.arrivals == 1
    assert found.last_s == pytest.approx(arrived - began, abs=0.002)
    assert found.age_s == pytest.approx(5.0, abs=0.002)
    assert cluster.nodes[member].propagation(cluster.wall)["n5"].arrivals == 0
    assert cluster.nodes[member].statistics()["propagation_arrivals"] == 1
