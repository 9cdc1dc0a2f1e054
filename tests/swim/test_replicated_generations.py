"""Lives of an owner: restarts with and without its disk, two processes under one name, and its end."""

import pytest

from swim import units
from swim.map_events import (
    DuplicateIdentity,
    EntryChanged,
    OwnerForgotten,
    OwnerReset,
    Rebased,
)
from swim.replicated import StateError
from tests.swim.map_model import CLUSTER, Peers, authority, identity, push, three_with_a_roster


@pytest.mark.parametrize("seed", range(6))
def test_a_lost_disk_converges_even_if_no_peer_was_asked_first(seed: int) -> None:
    peers = Peers("a", "b", seed=seed)
    for number in range(100):
        peers["a"].put(f"key-{number}", b"v" * 40)
    peers.settle()
    peers.boot("a", counter=0)  # the same counter again: an old life looks like a duplicate
    peers["a"].put("new", b"1")
    peers.settle()
    duplicates = [e for e in peers["a"].events() if isinstance(e, DuplicateIdentity)]
    if [event.stays for event in duplicates] == [
        False
    ]:  # it stops with an error; its next start has learned the counter
        peers.boot("a", counter=1, stored=peers["a"].export())
        peers["a"].put("new", b"1")
        peers.settle()
    assert peers.agree()
    assert [key for _, key, _ in peers["b"].entries()] == ["new"]


def test_learning_the_counter_before_start() -> None:
    peers = Peers("a", "b")
    peers["a"].put("x", b"1")
    peers.settle()
    fresh = peers.create("a")
    for unit in peers["b"].bulk_units(fresh.bulk_digest()):
        fresh.bulk_receive("b", unit, peers.now, peers.wall)
    assert fresh.start(0, peers.now, peers.wall)[0] == 2


def test_a_higher_own_generation_makes_a_node_rebase() -> None:
    peers = Peers("a", "b")
    peers.boot("a", counter=8)
    peers["a"].put("old", b"1")
    peers.settle()
    peers.boot("a", counter=0)
    peers["a"].put("new", b"2")
    peers["b"].events()
    peers.settle()
    assert peers["a"].generation is not None
    assert peers["a"].generation[0] == 10
    assert Rebased(peers["a"].generation) in peers["a"].events()
    assert [key for _, key, _ in peers["b"].entries()] == ["new"]
    assert OwnerReset("a", peers["a"].generation) in peers["b"].events()


def test_of_two_processes_with_one_name_the_higher_boot_id_stays() -> None:
    peers = Peers("a", "b")
    twin = peers.create("a")
    twin.start(0, 0.0, peers.wall)
    twin.put("x", b"twin")
    peers["a"].put("x", b"first")
    for frame in twin.broadcasts(5000, 3):
        peers["a"].receive("b", frame, 0.0, peers.wall)
    for frame in peers["a"].broadcasts(5000, 3):
        twin.receive("b", frame, 0.0, peers.wall)
    one = [event for event in peers["a"].events() if isinstance(event, DuplicateIdentity)]
    two = [event for event in twin.events() if isinstance(event, DuplicateIdentity)]
    assert [event.stays for event in one] != [event.stays for event in two]
    loser = twin if one[0].stays else peers["a"]
    with pytest.raises(StateError, match="another process") as failure:
        loser.put("y", b"1")
    assert failure.value.code == "duplicate_identity"


def test_a_half_arrived_generation_does_not_look_like_a_deletion() -> None:
    peers = Peers("a", "b")
    for number in range(100):
        peers["a"].put(f"key-{number}", b"v" * 40)
    peers.settle()
    reborn = peers.create("a")
    for number in range(100):
        reborn.put(f"key-{number}", b"v" * 40)
    reborn.start(1, peers.now, peers.wall)
    assert len(reborn.own_units()) > 4
    for unit in reborn.own_units():
        peers["b"].bulk_receive("a", push(unit), peers.now, peers.wall)
        assert len(list(peers["b"].entries())) == 100
    assert peers["b"].own_units() != []
    assert sorted(u for u in peers["b"].export() if u in reborn.own_units()) == sorted(reborn.own_units())


def test_a_reaped_owner_does_not_come_back_by_hearsay() -> None:
    peers = Peers("a", "b", "c")
    peers["a"].put("x", b"1")
    peers.settle()
    peers["b"].events()
    peers["b"].forget("a")
    assert peers["b"].events() == [EntryChanged("a", "x", None), OwnerForgotten("a")]
    peers.settle(rounds=5)
    assert peers["b"].get("a", "x") is None
    assert peers["b"].statistics()["quarantined"] == 1
    peers["b"].admit_owner("a", peers.wall)
    assert peers["b"].get("a", "x") == b"1"
    peers.settle()
    assert peers.agree()


def test_a_node_survives_a_restart_with_its_disk() -> None:
    peers = three_with_a_roster()
    peers["b"].put("x", b"1")
    peers["a"].cluster_put("y", b"2", peers.wall)
    peers.settle()
    stored = peers["a"].export()
    peers.partition("a")
    again = peers.boot("a", stored=stored)
    assert again.generation is not None
    assert again.generation[0] == 2
    assert again.cluster_get("y") == b"2"
    assert again.get("b", "x") == b"1"


def test_an_altered_disk_is_not_believed() -> None:
    peers = Peers("a", "b")
    peers["b"].put("x", b"value")
    peers.settle()
    stored = [unit.replace(b"value", b"velue") for unit in peers["a"].export()]
    peers.partition("a")
    again = peers.boot("a", stored=stored)
    assert again.get("b", "x") is None
    assert again.statistics()["dropped_bad_signature"] == 1


def test_expired_owners_go() -> None:
    peers = Peers("a", "b")
    short = identity("c", not_after=peers.wall + 10)
    for name in "ab":
        peers[name].admit_owner("c", peers.wall)
    bucket = units.Bucket(short.credential, (1, bytes(8)), 1, 0, 0, {"x": b"1"})
    unit = units.encode(bucket, short)
    peers["a"].bulk_receive("c", push(unit), 0.0, peers.wall)
    assert peers["a"].get("c", "x") == b"1"
    peers.advance(20.0)
    assert peers["a"].get("c", "x") is None
    peers["a"].bulk_receive("c", push(unit), 0.0, peers.wall)
    assert peers["a"].statistics()["dropped_credential_refused"] == 1


def test_a_credential_that_counts_nowhere_stops_the_start() -> None:
    peers = Peers()
    node = peers.create("a")
    with pytest.raises(StateError, match="expired or of another cluster"):
        node.start(0, 0.0, 5e9)
    assert authority().cluster == CLUSTER
