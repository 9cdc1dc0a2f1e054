"""Who holds shared memory is read from one key of each map, and not by walking through all entries."""

import pytest

from node.cluster.holders import KEY, VERSION, MemoryHolders
from swim import strict_cbor
from tests.node.cluster.test_reachability import Maps
from tests.node.cluster.test_registry import HandClock


@pytest.fixture
def maps():
    found = Maps()
    found.entries = None  # which would cost a walk through the whole registry, every second
    return found


def test_the_others_that_hold_something_and_are_up_are_named(maps):
    flushed = []
    holders = MemoryHolders(
        maps, "me", is_up=lambda node: node != "gone", flush=lambda: flushed.append(1), clock=HandClock()
    )
    value = strict_cbor.encode(VERSION)
    maps.held |= {
        ("you", KEY): value,
        ("also", KEY): value,
        ("gone", KEY): value,
        ("newer", KEY): strict_cbor.encode(VERSION + 1),
        ("none", f"{KEY}/more"): value,
    }
    holders.announce()
    holders.announce()
    assert holders.others() == ["also", "you"]
    assert (maps.held["me", KEY], flushed) == (value, [1])
