"""What is said of deployments is read as it was written, and what is not well-formed is not believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.deployments import desired, facts, memories, package
from node.deployments.desired import Desired
from node.deployments.facts import NodeFacts, Offer, Report
from node.deployments.state import Said
from node.errors import ValidationFailed
from swim import strict_cbor
from swim.map_events import ClusterChanged, EntryChanged, EventsLost, OwnerForgotten

DIGEST = "ab" * 32
TRIAGE = Desired("triage", "Triage", "1.0.0", DIGEST, 7, 2, (("gpu", "yes"),), 60, "stop", "admin@a")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.text(max_size=8) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=10),
    max_leaves=24,
)


class FakeMaps:
    """Maps that hold what a test puts into them."""

    def __init__(self) -> None:
        self.own: dict[tuple[str, str], bytes] = {}
        self.cluster: dict[str, bytes] = {}
        self.stamps: dict[str, int] = {}

    def put_many(self, changes: Mapping[str, bytes | None], wall: float) -> None:
        raise NotImplementedError

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        for (owner, key), value in sorted(self.own.items()):
            if key.startswith(prefix):
                yield owner, key, value

    def cluster_get(self, key: str) -> bytes | None:
        return self.cluster.get(key)

    def cluster_stamp(self, key: str) -> int:
        return self.stamps.get(key, 0)

    def cluster_entries(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        yield from ((key, value) for key, value in sorted(self.cluster.items()) if key.startswith(prefix))

    def conflicts(self, key: str) -> list:
        return []

    def cluster_put(self, key: str, value: bytes, wall: float, based_on: int | None = None) -> int:
        raise NotImplementedError

    def cluster_delete(self, key: str, wall: float, based_on: int | None = None) -> int | None:
        raise NotImplementedError


def events() -> list:
    """One of each kind."""
    return [
        ClusterChanged(TRIAGE.key, TRIAGE.encode()),
        EntryChanged("a", facts.NODE_KEY, NodeFacts((("gpu", "yes"),)).encode()),
        EntryChanged("a", "replica/triage", Report(TRIAGE.short, TRIAGE.short, "", "").encode()),
        EntryChanged("b", "handover/triage", Offer("a", DIGEST, 9).encode()),
        EntryChanged("a", "taken/triage/b", facts.encode_taken(DIGEST)),
    ]


def test_what_was_said_is_known_and_what_was_taken_back_is_not() -> None:
    said = Said(FakeMaps())
    assert said.apply(events())
    assert said.desired == {"triage": TRIAGE}
    assert said.facts == {"a": NodeFacts((("gpu", "yes"),))}
    assert said.reports == {"triage": {"a": Report(TRIAGE.short, TRIAGE.short)}}
    assert said.offers == {"triage": {"b": Offer("a", DIGEST, 9)}}
    assert said.taken == {("triage", "a", "b"): DIGEST}
    gone = [
        ClusterChanged(event.key, None)
        if isinstance(event, ClusterChanged)
        else EntryChanged(event.owner, event.key, None)
        for event in events()
    ]
    assert said.apply(gone)
    assert (said.desired, said.facts, said.reports, said.offers, said.taken) == ({}, {}, {}, {}, {})
    assert said.malformed == 0


def test_what_is_about_something_else_changes_nothing() -> None:
    said = Said(FakeMaps())
    others = [ClusterChanged("config/x", b"1"), EntryChanged("a", "agent/x/1", b"1"), OwnerForgotten("a")]
    assert not said.apply(others)


def test_where_events_were_lost_everything_is_read_anew() -> None:
    maps = FakeMaps()
    said = Said(maps)
    said.apply(events())
    maps.cluster["deploy/other"] = Desired("other", "Other", "1.0.0", DIGEST, 1, 1).encode()
    maps.own["c", facts.NODE_KEY] = NodeFacts().encode()
    maps.own["c", "replica/other"] = Report("", TRIAGE.short).encode()
    maps.own["c", "handover/other"] = Offer("a", DIGEST, 9).encode()
    maps.own["a", "taken/other/c"] = facts.encode_taken(DIGEST)
    assert said.apply([EventsLost()])
    assert (list(said.desired), list(said.facts), list(said.reports)) == (["other"], ["c"], ["other"])
    assert (list(said.offers), list(said.taken)) == (["other"], [("other", "a", "c")])


def test_a_deletion_is_known_from_an_absence_by_its_stamp() -> None:
    maps = FakeMaps()
    said = Said(maps)
    assert not said.is_withdrawn("triage")
    maps.stamps["deploy/triage"] = 7
    assert said.is_withdrawn("triage")
    maps.cluster["deploy/triage"] = TRIAGE.encode()
    assert not said.is_withdrawn("triage")


def test_what_is_not_well_formed_is_counted_and_not_believed() -> None:
    said = Said(FakeMaps())
    said.apply(events())
    said.apply([type(event)(*_spoilt(event)) for event in events()])
    assert said.malformed == 5
    assert (said.desired, said.facts, said.reports, said.offers, said.taken) == ({}, {}, {}, {}, {})


def _spoilt(event) -> tuple:
    where = (event.key,) if isinstance(event, ClusterChanged) else (event.owner, event.key)
    return (*where, event.value + b"\x00")


@given(VALUES)
def test_no_value_however_strange_raises(value: object) -> None:
    data = strict_cbor.encode(value)
    assert desired.decode("deploy/triage", data) is None
    facts.decode_facts(data)
    facts.decode_report(data)
    facts.decode_offer(data)
    facts.decode_taken(data)
    for read in (package.decode, lambda given: memories.decode_list(given, "triage")):
        with pytest.raises(ValidationFailed):
            read(data)


@given(st.binary(max_size=200))
def test_no_bytes_however_strange_raise(data: bytes) -> None:
    desired.decode("deploy/triage", data)
    facts.decode_facts(data)
    facts.decode_report(data)
    facts.decode_offer(data)
    facts.decode_taken(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 2),
        (1, ""),
        (1, "x" * 129),
        (2, 1),
        (3, b"short"),
        (4, 0),
        (5, 101),
        (5, -1),
        (5, True),
        (6, [["No Name", "x"]]),
        (6, [["l", str(n)] for n in range(9)]),
        (7, 1001),
        (8, "perhaps"),
        (9, "x" * 129),
        (9, 7),
    ],
)
def test_a_deployment_out_of_bounds_is_none(place: int, value: object) -> None:
    said = strict_cbor.decode(TRIAGE.encode(), max_bytes=1_000)
    assert desired.decode(TRIAGE.key, strict_cbor.encode(said)) == TRIAGE
    said[place] = value
    assert desired.decode(TRIAGE.key, strict_cbor.encode(said)) is None
    assert desired.decode("deploy/a/b", TRIAGE.encode()) is None
