"""Each node tells whom it cannot reach, in bounded words; the matrix is what the nodes that are up tell."""

import random

import cbor2
import pytest

from node.cluster.reachability import KEY, NAMES_LIMIT, Reachability, Unreached
from node.security.identity import NodeCredentials
from swim.paths import LostPath
from swim.replicated import Replicated
from tests.node.cluster.test_registry import FakeMaps
from tests.node.security.environments import seeded


class Maps(FakeMaps):
    max_value_bytes = 900

    def get(self, owner, key):
        return self.held.get((owner, key))

    def owners(self):
        return sorted({owner for owner, _ in self.held})


@pytest.fixture
def maps():
    return Maps()


@pytest.fixture
def reachability(maps):
    return Reachability(maps, "me", is_up=lambda node: node != "gone", clock=seeded()[1])


def lost(*names):
    return [LostPath(name, 0.0, "relay") for name in names]


def test_what_is_published_is_what_others_read(reachability):
    assert reachability.publish(lost("c", "b"))
    assert reachability.rows() == [Unreached("me", ("b", "c"), 2)]
    assert reachability.rows()[0].as_json() == {"node": "me", "cannot_reach": ["b", "c"], "count": 2}


def test_the_same_set_is_written_once_and_nobody_leaves_no_entry(reachability, maps):
    assert not reachability.publish([])
    assert reachability.publish(lost("b", "c"))
    assert not reachability.publish(lost("c", "b"))
    assert reachability.publish([])
    assert maps.held == {}
    assert reachability.statistics()["writes"] == 2


def test_only_nodes_that_are_up_are_believed_to_be_still_cut_off(reachability, maps):
    for owner in ("you", "gone"):
        maps.held[owner, KEY] = cbor2.dumps([1, ["me"]])
    assert [row.node for row in reachability.rows()] == ["you"]


def test_an_entry_names_at_most_so_many_and_tells_how_many_there_are(reachability):
    names = [f"n{number:03}" for number in range(100)]
    reachability.publish(lost(*reversed(names)))
    assert reachability.rows() == [Unreached("me", tuple(names[:NAMES_LIMIT]), 100)]


def test_the_longest_names_fit_a_real_map():
    environment, clock = seeded()
    credentials = NodeCredentials.ephemeral("me", environment)
    maps = Replicated(
        credentials.identity, credentials.authority, rng=random.Random(1), entropy=random.Random(2).randbytes
    )
    maps.start(0, 0.0, clock.wall())
    reachability = Reachability(maps, "me", is_up=lambda _: True, clock=clock)
    names = [f"{number:02}".ljust(63, "x") for number in range(40)]
    assert reachability.publish(lost(*names))
    [row] = reachability.rows()
    assert row.count == 40
    assert 5 < len(row.members) < NAMES_LIMIT
    assert row.members == tuple(names[: len(row.members)])
    assert reachability.publish(lost("a"))
    assert reachability.rows() == [Unreached("me", ("a",), 1)]


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", cbor2.dumps(1), cbor2.dumps([1]), cbor2.dumps([0, ["b"]]), cbor2.dumps([1, ["No name"]]),
     cbor2.dumps([1, [7]]), cbor2.dumps([True, ["b"]]), cbor2.dumps([2**16, ["b"]]), cbor2.dumps(["1", []]),
     cbor2.dumps([99, [f"n{number}" for number in range(NAMES_LIMIT + 1)]]), cbor2.dumps([1, "b"])],
)  # fmt: skip
def test_malformed_entries_are_counted_and_not_believed(reachability, maps, value):
    maps.held["you", KEY] = value
    assert reachability.rows() == []
    assert reachability.statistics()["malformed_entries"] == 1


def test_random_bytes_never_crash_the_view(reachability, maps):
    rng = random.Random(7)
    for _ in range(500):
        maps.held["you", KEY] = rng.randbytes(rng.randrange(40))
        reachability.rows()
